"""SSD's augmentation of one image (Liu et al. 2016, arXiv 1512.02325, sections 2.2 and 3.6).

Zooming out, cropping and mirroring are one question: which patch of the plane is shown? So a
random `patch` is drawn, `[ymin, xmin, ymax, xmax]` in fractions of the image and possibly beyond
it, and one resampling (`show`) and one coordinate change (`move_into`) do the rest. All draws come
from an explicit seed: same seed, same result.
"""

import tensorflow as tf

from aip_tf.detection.anchors import intersection_over_union

WHOLE = (0.0, 0.0, 1.0, 1.0)
GRAY = 0.45
"""What lies beyond the image: the mean colour, so that it is nearly zero inside the model."""

_MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_NUM_TRIALS = 50
_MAX_ZOOM = 4.0


def random_patch(boxes, seed):
    """Draws what to show of an image: half the time zoomed out, then cropped, half mirrored.

    Args:
        boxes: (num_objects, 4) objects of the image.
        seed: int tensor (2,).

    Returns:
        float32 tensor (4,); `xmin > xmax` means mirrored.

    >>> patch = random_patch([[0.2, 0.2, 0.6, 0.6]], [1, 2])
    >>> bool(tf.reduce_all(patch == random_patch([[0.2, 0.2, 0.6, 0.6]], [1, 2])))
    True
    """
    boxes = tf.reshape(tf.cast(boxes, "float32"), (-1, 4))
    zoom_seed, crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 3), num=3)
    canvas = _zoomed_out(zoom_seed)
    patch = _compose(canvas, _crop(move_into(boxes, canvas), crop_seed))
    mirrored = tf.gather(patch, (0, 3, 2, 1))
    return tf.where(tf.random.stateless_uniform((), flip_seed) < 0.5, mirrored, patch)


def show(image, patch, input_size):
    """Resamples a patch of an image to a square, bilinearly; gray beyond the image's edges.

    Args:
        image: (height, width, 3), float32 in [0, 1].
        patch: (4,), see `random_patch`; `WHOLE` for the image itself.
        input_size: side of the result, pixels.

    Returns:
        float32 (input_size, input_size, 3).
    """
    size = (input_size, input_size)
    patch = _for_crop_and_resize(tf.cast(patch, "float32"), tf.shape(image)[:2], input_size)
    # One repeated pixel all around: samples within half a pixel of the edge stay in the image.
    padded = tf.pad(image, ((1, 1), (1, 1), (0, 0)), "SYMMETRIC")
    shown = tf.image.crop_and_resize(
        padded[None], patch[None], box_indices=[0], crop_size=size, extrapolation_value=GRAY
    )
    return tf.ensure_shape(shown[0], (*size, 3))


def move_into(boxes, patch):
    """Boxes in the coordinates of a patch, not clipped; a mirrored patch mirrors them.

    >>> move_into([[0.5, 0.5, 1.0, 0.75]], (0.5, 0.5, 1.0, 1.0)).numpy().tolist()
    [[0.0, 0.0, 1.0, 0.5]]
    """
    patch = tf.cast(patch, "float32")
    origin, extent = patch[:2], patch[2:] - patch[:2]
    corners = tf.reshape(tf.cast(boxes, "float32"), (-1, 2, 2))
    moved = (corners - origin) / extent
    return tf.concat([tf.reduce_min(moved, axis=1), tf.reduce_max(moved, axis=1)], axis=-1)


def is_centered_in(boxes, patches):
    """Whether each patch holds the centre of each box: such boxes it keeps.

    Args:
        boxes: (num_objects, 4).
        patches: (num_patches, 4), not mirrored.

    Returns:
        bool tensor (num_patches, num_objects).
    """
    boxes, patches = tf.cast(boxes, "float32"), tf.cast(patches, "float32")
    center = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
    return tf.reduce_all((center >= patches[:, None, :2]) & (center <= patches[:, None, 2:]), -1)


def _zoomed_out(seed):
    coin, amount, place = tf.unstack(tf.random.split(seed, 3), num=3)
    zoom = tf.random.stateless_uniform((), amount, 1.0, _MAX_ZOOM)
    zoom = tf.where(tf.random.stateless_uniform((), coin) < 0.5, zoom, 1.0)
    origin = -tf.random.stateless_uniform((2,), place) * (zoom - 1)
    return tf.concat([origin, origin + zoom], axis=0)


def _crop(boxes, seed):
    """One of: everything, a patch, or a patch that some object overlaps by a drawn minimum."""
    kind, shape, place = tf.unstack(tf.random.split(seed, 3), num=3)
    choice = tf.random.stateless_uniform((), kind, -1, len(_MIN_OVERLAPS), dtype="int32")
    candidates = _candidates(shape, place)
    overlap = intersection_over_union(candidates, boxes)
    enough = tf.gather(_MIN_OVERLAPS, tf.maximum(choice, 0))
    # A patch without constraint must still hold an object, or it would teach nothing.
    is_valid = (overlap >= enough) & is_centered_in(boxes, candidates)
    is_valid = tf.reduce_any(is_valid, axis=1)
    first = candidates[tf.argmax(is_valid)]
    return tf.where((choice >= 0) & tf.reduce_any(is_valid), first, WHOLE)


def _candidates(shape_seed, place_seed):
    scale, position = tf.unstack(tf.random.stateless_uniform((2, _NUM_TRIALS), shape_seed))
    scale = 0.3 + 0.7 * scale
    low, high = tf.maximum(0.5, scale**2), tf.minimum(2.0, scale**-2)
    root = tf.sqrt(low + (high - low) * position)
    extent = tf.stack([scale / root, scale * root], axis=-1)
    origin = tf.random.stateless_uniform((_NUM_TRIALS, 2), place_seed) * (1 - extent)
    return tf.concat([origin, origin + extent], axis=-1)


def _compose(outer, inner):
    extent = outer[2:] - outer[:2]
    return tf.concat([outer[:2] + inner[:2] * extent, outer[:2] + inner[2:] * extent], axis=0)


def _for_crop_and_resize(patch, image_size, input_size):
    """The operation puts 0 and 1 on the centres of corner pixels; fractions are of the edges."""
    low, high = patch[:2], patch[2:]
    half = (high - low) / (2.0 * input_size)
    size = tf.cast(image_size, "float32")
    return tf.concat([(f * size + 0.5) / (size + 1) for f in (low + half, high - half)], axis=0)

"""Default boxes of SSD, and the matching of objects to them (Liu et al. 2016, arXiv 1512.02325).

Boxes are `[ymin, xmin, ymax, xmax]` in [0, 1] of the image; default boxes ("anchors") are
`[cy, cx, height, width]` in the same unit, the form in which regression offsets are defined.
Labels of objects count from 0; in the targets 0 is the background and class c is c + 1.
"""

import math

import numpy as np
import tensorflow as tf

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""What offsets are divided by: Caffe's SSD learns offsets of about unit size."""


def feature_sizes(input_size=300):
    """Side lengths of the maps that `ssd_vgg16` detects on, finest first.

    Args:
        input_size: side of the square image, pixels.

    Returns:
        Tuple of int. At least three maps.

    Raises:
        ValueError: if the image is too small for three maps.

    >>> feature_sizes(300)
    (38, 19, 10, 5, 3, 1)
    """
    fine = _half(_half(_half(input_size)))
    sizes = [fine, _half(fine)]
    while sizes[-1] >= 3:
        sizes.append(_half(sizes[-1]) if shrinks_by_stride(sizes[-1]) else sizes[-1] - 2)
    if len(sizes) < 3:
        raise ValueError(
            f"SSD detects on at least three maps. Received: input_size={input_size}, which gives "
            f"maps of {tuple(sizes)}. Expected: an image of at least 33 pixels a side."
        )
    return tuple(sizes)


def shrinks_by_stride(size):
    """Whether the next map is half as large (stride 2) or two cells smaller (no padding)."""
    return size > 5


def _half(size):
    return (size + 1) // 2


def default_scales(num_maps):
    """Side of the default boxes on each map, and one more for the last map's larger square.

    The finest map has 0.1; the others go from 0.2 in steps of whole percents to 0.9 or just below
    (equation 4 of the paper with Caffe's rounding).

    >>> default_scales(6)
    (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
    """
    if num_maps < 3:
        raise ValueError(
            f"SSD detects on at least three maps. Received: num_maps={num_maps}. "
            "Expected: 3 or more feature sizes."
        )
    step = 70 // (num_maps - 2)
    return (0.1, *((20 + step * k) / 100 for k in range(num_maps)))


def default_aspect_ratios(num_maps):
    """Ratios beside 1 on each map: 2 and 1/2 everywhere, 3 and 1/3 on the middle maps."""
    return tuple((2,) if k == 0 or k >= num_maps - 2 else (2, 3) for k in range(num_maps))


def boxes_per_cell(num_maps):
    """How many default boxes stand on every cell of each map: `(4, 6, 6, 6, 4, 4)` for six maps."""
    return tuple(2 + 2 * len(ratios) for ratios in default_aspect_ratios(num_maps))


def default_boxes(sizes=(38, 19, 10, 5, 3, 1)):
    """All default boxes of an SSD, in the order of the model's outputs.

    Order: map, row, column, then in one cell the small square, the large square (the geometric
    mean of this scale and the next), and each aspect ratio followed by its inverse.

    Args:
        sizes: side lengths of the feature maps, as `feature_sizes(input_size)` gives them.

    Returns:
        float32 array (num_anchors, 4), `[cy, cx, height, width]`, fractions of the image.

    >>> default_boxes().shape
    (8732, 4)
    """
    scales = default_scales(len(sizes))
    ratios = default_aspect_ratios(len(sizes))
    maps = [
        _boxes_of_map(size, _cell_shapes(scales[k], scales[k + 1], ratios[k]))
        for k, size in enumerate(sizes)
    ]
    return np.concatenate(maps).astype("float32")


def _cell_shapes(scale, next_scale, ratios):
    between = math.sqrt(scale * next_scale)
    shapes = [(scale, scale), (between, between)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        shapes += [(scale / root, scale * root), (scale * root, scale / root)]
    return np.array(shapes)


def _boxes_of_map(size, shapes):
    centers = (np.arange(size) + 0.5) / size
    cy, cx = np.meshgrid(centers, centers, indexing="ij")
    grid = np.stack([cy, cx], axis=-1)[:, :, None, :]
    grid, shapes = np.broadcast_arrays(grid, shapes)
    return np.concatenate([grid, shapes], axis=-1).reshape(-1, 4)


def to_corners(centered):
    """`[cy, cx, height, width]` to `[ymin, xmin, ymax, xmax]`, any leading shape."""
    center, size = centered[..., :2], centered[..., 2:]
    return tf.concat([center - size / 2, center + size / 2], axis=-1)


def to_centered(corners):
    """`[ymin, xmin, ymax, xmax]` to `[cy, cx, height, width]`, any leading shape."""
    low, high = corners[..., :2], corners[..., 2:]
    return tf.concat([(low + high) / 2, high - low], axis=-1)


def intersection_over_union(boxes, others):
    """Jaccard overlap of every box with every other, in [0, 1].

    Args:
        boxes: (n, 4) `[ymin, xmin, ymax, xmax]`.
        others: (m, 4), the same.

    Returns:
        Tensor (n, m). Boxes without area overlap nothing.

    >>> float(intersection_over_union([[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 0.5, 1.0]])[0, 0])
    0.5
    """
    boxes = tf.convert_to_tensor(boxes)
    others = tf.convert_to_tensor(others, dtype=boxes.dtype)
    low = tf.maximum(boxes[:, None, :2], others[None, :, :2])
    high = tf.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = tf.reduce_prod(tf.maximum(high - low, 0), axis=-1)
    union = _area(boxes)[:, None] + _area(others)[None, :] - shared
    return tf.math.divide_no_nan(shared, union)


def _area(boxes):
    return tf.reduce_prod(tf.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def encode_offsets(boxes, anchors):
    """What the network must regress so that each anchor becomes its box.

    Args:
        boxes: (num_anchors, 4) corners, with positive height and width.
        anchors: (num_anchors, 4) `[cy, cx, height, width]`.

    Returns:
        Tensor (num_anchors, 4): centre shift over the anchor's size and log of the size ratio,
        divided by `VARIANCES` (equation 2 of the paper).
    """
    boxes = to_centered(boxes)
    shift = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    stretch = tf.math.log(boxes[..., 2:] / anchors[..., 2:])
    return tf.concat([shift, stretch], axis=-1) / VARIANCES


def decode_offsets(offsets, anchors):
    """The inverse of `encode_offsets`: (..., num_anchors, 4) offsets to corners.

    >>> anchors = default_boxes((3, 2, 1))
    >>> corners = decode_offsets(tf.zeros_like(anchors), anchors)
    >>> bool(tf.reduce_all(corners == to_corners(anchors)))
    True
    """
    offsets = offsets * VARIANCES
    center = offsets[..., :2] * anchors[..., 2:] + anchors[..., :2]
    size = tf.exp(offsets[..., 2:]) * anchors[..., 2:]
    return to_corners(tf.concat([center, size], axis=-1))


def match(boxes, anchors, iou_threshold=0.5):
    """Which object each anchor answers for (section 2.2 of the paper).

    First every object takes one anchor of its own: the best free pair, again and again, so that
    two objects never take the same. Then each free anchor goes to the object it overlaps most, if
    by more than the threshold.

    Args:
        boxes: (num_objects, 4) corners; there may be none.
        anchors: (num_anchors, 4) `[cy, cx, height, width]`.
        iou_threshold: in (0, 1).

    Returns:
        int32 tensor (num_anchors,): index of the object, -1 for background.

    >>> match([[0.0, 0.0, 1.0, 1.0]], [[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.1, 0.1]]).numpy()
    array([ 0, -1], dtype=int32)
    """
    boxes = tf.reshape(tf.cast(boxes, "float32"), (-1, 4))
    overlap = intersection_over_union(boxes, to_corners(tf.convert_to_tensor(anchors)))
    # A row of its own for the background, in front: argmax prefers it on ties and when alone.
    background = tf.fill((1, tf.shape(overlap)[1]), iou_threshold)
    by_overlap = tf.argmax(tf.concat([background, overlap], axis=0), output_type="int32") - 1
    taken = _best_free_pairs(overlap)
    return tf.where(taken >= 0, taken, by_overlap)


def _best_free_pairs(overlap):
    num_anchors = tf.shape(overlap)[1]

    def take_one(step, overlap, taken):
        best = tf.argmax(tf.reshape(overlap, (-1,)), output_type="int32")
        row, column = best // num_anchors, best % num_anchors
        here = tf.range(num_anchors) == column
        is_real = overlap[row, column] > 1e-6
        taken = tf.where(here & is_real, row, taken)
        is_over = here[None, :] | (tf.range(tf.shape(overlap)[0]) == row)[:, None]
        return step + 1, tf.where(is_over, -1.0, overlap), taken

    start = (0, overlap, tf.fill((num_anchors,), -1))
    num_objects = tf.shape(overlap)[0]
    return tf.while_loop(lambda step, *_: step < num_objects, take_one, start)[2]


def encode(boxes, labels, anchors, iou_threshold=0.5):
    """Objects of one image as training targets for `multibox_loss`.

    Args:
        boxes: (num_objects, 4) `[ymin, xmin, ymax, xmax]` in [0, 1].
        labels: (num_objects,) int, from 0.
        anchors: (num_anchors, 4) from `default_boxes`.
        iou_threshold: overlap above which an anchor answers for an object, in (0, 1).

    Returns:
        `{"boxes": float32 (num_anchors, 5), "classes": int32 (num_anchors,)}`: four offsets and
        1.0 where the anchor is matched (all 0 where it is not); 0 for background or label + 1.

    >>> anchors = default_boxes((3, 2, 1))
    >>> targets = encode([[0.1, 0.1, 0.4, 0.4]], [6], anchors)
    >>> sorted(set(targets["classes"].numpy().tolist()))
    [0, 7]
    """
    anchors = tf.convert_to_tensor(anchors)
    owner = match(boxes, anchors, iou_threshold)
    is_matched = owner >= 0
    boxes = tf.reshape(tf.cast(boxes, "float32"), (-1, 4))
    # Unmatched anchors are given themselves: offsets of exactly zero, and no index out of range.
    candidates = tf.concat([boxes, to_corners(anchors)], axis=0)
    itself = tf.shape(boxes)[0] + tf.range(tf.shape(anchors)[0])
    offsets = encode_offsets(tf.gather(candidates, tf.where(is_matched, owner, itself)), anchors)
    offsets = tf.where(is_matched[:, None], offsets, 0.0)
    classes = tf.gather(tf.concat([[0], tf.cast(labels, "int32") + 1], axis=0), owner + 1)
    return {
        "boxes": tf.concat([offsets, tf.cast(is_matched, "float32")[:, None]], axis=-1),
        "classes": classes,
    }

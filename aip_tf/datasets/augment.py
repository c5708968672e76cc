"""Augmentations of a batch, one independent draw for each image, all from an explicit seed.

An augmentation maps a float32 batch `(batch, height, width, channels)` in `[0, 1]` and an int64
seed of shape (2,) to a batch of the same shape: same seed, same result. `flip` is one; those that
have strengths to choose are made by a function of them, as by `pad_crop_flip(padding=4)`.
"""

import math

import keras
import tensorflow as tf

from aip_tf.arguments import check, integer, number

_PADDING = {"padding": integer(0)}
_AFFINE = dict.fromkeys(("degrees", "scale", "shift"), number("a number >= 0", 0))
_STRENGTH = {"strength": number("a number in [0, 1]", 0, 1)}


def pad_crop(padding):
    """Returns an augmentation: pad by `padding` zeros on every side, crop back at random."""
    check(_PADDING, locals())

    def augment(images, seed):
        tops, lefts = _offsets(images, padding, seed)
        return _gather(_pad(images, padding), tops + _range(images, 1), lefts + _range(images, 2))

    return augment


def flip(images, seed):
    """Mirrors each image left to right with probability one half."""
    columns = _mirrored(_range(images, 2), images, seed)
    return tf.ensure_shape(tf.gather(images, columns, axis=2, batch_dims=1), images.shape)


def pad_crop_flip(padding=4):
    """Returns `pad_crop(padding)`, then `flip`, in one pass over the pixels.

    With 4 it is CIFAR's customary augmentation (He et al. 2016, section 4.2).
    """
    check(_PADDING, locals())

    def augment(images, seed):
        crop_seed, flip_seed = split_seed(seed, 2)
        tops, lefts = _offsets(images, padding, crop_seed)
        columns = lefts + _mirrored(_range(images, 2), images, flip_seed)
        return _gather(_pad(images, padding), tops + _range(images, 1), columns)

    return augment


def affine(degrees, scale, shift):
    """Returns an augmentation: turn, scale (width and height apart) and shift, zeros around.

    Args:
        degrees: largest angle, to either side.
        scale: largest change of width and of height, as a fraction: 0.1 gives factors from about
            0.9 to 1.1.
        shift: largest shift each way, in pixels; between pixels, values are interpolated.

    >>> turned = affine(10, scale=0.1, shift=1)(tf.ones((2, 8, 8, 1)), (0, 0))
    >>> turned.shape
    TensorShape([2, 8, 8, 1])
    """
    check(_AFFINE, locals())

    def augment(images, seed):
        size = tf.shape(images)
        unit = tf.random.stateless_uniform((5, size[0]), seed, -1.0, 1.0)
        angle, wide, high, *shifts = tf.unstack(unit)
        cos, sin = tf.cos(angle * math.radians(degrees)), tf.sin(angle * math.radians(degrees))
        wide, high = tf.exp(wide * scale), tf.exp(high * scale)
        matrix = tf.stack([cos * wide, -sin * high, sin * wide, cos * high], axis=-1)
        matrix = tf.reshape(matrix, (-1, 2, 2))
        middle = tf.cast(size[2:0:-1] - 1, tf.float32)[:, None] / 2
        offsets = middle - matrix @ middle + tf.stack(shifts, axis=-1)[..., None] * shift
        rows = tf.reshape(tf.concat([matrix, offsets], axis=-1), (-1, 6))
        moved = keras.ops.image.affine_transform(
            images, tf.pad(rows, ((0, 0), (0, 2))), data_format="channels_last"
        )
        return tf.ensure_shape(moved, images.shape)

    return augment


def split_seed(seed, num_seeds):
    """Derives `num_seeds` independent seeds of shape (2,) from one."""
    return tf.unstack(tf.random.split(tf.cast(seed, tf.int64), num_seeds), num=num_seeds)


def color_jitter(strength):
    """Returns an augmentation: brightness, contrast and saturation, each scaled at random.

    Brightness scales pixels, contrast their distance to the image's mean luma, saturation their
    distance to their own luma. All three are linear, so they are one colour matrix and one offset
    for each image: a single pass over the pixels.

    Args:
        strength: factors are uniform in [1 - strength, 1 + strength].
    """
    check(_STRENGTH, locals())

    def augment(images, seed):
        size, channels = tf.shape(images), images.shape[-1]
        luma = tf.constant([[0.299], [0.587], [0.114]] if channels == 3 else [[1.0]])
        factors = tf.random.stateless_uniform((3, size[0], 1, 1), seed, 1 - strength, 1 + strength)
        brightness, contrast, saturation = tf.unstack(factors)
        to_gray = tf.tile(luma, (1, channels))
        matrix = saturation * tf.eye(channels) + (1 - saturation) * to_gray
        mean = tf.tensordot(tf.reduce_mean(images, axis=(1, 2)), luma, axes=1)[..., None]
        pixels = tf.reshape(images, (size[0], -1, channels))
        pixels = pixels @ (brightness * contrast * matrix) + (1 - contrast) * brightness * mean
        changed = tf.reshape(tf.clip_by_value(pixels, 0.0, 1.0), size)
        return tf.ensure_shape(changed, images.shape)

    return augment


def _range(images, axis):
    """`[[0, 1, 2, ...]]` along an axis of the images."""
    return tf.range(tf.shape(images)[axis])[None]


def _offsets(images, padding, seed):
    """Two offsets in [0, 2 padding] for each image, as columns."""
    shape = (2, tf.shape(images)[0], 1)
    largest = 2 * padding
    return tf.unstack(tf.random.stateless_uniform(shape, seed, 0, largest + 1, tf.int32))


def _mirrored(columns, images, seed):
    """The column indices of each image, in reverse order for about half of them."""
    draws = tf.random.stateless_uniform((tf.shape(images)[0], 1), seed)
    return tf.where(draws < 0.5, columns[:, ::-1], columns)


def _pad(images, padding):
    border = (padding, padding)
    return tf.pad(images, ((0, 0), border, border, (0, 0)))


def _gather(images, rows, columns):
    """Picks rows and columns of each image by its own indices, `(batch, num)` each."""
    picked = tf.gather(images, rows, axis=1, batch_dims=1)
    picked = tf.gather(picked, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(picked, (images.shape[0], None, None, images.shape[-1]))

"""Augmentations of a batch, one independent draw for each image, all from an explicit seed.

Every function maps a float32 batch `(batch, height, width, channels)` in `[0, 1]` and an int64
seed of shape (2,) to a batch of the same shape: same seed, same result.
"""

import tensorflow as tf


def pad_crop(padding):
    """Returns an augmentation: pad by `padding` zeros on every side, crop back at random."""

    def augment(images, seed):
        size = tf.shape(images)
        height, width = size[1], size[2]
        tops, lefts = tf.unstack(
            tf.random.stateless_uniform(
                (2, size[0]), seed, minval=0, maxval=2 * padding + 1, dtype=tf.int32
            )
        )
        border = (padding, padding)
        padded = tf.pad(images, ((0, 0), border, border, (0, 0)))
        rows = tf.gather(padded, tops[:, None] + tf.range(height), axis=1, batch_dims=1)
        crops = tf.gather(rows, lefts[:, None] + tf.range(width), axis=2, batch_dims=1)
        return tf.ensure_shape(crops, images.shape)

    return augment


def flip(images, seed):
    """Mirrors each image left to right with probability one half."""
    draws = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed)
    return tf.where(draws < 0.5, tf.reverse(images, axis=[2]), images)


def pad_crop_flip(images, seed):
    """CIFAR's customary augmentation: `pad_crop(4)`, then `flip` (He et al. 2016, section 4.2)."""
    crop_seed, flip_seed = split_seed(seed, 2)
    return flip(pad_crop(4)(images, crop_seed), flip_seed)


def split_seed(seed, num_seeds):
    """Derives `num_seeds` independent seeds of shape (2,) from one."""
    return tf.unstack(tf.random.split(tf.cast(seed, tf.int64), num_seeds), num=num_seeds)


def color_jitter(strength):
    """Returns an augmentation: brightness, contrast and saturation, each scaled at random.

    Args:
        strength: factors are uniform in [1 - strength, 1 + strength]. Grey images keep their
            (missing) saturation.
    """

    def augment(images, seed):
        factors = tf.random.stateless_uniform(
            (3, tf.shape(images)[0], 1, 1, 1), seed, 1 - strength, 1 + strength
        )
        brightness, contrast, saturation = tf.unstack(factors)
        images = images * brightness
        images = _blend(tf.reduce_mean(_gray(images), axis=(1, 2), keepdims=True), images, contrast)
        images = _blend(_gray(images), images, saturation)
        return tf.clip_by_value(images, 0.0, 1.0)

    return augment


def _blend(origin, images, factor):
    return origin + (images - origin) * factor


def _gray(images):
    """Luma of each pixel (ITU-R BT.601), one channel."""
    if images.shape[-1] != 3:
        return images
    return tf.tensordot(images, [0.299, 0.587, 0.114], axes=1)[..., None]

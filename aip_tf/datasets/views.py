"""From an encoded photograph to what a network sees: one random crop to train, the centre to test.

The random-resized crop is decoded fused: only the JPEG blocks that the crop touches are decoded.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from aip_tf.arguments import FLAG, Kind, check, instance, number
from aip_tf.datasets import augment


def _is_range(value):
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    return is_pair and all(map(number("").accepts, value)) and value[0] < value[1]


_SHARE = number("a number in (0, 1]", most=1, above=0)
_KINDS = {
    "crop_fraction": _SHARE,
    "min_area": _SHARE,
    "color_jitter": number("a number in [0, 1)", 0, math.nextafter(1, 0)),
    "flip": FLAG,
    "value_range": Kind(_is_range, "(black, white), two numbers with black < white"),
}


@dataclass(frozen=True)
class Views:
    """How photographs are cropped and coloured.

    Attributes:
        crop_fraction: share of the shorter side that a test image keeps, in (0, 1]; 0.875 is
            "resize to 256, crop 224".
        min_area: smallest share of the image that a training crop covers, in (0, 1]; 1 turns
            cropping off. 0.08 is customary where a network is trained from nothing (Szegedy et al.
            2015, arXiv 1409.4842); what a cut and its recovery look at had better be like the
            images that the network will see.
        color_jitter: brightness, contrast and saturation of training images are scaled by factors
            in [1 - color_jitter, 1 + color_jitter]; 0 leaves colours alone, 0.4 is customary.
        flip: whether half the training images are mirrored left to right.
        value_range: what black and white become; (0, 1) for the zoo, (-1, 1) or (0, 255) for
            networks that bring other habits and no normalisation of their own.

    >>> Views(min_area=0.08, color_jitter=0.4, value_range=(-1, 1)).crop_fraction
    0.875
    """

    crop_fraction: float = 0.875
    min_area: float = 0.35
    color_jitter: float = 0.0
    flip: bool = True
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        check(_KINDS, vars(self))

    def training_view(self, encoded, shape, seed):
        """A random crop of aspect 3:4 to 4:3, perhaps mirrored, recoloured, resized to `shape`.

        Args:
            encoded: bytes of a JPEG, PNG, GIF or BMP.
            shape: (height, width, 1 or 3).
            seed: int64 tensor (2,); same seed, same view.

        Returns:
            float32 tensor of `shape` in `value_range`.
        """
        crop_seed, flip_seed, color_seed = augment.split_seed(seed, 3)
        pixels = _decode(encoded, shape[-1], lambda size: self._random_window(size, crop_seed))
        if self.flip:
            # Mirrored while the pixels are bytes: a quarter of the memory traffic.
            is_mirrored = tf.random.stateless_uniform((), flip_seed) < 0.5
            pixels = tf.cond(is_mirrored, lambda: tf.reverse(pixels, axis=[1]), lambda: pixels)
        image = tf.image.resize(pixels, shape[:2]) / 255.0
        if self.color_jitter:
            image = augment.color_jitter(self.color_jitter)(image[None], color_seed)[0]
        return self._to_range(image)

    def test_view(self, encoded, shape):
        """The central crop with the aspect of `shape`, resized to it; see `training_view`."""
        pixels = _decode(encoded, shape[-1], lambda size: self._central_window(size, shape))
        return self._to_range(tf.image.resize(pixels, shape[:2]) / 255.0)

    def _to_range(self, images):
        low, high = self.value_range
        return images * (high - low) + low if (low, high) != (0.0, 1.0) else images

    def _random_window(self, size, seed):
        if self.min_area == 1:
            return tf.concat([[0, 0], size[:2]], axis=0)
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            size,
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(self.min_area, 1.0),
            max_attempts=10,
        )
        return tf.concat([begin[:2], extent[:2]], axis=0)

    def _central_window(self, size, shape):
        height, width = shape[:2]
        size = tf.cast(size[:2], tf.float32)
        # The largest window of the wanted aspect, then the share of it to keep.
        scale = tf.minimum(size[0] / height, size[1] / width) * self.crop_fraction
        extent = tf.round(scale * (height, width))
        begin = tf.floor((size - extent) / 2)
        return tf.cast(tf.concat([begin, extent], axis=0), tf.int32)


def views_from(views):
    """`views`, or the default ones for None.

    Raises:
        ValueError: for anything else.
    """
    check({"views": instance(Views, "a datasets.Views", or_none=True)}, locals())
    return views or Views()


def _decode(encoded, channels, window_of):
    """The bytes of the window `[top, left, height, width]` of an image of any format."""

    def fused():
        window = window_of(tf.image.extract_jpeg_shape(encoded))
        return tf.image.decode_and_crop_jpeg(encoded, window, channels=channels)

    def in_two_steps():
        image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
        top, left, height, width = tf.unstack(window_of(tf.shape(image)))
        return image[top : top + height, left : left + width]

    pixels = tf.cond(tf.io.is_jpeg(encoded), fused, in_two_steps)
    return tf.ensure_shape(pixels, (None, None, channels))

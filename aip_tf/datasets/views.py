"""From an encoded photograph to what a network sees: one random crop to train, the centre to test.

The random-resized crop is decoded fused: only the JPEG blocks that the crop touches are decoded.
"""

from dataclasses import dataclass

import tensorflow as tf

from aip_tf.datasets import augment


@dataclass(frozen=True)
class Views:
    """How photographs are cropped and coloured.

    Attributes:
        crop_fraction: share of the shorter side that a test image keeps, in (0, 1]; 0.875 is
            "resize to 256, crop 224".
        min_area: smallest share of the image that a training crop covers, in (0, 1]; 0.08 is the
            customary one (Szegedy et al. 2015, arXiv 1409.4842), 1 turns cropping off.
        color_jitter: brightness, contrast and saturation of training images are scaled by factors
            in [1 - color_jitter, 1 + color_jitter]; 0 leaves colours alone.
        flip: whether half the training images are mirrored left to right.
        value_range: what black and white become; (0, 1) for the zoo, (-1, 1) or (0, 255) for
            networks that bring other habits and no normalisation of their own.

    >>> Views(color_jitter=0, value_range=(-1, 1)).crop_fraction
    0.875
    """

    crop_fraction: float = 0.875
    min_area: float = 0.08
    color_jitter: float = 0.4
    flip: bool = True
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        for name in ("crop_fraction", "min_area"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], received {getattr(self, name)!r}.")
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter must be in [0, 1), received {self.color_jitter!r}.")
        low, high = self.value_range
        if low >= high:
            raise ValueError(
                f"value_range must be (black, white) with black < white, received {(low, high)}."
            )

    def random_crop(self, encoded, shape, seed):
        """Decodes a random crop of aspect 3:4 to 4:3, resized to `shape`; float32 in [0, 1]."""
        return _decode(encoded, shape, lambda size: self._random_window(size, seed))

    def center_crop(self, encoded, shape):
        """Decodes the central crop with the aspect of `shape`, resized to it; float32, [0, 1]."""
        return _decode(encoded, shape, lambda size: self._central_window(size, shape))

    def augment(self, images, seed):
        """Mirrors and colours a batch of crops, each image by its own draw."""
        flip_seed, color_seed = augment.split_seed(seed, 2)
        if self.flip:
            images = augment.flip(images, flip_seed)
        if self.color_jitter:
            images = augment.color_jitter(self.color_jitter)(images, color_seed)
        return images

    def to_range(self, images):
        """Maps [0, 1] to `value_range`."""
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


def _decode(encoded, shape, window_of):
    """The window `[top, left, height, width]` of an image of any format, resized to `shape`."""
    channels = shape[-1]

    def fused():
        window = window_of(tf.image.extract_jpeg_shape(encoded))
        return tf.image.decode_and_crop_jpeg(encoded, window, channels=channels)

    def in_two_steps():
        image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
        top, left, height, width = tf.unstack(window_of(tf.shape(image)))
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(encoded), fused, in_two_steps)
    image = tf.image.resize(tf.ensure_shape(image, (None, None, channels)), shape[:2])
    return image / 255.0

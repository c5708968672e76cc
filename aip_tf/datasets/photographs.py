"""Pipelines over encoded photographs, shared by `imagenet2012` and `image_folder`."""

import tensorflow as tf

from aip_tf.arguments import Kind, check, integer
from aip_tf.datasets.pipeline import CACHE_BYTES, finish, with_seeds

_SHAPE = (224, 224, 3)


def photograph_batches(examples, num_examples, shape, batch_size, views, seed):
    """Training batches: a random crop of every image, augmented.

    Args:
        examples: dataset of `(encoded image, label)`, shuffled.
        num_examples: how many there are.
        shape: `(height, width, channels)` of the crops.
        batch_size: images in a batch; at most `num_examples` are used.
        views: a `Views`.
        seed: seed of crops and colours.
    """

    def view(example, image_seed):
        encoded, label = example
        return views.training_view(encoded, shape, image_seed), label

    batch_size = min(batch_size, num_examples)
    images = with_seeds(examples, seed).map(view, num_parallel_calls=tf.data.AUTOTUNE)
    batches = images.batch(batch_size, drop_remainder=True)
    return finish(batches, num_examples // batch_size)


def photograph_test_batches(examples, num_examples, shape, batch_size, views):
    """Test batches: the central crop of every image, kept in memory where that is small."""

    def view(encoded, label):
        return views.test_view(encoded, shape), label

    images = examples.map(view, num_parallel_calls=tf.data.AUTOTUNE)
    if 4 * num_examples * shape[0] * shape[1] * shape[2] <= CACHE_BYTES:
        images = images.cache()
    return finish(images.batch(batch_size), -(-num_examples // batch_size))


def image_shape(input_shape, model=None):
    """The shape of the images: as given, else as a model takes them, else (224, 224, 3).

    Raises:
        ValueError: unless it is (height, width, 1 or 3).
    """
    if input_shape is not None:
        return _checked(input_shape)
    shape = getattr(model, "input_shape", None) or (None, *_SHAPE)
    if not isinstance(shape, tuple) or len(shape) != len(_SHAPE) + 1:
        raise ValueError(
            f"input_shape must be given, received None and a model with inputs {shape}; "
            "it is the shape of one image, (height, width, channels)."
        )
    sizes = zip(shape[1:], _SHAPE, strict=True)
    return _checked([size or usual for size, usual in sizes])  # None: the model takes any


def _checked(shape):
    check(_KINDS, {"input_shape": shape})
    return tuple(map(int, shape))


def _is_image(shape):
    is_triple = isinstance(shape, list | tuple) and len(shape) == 3
    return is_triple and all(map(integer(1).accepts, shape)) and shape[-1] in (1, 3)


_KINDS = {
    "input_shape": Kind(
        _is_image, "(height, width, channels) with 1 or 3 channels, as the model takes them"
    )
}

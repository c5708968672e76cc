"""Datasets held in memory: arrays of one's own, and scikit-learn's digits."""

import numpy as np
import tensorflow as tf

from aip_tf.arguments import FLAG, OPTIONAL_FUNCTION, Kind, check, integer, shown
from aip_tf.datasets import augment as augmentations
from aip_tf.datasets.data import Data, count_classes
from aip_tf.datasets.pipeline import check_batch_size, evaluation_batches, training_batches

# sklearn's 1,797 digits are split once and for all, whatever the seed of the run.
_DIGITS_SPLIT_SEED = 1797
_DIGITS_NUM_TEST = 450


def _is_pair(value):
    return isinstance(value, list | tuple) and len(value) == 2


def _are_names(value):
    return value is None or (isinstance(value, list | tuple | np.ndarray) and len(value) > 0)


_PAIR = Kind(_is_pair, "a pair of arrays (images, labels)")
_KINDS = {
    "train": _PAIR,
    "test": _PAIR,
    "augment": OPTIONAL_FUNCTION,
    "class_names": Kind(_are_names, "a list with a name for each class, or None"),
    "seed": integer(0),
}


def from_arrays(
    train,
    test,
    *,
    batch_size=128,
    augment=None,
    class_names=None,
    seed=0,
):
    """Makes `Data` from arrays in memory.

    Args:
        train: `(images, labels)`: images `(num, height, width, channels)`, either integers in
            `[0, 255]` (scaled by 1/255) or floats (taken as they are), labels `(num,)` integers.
        test: the same, for evaluation.
        batch_size: images in a batch.
        augment: `augment(images, seed) -> images` on a float32 batch, as in
            `aip_tf.datasets.augment`; None trains on the images as they are.
        class_names: one name for each class; their number then is `num_classes`, which otherwise
            is the largest label plus one.
        seed: seed of shuffling and augmentation.

    Raises:
        ValueError: if shapes, lengths or labels do not fit together.

    >>> import numpy as np
    >>> images, labels = np.zeros((10, 4, 4, 1), np.uint8), np.arange(10) % 2
    >>> data = from_arrays((images, labels), (images, labels), batch_size=5)
    >>> data.input_shape, data.num_classes, int(data.train.cardinality())
    ((4, 4, 1), 2, 2)
    """
    check_batch_size(batch_size)
    check(_KINDS, locals())
    train_images, train_labels = _checked("train", *train)
    test_images, test_labels = _checked("test", *test)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"train and test images must have one shape, received {train_images.shape[1:]} and "
            f"{test_images.shape[1:]}; resize one of them."
        )
    largest = int(max(train_labels.max(), test_labels.max()))
    num_classes = len(class_names) if class_names is not None else largest + 1
    if largest >= num_classes:
        raise ValueError(
            f"labels must be below the number of class_names ({num_classes}), received {largest}; "
            "number the classes from 0."
        )
    slices = tf.data.Dataset.from_tensor_slices
    return Data(
        train=training_batches(
            slices((train_images, train_labels)), len(train_labels), batch_size, augment, seed=seed
        ),
        test=evaluation_batches(slices((test_images, test_labels)), len(test_labels), batch_size),
        input_shape=tuple(train_images.shape[1:]),
        num_classes=num_classes,
        class_names=tuple(class_names) if class_names is not None else None,
        class_counts=count_classes(train_labels, num_classes),
    )


def digits(batch_size=64, *, augment=True, seed=0):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels: real images, no download.

    The split is fixed: 1,347 images to train, 450 to test. Training images are turned by at most
    ten degrees, scaled by at most a tenth and shifted by at most one pixel each way (never
    mirrored: a mirrored digit is no digit).

    Args:
        batch_size: images in a batch.
        augment: whether to turn, scale and shift training images.
        seed: seed of shuffling and augmentation; the split does not depend on it.

    Returns:
        `Data` with images `(batch, 8, 8, 1)` in `[0, 1]` and ten classes.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998 (the
    test half, as scikit-learn ships it).

    >>> data = digits(batch_size=50)
    >>> data.input_shape, data.num_classes, int(data.test.cardinality())
    ((8, 8, 1), 10, 9)
    """
    check({"augment": FLAG}, locals())
    from sklearn.datasets import load_digits

    source = load_digits()
    images = (source.images[..., None] / 16.0).astype("float32")
    order = np.random.default_rng(_DIGITS_SPLIT_SEED).permutation(len(images))
    test, train = order[:_DIGITS_NUM_TEST], order[_DIGITS_NUM_TEST:]
    return from_arrays(
        (images[train], source.target[train]),
        (images[test], source.target[test]),
        batch_size=batch_size,
        augment=augmentations.affine(10, scale=0.1, shift=1) if augment else None,
        class_names=[str(digit) for digit in range(10)],
        seed=seed,
    )


def _checked(name, images, labels):
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} images must be numbers, received dtype {images.dtype}; decode them first."
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"{name} images must have shape (num, height, width, channels) with num > 0, received "
            f"{images.shape}; add the missing axis, e.g. images[..., None]."
        )
    if labels.shape != (len(images),):
        raise ValueError(
            f"{name} labels must be one integer for each of the {len(images)} images, received "
            f"shape {labels.shape}; turn one-hot labels into integers by argmax(-1)."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            f"{name} labels must be integers from 0 upwards, received "
            f"{shown(labels.ravel()[:3].tolist())}, ...; number the classes from 0."
        )
    return images, labels.astype("int32")

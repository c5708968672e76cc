"""CIFAR and ImageNet, read through tensorflow-datasets."""

import tensorflow as tf

from aip_tf.arguments import FLAG, check, integer
from aip_tf.datasets import augment as augmentations
from aip_tf.datasets.data import Data, DataNotFoundError
from aip_tf.datasets.photographs import image_shape, photograph_batches, photograph_test_batches
from aip_tf.datasets.pipeline import check_batch_size, evaluation_batches, training_batches
from aip_tf.datasets.views import views_from

_KINDS = {"augment": FLAG, "padding": integer(0)}
_MANUAL = {
    "imagenet2012": (
        " ImageNet must be fetched by hand: put ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar from image-net.org into <data_dir>/downloads/manual first."
    )
}


def cifar10(data_dir=None, batch_size=128, *, augment=True, padding=4, download=False, seed=0):
    """CIFAR-10: 50,000 training and 10,000 test images, 32x32 RGB, ten classes.

    Args:
        data_dir: directory (or `gs://` address) of tensorflow-datasets; None for its default,
            `~/tensorflow_datasets`.
        batch_size: images in a batch.
        augment: whether training images are padded, cropped back and mirrored at random.
        padding: zeros on every side before the crop. 4 is customary where a network is trained from
            scratch; a recovery of few epochs gets further on images that are mirrored alone, 0.
        download: whether to fetch and prepare the data if it is not in `data_dir` (163 MB).
        seed: seed of shuffling and augmentation.

    Returns:
        `Data`, images `(batch, 32, 32, 3)` in `[0, 1]`.

    Raises:
        ValueError: if the data is absent; says how to get it.
    """
    return _cifar("cifar10", data_dir, batch_size, augment, padding, download, seed)


def cifar100(data_dir=None, batch_size=128, *, augment=True, padding=4, download=False, seed=0):
    """CIFAR-100: like `cifar10`, with a hundred (fine) classes."""
    return _cifar("cifar100", data_dir, batch_size, augment, padding, download, seed)


def imagenet2012(
    data_dir=None,
    batch_size=128,
    *,
    input_shape=None,
    views=None,
    download=False,
    seed=0,
    model=None,
):
    """ILSVRC-2012: 1,281,167 training and 50,000 validation images, a thousand classes.

    Training: random-resized crop (decoded fused), mirrored, as `views` say. Test: the 50,000
    validation images, shorter side to 256, central 224. The two steps are one resampling.

    Args:
        data_dir: directory (or `gs://` address) of tensorflow-datasets.
        batch_size: images in a batch.
        input_shape: shape of the crops; None: as `model` takes them, or (224, 224, 3).
        views: a `Views`; None for its defaults.
        download: whether to prepare the data from the archives, see the error where absent.
        seed: seed of shuffling, crops and colours.
        model: the `keras.Model` the images are for, see `input_shape`.

    Raises:
        ValueError: if the data is absent; says how to get it.
    """
    check_batch_size(batch_size)
    shape, views = image_shape(input_shape, model), views_from(views)
    (train, test), info = load("imagenet2012", ("train", "validation"), data_dir, download, seed)
    train, test = train.map(_int32_labels), test.map(_int32_labels)
    num_train, num_test = int(train.cardinality()), int(test.cardinality())
    train = train.shuffle(min(num_train, 16_384), seed=seed)
    return Data(
        train=photograph_batches(train, num_train, shape, batch_size, views, seed),
        test=photograph_test_batches(test, num_test, shape, batch_size, views),
        input_shape=shape,
        num_classes=1000,
        class_names=tuple(info.features["label"].names),
    )


def load(name, splits, data_dir, download, seed, supervised=True):
    """`tfds.load` without decoding large images; returns the splits, the first shuffled, and info.

    Raises:
        ValueError: if the data is absent or cannot be fetched; says how to get it.
    """
    import tensorflow_datasets as tfds

    fixed = name.startswith("cifar")
    read_config = tfds.ReadConfig(
        shuffle_seed=seed,
        shuffle_reshuffle_each_iteration=True,
        try_autocache=False,
        skip_prefetch=True,
        options=_deterministic(),
    )
    try:
        builder_data = [
            tfds.load(
                name,
                split=split,
                data_dir=data_dir,
                download=download,
                with_info=True,
                as_supervised=supervised,
                shuffle_files=index == 0 and not fixed,
                decoders=None if fixed else {"image": tfds.decode.SkipDecoding()},
                read_config=read_config,
            )
            for index, split in enumerate(splits)
        ]
    except Exception as error:
        raise DataNotFoundError(_how_to_get(name, data_dir, download, error)) from error
    return [dataset for dataset, _ in builder_data], builder_data[0][1]


def _cifar(name, data_dir, batch_size, augment, padding, download, seed):
    check_batch_size(batch_size)
    check(_KINDS, locals())
    (train, test), info = load(name, ("train", "test"), data_dir, download, seed)
    train, test = train.map(_int32_labels), test.map(_int32_labels)
    crop_flip = augmentations.pad_crop_flip(padding) if augment else None
    num_train, num_test = int(train.cardinality()), int(test.cardinality())
    return Data(
        # 150 MB of decoded pixels: decoded once, then kept.
        train=training_batches(train, num_train, batch_size, crop_flip, seed=seed, cached=True),
        test=evaluation_batches(test, num_test, batch_size, cached=True),
        input_shape=(32, 32, 3),
        num_classes=info.features["label"].num_classes,
        class_names=tuple(info.features["label"].names),
    )


def _int32_labels(image, label):
    return image, tf.cast(label, tf.int32)


def _deterministic():
    options = tf.data.Options()
    options.deterministic = True
    return options


def _how_to_get(name, data_dir, download, error):
    place = f"'{data_dir}'" if data_dir else "~/tensorflow_datasets"
    manual = _MANUAL.get(name, "")
    if download:
        return f"{name} could not be fetched and prepared in {place}: {error}{manual}"
    return (
        f"{name} is not in {place} ({error}); give the data_dir that holds it in the layout of "
        f"tensorflow-datasets, or download=True to fetch and prepare it once.{manual}"
    )

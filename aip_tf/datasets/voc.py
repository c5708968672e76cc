"""PASCAL VOC for detection: through tensorflow-datasets, or from a VOCdevkit folder."""

import itertools
import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from aip_tf.datasets.annotations import describe_faults, read_examples
from aip_tf.datasets.data import Data, DataNotFoundError, check_fraction, count_classes, hold_out
from aip_tf.datasets.tfds import load

_LOG = logging.getLogger(__name__)
VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
# VOC's set names, and what tensorflow-datasets calls them.
_SPLITS = {
    "train": "train",
    "val": "validation",
    "trainval": "train+validation",
    "test": "test",
}
_SHUFFLED_IMAGES = 1024  # encoded ones, some 100 kB each; a folder shuffles paths instead


def voc(
    data_dir=None,
    *,
    train=("2007/trainval", "2012/trainval"),
    test=("2007/test",),
    validation_fraction=0.2,
    download=False,
    seed=0,
):
    """PASCAL VOC, 20 classes of objects: images with boxes, for detection.

    Examples are single (detection batches after cropping and resizing), images of any size:
    `(image, objects)` with image float32 `(height, width, 3)` in `[0, 1]` and objects
        "boxes": float32 (num_objects, 4), `[ymin, xmin, ymax, xmax]` in `[0, 1]`,
        "labels": int32 (num_objects,), index into `class_names`,
        "difficult": bool (num_objects,), objects that evaluation must not count.

    Nothing is trusted in a VOCdevkit folder: images and objects that cannot be used are left out,
    counted and named in one warning, see `annotations.read_examples`. Images are read and decoded
    when they are asked for, so memory does not grow with their number.

    Args:
        data_dir: a VOCdevkit folder (it holds `VOC2007/` or `VOC2012/`), or the directory (or
            `gs://` address) of tensorflow-datasets; None for the latter's default.
        train: sets to train on, each "<year>/<train, val, trainval or test>"; by default the
            16,551 images of VOC 2007 and 2012.
        test: sets to test on; by default the 4,952 images of VOC 2007. None: some images of
            `train` are held out instead.
        validation_fraction: share of the images that is held out then, in (0, 1), drawn by `seed`;
            unused where `test` names sets.
        download: whether tensorflow-datasets may fetch what is absent.
        seed: seed of what is held out, and of the shuffling of the training images.

    Returns:
        `Data` of single examples, input_shape `(None, None, 3)`; `skipped` has the annotation
        files of the images that were left out.

    Raises:
        ValueError: if a set is misnamed or absent, or no image of it can be used; says how to get
            it.
    """
    _check_sets(train=train, **({} if test is None else {"test": test}))
    check_fraction(validation_fraction)
    devkit = Path(data_dir).expanduser() if data_dir and "://" not in str(data_dir) else None
    faults, counts = [], None
    if devkit is not None and any(devkit.glob("VOC20*/Annotations")):
        train, test = _split_devkit(devkit, train, test, validation_fraction, seed, faults)
        counts = count_classes(np.concatenate([e.labels for e in train]), len(VOC_CLASSES))
        train = _listed(train).shuffle(len(train), seed=seed).map(_read)
        test = _listed(test).map(_read)
    else:
        if test is None:
            raise DataNotFoundError(
                f"Received voc.test = None, and '{data_dir}' is no VOCdevkit folder. Expected one: "
                "images are held out of the lists in its ImageSets/Main alone."
            )
        train, test = (_from_tfds(sets, data_dir, download, seed) for sets in (train, test))
        train = train.shuffle(min(int(train.cardinality()), _SHUFFLED_IMAGES), seed=seed)
    if faults:
        _LOG.warning("%s.", describe_faults(faults))
    return Data(
        train=train.map(_decode, num_parallel_calls=tf.data.AUTOTUNE),
        test=test.map(_decode, num_parallel_calls=tf.data.AUTOTUNE),
        input_shape=(None, None, 3),
        num_classes=len(VOC_CLASSES),
        class_names=VOC_CLASSES,
        skipped=tuple(fault.path for fault in faults if fault.is_image),
        class_counts=counts,
    )


def _check_sets(**arguments):
    for argument, sets in arguments.items():
        if not isinstance(sets, list | tuple) or not sets:
            raise ValueError(
                f"voc.{argument} must be a tuple of at least one set, received {sets!r}; "
                f"e.g. voc.{argument} = ('2012/train',)."
            )
        for name in sets:
            _check_set(name)


def _check_set(name):
    year, _, part = str(name).partition("/")
    if not year.isdecimal() or part not in _SPLITS:
        raise ValueError(
            f"a set must be '<year>/<{', '.join(_SPLITS)}>', received {name!r}; e.g. '2012/train'."
        )


def _read(path, objects):
    return tf.io.read_file(path), objects


def _decode(encoded, objects):
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.cast(image, tf.float32) / 255.0, objects


def _from_tfds(sets, data_dir, download, seed):
    """Dataset of (encoded image, objects)."""
    whole, *others = (_one_of_tfds(name, data_dir, download, seed) for name in sets)
    for dataset in others:
        whole = whole.concatenate(dataset)
    return whole


def _one_of_tfds(name, data_dir, download, seed):
    year, part = name.split("/")
    (dataset,), _ = load(f"voc/{year}", (_SPLITS[part],), data_dir, download, seed, False)

    def convert(example):
        objects = example["objects"]
        return example["image"], {
            "boxes": objects["bbox"],
            "labels": tf.cast(objects["label"], tf.int32),
            "difficult": objects["is_difficult"],
        }

    return dataset.map(convert)


def _split_devkit(devkit, train, test, validation_fraction, seed, faults):
    """The `Example`s to train and to test on; adds to `faults` what is left out."""
    examples = _in_devkit(devkit, train, faults)
    if test is not None:
        return examples, _in_devkit(devkit, test, faults)
    if len(examples) < 2:
        raise ValueError(
            f"'{devkit}' has one usable image in {', '.join(train)}. Expected at least two with "
            "voc.test = None, which holds out some of them."
        )
    return hold_out(examples, validation_fraction, seed)


def _in_devkit(devkit, sets, faults):
    """The `Example`s of some sets; adds to `faults` what is left out."""
    examples = []
    for name in sets:
        folder = devkit / f"VOC{name.split('/')[0]}"
        read, found = read_examples(folder, _ids(devkit, name), VOC_CLASSES)
        examples += read
        faults += [fault for fault in found if fault not in faults]
    if not examples:
        raise ValueError(
            f"'{devkit}' has no usable image in {', '.join(sets)}: {describe_faults(faults)}."
        )
    return examples


def _listed(examples):
    """Dataset of (path of the image, objects)."""
    paths, boxes, labels, difficult = zip(*examples, strict=True)
    columns = {"boxes": boxes, "labels": labels, "difficult": difficult}
    counts = [len(numbers) for numbers in labels]
    objects = {
        key: tf.RaggedTensor.from_row_lengths(np.concatenate(column), counts)
        for key, column in columns.items()
    }
    return tf.data.Dataset.from_tensor_slices((list(paths), objects))


def _ids(devkit, name):
    """The images of a set, from its list in `ImageSets/Main`."""
    year, part = name.split("/")
    listing = devkit / f"VOC{year}" / "ImageSets" / "Main" / f"{part}.txt"
    if not listing.is_file():
        raise ValueError(
            f"'{devkit}' has no set '{name}': there is no '{listing}'. Expected in voc.train and "
            f"voc.test: sets that are there, which are {', '.join(_sets_in(devkit)) or 'none'}; "
            "or voc.test = None, which holds out some of the images to train on."
        )
    return listing.read_text(encoding="utf-8").split()


def _sets_in(devkit):
    lists = itertools.product(sorted(devkit.glob("VOC20*")), _SPLITS)
    return [
        f"{folder.name.removeprefix('VOC')}/{part}"
        for folder, part in lists
        if (folder / "ImageSets" / "Main" / f"{part}.txt").is_file()
    ]

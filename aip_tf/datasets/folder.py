"""One's own images: a directory for each class, or a list of labels."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from aip_tf import files
from aip_tf.datasets.data import (
    Data,
    DataNotFoundError,
    check_fraction,
    count_classes,
    hold_out,
    name_some,
)
from aip_tf.datasets.lists import read_list
from aip_tf.datasets.photographs import image_shape, photograph_batches, photograph_test_batches
from aip_tf.datasets.pipeline import check_batch_size
from aip_tf.datasets.views import views_from

_LOG = logging.getLogger(__name__)
_LAYOUT = (
    "Expected a folder of images for each of at least two classes, or a list of labels "
    "(labels.json, labels.csv, or the argument `labels`)."
)
_TEST_FOLDERS = ("validation", "val", "test")


def image_folder(
    directory,
    labels=None,
    *,
    input_shape=None,
    batch_size=32,
    validation_fraction=0.2,
    views=None,
    seed=0,
    model=None,
):
    """Images of a folder, as `Data`. JPEG, PNG, GIF (first frame) and BMP; any sizes.

    Three layouts:
        - a directory for each class: `<directory>/<class>/*.jpg`;
        - the same under `train/` and one of `validation/`, `val/` or `test/`: this split is used;
        - a list of labels, beside images wherever they are.

    Every image is decoded once when the folder is opened (about 1 ms for 224x224, on each core):
    what cannot be read is left out, listed in `Data.skipped` and logged, and training goes on. A
    folder without a readable image is no class.

    Args:
        directory: the folder.
        labels: file name of the list, in `directory` or a path: CSV with the columns `file` and
            `label`, or JSON, either `[{"file": ..., "label": ...}, ...]` or `{file: label}`.
            Labels are names, or integers from 0; beside integers, `name` may give the class names.
            None takes `labels.json` or `labels.csv` where the folder has one.
        input_shape: shape of the images that the model takes; 1 channel makes them grey. None: as
            `model` takes them, or (224, 224, 3).
        batch_size: images in a batch.
        validation_fraction: share of the images kept for `Data.test`, in (0, 1), drawn by `seed`;
            unused where the folder comes with a split.
        views: a `Views`: crops, colours and pixel range; None for its defaults.
        seed: seed of split, shuffling, crops and colours.
        model: the `keras.Model` the images are for, see `input_shape`.

    Raises:
        ValueError: if nothing readable is found, or the list cannot be understood.
    """
    check_batch_size(batch_size)
    shape, views = image_shape(input_shape, model), views_from(views)
    check_fraction(validation_fraction)
    directory = files.expand(directory)
    if not directory.is_dir():
        raise DataNotFoundError(
            f"directory must be an existing folder, received '{directory}'; name another one."
        )
    train, test, names = _find(directory, labels)
    train, skipped = _readable(train, shape[-1])
    if test is not None:
        test, more = _readable(test, shape[-1])
        skipped += more
    train, test, names = _numbered(directory, train, test, names)
    if test is None:
        train, test = hold_out(train, validation_fraction, seed)
    if not train or not test:
        raise ValueError(
            f"'{directory}' has {len(train)} readable images to train on and {len(test)} to test; "
            f"both must be at least 1 ({len(skipped)} files could not be read). {_LAYOUT}"
        )
    if skipped:
        _LOG.warning("%d unreadable files are left out: %s.", len(skipped), name_some(skipped))
    num_classes = len(names) if names else 1 + max(label for _, label in train + test)
    train_examples = _examples(train).shuffle(len(train), seed=seed).map(_read)
    return Data(
        train=photograph_batches(train_examples, len(train), shape, batch_size, views, seed),
        test=photograph_test_batches(
            _examples(test).map(_read), len(test), shape, batch_size, views
        ),
        input_shape=shape,
        num_classes=num_classes,
        class_names=names,
        skipped=tuple(skipped),
        class_counts=count_classes([label for _, label in train], num_classes),
    )


def _find(directory, labels):
    """All (path, label) to train on, those to test on or None, and class names or None.

    Labels are names or integers, see `read_list`.
    """
    if labels is None:
        lists = [name for name in ("labels.json", "labels.csv") if (directory / name).is_file()]
        labels = lists[0] if lists else None
    if labels is not None:
        return _listed(directory, labels)
    held_out = [name for name in _TEST_FOLDERS if (directory / name).is_dir()]
    if (directory / "train").is_dir() and held_out:
        train, test = directory / "train", directory / held_out[0]
        return _in_class_folders(train), _in_class_folders(test), None
    return _in_class_folders(directory), None, None


def _in_class_folders(directory):
    """All (path, name of the class) below a directory; hidden folders and files are passed over."""
    folders = sorted(path for path in directory.iterdir() if path.is_dir())
    return [
        (path, folder.name)
        for folder in folders
        if not folder.name.startswith(".")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]


def _listed(directory, labels):
    """The images of a list of labels, see `read_list`."""
    path = directory / files.expand(labels)
    if not path.is_file():
        raise ValueError(
            f"labels must name a file in '{directory}' or a path, received {labels!r}."
        )
    examples, names = read_list(path)
    return [(directory / file, label) for file, label in examples], None, names


def _numbered(directory, train, test, names):
    """Examples with integers for labels, and the class names or None.

    A class is what at least one readable training image shows: a folder without one (an empty one,
    `notes/`) is none, as nothing could be learnt of it.
    """
    if train and isinstance(train[0][1], int):
        return train, test, names
    found = sorted({label for _, label in train})
    if train and len(found) < 2:
        raise ValueError(f"'{directory}' has readable images of {found} alone. {_LAYOUT}")
    if unknown := {label for _, label in test or ()} - set(found):
        raise ValueError(
            f"'{directory}' has classes that train/ lacks: {sorted(unknown)}. Expected a readable "
            "image of each class to train on."
        )
    numbers = {name: number for number, name in enumerate(found)}
    train, test = (
        part and [(path, numbers[name]) for path, name in part] for part in (train, test)
    )
    return train, test, tuple(found)


def _readable(examples, channels):
    """Splits examples into those whose image decodes, and the paths of the others."""

    def is_readable(example):
        try:
            encoded = tf.io.read_file(str(example[0]))
            image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
            return min(image.shape) > 0
        except tf.errors.OpError:
            return False

    with ThreadPoolExecutor() as pool:
        flags = list(pool.map(is_readable, examples))
    kept = [example for example, flag in zip(examples, flags, strict=True) if flag]
    skipped = [str(path) for (path, _), flag in zip(examples, flags, strict=True) if not flag]
    return kept, skipped


def _examples(examples):
    paths = [str(path) for path, _ in examples]
    return tf.data.Dataset.from_tensor_slices((paths, np.int32([label for _, label in examples])))


def _read(path, label):
    return tf.io.read_file(path), label

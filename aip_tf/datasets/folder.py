"""One's own images: a directory for each class, or a list of labels."""

import csv
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from aip_tf.datasets.data import Data
from aip_tf.datasets.photographs import check_shape, photograph_batches, photograph_test_batches
from aip_tf.datasets.pipeline import check_batch_size
from aip_tf.datasets.views import Views

_LOG = logging.getLogger(__name__)
_TEST_FOLDERS = ("validation", "val", "test")


def image_folder(
    directory,
    labels=None,
    *,
    input_shape=(224, 224, 3),
    batch_size=32,
    validation_fraction=0.2,
    views=None,
    seed=0,
):
    """Images of a folder, as `Data`. JPEG, PNG, GIF (first frame) and BMP; any sizes.

    Three layouts:
        - a directory for each class: `<directory>/<class>/*.jpg`;
        - the same under `train/` and one of `validation/`, `val/` or `test/`: this split is used;
        - a list of labels, beside images wherever they are.

    Every image is decoded once when the folder is opened (about 1 ms for 224x224, on each core):
    what cannot be read is left out, listed in `Data.skipped` and logged, and training goes on.

    Args:
        directory: the folder.
        labels: file name of the list, in `directory` or a path: CSV with the columns `file` and
            `label`, or JSON, either `[{"file": ..., "label": ...}, ...]` or `{file: label}`.
            Labels are names, or integers from 0; beside integers, `name` may give the class names.
            None takes `labels.json` or `labels.csv` where the folder has one.
        input_shape: shape of the images that the model takes; 1 channel makes them grey.
        batch_size: images in a batch.
        validation_fraction: share of the images kept for `Data.test`, in (0, 1), drawn by `seed`;
            unused where the folder comes with a split.
        views: a `Views`: crops, colours and pixel range; None for its defaults.
        seed: seed of split, shuffling, crops and colours.

    Raises:
        ValueError: if nothing readable is found, or the list cannot be understood.
    """
    check_batch_size(batch_size)
    shape, views = check_shape(input_shape), views or Views()
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be in (0, 1), received {validation_fraction}.")
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        raise ValueError(f"directory must be an existing folder, received '{directory}'.")
    train, test, names = _find(directory, labels)
    train, skipped = _readable(train, shape[-1])
    if test is None:
        train, test = _split(train, validation_fraction, seed)
    else:
        test, more = _readable(test, shape[-1])
        skipped += more
    if not train or not test:
        raise ValueError(
            f"'{directory}' has {len(train)} readable images to train on and {len(test)} to test; "
            f"both must be at least 1 ({len(skipped)} files could not be read)."
        )
    if skipped:
        _LOG.warning("%d unreadable files are left out: %s", len(skipped), ", ".join(skipped))
    train_examples = _examples(train).shuffle(len(train), seed=seed).map(_read)
    return Data(
        train=photograph_batches(train_examples, len(train), shape, batch_size, views, seed),
        test=photograph_test_batches(
            _examples(test).map(_read), len(test), shape, batch_size, views
        ),
        input_shape=shape,
        num_classes=len(names) if names else 1 + max(label for _, label in train + test),
        class_names=names,
        skipped=tuple(skipped),
    )


def _find(directory, labels):
    """All (path, label) to train on, those to test on or None, and the class names or None."""
    if labels is None:
        lists = [name for name in ("labels.json", "labels.csv") if (directory / name).is_file()]
        labels = lists[0] if lists else None
    if labels is not None:
        return _listed(directory, labels)
    held_out = [name for name in _TEST_FOLDERS if (directory / name).is_dir()]
    if (directory / "train").is_dir() and held_out:
        names = _class_names(directory / "train")
        return (
            _in_class_folders(directory / "train", names),
            _in_class_folders(directory / held_out[0], names),
            names,
        )
    names = _class_names(directory)
    return _in_class_folders(directory, names), None, names


def _class_names(directory):
    names = sorted(path.name for path in directory.iterdir() if _is_visible_folder(path))
    if len(names) < 2:
        raise ValueError(
            f"'{directory}' must hold a folder for each of at least two classes, or a list of "
            f"labels (labels.json, labels.csv, or the argument `labels`); found {names}."
        )
    return tuple(names)


def _is_visible_folder(path):
    return path.is_dir() and not path.name.startswith(".")


def _in_class_folders(directory, names):
    unknown = {path.name for path in directory.iterdir() if _is_visible_folder(path)} - set(names)
    if unknown:
        raise ValueError(f"'{directory}' has classes that train/ lacks: {sorted(unknown)}.")
    return [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((directory / name).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]


def _listed(directory, labels):
    """Reads a list of labels; see `image_folder`."""
    path = directory / Path(labels).expanduser()
    if not path.is_file():
        raise ValueError(
            f"labels must name a file in '{directory}' or a path, received {labels!r}."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file)) if path.suffix == ".csv" else json.load(file)
    if isinstance(rows, dict):
        rows = [{"file": name, "label": label} for name, label in rows.items()]
    if not rows or not all({"file", "label"} <= set(row) for row in rows):
        columns = sorted(rows[0]) if rows else []
        raise ValueError(
            f"every entry of '{path}' must have `file` and `label`, received {columns}; "
            "rename the columns."
        )
    paths = [directory / row["file"] for row in rows]
    values = [str(row["label"]).strip() for row in rows]
    if all(value.isdecimal() for value in values):
        numbers = [int(value) for value in values]
        found = {number: row.get("name") for number, row in zip(numbers, rows, strict=True)}
        names = tuple(found.get(number) for number in range(max(found) + 1))
        names = names if all(names) else None
    else:
        names = tuple(sorted(set(values)))
        numbers = [names.index(value) for value in values]
    return list(zip(paths, numbers, strict=True)), None, names


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


def _split(examples, validation_fraction, seed):
    """Draws `validation_fraction` of the examples, at least one, for the test."""
    order = np.random.default_rng(seed).permutation(len(examples))
    num_test = max(1, round(validation_fraction * len(examples)))
    test, train = sorted(order[:num_test]), sorted(order[num_test:])
    return [examples[index] for index in train], [examples[index] for index in test]


def _examples(examples):
    paths = [str(path) for path, _ in examples]
    return tf.data.Dataset.from_tensor_slices((paths, np.int32([label for _, label in examples])))


def _read(path, label):
    return tf.io.read_file(path), label

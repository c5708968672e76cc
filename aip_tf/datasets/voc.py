"""PASCAL VOC for detection: through tensorflow-datasets, or from a VOCdevkit folder."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import tensorflow as tf

from aip_tf.datasets.data import Data
from aip_tf.datasets.tfds import load

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


def voc(
    data_dir=None,
    *,
    train=("2007/trainval", "2012/trainval"),
    test=("2007/test",),
    download=False,
    seed=0,
):
    """PASCAL VOC, 20 classes of objects: images with boxes, for detection.

    Examples are single (detection batches after cropping and resizing), images of any size:
    `(image, objects)` with image float32 `(height, width, 3)` in `[0, 1]` and objects
        "boxes": float32 (num_objects, 4), `[ymin, xmin, ymax, xmax]` in `[0, 1]`,
        "labels": int32 (num_objects,), index into `class_names`,
        "difficult": bool (num_objects,), objects that evaluation must not count.

    Args:
        data_dir: a VOCdevkit folder (it holds `VOC2007/` or `VOC2012/`), or the directory (or
            `gs://` address) of tensorflow-datasets; None for the latter's default.
        train: sets to train on, each "<year>/<train, val, trainval or test>"; by default the
            16,551 images of VOC 2007 and 2012.
        test: sets to test on; by default the 4,952 images of VOC 2007.
        download: whether tensorflow-datasets may fetch what is absent.
        seed: seed of the shuffling of the training images.

    Returns:
        `Data` of single examples, input_shape `(None, None, 3)`.

    Raises:
        ValueError: if a set is misnamed or absent; says how to get it.
    """
    if not train or not test:
        raise ValueError("train and test must each name at least one set, received none.")
    for name in (*train, *test):
        _check_set(name)
    devkit = Path(data_dir).expanduser() if data_dir and "://" not in str(data_dir) else None
    if devkit is not None and any(devkit.glob("VOC20*/Annotations")):
        parts = [[_from_devkit(devkit, name) for name in sets] for sets in (train, test)]
    else:
        parts = [
            [_from_tfds(name, data_dir, download, seed) for name in sets] for sets in (train, test)
        ]
    train, test = (_concatenate(datasets) for datasets in parts)
    # Encoded images are shuffled, some 100 kB each: a few thousand fit in memory.
    train = train.shuffle(min(int(train.cardinality()), 4096), seed=seed)
    return Data(
        train=train.map(_decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE),
        test=test.map(_decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE),
        input_shape=(None, None, 3),
        num_classes=len(VOC_CLASSES),
        class_names=VOC_CLASSES,
    )


def _check_set(name):
    year, _, part = str(name).partition("/")
    if not year.isdecimal() or part not in _SPLITS:
        raise ValueError(
            f"a set must be '<year>/<{', '.join(_SPLITS)}>', received {name!r}; e.g. '2012/train'."
        )


def _concatenate(datasets):
    whole = datasets[0]
    for dataset in datasets[1:]:
        whole = whole.concatenate(dataset)
    return whole


def _decode(encoded, objects):
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.cast(image, tf.float32) / 255.0, objects


def _from_tfds(name, data_dir, download, seed):
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


def _from_devkit(devkit, name):
    year, part = name.split("/")
    folder = devkit / f"VOC{year}"
    listing = folder / "ImageSets" / "Main" / f"{part}.txt"
    if not listing.is_file():
        raise ValueError(
            f"'{devkit}' has no set '{name}': there is no '{listing}'; it has "
            f"{sorted(path.name for path in devkit.glob('VOC20*'))}."
        )
    ids = listing.read_text(encoding="utf-8").split()
    objects = [_objects(folder / "Annotations" / f"{name}.xml") for name in ids]
    counts = [len(labels) for _, labels, _ in objects]
    boxes, labels, difficult = (np.concatenate(parts) for parts in zip(*objects, strict=True))
    paths = [str(folder / "JPEGImages" / f"{name}.jpg") for name in ids]

    def read(path, boxes, labels, difficult):
        objects = {"boxes": boxes, "labels": labels, "difficult": difficult}
        return tf.io.read_file(path), objects

    ragged = tf.RaggedTensor.from_row_lengths
    columns = (ragged(column, counts) for column in (boxes, labels, difficult))
    return tf.data.Dataset.from_tensor_slices((paths, *columns)).map(read)


def _objects(path):
    """Boxes, labels and difficult flags of one annotation file."""
    root = ElementTree.parse(path).getroot()
    height, width = (float(root.findtext(f"size/{side}")) for side in ("height", "width"))
    objects = root.findall("object")
    boxes = [
        [float(item.findtext(f"bndbox/{edge}")) for edge in ("ymin", "xmin", "ymax", "xmax")]
        for item in objects
    ]
    return (
        np.float32(boxes).reshape(-1, 4) / np.float32([height, width, height, width]),
        np.int32([VOC_CLASSES.index(item.findtext("name")) for item in objects]),
        np.array([item.findtext("difficult", "0") == "1" for item in objects], bool),
    )

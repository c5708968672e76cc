"""Datasets as `tf.data` pipelines: seeded, sharded, batched; images float32 in `[0, 1]`."""

from aip_tf.datasets.adapt import as_dataset
from aip_tf.datasets.arrays import digits, from_arrays
from aip_tf.datasets.data import Data
from aip_tf.datasets.folder import image_folder
from aip_tf.datasets.tfds import cifar10, cifar100, imagenet2012
from aip_tf.datasets.views import Views
from aip_tf.datasets.voc import VOC_CLASSES, voc

__all__ = [
    "VOC_CLASSES",
    "Data",
    "Views",
    "as_dataset",
    "cifar10",
    "cifar100",
    "digits",
    "from_arrays",
    "image_folder",
    "imagenet2012",
    "voc",
]

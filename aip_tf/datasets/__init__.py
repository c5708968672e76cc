"""Datasets as `tf.data` pipelines: seeded, sharded, batched; images float32 in `[0, 1]`."""

from aip_tf.datasets.arrays import digits, from_arrays
from aip_tf.datasets.data import Data

__all__ = ["Data", "digits", "from_arrays"]

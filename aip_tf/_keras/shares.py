"""How replicas share a batch: each counts by its samples, and may have none."""

from typing import NamedTuple

import keras
import tensorflow as tf
from keras import tree


class Share(NamedTuple):
    """This replica's part of a batch.

    Attributes:
        samples: how many samples it has; perhaps none, of a last batch smaller than the replicas.
        factor: samples here, over the mean of all replicas: what makes the sum over replicas of a
            mean over samples the mean over the whole batch. None on one device: 1, always.
        mean_samples: samples of the whole batch, over the number of replicas.
    """

    samples: object
    factor: object = None
    mean_samples: object = None

    def scale(self, mean):
        """A mean over the samples here (or None), weighted as this replica's part."""
        if mean is None or self.factor is None:
            return mean
        return tf.cast(self.factor, mean.dtype) * self.known(mean)

    def known(self, mean):
        """A mean over the samples here; 0 where there are none, of which it is not a number."""
        return mean if self.factor is None else tf.where(self.samples > 0, mean, 0)

    def pad(self, x):
        """Inputs with at least one row: layers cannot be relied on with none."""
        if self.factor is None:
            return x
        missing = tf.cast(self.samples == 0, tf.int32)
        return tree.map_structure(
            lambda v: tf.pad(v, [[0, missing], *[[0, 0]] * (len(v.shape) - 1)]), x
        )

    def cut(self, y):
        """Outputs without the row that `pad` added."""
        return y if self.factor is None else tree.map_structure(lambda v: v[: self.samples], y)


def share_of(x):
    """The `Share` that a batch of inputs (or anything else) is on this replica."""
    samples = num_samples(x)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return Share(samples, None, samples)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(samples, tf.float32))
    mean = total / context.num_replicas_in_sync
    return Share(samples, tf.cast(samples, tf.float32) / mean, mean)


def add(parts):
    """The sum of scalars; None among them counts nothing."""
    parts = [part for part in parts if part is not None]
    return parts[0] if len(parts) == 1 else keras.ops.sum(keras.ops.stack(parts))


def num_samples(x):
    """How many samples a batch of inputs has."""
    return tf.shape(next(v for v in tree.flatten(x) if v is not None))[0]

"""What a set of keep masks leaves of identity arrays: what edits of configurations are told."""

import keras
import numpy as np

from aip_tf.channels.identities import compact, rows


class Kept:
    """Which identities a set of keep masks keeps: what edits of configurations are told.

    Args:
        class_of: int array (identities,).
        keep: bool array (num_classes,).
    """

    def __init__(self, class_of, keep):
        self._keep = keep[class_of]

    def __call__(self, ids):
        """Bool array in the shape of `ids`: True where the channel is kept."""
        return self._keep[np.asarray(ids)]

    def count(self, ids):
        """Number of entries of a vector of identities that are kept."""
        return int(np.count_nonzero(self(ids)))

    def axis(self, array):
        """The axis along which entries of an identity array are removed, and its mask, or None."""
        mask = self(compact(array))
        if mask.all():
            return None
        for axis in range(mask.ndim):
            table = rows(mask, axis)
            if (table == table[:, :1]).all():
                return axis, table[:, 0]
        raise ValueError(f"a keep mask is no function of one axis of a tensor {array.shape}")

    def shape(self, array):
        """Shape of the tensor that is left of `array`."""
        shape = list(array.shape)
        found = self.axis(array)
        if found:
            shape[found[0]] = int(np.count_nonzero(found[1]))
        return tuple(shape)

    def take(self, array, value):
        """The part of `value`, which has the shape of `array`, that is kept."""
        found = self.axis(array)
        if not found:
            return value
        return np.compress(found[1], keras.ops.convert_to_numpy(value), found[0])

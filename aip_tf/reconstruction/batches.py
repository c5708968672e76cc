"""Inputs without labels, out of whatever the user gave."""

import math

import keras
import numpy as np
import tensorflow as tf

_SLICE = 32
# Numbers in a slice: 4 images of 224 pixels. A network that is watched holds all its tensors, for
# ResNet-50 a quarter of a gigabyte for each image.
_MOST_ENTRIES = 602_112
_USUAL = 1024
_USUAL_ENTRIES = 128 * _MOST_ENTRIES  # of all inputs: 512 images of 224 pixels
_SOME_ENTRIES = 16 * _MOST_ENTRIES  # where some will do: 64 images of 224 pixels


def first_inputs(data, num_samples, size=None):
    """The first inputs of `data`, without labels, in slices of at most 32, fewer if they are large.

    Args:
        data: a `tf.data.Dataset` of batches, inputs alone or (inputs, ...), or a tuple of arrays
            (inputs, ...), or an array.
        num_samples: how many; None: 1,024, fewer if they are large, such as 512 images of 224
            pixels.
        size: of all slices, for a network that takes so many at a time, so that more may be taken
            than were asked for; None: as above.

    Returns:
        List of batches in the structure of the inputs, of numpy arrays.
    """
    found, left, whole = [], num_samples, size or 1
    for batch in data if isinstance(data, tf.data.Dataset) else [data]:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        if not found:
            left = left or min(_USUAL, _num_within(inputs, _USUAL_ENTRIES))
            left = math.ceil(left / whole) * whole
        count = min(left, num_inputs_of(inputs))
        count -= count % whole
        step = size or min(_SLICE, _num_within(inputs, _MOST_ENTRIES))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            found.append(keras.tree.map_structure(lambda x, part=part: np.asarray(x[part]), inputs))
        left -= count
        if left < whole:
            break
    return found


def num_inputs_of(batch):
    """How many inputs a batch has: int."""
    return len(keras.tree.flatten(batch)[0])


def num_of_some(batches):
    """How many inputs will do where each takes long: int, >= 1, such as 64 images of 224 pixels."""
    return _num_within(batches[0], _SOME_ENTRIES)


def _num_within(batch, num_entries):
    """How many inputs as large as those of a batch have so many numbers together: int, >= 1."""
    size = sum(math.prod(x.shape[1:]) for x in keras.tree.flatten(batch))
    return max(1, num_entries // max(1, size))


def take_inputs(batch, count):
    """The first `count` inputs of a batch."""
    return keras.tree.map_structure(lambda x: x[:count], batch)


def divide(batches, count, size=None):
    """The first `count` inputs of a list of batches, and the others: two lists of batches.

    Where they are of a fixed `size`, at least one and as many whole ones as `count` allows.
    """
    count = max(size, count - count % size) if size else count
    first, others = [], []
    for batch in batches:
        taken, size = min(count, num_inputs_of(batch)), num_inputs_of(batch)
        if taken:
            first.append(take_inputs(batch, taken))
        if taken < size:
            others.append(keras.tree.map_structure(lambda x, taken=taken: x[taken:], batch))
        count -= taken
    return first, others

"""Weights of terms that are found on the first batch of a training."""

import math

import keras
import tensorflow as tf

from aip_tf.datasets.adapt import first_batch

_MOST_WEIGHT = 200.0  # a term that is silent at first shall not shout later


def batch_for(x, y=None, *args, sample_weight=None, **kwargs):
    """The first batch of what `fit` is given; None of a stream, which has one."""
    if isinstance(x, tf.data.Dataset):
        return keras.utils.unpack_x_y_sample_weight(first_batch(x))
    if isinstance(x, keras.utils.PyDataset):
        return keras.utils.unpack_x_y_sample_weight(x[0])
    are_arrays = all(hasattr(v, "shape") for v in keras.tree.flatten(x))
    return (x, y, sample_weight) if are_arrays and x is not None else None


def num_samples(x):
    """How many samples a batch of inputs has, of which some may be None."""
    return next(v.shape[0] for v in keras.tree.flatten(x) if v is not None)


def first_of(values, size):
    """The first samples of labels or of their weights, which may be None."""
    return keras.tree.map_structure(
        lambda v: None if v is None else tf.convert_to_tensor(v[:size]), values
    )


def unchanging(answers):
    """The mean answer, as often; of a single one, which is its own mean, zeros.

    What is no floating number is left as it is.
    """
    if not answers.dtype.is_floating:
        return answers
    mean = tf.reduce_mean(answers, 0, keepdims=True)
    return tf.zeros_like(answers) + tf.where(tf.shape(answers)[0] > 1, mean, tf.zeros_like(mean))


def open_weight(name):
    """A weight that is still to be found."""
    return keras.Variable(math.nan, trainable=False, dtype="float32", name=f"{name}_weight")


def found_or(weight, usual):
    """What was found for a weight, or before the usual one."""
    found = tf.convert_to_tensor(weight)
    return tf.where(tf.math.is_nan(found), usual, found)


def as_strong(reference, norm, usual):
    """The weight that makes a term pull as the reference does; `usual` where either is still."""
    found = tf.minimum(reference / norm, _MOST_WEIGHT)
    return tf.where((reference > 0) & (norm > 0) & tf.math.is_finite(found), found, usual)

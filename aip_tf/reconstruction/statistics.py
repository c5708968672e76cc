"""Statistics measured anew, without a change of what the network computes."""

import math

import keras
import numpy as np

from aip_tf import _keras


def settle(model, batches):
    """Let every BatchNormalization know what it sees, and gamma and beta make up for it; in place.

    A refit aims at old outputs under old statistics, which no longer describe what arrives.
    Training normalises by what does arrive, and measuring statistics anew puts that in their place:
    either would undo part of the refit. With the true ones in place, both leave the function alone.

    Layers without gamma or beta stay as they are: they have nothing to make up with.

    Args:
        model: the network.
        batches: list of batches of inputs.
    """
    sums = {}

    def see(operation, path, tensors, outputs):
        if type(operation) is not keras.layers.BatchNormalization:
            return
        if not operation.trainable or operation.gamma is None or operation.beta is None:
            return
        axis = keras.tree.flatten(operation.axis)[0]
        x = keras.ops.cast(tensors[0], "float32")
        others = [a for a in range(x.ndim) if a != axis % x.ndim]
        mean, variance = (
            keras.ops.convert_to_numpy(m).astype(np.float64) for m in keras.ops.moments(x, others)
        )
        size = math.prod(x.shape) // len(mean)
        _, count, first, second = sums.get(path, (operation, 0, 0.0, 0.0))
        second = second + size * (variance + mean**2)
        sums[path] = operation, count + size, first + size * mean, second

    for batch in batches:
        _keras.observe(model, batch, see)
    for layer, count, first, second in sums.values():
        mean = first / count
        _replace_statistics(layer, mean, np.maximum(second / count - mean**2, 0.0))


def _replace_statistics(layer, mean, variance):
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    old_mean, old_variance, gamma, beta = (
        keras.ops.convert_to_numpy(getattr(layer, name)).astype(np.float64) for name in names
    )
    slope = gamma / np.sqrt(old_variance + layer.epsilon)
    gamma = slope * np.sqrt(variance + layer.epsilon)
    beta = beta + slope * (mean - old_mean)
    for name, value in zip(names, (mean, variance, gamma, beta), strict=True):
        getattr(layer, name).assign(value)

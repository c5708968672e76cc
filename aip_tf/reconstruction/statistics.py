"""Statistics of BatchNormalization: matched while layers are refitted, in the end measured anew."""

import math

import keras
import numpy as np

from aip_tf import _keras

_MOST_STRETCH = 2.0  # of what a normalization puts out


def is_settled(layer):
    """Whether `settle` and `match` care for a layer.

    Layers without gamma or beta stay as they are: they have nothing to make up with.
    """
    is_normalization = type(layer) is keras.layers.BatchNormalization and layer.trainable
    return is_normalization and layer.gamma is not None and layer.beta is not None


def settle(model, batches):
    """Let every BatchNormalization know what it sees, and gamma and beta make up for it; in place.

    A refit aims at old outputs under old statistics, which no longer describe what arrives.
    Training normalises by what does arrive, and measuring statistics anew puts that in their place:
    either would undo part of the refit. With the true ones in place, both leave the function alone.

    Args:
        model: the network.
        batches: list of batches of inputs.
    """
    layers, sums = {}, {}

    def see(operation, path, tensors, outputs):
        if is_settled(operation):
            layers[path] = operation
            sums[path] = sums.get(path, 0.0) + _sums(tensors[0], operation)

    for batch in batches:
        _keras.observe(model, batch, see)
    for path, layer in layers.items():
        _replace_statistics(layer, *_mean_and_variance(sums[path]))


def match(layer, expected, found, take):
    """Let what a BatchNormalization puts out keep its mean and spread; by its statistics, in place.

    What reaches it from layers that were refitted varies less than it did: least squares leaves out
    what it cannot tell. That adds up from layer to layer. (Jordan et al. 2023, arXiv 2211.08403,
    found this "variance collapse" in merged networks, and mend it likewise.)

    Args:
        layer: of the cut network.
        expected: iterable of tensors, what it was called on in the whole network.
        found: iterable of tensors, what it is called on in the cut one.
        take: `take(values of the whole network's channels, name of the variable) -> those left`.
    """
    sums = [sum(_sums(x, layer) for x in tensors) for tensors in (expected, found)]
    if any(np.ndim(s) == 0 for s in sums):  # one of the networks is past it
        return
    (mean, variance), (mean_found, variance_found) = map(_mean_and_variance, sums)
    mean, variance = take(mean, "moving_mean"), take(variance, "moving_variance")
    old_mean, old_variance = _values(layer, "moving_mean", "moving_variance")
    ratio = np.sqrt(variance_found / np.maximum(variance, np.finfo(np.float32).tiny))
    ratio = np.clip(ratio, 1 / _MOST_STRETCH, _MOST_STRETCH)
    spread = (old_variance + layer.epsilon) * ratio**2
    layer.moving_mean.assign(mean_found - ratio * (mean - old_mean))
    layer.moving_variance.assign(np.maximum(spread - layer.epsilon, 0.0))


def _sums(x, layer):
    """Count, sum and sum of squares of each channel of a tensor: float64 (3, channels)."""
    axis = keras.tree.flatten(layer.axis)[0]
    mask = _keras.mask_of(x)
    x = keras.ops.cast(x, "float32")
    if mask is not None:  # padding, which training does not see either
        x, axis = x[mask], -1
    others = [a for a in range(x.ndim) if a != axis % x.ndim]
    mean, variance = (
        keras.ops.convert_to_numpy(m).astype(np.float64) for m in keras.ops.moments(x, others)
    )
    count = math.prod(x.shape) // len(mean)
    return count * np.stack([np.ones_like(mean), mean, variance + mean**2])


def _mean_and_variance(sums):
    count, first, second = sums
    mean = first / count
    return mean, np.maximum(second / count - mean**2, 0.0)


def _values(layer, *names):
    return [keras.ops.convert_to_numpy(getattr(layer, n)).astype(np.float64) for n in names]


def _replace_statistics(layer, mean, variance):
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    old_mean, old_variance, gamma, beta = _values(layer, *names)
    slope = gamma / np.sqrt(old_variance + layer.epsilon)
    gamma = slope * np.sqrt(variance + layer.epsilon)
    beta = beta + slope * (mean - old_mean)
    for name, value in zip(names, (mean, variance, gamma, beta), strict=True):
        getattr(layer, name).assign(value)

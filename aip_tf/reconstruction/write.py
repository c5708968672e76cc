"""Putting refitted weights into a network."""

import keras
import numpy as np

from aip_tf import _keras


def write(model, reader, kernel, constant, take=lambda value, layer, variable: value):
    """Give a reader's copy in `model` its refitted weights.

    Args:
        model: a network with the layers of the reader's, by path.
        reader: the `Reader`.
        kernel, constant: as `Fit.refitted` gives them.
        take: `take(value, layer path, variable name) -> value`, what is left of a weight.

    Returns:
        A function that undoes it.
    """
    before = []

    def add(path, name, value, old=0.0):
        variable = getattr(_keras.layer_at(model, path), name)
        before.append((variable, keras.ops.convert_to_numpy(variable)))
        variable.assign(old * before[-1][1] + take(value, path, name))

    linear, constant = reader.linear, np.asarray(constant)
    add(reader.path, linear.variable, kernel)
    if reader.constant == "bias":
        add(reader.path, "bias", linear.bias(constant), old=1.0)
    elif reader.constant == "normalization":
        add(reader.normalization, "moving_mean", -constant.reshape(-1), old=1.0)
    return lambda: [variable.assign(value) for variable, value in before]

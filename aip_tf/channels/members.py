"""Reading the weights of a channel group through its members."""

import math

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.channels.groups import name_inside


def producer_kernels(model, group):
    """{layer path: its producer members without biases}, in the order of the members."""
    members = [member for member in group.members if member.role == "producer"]
    kernels = [m for m in members if len(variable_of(model, m).shape) > 1] or members
    layers = dict.fromkeys(member.layer for member in kernels)
    return {path: [m for m in kernels if m.layer == path] for path in layers}


def gate_members(model, group):
    """Weights whose product with their gradient is that of a gate on the channel."""
    consumers = [m for m in group.members if m.role == "consumer"]
    return consumers or [m for m in group.members if m.role == "producer"]


def variable_of(model, member):
    """The `keras.Variable` of a model that a `Member` of one of its groups speaks of."""
    layer = _keras.layer_at(model, member.layer)
    return next(v for v in layer.variables if name_inside(layer, v) == member.variable)


def num_weights(model, group):
    """How many weights go when all channels of a group go: int."""
    shapes = [(variable_of(model, member).shape, member) for member in group.members]
    return sum(math.prod(s) // s[member.axis] * len(member.indices) for s, member in shapes)


def rows_of(model, member):
    """The weights of a member as (positions, entries)."""
    return entries_of(keras.ops.convert_to_numpy(variable_of(model, member)), member)


def entries_of(values, member):
    """`values`, shaped like a member's variable, as a float64 array (positions, entries)."""
    values = np.moveaxis(values.astype(np.float64), member.axis, 0)
    return values.reshape(len(values), -1)[member.indices]


def channel_rows(model, member, group):
    """The weights of a member as (num_channels, entries): a channel's positions side by side."""
    order = np.argsort(member.channels, kind="stable")
    return rows_of(model, member)[order].reshape(group.num_channels, -1)


def by_channel(values, member, group):
    """Sum values (positions,) over the positions of each channel."""
    return np.bincount(member.channels, weights=values, minlength=group.num_channels)

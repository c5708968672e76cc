"""Normalisations. Statistics over channels are those of the kept channels, in the cut model and
in the masked twin alike: a cut is then a smaller network of the same kind."""

import math

import numpy as np
from keras import layers, ops

from aip_tf import _keras
from aip_tf.channels.identities import compact, spread
from aip_tf.channels.rules.table import keep_all, register_channel_rule


@register_channel_rule(layers.BatchNormalization)
def batch_normalization(call, x, mask=None):
    """A factor and an offset for each channel, at inference; a mask matters in training only."""
    layer = call.operation
    axis = layer.axis % x.ndim
    if call.settle(x) != axis:
        return x
    ids = call.channels(x, axis)
    for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        call.weight(variable, 0, ids, "channelwise")
    return x


@register_channel_rule(layers.LayerNormalization, layers.RMSNormalization)
def layer_normalization(call, x):
    """Statistics over the channels that are kept; one gamma and beta for each."""
    layer = call.operation
    axes = layer.axis if isinstance(layer.axis, tuple | list) else [layer.axis]
    axes = [a % x.ndim for a in axes]
    axis = call.settle(x)
    if axis not in axes:
        return x
    ids = call.channels(x, axis)
    for name in ("gamma", "beta", "scale"):
        variable = getattr(layer, name, None)
        if variable is not None and not isinstance(variable, bool):
            call.weight(variable, axes.index(axis), ids, "channelwise")
    call.masked(
        lambda kept, operation, y, **_: _keras.with_mask_of(
            y, _over_kept(operation, y, kept(compact(x)), axes)
        )
    )
    return x


@register_channel_rule(layers.UnitNormalization)
def unit_normalization(call, x):
    """Division by the L2 norm: absent channels and zeros are the same."""
    return x


@register_channel_rule(layers.GroupNormalization)
def group_normalization(call, x):
    """The same slot of every group, unless each channel is a group of its own."""
    layer = call.operation
    axis = layer.axis % x.ndim
    if call.settle(x) != axis:
        return keep_all(call, f"{call.label} groups another axis than that of these channels")
    ids = call.channels(x, axis)
    if layer.groups == len(ids):
        call.config("groups", ids)
    else:
        call.slots(ids, layer.groups)
    call.weight(layer.gamma, 0, ids, "channelwise")
    call.weight(layer.beta, 0, ids, "channelwise")
    call.masked(
        lambda kept, operation, y, **_: _keras.with_mask_of(
            y, _group_over_kept(operation, y, kept(ids), axis)
        )
    )
    return x


@register_channel_rule(layers.Normalization)
def normalization(call, x):
    """Features brought to mean 0 and variance 1 by fixed statistics, given or measured."""
    layer = call.operation
    axis = call.settle(x)
    axes = [a % x.ndim for a in layer.axis]
    if axis is None or axis not in axes:
        return x
    ids = call.channels(x, axis)
    if layer.input_mean is None:
        call.weight(layer.adapt_mean, axes.index(axis), ids, "channelwise")
        call.weight(layer.adapt_variance, axes.index(axis), ids, "channelwise")
    elif len(axes) > 1:
        call.pin(x, f"{call.label} has statistics along several axes")
    else:
        for key, value in (("mean", layer.input_mean), ("variance", layer.input_variance)):
            if np.size(value) > 1:
                call.config(key, ids, lambda kept, v=value: np.ravel(v)[kept(ids)].tolist())
    return x


def _over_kept(layer, y, mask, axes):
    """Layer or RMS normalisation of `y`, whose masked entries are zero, over the kept ones."""
    mask = ops.cast(mask, y.dtype)
    count = math.prod(y.shape[a] for a in axes) * ops.mean(mask)
    shape = [y.shape[a] if a in axes else 1 for a in range(len(y.shape))]
    if isinstance(layer, layers.RMSNormalization):
        square = ops.sum(ops.square(y), axes, keepdims=True) / count
        y = y * ops.rsqrt(square + layer.epsilon)
        return y if layer.scale is None else y * ops.reshape(layer.scale, shape)
    mean = ops.sum(y, axes, keepdims=True) / count
    variance = ops.sum(ops.square(y - mean) * mask, axes, keepdims=True) / count
    y = (y - mean) * ops.rsqrt(variance + layer.epsilon)
    return _scale_and_shift(layer, y, shape)


def _group_over_kept(layer, y, kept, axis):
    shape = [1] * len(y.shape)
    shape[axis] = -1
    grouped = ops.reshape(
        ops.moveaxis(y, axis, 1), (y.shape[0], layer.groups, -1)
    )  # (batch, groups, slots x positions)
    mask = ops.cast(spread(kept, np.shape(y), axis), y.dtype)
    mask = ops.reshape(ops.moveaxis(mask, axis, 1), ops.shape(grouped))
    count = ops.maximum(ops.sum(mask, -1, keepdims=True), 1)  # a group may be removed whole
    mean = ops.sum(grouped, -1, keepdims=True) / count
    variance = ops.sum(ops.square(grouped - mean) * mask, -1, keepdims=True) / count
    grouped = (grouped - mean) * ops.rsqrt(variance + layer.epsilon)
    moved = ops.reshape(grouped, ops.shape(ops.moveaxis(y, axis, 1)))
    return _scale_and_shift(layer, ops.moveaxis(moved, 1, axis), shape)


def _scale_and_shift(layer, y, shape):
    if layer.gamma is not None:
        y = y * ops.reshape(layer.gamma, shape)
    return y if layer.beta is None else y + ops.reshape(layer.beta, shape)

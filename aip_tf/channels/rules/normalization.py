"""Normalisations. Statistics over channels are those of the kept channels, in the cut model and
in the masked twin alike: a cut is then a smaller network of the same kind."""

import math

import keras
import numpy as np
from keras import layers, ops

from aip_tf import _keras
from aip_tf.channels.identities import spread
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
    if axes != sorted(axes):  # as -1 beside 1: Keras reads gamma in another order than it made it
        return keep_all(call, f"{call.label} mixes its axes {layer.axis}: count all from the front")
    ids = call.channels(x, axis)
    for name in ("gamma", "beta", "scale"):
        variable = getattr(layer, name, None)
        if variable is not None and not isinstance(variable, bool):
            call.weight(variable, axes.index(axis), ids, "channelwise")
    places = [-1 if a == axis else 1 for a in range(x.ndim)]
    call.masked(
        lambda kept, operation, y, **_: _keras.with_mask_of(
            y, _over_kept(operation, y, kept(ids).reshape(places), axes)
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
    """Layer or RMS normalization of `y`, whose masked entries are zero, over the kept ones."""
    x, mask = _widened(y), ops.cast(mask, "float32")
    count = ops.cast(math.prod(y.shape[a] for a in axes) * ops.mean(mask), x.dtype)
    mask = ops.cast(mask, x.dtype)
    shape = [y.shape[a] if a in axes else 1 for a in range(len(y.shape))]
    if isinstance(layer, layers.RMSNormalization):
        square = ops.sum(ops.square(x), axes, keepdims=True) / count
        x = x * ops.rsqrt(square + layer.epsilon)
        x = x if layer.scale is None else x * _as_read(layer, layer.scale, shape, x.dtype)
        return ops.cast(x, y.dtype)
    mean = ops.sum(x, axes, keepdims=True) / count
    variance = ops.sum(ops.square(x - mean) * mask, axes, keepdims=True) / count
    if layer.rms_scaling:
        mean = ops.zeros_like(mean)
    return _scaled_and_shifted(layer, x, y, mean, variance, shape)


def _group_over_kept(layer, y, kept, axis):
    shape = [1] * len(y.shape)
    shape[axis] = -1
    x = ops.moveaxis(_widened(y), axis, 1)
    moved, size = ops.shape(x), (ops.shape(y)[0], layer.groups, -1)
    grouped = ops.reshape(x, size)  # (batch, groups, slots x positions)
    mask = ops.cast(spread(kept, np.shape(y), axis), x.dtype)
    mask = ops.reshape(ops.moveaxis(mask, axis, 1), ops.shape(grouped))
    count = ops.maximum(ops.sum(mask, -1, keepdims=True), 1)  # a group may be removed whole
    mean = ops.sum(grouped, -1, keepdims=True) / count
    variance = ops.sum(ops.square(grouped - mean) * mask, -1, keepdims=True) / count
    mean, variance = (
        ops.moveaxis(ops.reshape(ops.broadcast_to(v, ops.shape(grouped)), moved), 1, axis)
        for v in (mean, variance)
    )
    return _scaled_and_shifted(layer, _widened(y), y, mean, variance, shape)


def _widened(y):
    """`y` in the type in which Keras computes statistics: float32 at least."""
    return ops.cast(y, keras.backend.result_type(y.dtype, "float32"))


def _as_read(layer, variable, shape, dtype):
    """A variable as the layer's own call reads it: rounded to its compute type, then widened."""
    return ops.cast(ops.cast(ops.reshape(variable, shape), layer.compute_dtype), dtype)


def _scaled_and_shifted(layer, x, y, mean, variance, shape):
    """In the order of Keras' operations, so that the roundings are the same, too."""
    scale = ops.rsqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * _as_read(layer, layer.gamma, shape, x.dtype)
    shift = -mean * scale
    if layer.beta is not None:
        shift = shift + _as_read(layer, layer.beta, shape, x.dtype)
    return ops.cast(x * scale + shift, y.dtype)

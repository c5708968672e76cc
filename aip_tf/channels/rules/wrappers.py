"""Layers that run another layer: its rule, called inside theirs."""

import inspect

import keras
import numpy as np
from keras import layers, ops, tree

from aip_tf import _keras
from aip_tf.channels.identities import IdentityArray, compact
from aip_tf.channels.rules.movement import joined
from aip_tf.channels.rules.table import keep_all, register_channel_rule


@register_channel_rule(layers.Bidirectional)
def bidirectional(call, sequence, initial_state=None, mask=None):
    """One layer forwards, one backwards; Keras wants them equally wide, so units go in pairs."""
    layer = call.operation
    directions = (layer.forward_layer, layer.backward_layer)
    states = list(initial_state or [])
    half = len(states) // 2
    found = [
        call.inside(x, sequence, _shapes(x, sequence), initial_state=given or None, mask=mask)
        for x, given in zip(directions, (states[:half], states[half:]), strict=True)
    ]
    forward, backward = (inner.outputs[0] for inner in found)
    if forward.shape != backward.shape:
        return keep_all(call, f"{call.label} has two directions of unequal width")
    call.unify(call.channels(forward), call.channels(backward))
    call.contains("layer", layer.forward_layer)
    call.contains("backward_layer", layer.backward_layer)
    if layer.stateful:
        call.keep(f"{call.label} is stateful in both directions")
    merged = [forward]
    if layer.merge_mode == "concat":
        merged = [joined([forward, backward], -1)]
    elif layer.merge_mode is None:
        merged = [forward, backward]
    return [*merged, *found[0].outputs[1:], *found[1].outputs[1:]]


def _shapes(layer, x):
    """The shapes of what a layer returns for the identity array `x`."""
    return [y.shape for y in tree.flatten(layer.compute_output_spec(keras.KerasTensor(x.shape)))]


@register_channel_rule(layers.TimeDistributed)
def time_distributed(call, x, mask=None):
    """The wrapped layer or model on every step, as if the steps were samples."""
    layer, shape = call.operation.layer, call.shape
    if call.settle(x) == 1 and not call.are_kept(x):
        reason = f"{call.label} takes the axis of these channels for its steps"
        return keep_all(call, reason, call.macs_inside())
    if mask is not None and "mask" in inspect.signature(layer.call).parameters:
        return keep_all(call, f"{call.label} hands a mask to {layer.name}", call.macs_inside())
    steps = np.broadcast_to(compact(x), (*x.shape[:2], *compact(x).shape[2:]))
    steps = np.broadcast_to(steps[0], x.shape[1:]).view(IdentityArray)
    if _keras.is_graph(layer):
        outputs, run = call.inside_model(layer, steps)
    else:
        inner = call.inside(layer, steps, shape[1:])
        outputs, run = inner.outputs, inner.masked_call and _as_run(inner, layer)
    if run:
        call.masked(lambda kept, _, y, training=None, **__: _on_steps(run, kept, y, training))
    return np.broadcast_to(outputs[0][None], shape)


def _as_run(inner, layer):
    return lambda kept, x, training: inner.masked_call(kept, layer, x)


def _on_steps(run, kept, x, training):
    y = run(kept, ops.reshape(x, (-1, *x.shape[2:])), training)
    return _keras.with_mask_of(x, ops.reshape(y, (-1, x.shape[1], *y.shape[1:])))


@register_channel_rule(layers.SpectralNormalization)
def spectral_normalization(call, x):
    """The wrapped layer; a vector beside its kernel has the kernel's last axis."""
    layer = call.operation
    inner = call.inside(layer.layer, x, call.shape)
    ids = call.ids_of(layer.kernel, -1)
    if ids is None:
        call.known(layer.vector_u)
    else:
        call.weight(layer.vector_u, 1, ids, "channelwise")
    if inner.masked_call:
        call.masked(lambda kept, outer, y, **_: inner.masked_call(kept, outer.layer, y))
    return inner.outputs[0]

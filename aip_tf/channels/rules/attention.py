"""Attention layers: whole heads are channels; key and value dimensions stay what they are."""

import math

import numpy as np
from keras import layers

from aip_tf import _keras
from aip_tf.channels.identities import IdentityArray, spread
from aip_tf.channels.rules.table import keep_all, register_channel_rule


@register_channel_rule(layers.MultiHeadAttention)
def multi_head_attention(call, query, value, key=None, use_causal_mask=False):
    """A head is one channel of the projections; the scale 1/sqrt(key_dim) must not change."""
    layer = call.operation
    key = value if key is None else key
    inputs = (query, key, value)
    several = any(x.ndim != 3 for x in inputs)
    mixed = any(call.settle(x) not in (None, x.ndim - 1) for x in inputs)
    config = layer.get_config()
    output_shape = config["output_shape"]
    if several or mixed or not (output_shape is None or np.size(output_shape) == 1):
        reason = f"{call.path} attends over more than one axis or along these channels"
        return keep_all(call, reason, 0 if several else _macs(layer, query, value))
    heads = call.new(layer.num_heads)
    query_dense, key_dense, value_dense, output_dense = _keras.attention_projections(layer)
    for x, projection in zip(inputs, (query_dense, key_dense, value_dense), strict=True):
        read = call.channels(x)
        call.weight(projection.kernel, 0, read, "consumer")
        call.weight(projection.kernel, 1, heads, "producer")
        call.weight(projection.bias, 0, heads, "producer")
        call.macs(x, heads, factor=projection.kernel.shape[2])
    outputs = call.new(output_dense.kernel.shape[-1])
    call.weight(output_dense.kernel, 0, heads, "consumer")
    call.weight(output_dense.kernel, 2, outputs, "producer")
    call.weight(output_dense.bias, 0, outputs, "producer")
    call.config("num_heads", heads)
    call.masked_inside(output_dense.kernel, heads)
    queried = call.channels(query)

    def size(kept):
        count = kept.count(outputs)
        unchanged = output_shape is None and count == kept.count(queried)
        return None if unchanged else (count,)

    call.config("output_shape", np.concatenate([outputs, queried]), size)
    y = spread(outputs, call.shape)
    steps = query.shape[1] * value.shape[1]
    call.macs(
        heads, factor=steps * (config["key_dim"] + (config["value_dim"] or config["key_dim"]))
    )
    call.macs(y, heads, factor=output_dense.kernel.shape[1])
    return y


def _macs(layer, query, value):
    """The multiply-accumulates of a MultiHeadAttention that is kept whole."""
    projections = _keras.attention_projections(layer)
    steps, others = query.shape[1], value.shape[1]
    sizes = [math.prod(p.kernel.shape) for p in projections]
    inside = layer.num_heads * sum(p.kernel.shape[2] for p in projections[1:3])
    return steps * (sizes[0] + sizes[3]) + others * (sizes[1] + sizes[2]) + steps * others * inside


@register_channel_rule(layers.Attention)
def attention(call, inputs, **masks):
    """Dot-product attention of query, value and perhaps key, which share their channels."""
    layer = call.operation
    axes_fit = all(
        isinstance(x, IdentityArray) and x.ndim == 3 and call.settle(x) in (None, 2) for x in inputs
    )
    if masks or layer.score_mode != "dot" or not axes_fit:
        return keep_all(call, f"{call.path} attends in a way that has no rule")
    query, value, key = (*inputs, inputs[1])[:3]
    call.unify(call.channels(query), call.channels(key))
    steps = query.shape[1]
    call.macs(key, factor=steps)
    call.macs(value, factor=steps)
    return spread(call.channels(value), call.shape)

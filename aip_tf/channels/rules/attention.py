"""Attention layers: whole heads are channels; key and value dimensions stay what they are."""

import math

import numpy as np
from keras import layers

from aip_tf import _keras
from aip_tf.channels.identities import IdentityArray, compact, long_axes, rows, spread
from aip_tf.channels.rules.table import keep_all, operations, register_channel_rule


@register_channel_rule(layers.MultiHeadAttention)
def multi_head_attention(
    call,
    query,
    value,
    key=None,
    query_mask=None,
    value_mask=None,
    key_mask=None,
    attention_mask=None,
    return_attention_scores=False,
    use_causal_mask=False,
):
    """A head is one channel of the projections; the scale 1/sqrt(key_dim) must not change."""
    layer, inputs = call.operation, (query, value if key is None else key, value)
    output_shape = layer.get_config()["output_shape"]
    reason = _obstacle(call, inputs, (query_mask, value_mask, key_mask, attention_mask))
    if output_shape is not None and np.size(output_shape) != 1:
        reason = f"{call.label} makes an output of several axes"
    if reason:
        return keep_all(call, reason, _macs(layer, query, value))
    heads = call.new(layer.num_heads)
    outputs = call.new(_keras.attention_projections(layer)["output"].kernel.shape[-1])
    _declare(call, inputs, heads, heads, outputs)
    call.config("num_heads", heads)
    queried = call.channels(query)

    def size(kept):
        count = kept.count(outputs)
        unchanged = output_shape is None and count == kept.count(queried)
        return None if unchanged else (count,)

    call.config("output_shape", np.concatenate([outputs, queried]), size)
    return _results(call, outputs, heads)


@register_channel_rule(layers.GroupQueryAttention)
def grouped_query_attention(
    call,
    query,
    value,
    key=None,
    query_mask=None,
    value_mask=None,
    key_mask=None,
    attention_mask=None,
    return_attention_scores=False,
    use_causal_mask=False,
):
    """A channel is a head of keys and values with all query heads that share it.

    The output is as wide as the query, so its channels are the query's; so are the value's, which
    Keras wants as wide.
    """
    layer, inputs = call.operation, (query, value if key is None else key, value)
    reason = _obstacle(call, inputs, (query_mask, value_mask, key_mask, attention_mask))
    if reason:
        return keep_all(call, reason, _macs(layer, query, value))
    shared = call.new(layer.num_key_value_heads)
    heads = np.repeat(shared, layer.num_repeats)
    outputs = call.new(layer.feature_dim)
    call.unify(outputs, call.channels(query))
    call.unify(outputs, call.channels(value))
    _declare(call, inputs, heads, shared, outputs)
    call.config("num_key_value_heads", shared)
    call.config("num_query_heads", heads)
    return _results(call, outputs, heads)


def _obstacle(call, inputs, masks):
    """Why an attention layer must stay whole, or None."""
    for x in inputs:
        if not call.are_kept(x) and call.settle(x) not in (None, x.ndim - 1):
            return f"{call.label} attends along the axis of these channels"
    masks = [m for m in masks if m is not None]
    traced = [m for m in masks if isinstance(m, IdentityArray)]  # the others are constants
    if any(not call.are_kept(m) and call.settle(m) is not None for m in traced):
        return f"{call.label} is masked by these channels"
    if masks and masks[-1].ndim > inputs[0].ndim:
        return f"{call.label} has a mask for each head"
    return None


def _declare(call, inputs, heads, shared, outputs):
    """Weights and costs: `heads` query, `shared` are the heads of key and value."""
    layer = call.operation
    projections = _keras.attention_projections(layer)
    made = {"query": heads, "key": shared, "value": shared, "gate": heads}
    read = dict(zip(made, (*inputs, inputs[0]), strict=True))
    for name in (name for name in made if name in projections):  # in the same order everywhere
        kernel, bias = projections[name].kernel, projections[name].bias
        call.weight(kernel, 0, call.channels(read[name]), "consumer")
        call.weight(kernel, 1, made[name], "producer")
        call.weight(bias, 0, made[name], "producer")
        call.macs(read[name], made[name], factor=kernel.shape[2])
    last = projections["output"]
    call.weight(last.kernel, 0, heads, "consumer")
    call.weight(last.kernel, 2, outputs, "producer")
    call.weight(last.bias, 0, outputs, "producer")
    call.masked_inside(last.kernel, heads)
    call.macs(heads, factor=_pairs(layer, inputs[0], inputs[2]) * _inner_sizes(projections))
    call.macs(spread(outputs, call.shape), heads, factor=last.kernel.shape[1])


def _results(call, outputs, heads):
    """The output, and the scores of every head if they are returned."""
    axis = -2 * len(_attention_axes(call.operation)) - 1
    made = [spread(outputs, call.shape)]
    return made + [spread(heads, shape, axis) for shape in call.shapes[1:]]


def _attention_axes(layer):
    return getattr(layer, "attention_axes", None) or (1,)


def _pairs(layer, query, value):
    """The number of pairs (position that asks, position that answers)."""
    axes = _attention_axes(layer)
    return math.prod(query.shape[:-1]) * math.prod(value.shape[a] for a in axes)


def _inner_sizes(projections):
    return projections["key"].kernel.shape[2] + projections["value"].kernel.shape[2]


def _macs(layer, query, value):
    """The multiply-accumulates of an attention layer that is kept whole."""
    projections = _keras.attention_projections(layer)
    asked, answered = math.prod(query.shape[:-1]), math.prod(value.shape[:-1])
    positions = {"key": answered, "value": answered}
    products = sum(
        positions.get(name, asked) * math.prod(p.kernel.shape) for name, p in projections.items()
    )
    num_heads = projections["query"].kernel.shape[1]
    return products + _pairs(layer, query, value) * num_heads * _inner_sizes(projections)


@register_channel_rule(layers.Attention, layers.AdditiveAttention)
def attention(call, inputs, mask=None, return_attention_scores=False, use_causal_mask=False):
    """Query and key share their channels, over which the scores are summed; values pass."""
    query, value, key = (*inputs, inputs[1])[:3]
    reason = _obstacle(call, (query, key, value), mask or ())
    if reason:
        pairs = math.prod(query.shape[:2]) * value.shape[1]
        return keep_all(call, reason, pairs * (key.shape[-1] + value.shape[-1]))
    read = call.channels(query)
    call.unify(read, call.channels(key))
    scale = getattr(call.operation, "scale", None)
    if scale is not None and len(scale.shape):
        call.weight(scale, 0, read, "consumer")
    for x in (key, value):
        call.macs(x, factor=query.shape[1])
    scores = [call.pinned(s, f"{call.label} sums over channels") for s in call.shapes[1:]]
    return [spread(call.channels(value), call.shape), *scores]


@register_channel_rule(*operations("DotProductAttention"))
def dot_product_attention(call, query, key, value, bias=None, mask=None, scale=None):
    """Heads (axis 2) are channels; the last axis of the values, too, where heads are not.

    The last axis of query and key is summed; without `scale` the scores are divided by its length.
    """
    inputs = (query, key, value)
    pairs = math.prod(query.shape[:3]) * key.shape[1]
    macs = pairs * (key.shape[3] + value.shape[3])
    for x in inputs:
        if len(long_axes(x)) > 1:  # several axes vary: take heads, not the entries of each
            table = rows(compact(x), 2)
            call.unify(table, table[:, :1])
    axes = [None if call.are_kept(x) else call.settle(x) for x in inputs]
    reason = _dot_product_obstacle(call, inputs, axes, (bias, mask))
    if reason:
        return keep_all(call, reason, macs)
    if 2 in axes:
        heads = call.channels(query, 2)
        for x in (key, value):
            call.unify(heads, call.channels(x, 2))
        call.macs(heads, factor=macs // len(heads))
        return spread(heads, call.shape, 2)
    read = [call.channels(x) for x in (query, key)]
    if scale is None:
        for ids in read:
            call.pin(ids, f"{call.label} divides by the number of these channels")
    call.unify(*read)
    call.macs(read[0], factor=pairs)
    call.macs(spread(call.channels(value), (pairs, value.shape[3])))
    return spread(call.channels(value), call.shape)


def _dot_product_obstacle(call, inputs, axes, added):
    varying = set(axes) - {None}
    if not varying <= {2, 3} or len(varying) > 1:
        return f"{call.label} attends along the axis of these channels"
    if len({x.shape[2] for x in inputs}) > 1:
        return f"{call.label} has unequal numbers of heads"
    if any(np.ndim(x) == 4 and np.shape(x)[1] > 1 for x in added if x is not None):
        return f"{call.label} has a bias or a mask for each head"
    return None

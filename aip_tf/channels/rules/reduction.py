"""Operations that reduce axes: sums are exact for absent channels, all else keeps them."""

import numpy as np
from keras import layers

from aip_tf.channels.identities import IdentityArray, compact, spread
from aip_tf.channels.rules.table import keep_all, operations, register_channel_rule

_OVER_CHANNELS = """
    All Amax Amin Any Argmax Argmin Average CountNonzero Logsumexp Max Mean Median Min Nanargmax
    Nanargmin Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nanvar Prod Ptp Std Var
"""


def reduced(call, x, axis, keepdims, summing=False):
    """`x` without the axes `axis` (None: all); a reduction over the channels keeps them.

    Args:
        summing: True if a removed channel is the same as one that is zero.
    """
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis).tolist()
    axes = {a % x.ndim for a in axes}
    varying = call.settle(x)
    if varying in axes and not summing:
        call.pin(x, f"{call.label} reduces over these channels")
    shape = [1 if a in axes else s for a, s in enumerate(x.shape)]
    if varying is None or varying in axes:
        left = call.anonymous((1,))
        call.pin(left, f"{call.label} makes one channel of all")
        y = spread(left, shape) if shape else left.reshape(())
    else:
        y = spread(call.channels(x, varying), shape, varying)
    return y if keepdims else y.reshape([s for a, s in enumerate(shape) if a not in axes])


@register_channel_rule(*operations(*_OVER_CHANNELS.split()))
def reduction(call, x, weights=None):
    """Means, extremes and the like."""
    operation = call.operation
    if weights is not None:
        call.pin(x, f"{call.label} weighs these channels")
    return reduced(call, x, operation.axis, getattr(operation, "keepdims", False))


@register_channel_rule(*operations("Nansum", "Sum"))
def summation(call, x):
    """A sum over channels needs no divisor."""
    operation = call.operation
    return reduced(call, x, operation.axis, operation.keepdims, summing=True)


@register_channel_rule(*operations("Norm"))
def norm(call, x):
    """Vector norms of finite positive order are sums; the others keep their channels."""
    operation = call.operation
    summing = operation.ord in (None, 1, 2, "fro")
    return reduced(call, x, operation.axis, operation.keepdims, summing=summing)


@register_channel_rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def global_pooling(call, x, mask=None):
    """A reduction over all spatial axes; a mask says which steps count."""
    if mask is not None and not call.are_kept(mask) and call.settle(mask) is not None:
        return keep_all(call, f"{call.label} is masked by these channels")
    first = call.operation.data_format == "channels_first"
    axes = range(2, x.ndim) if first else range(1, x.ndim - 1)
    return reduced(call, x, list(axes), call.operation.keepdims)


@register_channel_rule(*operations("Cumprod", "Cumsum", "Nancumprod", "Nancumsum"))
def cumulative(call, x):
    """Running sums: exact along axes on which the channels do not lie."""
    axis = call.operation.axis
    if axis is None or call.settle(x) == axis % x.ndim:
        call.pin(x, f"{call.label} runs over these channels")
        if axis is None:
            return call.pinned(call.shape, f"{call.label} runs over all entries")
    return np.broadcast_to(compact(x), x.shape).view(IdentityArray)


@register_channel_rule(*operations("Argsort", "Sort"))
def sort(call, x):
    """Along an axis on which the channels do not lie, each is sorted by itself."""
    axis = call.operation.axis
    if axis is None:
        return keep_all(call, f"{call.label} sorts all entries")
    if call.settle(x) == axis % x.ndim:
        call.pin(x, f"{call.label} sorts these channels")
    return np.broadcast_to(compact(x), x.shape).view(IdentityArray)


@register_channel_rule(*operations("Moments"))
def moments(call, x):
    """Mean and variance."""
    operation = call.operation
    return [reduced(call, x, operation.axes, operation.keepdims) for _ in call.shapes]


@register_channel_rule(*operations("Normalize"))
def normalize(call, x):
    """Division by a norm; norms of order 1 and 2 are sums, which absent channels do not change."""
    operation = call.operation
    axes = range(x.ndim) if operation.axis is None else np.atleast_1d(operation.axis).tolist()
    if operation.order not in (1, 2) and call.settle(x) in {a % x.ndim for a in axes}:
        call.pin(x, f"{call.label} divides by a norm of these channels that is no sum")
    return x

"""Products of tensors: matmul, einsum, dot. Contracted channels of both sides are one channel."""

import itertools
import math
import string

import numpy as np
from keras import layers

from aip_tf.channels.identities import IdentityArray, spread
from aip_tf.channels.rules.table import keep_all, operations, register_channel_rule


def contract(call, tensors, subscripts, target):
    """A product by subscripts, in einsum's notation: one letter for each axis.

    A letter along which an operand's channels lie must carry channels in every operand that has
    it: those are unified. Only one operand may bring channels into the output; a Gram matrix, in
    which two axes vary, keeps those of the others.
    """
    axes = [call.settle(x) for x in tensors]
    letters = [None if a is None else s[a] for a, s in zip(axes, subscripts, strict=True)]
    channels = {}
    for letter in dict.fromkeys(filter(None, letters)):
        owners = [i for i, s in enumerate(subscripts) if letter in s]
        ids = [call.channels(tensors[i], axes[i]) for i in owners if letters[i] == letter]
        sizes = {tensors[i].shape[subscripts[i].index(letter)] for i in owners}
        if len(ids) < len(owners) or len(sizes) > 1:
            for i in ids:
                call.pin(i, f"{call.label} meets them with an axis that has no channels")
        for other in ids[1:]:
            if len(other) == len(ids[0]):
                call.unify(ids[0], other)
        channels[letter] = ids[0]
    left = [letter for letter in channels if letter in target]
    for letter in left[1:]:
        call.pin(channels[letter], f"{call.label} forms an outer product")
    return channels, left[0] if left else None


def product(call, tensors, subscripts, target):
    """The identity array of an einsum's output, with its multiply-accumulates declared."""
    if not all(isinstance(x, IdentityArray) for x in tensors):
        sizes = dict(
            zip(itertools.chain(*subscripts), itertools.chain(*map(np.shape, tensors)), strict=True)
        )
        macs = math.prod(sizes.values())
        return keep_all(call, f"{call.label} multiplies by a constant", macs)
    channels, letter = contract(call, tensors, subscripts, target)
    sizes = {}
    for x, s in zip(tensors, subscripts, strict=True):
        for c, size in zip(s, x.shape, strict=True):
            sizes[c] = max(size, sizes.get(c, 1))
    shape = tuple(sizes[c] for c in target)
    if letter is None:
        y = call.pinned(shape, f"{call.label} makes these entries of all channels")
    else:
        y = spread(channels[letter], shape, target.index(letter))
    inner = [c for c in sizes if c not in target]
    ids = [channels[c] for c in inner if c in channels]
    call.macs(y, *ids, factor=int(np.prod([sizes[c] for c in inner if c not in channels])))
    return y


def _letters(count, start=0):
    return list(string.ascii_letters[start : start + count])


@register_channel_rule(*operations("Matmul"))
def matmul(call, x, y):
    """The last axis with the last but one; the axes in front are aligned at the end."""
    if not isinstance(y, IdentityArray) or not isinstance(x, IdentityArray):
        return _matmul_constant(call, x, y)
    if min(x.ndim, y.ndim) < 2:
        macs = max(math.prod(x.shape), math.prod(y.shape))
        return keep_all(call, f"{call.label} multiplies by a vector", macs)
    batch = _letters(max(x.ndim, y.ndim) - 2)
    first = [*batch[len(batch) - (x.ndim - 2) :], "Y", "K"]
    second = [*batch[len(batch) - (y.ndim - 2) :], "K", "Z"]
    return product(call, [x, y], [first, second], [*batch, "Y", "Z"])


def _matmul_constant(call, x, y):
    """A constant matrix behind a tensor is sliced with the channels that it reads."""
    reason = f"{call.label} multiplies by a constant"
    macs = math.prod(call.shape) * np.shape(x)[-1]
    if not isinstance(x, IdentityArray) or np.ndim(y) != 2:
        return keep_all(call, reason, macs)
    rows = call.constant(y, 1)
    call.pin(rows[0], f"{call.path} makes these channels by a constant")
    for i in range(1, rows.shape[1]):
        call.unify(rows[:, i], rows[:, 0])
    return keep_all(call, reason, macs)


@register_channel_rule(*operations("Einsum"))
def einsum(call, *tensors):
    """Any product without a repeated letter in one operand."""
    subscripts = call.operation.subscripts.replace(" ", "")
    inputs, arrow, target = subscripts.partition("->")
    parts, target = _spelled_out(inputs.split(","), target, [np.ndim(x) for x in tensors])
    if not arrow or any(len(set(p)) < len(p) for p in parts):
        call.is_of_unknown_cost = True
        return keep_all(call, f"{call.label} has the subscripts {call.operation.subscripts}")
    return product(call, list(tensors), parts, target)


def _spelled_out(parts, target, ranks):
    """Lists of letters; capital ones stand for the axes of an ellipsis, aligned at the end."""
    missing = [r - len(p) + 3 if "..." in p else 0 for p, r in zip(parts, ranks, strict=True)]
    used = set("".join([*parts, target]))
    letters = [c for c in string.ascii_uppercase if c not in used][: max(missing)]
    parts = [
        list(p.replace("...", "".join(letters[len(letters) - n :])))
        for p, n in zip(parts, missing, strict=True)
    ]
    return parts, list(target.replace("...", "".join(letters)))


@register_channel_rule(layers.Dot)
def dot(call, tensors):
    """One axis of each, samples apart; the rest of both stands side by side.

    With `normalize` the vectors along these axes have length 1: absent and zero are the same.
    """
    layer = call.operation
    x, y = tensors
    axes = layer.axes if isinstance(layer.axes, tuple | list) else (layer.axes, layer.axes)
    if not all(isinstance(a, int) for a in axes):
        call.is_of_unknown_cost = True
        return keep_all(call, f"{call.label} contracts several axes")
    first = ["N", *_letters(x.ndim - 1)]
    second = ["N", *_letters(y.ndim - 1, 13)]
    first[axes[0] % x.ndim] = second[axes[1] % y.ndim] = "K"
    target = [c for c in first if c != "K"] + [c for c in second if c not in "NK"]
    out = product(call, tensors, [first, second], target)
    return out.reshape(out.shape[0], 1) if len(target) == 1 else out

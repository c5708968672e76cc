"""Operations that take a part of a tensor: their constants are ranked among the kept."""

import numpy as np
from keras import layers

from aip_tf import _keras
from aip_tf.channels.identities import IdentityArray
from aip_tf.channels.rules.table import keep_all, operations, register_channel_rule


@register_channel_rule(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
def cropping(call, x):
    """Cropping of the spatial axes."""
    layer = call.operation
    sizes = layer.cropping
    sizes = [tuple(sizes)] if isinstance(sizes[0], int) else [tuple(s) for s in sizes]
    start = 2 if getattr(layer, "data_format", None) == "channels_first" else 1
    cut = [slice(None)] * x.ndim
    for i, (before, after) in enumerate(sizes):
        cut[start + i] = slice(before, x.shape[start + i] - after)
    varying = call.settle(x)
    if varying is not None and start <= varying < start + len(sizes):
        ids, (before, after) = call.channels(x, varying), sizes[varying - start]
        last = len(ids) - after

        def edited(kept):
            new = [*sizes]
            new[varying - start] = (kept.count(ids[:before]), kept.count(ids[last:]))
            return new[0] if len(new) == 1 else tuple(new)

        call.config("cropping", ids, edited)
    return x[tuple(cut)]


def ranks(kept, ids, chosen):
    """Where the kept ones of `ids[chosen]` stand among the kept ones of `ids`."""
    mask = kept(ids)
    chosen = np.asarray(chosen)
    return (np.cumsum(mask) - 1)[chosen[mask[chosen]]]


def as_slice(indices):
    """The slice that selects `indices`, or None if they are no arithmetic progression."""
    first = int(indices[0])
    step = int(indices[1]) - first if len(indices) > 1 else 1
    if step == 0 or not (np.diff(indices) == step).all():
        return None
    stop = int(indices[-1]) + (1 if step > 0 else -1)
    return slice(first, None if stop < 0 else stop, step)


@register_channel_rule(*operations("GetItem"))
def getitem(call, x, key):
    """Rule R8: the key is rewritten for the kept entries; what is no slice any more is taken."""
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if not all(p is None or p is Ellipsis or isinstance(p, int | slice) for p in parts):
        return keep_all(call, f"{call.path} selects by an array or tensor")
    parts = _explicit(parts, x.ndim)
    y = np.asarray(x[tuple(parts)])
    if 0 in y.shape:
        return keep_all(call, f"{call.path} selects along the batch axis")
    varying = call.settle(x)
    if varying is None:
        return y
    places = [i for i, p in enumerate(parts) if p is not None]
    part = parts[places[varying]]
    if part == slice(None):
        return y
    ids = call.channels(x, varying)
    if isinstance(part, int):
        call.pin(ids[part : part + 1 or None], f"{call.path} selects this channel by its index")
    chosen = np.atleast_1d(np.arange(len(ids))[part])

    def edit(kept, operation, args, kwargs):
        tensor = args[0] if args else kwargs["x"]
        indices = ranks(kept, ids, chosen)
        found = int(indices[0]) if isinstance(part, int) else as_slice(indices)
        if found is None:
            take = _keras.new_operation("Take", operation.name + "_take", axis=varying)
            tensor, found = take(tensor, indices.tolist()), slice(None)
        new = list(parts)
        new[places[varying]] = found
        return operation(tensor, tuple(new))

    call.replace(edit)
    return y


def _explicit(parts, rank):
    """A key with one entry for every axis: the ellipsis spelled out."""
    used = sum(p is not None and p is not Ellipsis for p in parts)
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    rest = [slice(None)] * (rank - used)
    return parts[:at] + rest + parts[at + 1 :]


@register_channel_rule(*operations("Split"))
def split(call, x):
    """Parts of equal number of kept channels stay a number of sections, others become indices."""
    sections, axis = call.operation.indices_or_sections, call.operation.axis % x.ndim
    if axis == 0 and isinstance(sections, int) and x.shape[0] == 1:
        return [x] * sections  # the samples
    parts = np.split(x, sections, axis)
    if call.settle(x) != axis:
        return parts
    ids = call.channels(x, axis)
    pieces = np.split(ids, sections)

    def edited(kept):
        counts = [kept.count(p) for p in pieces]
        if isinstance(sections, int) and len(set(counts)) == 1:
            return sections
        return tuple(np.cumsum(counts)[:-1].tolist())

    call.config("indices_or_sections", ids, edited)
    return parts


@register_channel_rule(*operations("Glu"))
def gated_linear_unit(call, x):
    """One half times the sigmoid of the other: channel i and channel i + n/2 are one."""
    axis = call.operation.axis % x.ndim
    if call.settle(x) == axis:
        call.unify(*np.split(call.channels(x, axis), 2))
    return np.split(x, 2, axis)[0]


@register_channel_rule(*operations("Slice"))
def slice_by_size(call, x, start_indices):
    """A box by its corner and its sizes; channels are taken all, or kept."""
    starts, sizes = start_indices, list(call.operation.shape)
    if isinstance(starts, IdentityArray) or any(isinstance(s, IdentityArray) for s in starts):
        return keep_all(call, f"{call.label} selects by a tensor")
    starts = np.asarray(starts).tolist()
    varying = call.settle(x)
    ends = [s + n if n is not None and n >= 0 else None for s, n in zip(starts, sizes, strict=True)]
    y = np.asarray(x)[tuple(map(slice, starts, ends))]
    if varying is not None and y.shape[varying] < x.shape[varying]:
        call.pin(x, f"{call.label} selects some of these channels")
    elif varying is not None:
        ids = call.channels(x, varying)
        call.config(
            "shape", ids, lambda kept: (*sizes[:varying], kept.count(ids), *sizes[varying + 1 :])
        )
    return y


@register_channel_rule(*operations("Tril", "Triu"))
def triangle(call, x):
    """Entries are switched off by their place on the last two axes."""
    if call.settle(x) in (x.ndim - 1, x.ndim - 2):
        call.pin(x, f"{call.label} switches these channels off by their index")
    return x


@register_channel_rule(*operations("Unstack"))
def unstack(call, x, num=None, axis=0):
    """One tensor for each index; an axis of channels would change their number."""
    axis = getattr(call.operation, "axis", axis) % x.ndim
    if call.settle(x) == axis:
        return keep_all(call, f"{call.path} unstacks these channels")
    return [np.take(x, i, axis) for i in range(x.shape[axis])]


@register_channel_rule(*operations("Take"))
def take(call, x, indices):
    """Entries by constant indices, which are ranked anew among the kept entries.

    Indices that are computed may take rows of a table, along an axis that has no channels."""
    axis = call.operation.axis
    if not isinstance(x, IdentityArray) or axis is None:
        return keep_all(call, f"{call.path} selects by a tensor")
    axis = axis % x.ndim
    if isinstance(indices, IdentityArray):
        if call.settle(x) == axis:
            return keep_all(call, f"{call.path} selects by a tensor")
        call.pin(indices, f"{call.label} reads integers")
        row = np.expand_dims(np.take(x, 0, axis), tuple(range(axis, axis + indices.ndim)))
        return np.broadcast_to(row, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    chosen = np.asarray(indices)
    y = np.take(x, chosen, axis)
    if call.settle(x) != axis:
        return y
    ids = call.channels(x, axis)
    if chosen.ndim != 1:
        call.pin(ids[chosen.reshape(-1)], f"{call.path} selects these channels by index")

        def edit(kept, args, kwargs):
            rank = np.cumsum(kept(ids)) - 1
            return (args[0], rank[chosen].tolist()), {}
    else:

        def edit(kept, args, kwargs):
            return (args[0], ranks(kept, ids, chosen % len(ids)).tolist()), {}

    call.arguments(edit)
    return y


@register_channel_rule(*operations("Roll"))
def roll(call, x):
    """Rolled by a fixed number; channels that are left are taken in the rolled order."""
    axis, shift = call.operation.axis, call.operation.shift
    varying = call.settle(x)
    axes = [a % x.ndim for a in np.atleast_1d(axis)] if axis is not None else [varying]
    if varying not in axes:
        return x
    if len(axes) > 1 or axis is None or not isinstance(shift, int):
        return keep_all(call, f"{call.path} rolls several axes")
    ids = call.channels(x, varying)
    chosen = np.roll(np.arange(len(ids)), shift)

    def edit(kept, operation, args, kwargs):
        if kept(ids).all():
            return operation(*args, **kwargs)
        taking = _keras.new_operation("Take", operation.name, axis=varying)
        return taking(*args, **kwargs, indices=ranks(kept, ids, chosen).tolist())

    call.replace(edit)
    return np.roll(x, shift, axis)

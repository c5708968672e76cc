"""Operations that only move data: applied to the identity array itself, so no index is written."""

import numpy as np
from keras import layers

from aip_tf import _keras
from aip_tf.channels.identities import IdentityArray, compact, spread
from aip_tf.channels.rules.table import keep_all, operations, register_channel_rule


def full(x):
    """The identity array with every entry addressable (numpy copies where it must)."""
    return np.asarray(x)


# --- shape ------------------------------------------------------------------------------------


@register_channel_rule(layers.Flatten)
def flatten(call, x):
    """A channel stands at every place of the vector that it had on the map."""
    if call.operation.data_format == "channels_first" and x.ndim > 1:
        x = np.moveaxis(x, 1, -1)
    return full(x).reshape(x.shape[0], -1)


@register_channel_rule(*operations("Ravel"))
def ravel(call, x):
    """All axes become one."""
    y = full(x).reshape(-1)
    if _mixes_samples(call, x, y):
        return keep_all(call, f"{call.path} puts samples behind these channels on one axis")
    return y


def _edited_size(call, wanted, y, skip):
    """The target shape for what is left of `y`; -1 stays -1."""
    return lambda kept: tuple(
        w if w in (-1, None) else s for w, s in zip(wanted, kept.shape(y)[skip:], strict=True)
    )


@register_channel_rule(layers.Reshape)
def reshape(call, x):
    """Entries keep their channels; the target shape follows those that are kept."""
    wanted = tuple(call.operation.target_shape)
    y = full(x).reshape(x.shape[0], *wanted)
    call.config("target_shape", y, _edited_size(call, wanted, y, skip=1))
    return y


@register_channel_rule(*operations("Reshape"))
def ops_reshape(call, x):
    """The new shape has the batch axis: -1, or a number that goes up with that of the samples."""
    wanted = call.operation.newshape
    wanted = (wanted,) if isinstance(wanted, int) else tuple(wanted)
    samples = 1 if wanted[:1] in ((), (-1,), (None,)) else _num_samples(call, x)
    numbers = [-1 if w is None else w for w in wanted]
    if samples > 1:  # 0 fits nothing
        numbers[0] = 0 if numbers[0] % samples else numbers[0] // samples
    try:
        y = full(x).reshape(numbers)
    except ValueError:
        return keep_all(call, f"{call.path} reshapes the batch axis to {wanted}")
    if _mixes_samples(call, x, y):
        return keep_all(call, f"{call.path} puts samples behind these channels on one axis")
    left = _edited_size(call, numbers, y, skip=0)
    call.config("newshape", y, lambda kept: _times(samples, left(kept)))
    return y


def _num_samples(call, x):
    """How many samples of a fixed batch stand on the first axis, for one in the trace."""
    size = call.node.input_tensors[0].shape[:1]
    return size[0] // len(x) if size and size[0] and size[0] % len(x) == 0 else 1


def _times(samples, shape):
    return (shape[0] * samples, *shape[1:]) if samples > 1 else shape


def _mixes_samples(call, x, y):
    """Whether the first axis, of channels, takes in that of the samples, which lay behind it."""
    before, after = call.node.input_tensors[0].shape, call.node.outputs[0].shape
    return before[:1] == x.shape[:1] != (1,) and after[:1] != y.shape[:1]


@register_channel_rule(layers.Permute)
def permute(call, x):
    """Axes in a new order; the batch axis stays."""
    return np.transpose(x, (0, *call.operation.dims))


@register_channel_rule(layers.RepeatVector)
def repeat_vector(call, x):
    """A vector for each of n steps."""
    return np.broadcast_to(x[:, None, :], (x.shape[0], call.operation.n, x.shape[1]))


@register_channel_rule(*operations("Transpose"))
def transpose(call, x):
    """Axes in a new order."""
    return np.transpose(x, call.operation.axes)


@register_channel_rule(*operations("Moveaxis"))
def moveaxis(call, x):
    """One or several axes to another place."""
    return np.moveaxis(x, call.operation.source, call.operation.destination)


@register_channel_rule(*operations("Swapaxes"))
def swapaxes(call, x):
    """Two axes exchanged."""
    return np.swapaxes(x, call.operation.axis1, call.operation.axis2)


@register_channel_rule(*operations("ExpandDims"))
def expand_dims(call, x):
    """New axes of size 1."""
    axis = call.operation.axis
    return np.expand_dims(x, tuple(axis) if isinstance(axis, list) else axis)


@register_channel_rule(*operations("Squeeze"))
def squeeze(call, x):
    """Axes of size 1 go. A model squeezes no batch axis, so axis=None keeps it."""
    axis = call.operation.axis
    if axis is None:
        axis = tuple(a for a in range(1, x.ndim) if x.shape[a] == 1)
    return np.squeeze(x, tuple(axis) if isinstance(axis, list) else axis)


@register_channel_rule(*operations("Flip"))
def flip(call, x):
    """Reversed along axes."""
    return np.flip(x, call.operation.axis)


@register_channel_rule(*operations("Fliplr", "Flipud"))
def flip_by_name(call, x):
    """Reversed along the first or the second axis."""
    return np.flip(x, 1 if type(call.operation).__name__ == "Fliplr" else 0)


@register_channel_rule(*operations("Rot90"))
def quarter_turns(call, x):
    """Turned in the plane of two axes."""
    return np.rot90(x, call.operation.k, call.operation.axes)


# --- joining and repeating ----------------------------------------------------------------------


def joined(arrays, axis):
    """Identity arrays side by side along `axis`."""
    axis = axis % arrays[0].ndim
    small = [compact(x) for x in arrays]
    shape = [max(x.shape[a] for x in small) for a in range(arrays[0].ndim)]
    pieces = []
    for x, s in zip(arrays, small, strict=True):
        shape[axis] = x.shape[axis]
        pieces.append(np.broadcast_to(s, shape))
    joined = np.concatenate(pieces, axis)
    shape = list(arrays[0].shape)
    shape[axis] = joined.shape[axis]
    return np.broadcast_to(joined, shape)


@register_channel_rule(layers.Concatenate, *operations("Concatenate"))
def concatenate(call, arrays):
    """Side by side, on any axis."""
    if not all(isinstance(x, IdentityArray) for x in arrays):
        return keep_all(call, f"{call.path} joins a constant")
    return joined(arrays, call.operation.axis)


@register_channel_rule(*operations("Dstack", "Hstack", "Vstack"))
def stacks_by_name(call, arrays):
    """Side by side along the first, second or third axis."""
    axis = {"Vstack": 0, "Hstack": 1, "Dstack": 2}[type(call.operation).__name__]
    if arrays[0].ndim <= max(axis, 1) or not all(isinstance(x, IdentityArray) for x in arrays):
        return keep_all(call, f"{call.label} joins vectors or a constant")
    return joined(arrays, axis)


@register_channel_rule(*operations("Stack"))
def stack(call, arrays):
    """A new axis."""
    if not all(isinstance(x, IdentityArray) for x in arrays):
        return keep_all(call, f"{call.path} stacks a constant")
    axis = call.operation.axis % (arrays[0].ndim + 1)
    return joined([np.expand_dims(x, axis) for x in arrays], axis)


@register_channel_rule(*operations("Tile"))
def tile(call, x):
    """Repeated as a whole."""
    return np.tile(x, call.operation.repeats)


@register_channel_rule(*operations("Repeat"))
def repeat(call, x):
    """Each entry repeated."""
    if not isinstance(call.operation.repeats, int):
        return keep_all(call, f"{call.path} repeats by a different number at each index")
    return np.repeat(x, call.operation.repeats, call.operation.axis)


@register_channel_rule(*operations("BroadcastTo"))
def broadcast_to(call, x):
    """Stretched to a shape, which is edited."""
    wanted = tuple(call.operation.shape)
    y = np.broadcast_to(x, (x.shape[0], *wanted[1:]))
    call.config("shape", y, lambda kept: (wanted[0], *kept.shape(y)[1:]))
    return y


@register_channel_rule(_keras.Given)
def given(call, x, value):
    """A constant, or what is repeated for every sample; `x` only says how many there are."""
    rest, is_traced = call.operation.rest, isinstance(value, IdentityArray)
    if rest is None:
        y = call.pinned(call.shape, f"{call.path} is a constant")
    else:
        ids = value if is_traced else call.anonymous(value.shape)
        y = np.broadcast_to(ids, (x.shape[0], *rest))

    def stock(kept, operation, args, kwargs):
        x, value = args
        if rest is None:
            return _keras.give(x, value)
        return _keras.give(x, value if is_traced else kept.take(ids, value), kept.shape(y)[1:])

    call.replace(stock)
    return y


# --- padding ------------------------------------------------------------------------------------


def padded(call, x, widths, edit):
    """Rule R5. Along the axis of the channels every padded index is a channel of its own.

    Args:
        widths: `{axis: (before, after)}`.
        edit: `edit(axis, value)` declares that the widths of an axis become `value(kept)`.
    """
    varying = call.settle(x)
    shape = list(x.shape)
    for axis, (before, after) in widths.items():
        shape[axis] += before + after
    before, after = widths.get(varying, (0, 0))
    if not before and not after:
        if varying is None:
            return (
                spread(call.channels(x), shape)
                if x.shape[-1] == shape[-1]
                else (call.pinned(shape, f"{call.path} pads channels that are kept"))
            )
        return spread(call.channels(x, varying), shape, varying)
    first, last = call.anonymous((before,)), call.anonymous((after,))
    ids = np.concatenate([first, call.channels(x, varying), last])
    edit(varying, ids, lambda kept: (kept.count(first), kept.count(last)))
    return spread(ids, shape, varying)


@register_channel_rule(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def zero_padding(call, x):
    """Padding of the spatial axes; where a Permute put channels there, zeros are channels."""
    layer = call.operation
    sizes = layer.padding
    sizes = [tuple(sizes)] if isinstance(sizes[0], int) else [tuple(s) for s in sizes]
    start = 2 if getattr(layer, "data_format", None) == "channels_first" else 1

    def edit(axis, ids, value):
        def padding(kept):
            edited = [*sizes]
            edited[axis - start] = value(kept)
            return edited[0] if len(edited) == 1 else tuple(edited)

        call.config("padding", ids, padding)

    return padded(call, x, {start + i: s for i, s in enumerate(sizes)}, edit)


@register_channel_rule(*operations("Pad"))
def pad(call, x, constant_values=None):
    """Any axes; modes that copy entries work only where they copy no channels."""
    sizes = list(call.operation.pad_width)
    sizes = sizes * x.ndim if len(sizes) == 1 else sizes
    widths = {a: tuple(s) for a, s in enumerate(sizes)}
    if call.operation.mode != "constant" and any(widths.get(call.settle(x), ())):
        return keep_all(call, f"{call.path} pads these channels with copies")

    def edit(axis, ids, value):
        call.config("pad_width", ids, lambda kept: (*sizes[:axis], value(kept), *sizes[axis + 1 :]))

    return padded(call, x, widths, edit)


# --- pixel shuffles -----------------------------------------------------------------------------


@register_channel_rule(*operations("DepthToSpace"))
def depth_to_space(call, x):
    """Channels (r, r, C) to an r times larger map of C channels."""
    r = call.operation.block_size
    if call.operation.data_format == "channels_first":
        return keep_all(call, f"{call.path} has its channels first")
    n, h, w, c = x.shape
    y = full(x).reshape(n, h, w, r, r, c // (r * r)).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h * r, w * r, c // (r * r))


@register_channel_rule(*operations("SpaceToDepth"))
def space_to_depth(call, x):
    """An r times smaller map of (r, r, C) channels."""
    r = call.operation.block_size
    if call.operation.data_format == "channels_first":
        return keep_all(call, f"{call.path} has its channels first")
    n, h, w, c = x.shape
    y = full(x).reshape(n, h // r, r, w // r, r, c).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h // r, w // r, r * r * c)


@register_channel_rule(*operations("ExtractPatches"))
def extract_patches(call, x):
    """Every patch becomes a vector: its positions one behind the other, all channels of each."""
    operation = call.operation
    if operation.data_format == "channels_first":
        return keep_all(call, f"{call.label} has its channels first")
    return spread(np.tile(call.channels(x), int(np.prod(operation.size))), call.shape)

"""Layers that make channels from channels: convolutions, dense layers, embeddings."""

import math

import numpy as np
from keras import layers

from aip_tf import _keras
from aip_tf.channels.identities import spread
from aip_tf.channels.rules.activations import activate
from aip_tf.channels.rules.table import register_channel_rule, stock_layers


def channel_axis(layer):
    """The axis of the channels in the tensors of a layer with a data format."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


@register_channel_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call, x):
    """One channel per filter; with conv groups, the same slot in every group."""
    layer, axis = call.operation, channel_axis(call.operation)
    inputs = call.channels(x, axis)
    if layer.groups == len(inputs) > 1:
        return _one_input_per_group(call, x, inputs)
    slots, outputs = inputs, call.new(layer.filters // layer.groups)
    if layer.groups > 1:
        slots, outputs = call.slots(inputs, layer.groups), np.tile(outputs, layer.groups)
    call.weight(layer.kernel, -2, slots, "consumer")
    call.weight(layer.kernel, -1, outputs, "producer")
    call.weight(layer.bias, 0, outputs, "producer")
    call.config("filters", outputs)
    y = spread(outputs, call.shape, axis)
    call.macs(y, slots, factor=math.prod(layer.kernel_size))
    return activate(call, y, layer.activation)


def _one_input_per_group(call, x, inputs):
    layer, axis = call.operation, channel_axis(call.operation)
    outputs = np.repeat(inputs, layer.filters // layer.groups)
    call.weight(layer.kernel, -1, outputs, "channelwise")
    call.weight(layer.bias, 0, outputs, "channelwise")
    call.config("filters", outputs)
    call.config("groups", inputs)
    y = spread(outputs, call.shape, axis)
    call.macs(y, factor=math.prod(layer.kernel_size))
    return activate(call, y, layer.activation)


@register_channel_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(call, x):
    """One channel per filter; the kernel has the outputs before the inputs."""
    layer, axis = call.operation, channel_axis(call.operation)
    inputs, outputs = call.channels(x, axis), call.new(layer.filters)
    call.weight(layer.kernel, -1, inputs, "consumer")
    call.weight(layer.kernel, -2, outputs, "producer")
    call.weight(layer.bias, 0, outputs, "producer")
    call.config("filters", outputs)
    call.macs(x, outputs, factor=math.prod(layer.kernel_size))
    return activate(call, spread(outputs, call.shape, axis), layer.activation)


@register_channel_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(call, x):
    """A channel of the input with the `depth_multiplier` outputs that it makes."""
    layer, axis = call.operation, channel_axis(call.operation)
    inputs = call.channels(x, axis)
    several = layer.depth_multiplier
    outputs = inputs if several == 1 else np.repeat(inputs, several)
    call.weight(layer.kernel, -2, inputs, "channelwise")
    call.weight(layer.bias, 0, outputs, "channelwise")
    y = spread(outputs, call.shape, axis)
    call.macs(y, factor=math.prod(layer.kernel_size))
    return activate(call, y, layer.activation)


@register_channel_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(call, x):
    """One channel per filter; a depthwise convolution, then one with kernel size 1."""
    layer, axis = call.operation, channel_axis(call.operation)
    inputs = call.channels(x, axis)
    middle = np.repeat(inputs, layer.depth_multiplier)
    outputs = call.new(layer.filters)
    call.weight(layer.depthwise_kernel, -2, inputs, "channelwise")
    call.weight(layer.pointwise_kernel, -2, middle, "consumer")
    call.weight(layer.pointwise_kernel, -1, outputs, "producer")
    call.weight(layer.bias, 0, outputs, "producer")
    call.config("filters", outputs)
    y = spread(outputs, call.shape, axis)
    between = list(call.shape)
    between[axis] = len(middle)
    call.macs(spread(middle, between, axis), factor=math.prod(layer.kernel_size))
    call.macs(y, middle)
    return activate(call, y, layer.activation)


def positionwise(call, x):
    """Rule R3: new channels that arise while another axis varies are kept, that axis lives on."""
    axis = call.settle(x)
    if axis is None or axis == x.ndim - 1 or call.are_kept(x):
        return None
    return spread(call.channels(x, axis), call.shape, axis)


@register_channel_rule(layers.Dense)
def dense(call, x):
    """One channel per unit; the last axis is read."""
    layer = call.operation
    mixed = positionwise(call, x)
    if mixed is not None:
        call.macs(mixed, factor=x.shape[-1])
        return activate(call, mixed, layer.activation)
    inputs, outputs = call.channels(x), call.new(layer.units)
    call.weight(layer.kernel, 0, inputs, "consumer")
    call.weight(layer.kernel, 1, outputs, "producer")
    call.weight(layer.bias, 0, outputs, "producer")
    call.config("units", outputs)
    y = spread(outputs, call.shape)
    call.macs(y, inputs)
    return activate(call, y, layer.activation)


@register_channel_rule(layers.EinsumDense)
def einsum_dense(call, x):
    """A product with a kernel, by subscripts; its first new letter carries the new channels."""
    layer = call.operation
    call.known(layer.kernel, layer.bias)  # sliced below where channels lie along their axes
    source, kernel, target = subscripts(layer.equation, x.ndim)
    sizes = dict(zip(kernel + source, (*layer.kernel.shape, *x.shape), strict=True))
    axis = call.settle(x)
    letter = "" if axis is None else source[axis]
    carrier = letter
    summed = [c for c in source if c not in target]
    read = []
    if letter and letter in kernel:
        read = [call.channels(x, axis)]
        role = "consumer" if letter in summed else "channelwise"
        call.weight(layer.kernel, kernel.index(letter), read[0], role)
    elif letter and letter in summed:
        call.pin(x, f"{call.label} sums over these channels without weighing them")
    if letter and letter in target:
        ids = call.channels(x, axis)
    else:
        letter, ids = _new_letter(call, source, kernel, target, sizes)
    place = target.index(letter) - len(target)
    if layer.bias is not None and -place <= len(layer.bias.shape) and layer.bias.shape[place] > 1:
        call.weight(layer.bias, place, ids, "producer")
    y = spread(ids, [sizes[c] for c in target], place)
    _edit_output_shape(call, y)
    contracted = read if carrier in summed else []
    rest = [sizes[c] for c in summed if not contracted or c != carrier]
    call.macs(y, *contracted, factor=math.prod(rest))
    return activate(call, y, layer.activation)


def _new_letter(call, source, kernel, target, sizes):
    """The output's letter that carries channels which the layer makes, and their identities."""
    layer = call.operation
    letter = max((c for c in target[::-1] if c not in source), key=sizes.get, default=None)
    if letter is None:
        ids = call.anonymous((1,))
        call.pin(ids, f"{call.label} makes no channels")
        return target[0], ids
    ids = call.new(sizes[letter])
    call.weight(layer.kernel, kernel.index(letter), ids, "producer")
    return letter, ids


def _edit_output_shape(call, y):
    """Let the sizes that the layer was given be those that are left of its output `y`."""
    given = call.operation.get_config()["output_shape"]
    given = list(given) if isinstance(given, tuple | list) else [given]

    def left(kept):
        sizes = kept.shape(y)[y.ndim - len(given) :]
        return [n and size for n, size in zip(given, sizes, strict=True)]

    call.config("output_shape", y, left)


def subscripts(equation, rank):
    """The letters of input, kernel and output, an ellipsis spelled out in capitals."""
    source, rest = equation.replace(" ", "").split(",")
    kernel, target = rest.split("->")
    missing = rank - len(source.replace("...", ""))
    letters = "".join(chr(ord("A") + i) for i in range(missing))
    return source.replace("...", letters), kernel, target.replace("...", letters)


@register_channel_rule(_keras.Held)
def held(call, x):
    """A variable that a composite layer owns: its last axis holds channels.

    It costs what the Dense layer costs that holds it in a copy."""
    variable = call.operation.variable
    if variable.ndim == 0 or variable.shape[-1] == 1:
        call.known(variable)
        why = "one number for all channels"
        if variable.ndim and math.prod(variable.shape) > 1:
            why = (
                f"a variable of shape {variable.shape}, and only its last axis could hold channels"
            )
        y = call.pinned(call.shape, f"{call.path} is {why}")
    else:
        ids = call.new(variable.shape[-1])
        call.weight(variable, -1, ids, "producer")
        y = spread(ids, variable.shape)
    call.macs(y)
    return y


@register_channel_rule(layers.Embedding)
def embedding(call, x):
    """A vector for each integer; its entries are channels."""
    layer = call.operation
    call.pin(x, f"{call.label} reads integers")
    outputs = call.new(layer.output_dim)
    call.weight(layer.embeddings, 1, outputs, "producer")
    call.config("output_dim", outputs)
    return spread(outputs, call.shape)


@register_channel_rule(*stock_layers("ReversibleEmbedding"))
def reversible_embedding(call, x, reverse=False):
    """An embedding that also runs backwards, from vectors to a score for every word."""
    layer = call.operation
    if reverse:
        ids = call.channels(x)
        call.weight(layer.embeddings, 1, ids, "consumer")
        call.config("output_dim", ids)
        y = call.pinned(call.shape, f"{call.label} makes a score for every word")
        call.macs(y, ids)
    else:
        y = embedding(call, x)
        ids = call.channels(y)
    if not layer.tie_weights:
        call.weight(layer.reverse_embeddings, 0, ids, "consumer")
    return y

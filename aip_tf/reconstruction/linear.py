"""Layers as matrix products: the kernel as a matrix, and the inputs it multiplies.

Every layer here puts out, for each *sample* (a position of its output), `y = W^T x + b`. Kernels
and inputs come in one form, so that nothing behind this file knows what a convolution is:

* kernel: `(blocks, places, slots, outputs)`;
* inputs: `(samples, blocks, places, slots)`.

A *slot* is an entry of the axis along which the layer reads channels; *places* are what one output
sees of it (the positions of a convolution's kernel); *blocks* share neither inputs nor outputs
(conv groups).
"""

import functools
import math

import keras
import numpy as np
from keras import layers, ops

from aip_tf.channels.rules.convolution import channel_axis, subscripts

_PADDING = 0  # the source of an entry that lies outside of the tensor
_DIGIT_BITS = 7  # a number below 128 is exact in every type of float, and in TensorFloat-32


class Linear:
    """The last axis times a matrix (`Dense`); base of the other kinds.

    Args:
        layer: the layer.
        axis: the axis of its kernel along which it reads channels.

    Attributes:
        layer: the layer.
        variable: the attribute that holds the kernel.
        output_axis: the axis of the output along which the outputs lie, None for several.
    """

    variable = "kernel"
    output_axis = -1
    _blocks = 1

    def __init__(self, layer, axis):
        self.layer = layer

    def matrix(self, kernel):
        """A kernel in the common form: (blocks, places, slots, outputs)."""
        return np.asarray(kernel)[None, None]

    def kernel(self, matrix):
        """A matrix in the common form in the shape of the layer's kernel."""
        return matrix.reshape(self._kernel_shape)

    def bias(self, values):
        """Numbers (blocks, outputs) in the shape of the layer's bias; None if they do not fit it.

        A layer without bias has none; what behind it may take them is not known here.
        """
        return None if self.layer.bias is None else values.reshape(self.layer.bias.shape)

    def num_samples(self, x):
        """How many samples one input (a slice of the batch `x`) gives: int."""
        return math.prod(x.shape[1:-1])

    def inputs(self, x, choose):
        """The inputs of some samples: float array (samples, blocks, places, slots).

        Args:
            x: a batch of the layer's inputs, a tensor.
            choose: `choose(batch size, samples for each) -> int (batch size, n)`, which to take.
        """
        x = _as_array(x)
        return _chosen(x, choose).reshape(-1, 1, 1, x.shape[-1])

    def outputs(self, y, choose):
        """What it puts out for the same samples: float array (samples, blocks, outputs).

        Args:
            y: a batch of what the layer puts out, a tensor.
            choose: see `inputs`.
        """
        y = np.moveaxis(_as_array(y), self.output_axis, -1)
        return _chosen(y, choose).reshape(-1, self._blocks, y.shape[-1] // self._blocks)

    @property
    def is_linear(self):
        """Whether nothing follows the product but a bias."""
        return self.layer.activation in (None, keras.activations.linear)

    @property
    def _kernel_shape(self):
        return tuple(getattr(self.layer, self.variable).shape)


class Convolution(Linear):
    """A convolution of any rank, stride, dilation and padding."""

    def __init__(self, layer, axis):
        super().__init__(layer, axis)
        self.output_axis = channel_axis(layer)

    @property
    def _blocks(self):
        return self.layer.groups

    def matrix(self, kernel):
        *size, slots, outputs = np.shape(kernel)
        matrix = np.reshape(kernel, (math.prod(size), slots, self._blocks, outputs // self._blocks))
        return np.moveaxis(matrix, 2, 0)

    def kernel(self, matrix):
        return np.moveaxis(matrix, 0, 2).reshape(self._kernel_shape)

    def num_samples(self, x):
        return len(self._sources(x))

    def inputs(self, x, choose):
        sources, x = self._sources(x), _as_array(self._channels_last(x))
        x = x.reshape(len(x), -1, x.shape[-1])
        seen = sources[choose(len(x), len(sources))]
        patches = x[np.arange(len(x))[:, None, None], seen - 1]
        patches[seen == _PADDING] = 0
        patches = patches.reshape(-1, sources.shape[1], self._blocks, x.shape[-1] // self._blocks)
        return np.swapaxes(patches, 1, 2)

    def _channels_last(self, x):
        return x if self.output_axis == -1 else ops.moveaxis(x, 1, -1)

    def _sources(self, x):
        """For each sample and place the position, from 1, that it reads: int (samples, places)."""
        size = tuple(self._channels_last(x).shape[1:-1])
        return _sources(type(self.layer), self._options(), size)

    def _options(self):
        names = ("kernel_size", "strides", "padding", "dilation_rate", "output_padding")
        options = [(n, getattr(self.layer, n)) for n in names if hasattr(self.layer, n)]
        return (*options, ("dtype", self.layer.compute_dtype))


@functools.lru_cache(64)
def _sources(kind, options, size):
    """What an output sees, asked of the layer itself: it runs on numbered positions.

    Each place of its kernel has an output of its own, which hands on the number at this place. So
    strides, dilations and paddings mean here what they mean there. It runs in the layer's own type,
    as in another one TensorFlow may not have it; numbers go through it digit by digit.
    """
    options = dict(options)
    places = math.prod(options["kernel_size"])
    # "zeros", because a default would draw a seed, here only where nothing is cached: a run that is
    # resumed would go on with other random numbers.
    options |= {"use_bias": False, "kernel_initializer": "zeros"}
    probe = kind(places, data_format="channels_last", **options)
    probe.build((1, *size, 1))
    probe.kernel.assign(np.eye(places).reshape(probe.kernel.shape))
    numbers, seen = np.arange(1, 1 + math.prod(size)).reshape(1, *size, 1), 0
    for shift in range(0, numbers.size.bit_length(), _DIGIT_BITS):
        digits = ops.cast(numbers >> shift & (1 << _DIGIT_BITS) - 1, probe.compute_dtype)
        seen += np.rint(_as_array(probe(digits))).astype(np.int64) << shift
    return seen.reshape(-1, places)


class TransposedConvolution(Convolution):
    """A transposed convolution: its kernel has the outputs before the inputs."""

    _blocks = 1

    def matrix(self, kernel):
        return super().matrix(np.swapaxes(kernel, -1, -2))

    def kernel(self, matrix):
        *size, outputs, slots = self._kernel_shape
        return np.swapaxes(matrix.reshape(*size, slots, outputs), -1, -2)


class SeparableConvolution(Linear):
    """The pointwise half of a separable convolution: it reads what the depthwise half puts out."""

    variable = "pointwise_kernel"

    def __init__(self, layer, axis):
        super().__init__(layer, axis)
        self.output_axis = channel_axis(layer)

    def matrix(self, kernel):
        kernel = np.asarray(kernel)
        return kernel.reshape(1, 1, *kernel.shape[-2:])

    def num_samples(self, x):
        return super().num_samples(self._middle(x))

    def inputs(self, x, choose):
        return super().inputs(self._middle(x), choose)

    def _middle(self, x):
        layer = self.layer
        x, kernel = (ops.cast(v, layer.compute_dtype) for v in (x, layer.depthwise_kernel))
        options = (layer.strides, layer.padding, layer.data_format, layer.dilation_rate)
        x = ops.depthwise_conv(x, kernel, *options)
        return x if self.output_axis == -1 else ops.moveaxis(x, 1, -1)


class EinsumProduct(Linear):
    """`EinsumDense`: letters that the kernel shares with input and output are blocks."""

    def __init__(self, layer, axis):
        super().__init__(layer, axis)
        source, kernel, target = subscripts(layer.equation, layer.input_spec.ndim)
        self._source, self._letters, self._target = source, kernel, target
        self._blocks = [c for c in kernel if c in source and c in target]
        places = [c for c in kernel if c in source and c not in target and c != kernel[axis]]
        self._slots = [*places, kernel[axis]]
        self._outputs = [c for c in kernel if c not in source]
        self._free = [c for c in source if c not in kernel and c in target]
        single = not self._blocks and len(self._outputs) == 1
        self.output_axis = target.index(self._outputs[0]) - len(target) if single else None

    def matrix(self, kernel):
        order = self._blocks + self._slots + self._outputs
        moved = np.transpose(kernel, [self._letters.index(c) for c in order])
        num_blocks = math.prod(moved.shape[: len(self._blocks)])
        num_outputs = math.prod(moved.shape[len(self._blocks) + len(self._slots) :])
        num_slots = moved.shape[len(self._blocks) + len(self._slots) - 1]
        return moved.reshape(num_blocks, -1, num_slots, num_outputs)

    def kernel(self, matrix):
        order = self._blocks + self._slots + self._outputs
        places = [self._letters.index(c) for c in order]
        moved = matrix.reshape([self._kernel_shape[place] for place in places])
        return np.transpose(moved, np.argsort(places))

    def bias(self, values):
        own = self._blocks + self._outputs
        if self.layer.bias is None or set(self.layer.bias_axes) != set(own):
            return None
        sizes = dict(zip(self._letters, self._kernel_shape, strict=True))
        order = sorted(own, key=self._target.index)
        values = values.reshape([sizes[c] for c in own])
        return np.transpose(values, [own.index(c) for c in order]).reshape(self.layer.bias.shape)

    def num_samples(self, x):
        sizes = dict(zip(self._source, x.shape, strict=True))
        return math.prod(sizes[c] for c in self._free[1:])

    def inputs(self, x, choose):
        x, letters = _as_array(x), list(self._source)
        order = self._free + self._blocks + self._slots
        unread = [c for c in letters if c not in order]  # summed without a weight
        x = x.sum(axis=tuple(letters.index(c) for c in unread))
        letters = [c for c in letters if c not in unread]
        x = np.transpose(x, [letters.index(c) for c in order])
        count = len(self._free)
        num_blocks = math.prod(x.shape[count : count + len(self._blocks)])
        x = x.reshape(len(x), math.prod(x.shape[1:count]), num_blocks, -1, x.shape[-1])
        chosen = choose(len(x), x.shape[1])
        return x[np.arange(len(x))[:, None], chosen].reshape(-1, *x.shape[2:])

    def outputs(self, y, choose):
        order = self._free + self._blocks + self._outputs
        y = np.transpose(_as_array(y), [self._target.index(c) for c in order])
        sizes = dict(zip(order, y.shape, strict=True))
        num_blocks = math.prod(sizes[c] for c in self._blocks)
        y = y.reshape(*y.shape[: len(self._free)], -1)
        return _chosen(y, choose).reshape(-1, num_blocks, y.shape[-1] // num_blocks)


def _chosen(x, choose):
    """Some of the positions of a batch: (batch, ..., n) to (samples, n)."""
    x = x.reshape(len(x), -1, x.shape[-1])
    chosen = choose(len(x), x.shape[1])
    return np.take_along_axis(x, chosen[..., None], 1).reshape(-1, x.shape[-1])


def _as_array(x):
    return np.asarray(ops.cast(x, "float32" if x.dtype != "float64" else x.dtype))


KINDS = {
    layers.Conv1D: Convolution,
    layers.Conv2D: Convolution,
    layers.Conv3D: Convolution,
    layers.Conv1DTranspose: TransposedConvolution,
    layers.Conv2DTranspose: TransposedConvolution,
    layers.Conv3DTranspose: TransposedConvolution,
    layers.SeparableConv1D: SeparableConvolution,
    layers.SeparableConv2D: SeparableConvolution,
    layers.Dense: Linear,
    layers.EinsumDense: EinsumProduct,
}


def linear_view(layer, variable, axis):
    """The `Linear` of a layer that reads channels by `variable` along `axis`, None if it has none.

    Only for exactly these classes: a subclass may compute something else.
    """
    kind = KINDS.get(type(layer))
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    if kind is None or changed or variable != kind.variable:
        return None
    return kind(layer, axis)

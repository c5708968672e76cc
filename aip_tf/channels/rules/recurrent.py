"""Recurrent layers: one channel per unit, the same slot in every gate."""

import math

import numpy as np
from keras import layers

from aip_tf.channels.identities import spread
from aip_tf.channels.rules.activations import elementwise_reason
from aip_tf.channels.rules.table import keep_all, register_channel_rule

_GATES = {layers.LSTM: 4, layers.GRU: 3, layers.SimpleRNN: 1}


@register_channel_rule(*_GATES)
def recurrent(call, sequence):
    """Kernels read the inputs and the units, and make the units of all gates side by side."""
    layer = call.operation
    cell, gates = layer.cell, _GATES[type(layer)]
    functions = [cell.activation, getattr(cell, "recurrent_activation", None)]
    mixes = any(elementwise_reason(f, 2, layer.compute_dtype) for f in functions)
    if layer.stateful or call.settle(sequence) == 1 or mixes:
        weights = math.prod(cell.kernel.shape) + math.prod(cell.recurrent_kernel.shape)
        reason = f"{call.path} is stateful, mixes its units or runs along channels"
        return keep_all(call, reason, sequence.shape[1] * weights)
    inputs, units = call.channels(sequence), call.new(layer.units)
    outputs = np.tile(units, gates)
    call.weight(cell.kernel, 0, inputs, "consumer")
    call.weight(cell.kernel, 1, outputs, "producer")
    call.weight(cell.recurrent_kernel, 0, units, "consumer")
    call.weight(cell.recurrent_kernel, 1, outputs, "producer")
    if cell.bias is not None:
        call.weight(cell.bias, -1, outputs, "producer")
    call.config("units", units)
    call.masked_inside(cell.recurrent_kernel, units)
    steps = spread(outputs, (1, sequence.shape[1], len(outputs)))
    call.macs(steps, inputs)
    call.macs(steps, units)
    return [spread(units, shape) for shape in call.shapes]

"""Recurrent layers: one channel per unit, the same slot in every gate."""

import math

import numpy as np
from keras import layers, tree

from aip_tf.channels.identities import spread
from aip_tf.channels.rules.activations import activate
from aip_tf.channels.rules.table import keep_all, register_channel_rule

_GATES = {layers.LSTMCell: 4, layers.GRUCell: 3, layers.SimpleRNNCell: 1}


@register_channel_rule(layers.LSTM, layers.GRU, layers.SimpleRNN, layers.RNN)
def recurrent(call, sequence, initial_state=None, mask=None):
    """One channel per unit, the same slot in every gate; also masked, stateful, and in stacks.

    Kernels read the inputs and the units, and make the units of all gates side by side. A mask
    says for whole steps that the units keep their values; it has no channels.
    """
    layer = call.operation
    cells = _cells(layer)
    reason = _obstacle(call, cells, sequence, mask)
    if reason:
        return keep_all(call, reason, math.prod(sequence.shape[:2]) * _kernel_entries(cells))
    read = first = call.channels(sequence)
    units = []
    for cell in cells:
        units.append(call.new(cell.units))
        _unroll(call, cell, read, units[-1], sequence.shape[:2])
        if len(units) > 1:
            call.masked_inside(cell.kernel, read)
        read = units[-1]
    _declare_units(call, layer, cells, units)
    if layer.stateful:
        _start_from_zero(call, np.concatenate([first, *units]))
    states = _per_state(cells, units)
    for x, ids in zip(tree.flatten(initial_state), states, strict=False):
        if x is not None:
            call.unify(call.channels(x), ids)
    outputs = [units[-1], *states]
    return [spread(ids, s) for ids, s in zip(outputs, call.shapes, strict=False)]


def _start_from_zero(call, ids):
    """In the masked twin, as in a copy of another width: states are memory, not weights."""
    run = call.masked_call

    def from_zero(kept, layer, x, initial_state=None, **kwargs):
        if initial_state is None and not kept(ids).all():
            initial_state = layer.get_initial_state(x.shape[0])
        return run(kept, layer, x, initial_state=initial_state, **kwargs)

    call.masked(from_zero)


def _cells(layer):
    cell = layer.cell
    return list(cell.cells) if type(cell) is layers.StackedRNNCells else [cell]


def _obstacle(call, cells, sequence, mask):
    """Why the layer must stay whole, or None."""
    for cell in cells:
        if type(cell) not in _GATES:
            return f"{call.label} runs a cell without a rule ({type(cell).__name__})"
    if call.settle(sequence) == 1 and not call.are_kept(sequence):
        return f"{call.label} takes the axis of these channels for its steps"
    if mask is not None and not call.are_kept(mask) and call.settle(mask) is not None:
        return f"{call.label} is masked by these channels"
    return None


def _kernel_entries(cells):
    weights = [getattr(c, name, None) for c in cells for name in ("kernel", "recurrent_kernel")]
    return sum(math.prod(w.shape) for w in weights if w is not None)


def _unroll(call, cell, read, units, steps):
    """Declare the weights and costs of a cell that reads the channels `read`."""
    gates = np.tile(units, _GATES[type(cell)])
    call.weight(cell.kernel, 0, read, "consumer")
    call.weight(cell.kernel, 1, gates, "producer")
    call.weight(cell.recurrent_kernel, 0, units, "consumer")
    call.weight(cell.recurrent_kernel, 1, gates, "producer")
    call.weight(cell.bias, -1, gates, "producer")
    call.masked_inside(cell.recurrent_kernel, units)
    _activate(call, cell, spread(units, (1, len(units))))
    every_gate = spread(gates, (*steps, len(gates)))
    call.macs(every_gate, read)
    call.macs(every_gate, units)


def _activate(call, cell, x):
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        activate(call, x, function)


def _per_state(cells, units):
    """The identities of every state, in the order of the states."""
    counts = [len(np.atleast_1d(cell.state_size)) for cell in cells]
    return [ids for ids, n in zip(units, counts, strict=True) for _ in range(n)]


def _declare_units(call, layer, cells, units):
    if type(layer) is not layers.RNN:
        call.config("units", units[0])
        return
    for cell, ids in zip(cells, units, strict=True):
        call.config("units", ids, of=cell)
    if layer.cell is not cells[0]:
        call.contains("cells", *cells, of=layer.cell)
    call.contains("cell", layer.cell)


@register_channel_rule(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def convolutional(call, sequence, initial_state=None, mask=None):
    """An LSTM whose products are convolutions: the state is a map of channels."""
    layer, cell = call.operation, call.operation.cell
    axis = 2 if layer.data_format == "channels_first" else -1
    positions = math.prod(_map_shape(call)) // layer.filters
    num_entries = math.prod(sequence.shape[:2]) * positions
    reason = _obstacle(call, [], sequence, mask)
    if reason:
        return keep_all(call, reason, num_entries * _kernel_entries([cell]))
    read, filters = call.channels(sequence, axis), call.new(layer.filters)
    gates = np.tile(filters, 4)
    call.weight(cell.kernel, -2, read, "consumer")
    call.weight(cell.kernel, -1, gates, "producer")
    call.weight(cell.recurrent_kernel, -2, filters, "consumer")
    call.weight(cell.recurrent_kernel, -1, gates, "producer")
    call.weight(cell.bias, 0, gates, "producer")
    call.masked_inside(cell.recurrent_kernel, filters, axis=-2)
    call.config("filters", filters)
    if layer.stateful:
        _start_from_zero(call, np.concatenate([read, filters]))
    state_axis = 1 if axis == 2 else -1
    for ids in (read, filters):
        call.macs(gates, ids, factor=num_entries * math.prod(layer.kernel_size))
    _activate(
        call, cell, spread(filters, call.shape, axis if layer.return_sequences else state_axis)
    )
    for x in initial_state or []:
        call.unify(call.channels(x, state_axis), filters)
    axes = [axis if layer.return_sequences else state_axis, state_axis, state_axis]
    return [spread(filters, s, a) for s, a in zip(call.shapes, axes, strict=False)]


def _map_shape(call):
    """The shape of the map that one step makes, channels included."""
    return call.shape[2:] if call.operation.return_sequences else call.shape[1:]

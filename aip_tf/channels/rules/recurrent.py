"""Recurrent layers: one channel per unit, the same slot in every gate."""

import math

import keras
import numpy as np
from keras import layers, tree

from aip_tf.channels.identities import spread
from aip_tf.channels.rules.activations import elementwise_reason, name_of
from aip_tf.channels.rules.table import keep_all, register_channel_rule

_GATES = {
    layers.LSTMCell: 4,
    layers.GRUCell: 3,
    layers.SimpleRNNCell: 1,
    type(layers.LSTM(1).cell): 4,
    type(layers.GRU(1).cell): 3,
    type(layers.SimpleRNN(1).cell): 1,
}


@register_channel_rule(layers.LSTM, layers.GRU, layers.SimpleRNN, layers.RNN)
def recurrent(call, sequence, initial_state=None, mask=None):
    """Kernels read the inputs and the units, and make the units of all gates side by side.

    A mask says for whole steps that the units keep their values; it has no channels.
    """
    layer = call.operation
    cells = _cells(layer)
    obstacle = _obstacle(call, cells) or _obstacle_in_tensors(call, sequence, mask)
    if obstacle:
        return keep_all(call, obstacle, sequence.shape[1] * _kernel_entries(cells))
    read, units = call.channels(sequence), []
    for cell in cells:
        units.append(call.new(cell.units))
        _unroll(call, cell, read, units[-1], sequence.shape[1])
        if len(units) > 1:
            call.masked_inside(cell.kernel, read)
        read = units[-1]
    _declare_units(call, layer, cells, units)
    states = _per_state(cells, units)
    for x, ids in zip(tree.flatten(initial_state), states, strict=False):
        if x is not None:
            call.unify(call.channels(x), ids)
    outputs = [units[-1], *states]
    return [spread(ids, s) for ids, s in zip(outputs, call.shapes, strict=False)]


def _cells(layer):
    cell = layer.cell
    return list(cell.cells) if type(cell) is layers.StackedRNNCells else [cell]


def _obstacle(call, cells):
    """Why cells must stay whole, or None."""
    for cell in cells:
        if type(cell) not in _GATES:
            return f"{call.label} runs a cell without a rule ({type(cell).__name__})"
        for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
            reason = elementwise_reason(function, 2, call.operation.compute_dtype)
            if reason:
                return f"{call.label} applies `{name_of(function)}`, {reason}"
    return None


def _obstacle_in_tensors(call, sequence, mask):
    if call.settle(sequence) == 1 and not call.are_kept(sequence):
        return f"{call.label} takes the axis of these channels for its steps"
    if mask is not None and not call.are_kept(mask) and call.settle(mask) is not None:
        return f"{call.label} is masked by these channels"
    return None


def _kernel_entries(cells):
    weights = [getattr(c, name, None) for c in cells for name in ("kernel", "recurrent_kernel")]
    return sum(math.prod(w.shape) for w in weights if w is not None)


def _unroll(call, cell, read, units, num_steps):
    """Declare the weights and costs of a cell that reads the channels `read`."""
    gates = np.tile(units, _GATES[type(cell)])
    call.weight(cell.kernel, 0, read, "consumer")
    call.weight(cell.kernel, 1, gates, "producer")
    call.weight(cell.recurrent_kernel, 0, units, "consumer")
    call.weight(cell.recurrent_kernel, 1, gates, "producer")
    call.weight(cell.bias, -1, gates, "producer")
    call.masked_inside(cell.recurrent_kernel, units)
    steps = spread(gates, (1, num_steps, len(gates)))
    call.macs(steps, read)
    call.macs(steps, units)


def _per_state(cells, units):
    """The identities of every state, in the order of the states."""
    counts = [len(np.atleast_1d(cell.state_size)) for cell in cells]
    return [ids for ids, n in zip(units, counts, strict=True) for _ in range(n)]


def _declare_units(call, layer, cells, units):
    if type(layer) is not layers.RNN:
        call.config("units", units[0])
        return
    ids = np.concatenate(units)
    call.config("cell", ids, lambda kept: _resized(layer.cell, _counts(kept, cells, units)))


def _counts(kept, cells, units):
    return {id(cell): kept.count(ids) for cell, ids in zip(cells, units, strict=True)}


def _resized(layer, counts):
    """The serialized `layer` with the numbers of units that `counts` has for its cells."""
    serialized = keras.saving.serialize_keras_object(layer)
    serialized.pop("build_config", None)  # it has the shapes of before
    config = serialized["config"]
    for key, value in config.items():
        live = getattr(layer, key, None)  # not its name: it may be registered nowhere
        if isinstance(value, str | dict) and callable(live):
            config[key] = live
    if isinstance(layer, layers.StackedRNNCells):
        config["cells"] = [_resized(cell, counts) for cell in layer.cells]
    elif type(layer) is layers.RNN:
        config["cell"] = _resized(layer.cell, counts)
    else:
        config["units"] = counts[id(getattr(layer, "cell", layer))]
    return serialized

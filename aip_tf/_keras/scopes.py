"""Scopes around a recording: in them nothing is assigned, and behind them nothing is left."""

import contextlib

import keras

from aip_tf._keras.layers import own_variables


class Watch(keras.StatelessScope):
    """A scope in which nothing is assigned, and all use of variables outside of leaves is noted."""

    def __init__(self, recording):
        super().__init__(initialize_variables=False)
        self._recording = recording

    def get_current_value(self, variable):
        self._recording.note_read(variable)
        return super().get_current_value(variable)

    def add_update(self, update):
        self._recording.note_assigned(update[0])


@contextlib.contextmanager
def without_new_nodes(layers):
    """Forget what calls on symbols leave behind on `layers` and on their variables."""
    lists = [nodes for x in layers for nodes in (x._inbound_nodes, x._outbound_nodes)]
    lengths = [len(nodes) for nodes in lists]
    try:
        yield
    finally:
        for nodes, length in zip(lists, lengths, strict=True):
            if len(nodes) > length:
                del nodes[length:]
        for variable in (v for x in layers for v in own_variables(x)):
            vars(variable).pop("_keras_history", None)

"""Layers that several nested models share: a file can hold them only beside those models.

Keras writes a shared layer once, below the first nested model that calls it, and when loading makes
one for each of them: the second finds no weights. So nested models that share a layer with anything
around them are dissolved: their operations are called in the graph around, where the layer is one.
"""

import collections
import itertools

import keras
from keras import tree


def dissolve_sharing(graph, inside):
    """Dissolve, in place, the graphs nested in `graph` that share layers with what is around them.

    Args:
        graph: a `Graph`.
        inside: `inside(operation) -> Graph or None`: the nested graphs.

    Returns:
        List of the names of the operations that were dissolved.
    """
    dissolved = []
    if not any(inside(node.operation) for node in graph.nodes):  # nothing is nested
        return dissolved
    while True:
        survey = _Survey(inside)
        survey.look(graph, graph)
        operation = survey.sharing()
        if operation is None:
            return dissolved
        for holder in survey.called_in[id(operation)]:
            holder.dissolved[id(operation)] = inside(operation)
        for around in survey.held_by[id(operation)].values():
            dissolved.append(around.names[id(operation)])
            _name(around, operation, inside(operation), survey)


class _Survey:
    """Which graphs call which operations, those of dissolved graphs counted to the one around."""

    def __init__(self, inside):
        self._inside = inside
        self._operations = {}
        self._owners = {}  # id(graph): the operation that it is the inside of
        self._depths = {}
        self.called_in = collections.defaultdict(list)  # id(operation): the very graphs
        self.held_by = collections.defaultdict(dict)  # id(operation): {id(graph): graph}

    def look(self, around, graph, depth=0):
        self._depths.setdefault(id(around), depth)
        for node in graph.nodes:
            operation = node.operation
            self._operations[id(operation)] = operation
            self.held_by[id(operation)][id(around)] = around
            self.called_in[id(operation)].append(graph)
            nested = self._inside(operation)
            if nested is None:
                continue
            if id(operation) in graph.dissolved:
                self.look(around, nested, depth)
            elif id(nested) not in self._owners:
                self._owners[id(nested)] = operation
                self.look(nested, nested, depth + 1)

    def sharing(self):
        """An operation to dissolve, because another graph calls a layer that it calls; or None."""
        for key, graphs in self.held_by.items():
            if len(graphs) > 1 and getattr(self._operations[key], "variables", None):
                for graph in sorted(graphs, key=self._depths.get, reverse=True)[:-1]:
                    if _is_of_tensors(graphs[graph]):
                        return self._owners[graph]
        return None

    def is_shared(self, key):
        """Whether several graphs call the operation of an id."""
        return len({id(graph) for graph in self.called_in[key]}) > 1


def _is_of_tensors(graph):
    """Whether nothing that a graph returns is a constant, which would be lost without it."""
    return all(isinstance(x, keras.KerasTensor) for x in tree.flatten(graph.outputs))


def _name(around, operation, nested, survey):
    """Give the operations of a dissolved graph names in the graph around: "outer_inner"."""
    prefix = around.names[id(operation)]
    for key, name in nested.names.items():
        stem = name if survey.is_shared(key) else f"{prefix}_{name}"
        taken = set(around.names.values())
        names = itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(1)))
        around.names.setdefault(key, next(n for n in names if n not in taken))

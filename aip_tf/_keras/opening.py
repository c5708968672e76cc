"""Opening layers made of layers: the graph of what is inside, found by calling them on symbols.

A call on symbolic tensors runs the Python of a composite layer or subclassed model once, and every
layer and operation that it calls leaves a node behind: the `Graph` of its inside, on the very
sublayers, their weights included. Composite sublayers are opened on the way, so graphs nest as the
layers do.

What a call does may depend on `training`, on chance or on anything else that Python can read. So
every layer runs twice, in inference and in training mode, and only one that does the same is
opened; any other stays the layer it is, and `Openings.reasons` says why.
"""

import collections
import threading

import keras
from keras import tree

from aip_tf._keras.classes import Classes
from aip_tf._keras.comparing import are_alike, open_sizes
from aip_tf._keras.graph import Graph, graph_inside
from aip_tf._keras.layers import reached_variables
from aip_tf._keras.nodes import CannotOpenError
from aip_tf._keras.recording import CALLS_DIFFER, Recording
from aip_tf._keras.sizes import with_known_sizes

_SIZE_DIFFERS = "what it does depends on a size that is open"
_TIED = "it calls {!r}, which stays whole and returns more than tensors"
_TRIAL_SIZES = (720, 1)  # a multiple of most numbers, and what fits to any other
_lock = threading.RLock()  # classes of layers are changed while they are recorded


class Openings:
    """What is inside of the composite layers of a model.

    Args:
        is_leaf: `is_leaf(operation) -> bool`: whether an operation is dealt with as it is.

    Attributes:
        reasons: `{id(layer): text}`: why a composite layer could not be opened.
    """

    def __init__(self, is_leaf):
        self._is_leaf = is_leaf
        self._graphs = {}
        self._glimpses = {}
        self._sized = {}
        self._classes = Classes()
        self._layers = []  # keeps their ids alive
        self._tied = []
        self._read = collections.defaultdict(list)
        self.reasons = {}

    def inside(self, operation):
        """The `Graph` of a nested model or an opened layer; None: deal with it as it is."""
        return self._graphs.get(id(operation))

    def enter(self, model):
        """The `Graph` of a model that has one, with what is in it opened."""
        if id(model) not in self._graphs:
            self._graphs[id(model)] = graph_inside(model)
            self.open_graph(self._graphs[id(model)])
        return self._graphs[id(model)]

    def glimpse(self, operation):
        """What a layer that stays whole calls in inference mode: a `Graph`, where one was found
        that is the same for all its calls."""
        return self._glimpses.get(id(operation))

    def read_by(self, layer):
        """Variables that a layer owns, or reads in its call or in a function that it holds: list.

        Of a layer that stays whole these are found as far as its call on symbols comes.
        """
        return [*layer.variables, *reached_variables(layer), *self._read[id(layer)]]

    def open_graph(self, graph, known=frozenset()):
        """Open every composite layer that is called in `graph` and in the graphs nested in it.

        Args:
            graph: a `Graph`.
            known: ids of layers that were recorded together with it.
        """
        for node in graph.nodes:
            operation = node.operation
            if id(operation) in known:
                continue
            if self.is_composite(operation):  # called anew: it may do something else
                self._open(operation, node.arguments.args, node.arguments.kwargs)
            elif id(operation) not in self._graphs and (nested := graph_inside(operation)):
                self._graphs[id(operation)] = nested
                self.open_graph(nested)

    def open_model(self, model, inputs):
        """Open a subclassed model that is called on the symbolic `inputs`.

        Args:
            model: a built `keras.Model` without a graph.
            inputs: symbolic tensors in the structure in which the model takes them.

        Raises:
            CannotOpenError: with the reason.
        """
        self._open(model, (inputs,), {})
        if id(model) in self.reasons:
            raise CannotOpenError(self.reasons[id(model)])
        graph = self._graphs[id(model)]
        return Graph(
            graph.inputs, graph.nodes, graph.outputs, tree.pack_sequence_as(inputs, graph.inputs)
        )

    def is_composite(self, operation):
        """Whether `operation` is a layer that is neither a leaf nor a graph."""
        is_layer = isinstance(operation, keras.layers.Layer)
        return is_layer and not self._is_leaf(operation) and graph_inside(operation) is None

    def _is_opened_inside(self, operation):
        """Inside of a composite an activation by an own function is opened, too: the result loads
        without that function."""
        return self.is_composite(operation) or _is_of_own_function(operation)

    def _open(self, layer, args, kwargs):
        recording = self._recorded(layer, args, kwargs)
        self._hold_to_known_sizes(recording, layer, args, kwargs)
        known = recording.graphs.keys() | recording.reasons.keys()
        for key in known:
            found, before = recording.graphs.get(key), self._graphs.get(key)
            reason = recording.reasons.get(key)
            if not reason and before is not None:
                if are_alike(found, before):
                    open_sizes(before, found)
                else:
                    reason = CALLS_DIFFER
            self._note(key, found, reason)
        self._tied += recording.tied
        for inner, caller in self._tied:
            if id(inner) in self.reasons and id(caller) not in self.reasons:
                self._note(id(caller), self._graphs.get(id(caller)), _TIED.format(inner.name))
        for found in list(recording.graphs.values()):
            self.open_graph(found, known)

    def _recorded(self, layer, args, kwargs, in_both_modes=True):
        recording = Recording(
            self._is_opened_inside, self._sized, self._classes, in_both_modes=in_both_modes
        )
        with _lock:
            recording.run(layer, args, kwargs)
        for key, variables in recording.read.items():
            self._read[key] += variables
        self._layers += [layer, *recording.layers.values()]
        return recording

    def _hold_to_known_sizes(self, recording, layer, args, kwargs):
        """Take back what is another graph where a size is known that is open, as of `x[:, :size]`,
        in which None means all. A trial that fails tells nothing."""
        for size in _TRIAL_SIZES if id(layer) in recording.graphs else ():
            given = with_known_sizes(args, kwargs, size)
            if given is None:
                return
            trial = self._recorded(layer, *given, in_both_modes=False)
            for key in recording.graphs.keys() & trial.graphs.keys():
                if not are_alike(trial.graphs[key], recording.graphs[key]):
                    recording.reasons.setdefault(key, _SIZE_DIFFERS)
                    del recording.graphs[key]  # its costs would be those of another

    def _note(self, key, graph, reason):
        if not reason and key not in self.reasons:
            self._graphs.setdefault(key, graph)
            return
        self.reasons.setdefault(key, reason)
        before = self._glimpses.get(key, self._graphs.pop(key, graph))
        known = before is not None and graph is not None and reason != CALLS_DIFFER
        self._glimpses[key] = before if known and are_alike(before, graph) else None


def _is_of_own_function(operation):
    if not isinstance(operation, keras.layers.Activation):
        return False
    function = operation.activation
    name = getattr(function, "__name__", None)
    if name is None:  # a layer, or a function with some arguments
        return True
    is_registered = keras.saving.get_registered_name(function) != name
    return not is_registered and getattr(keras.activations, name, None) is not function

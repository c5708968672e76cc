"""Walk a model once with identity arrays instead of tensors, and find what lives and dies together.

The rules behind it (docs/channels.md): layers that make channels start identities,
operations that move data are applied to the identity array itself, all others unify. In the end
every tensor varies along one axis at most, so removing a class removes whole slices of it.
"""

import collections
import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import tree

from aip_tf import _keras, failures
from aip_tf.channels.call import Call
from aip_tf.channels.disputes import keep_disputed
from aip_tf.channels.identities import (
    Identities,
    IdentityArray,
    compact,
    line,
    long_axes,
    rows,
    spread,
    varying_axes,
)
from aip_tf.channels.inputs import in_form, input_shapes, root_graph


@dataclasses.dataclass(slots=True)
class WeightAxis:
    """Identities along one axis of a variable: entry i of the axis belongs to channel `ids[i]`."""

    axis: int
    ids: np.ndarray
    role: str


@dataclasses.dataclass(slots=True)
class Weight:
    """A variable that shrinks with its channels, and the layer that owns it, by path."""

    path: str
    layer: object
    variable: keras.Variable
    axes: list[WeightAxis] = dataclasses.field(default_factory=list)


class Tracer:
    """State of one walk: the identities, the calls, and what the rules declared."""

    def __init__(self, run_rule, openings):
        self.openings = openings
        self.identities = Identities()
        self.calls = []
        self.weights = {}
        self.producers = []
        self.residuals = []
        self.config_edits = collections.defaultdict(dict)
        self.argument_edits = {}
        self.replacements = {}
        self.nested_inputs = {}
        self.inner_inputs = {}
        self.opened = {}  # paths, in order
        self._agreed = {}
        self.run_rule = run_rule

    def run(self, graph, inputs, prefix=""):
        """Trace a `Graph` on a flat list of identity arrays; returns its outputs in structure."""

        def visit(node, args, kwargs):
            path = prefix + graph.names[id(node.operation)]
            nested = self.openings.inside(node.operation)
            if nested is None:
                return self._call(node, path, args, kwargs)
            if _keras.graph_inside(node.operation) is None:
                self.opened.setdefault(path)
            given = _keras.given_tensors(node, args, kwargs)
            self.agree((id(node.operation), "inputs"), given)
            self.nested_inputs[id(node.operation)] = given
            outputs = self.run(nested, given, path + "/")
            return tree.map_structure(lambda x: self._traced(x, path), outputs)

        return _keras.walk(graph, inputs, visit)

    def dissolve(self, graph, prefix=""):
        """Make nested graphs that share layers part of `graph`; they count as opened."""
        for name in _keras.dissolve_sharing(graph, self.openings.inside):
            self.opened.setdefault(prefix + name)

    def run_inside(self, model, x, path):
        """Trace a model that a layer calls by itself on `x`; returns its outputs and its calls."""
        graph = self.openings.enter(model)
        self.dissolve(graph, path + "/")
        self.agree((id(model), "inputs"), [x])
        self.nested_inputs[id(model)] = [x]
        self.inner_inputs[id(model)] = x
        start = len(self.calls)
        outputs = tree.flatten(self.run(graph, [x], path + "/"))
        for call in self.calls[start:]:
            call.is_inside = True
        return outputs, self.calls[start:]

    def _traced(self, x, path):
        """An output of a nested graph; a constant that it returns is an identity array, too."""
        if isinstance(x, IdentityArray) or not hasattr(x, "shape"):
            return x
        ids = self.identities.new(x.shape[-1] if len(x.shape) else 1)
        self.identities.pin(ids, f"{path} returns a constant")
        return spread(ids, tuple(x.shape)) if len(x.shape) else ids.view(IdentityArray)

    def macs_inside(self, graph, call):
        """Multiply-accumulates of the operations in `graph`, which is called as `call` is: int.

        Nothing is remembered of what is inside: its channels are kept whole.
        """
        inner = Tracer(self.run_rule, self.openings)
        arrays = []
        for x in call.inputs:
            ids = inner.identities.new(x.shape[-1] if x.ndim else 1)
            inner.identities.pin(ids, "kept")
            arrays.append(spread(ids, x.shape) if x.ndim else ids.view(IdentityArray))
        inner.run(graph, arrays, call.path + "/")
        if any(c.is_of_unknown_cost for c in inner.calls):
            return None
        products = [product for c in inner.calls for product in c.products]
        return sum(p.factor * p.array.size * math.prod(map(len, p.ids)) for p in products)

    def _call(self, node, path, args, kwargs):
        inputs = _tensors(args, kwargs)
        self.agree((id(node), "inputs"), inputs)  # what a call edits is the same if it runs again
        shapes = _output_shapes(node, [x.shape for x in inputs], path)
        call = Call(self, node.operation, path, inputs, shapes, node)
        outputs = self.run_rule(call, args, kwargs)
        outputs = [outputs] if isinstance(outputs, np.ndarray) else tree.flatten(outputs)
        outputs = [x if isinstance(x, IdentityArray) else _as_identities(x) for x in outputs]
        found = [x.shape for x in outputs]
        if found != call.shapes and not all(map(_fits, found, call.shapes)):
            if not _puts_samples_behind(call, found):
                raise ValueError(
                    f"The channel rule for {type(call.operation).__name__} gave identity arrays of "
                    f"shapes {found} for {path!r}. Expected the shapes of its outputs, "
                    f"{call.shapes}: correct the function registered with `register_channel_rule`."
                )
            outputs = self._keep_samples(call)
        call.outputs = outputs
        self.calls.append(call)
        return call.outputs[0] if len(call.outputs) == 1 else call.outputs

    def _keep_samples(self, call):
        """The outputs of a call that puts a fixed number of samples, one in the trace, behind."""
        reason = f"{call.path} puts a fixed number of samples on another axis"
        for x in call.inputs:
            call.pin(x, reason)
        return [_as_identities(call.pinned(shape, reason)) for shape in call.shapes]

    def agree(self, key, arrays):
        """Unify `arrays` with those given under the same key before: one edit serves them all."""
        before = self._agreed.setdefault(key, arrays)
        if before is not arrays:
            for a, b in zip(before, arrays, strict=True):
                if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                    self._agree(a, b)

    def _agree(self, a, b):
        try:
            a, b = np.broadcast_arrays(compact(a), compact(b))
        except ValueError:
            for array in (a, b):
                self.identities.pin(
                    np.asarray(compact(array)), "calls of a shared layer differ in size"
                )
        else:
            self.identities.union(np.asarray(a), np.asarray(b))

    def add_weight(self, call, variable, axis, ids, role):
        weight = self.weights.get(id(variable))
        if weight is None:
            weight = self.weights[id(variable)] = Weight(call.path, call.operation, variable)
        axis = axis if axis >= 0 else axis + variable.ndim
        for known in weight.axes:
            if known.axis == axis:
                self._agree(known.ids, ids)
                return
        weight.axes.append(WeightAxis(axis, ids, role))

    def add_config(self, operation, key, ids, value):
        self.agree((id(operation), key), [ids])
        self.config_edits[id(operation)][key] = (
            ids,
            value or (lambda kept: kept.count(ids)),
        )

    def edited(self, operation, kept):
        """What is left of the arguments of `operation` that were declared: `{name: value}`."""
        edits = self.config_edits.get(id(operation), {})
        return {
            key: value(kept) for key, (ids, value) in edits.items() if not kept(compact(ids)).all()
        }

    def close(self, array):
        """Rule R6: unify along the axis that leaves most classes; returns the varying axis."""
        long = long_axes(array)
        if not long:
            return None
        if len(long) == 1:  # the usual case: where the ends differ there is no need to look at all
            ends = line(array, long[0])
            if not self.identities.are_one(ends[0], ends[-1]):
                return long[0]
        small = np.asarray(compact(array))
        classes = self.identities.classes(small)
        axes = varying_axes(classes)
        if len(axes) < 2:
            return axes[0] if axes else None
        axis = max(reversed(axes), key=lambda a: _classes_left(classes, a))
        table = rows(small, axis)
        self.identities.union(table, table[:, :1])
        return axis


def _output_shapes(node, shapes, path):
    try:
        return _keras.output_shapes(node, shapes)
    except Exception as error:  # whatever a call on zeros may raise
        raise ValueError(
            f"Received a model whose layer {path!r} cannot be called on the shapes {shapes}: "
            f"{failures.words(error)} Expected sizes that it takes: give larger ones as "
            "`input_shape`, or larger inputs."
        ) from error


def _as_identities(x):
    return np.asarray(x).view(IdentityArray)


def _tensors(args, kwargs):
    if not kwargs:  # the usual cases: tensors alone, or a list of them
        flat = args[0] if len(args) == 1 and type(args[0]) is list else args
        found = [x for x in flat if isinstance(x, IdentityArray)]
        if len(found) == len(flat):
            return found
    return [x for x in tree.flatten((args, kwargs)) if isinstance(x, IdentityArray)]


def _fits(found, expected):
    """Whether a traced shape is that of Keras, the batch size and what Keras leaves open aside."""
    if len(found) != len(expected):
        return False
    return found[1:] == expected[1:] or all(
        e is None or f == e for f, e in zip(found[1:], expected[1:], strict=True)
    )


def _puts_samples_behind(call, found):
    """Whether outputs have a fixed number of samples, one in the trace, behind the first axis."""
    pairs = zip(call.inputs, call.node.input_tensors, strict=True)
    fixed = {(x.shape[0], y.shape[0]) for x, y in pairs if x.shape[:1] != y.shape[:1] != (None,)}
    sizes = (
        p for f, e in zip(found, call.shapes, strict=False) for p in zip(f[1:], e[1:], strict=False)
    )
    return bool(fixed) and any(p in fixed for p in sizes)


def _classes_left(classes, axis):
    labels = np.unique(classes, return_inverse=True)[1].reshape(classes.shape)
    trial = Identities()
    trial.new(int(labels.max()) + 1)
    table = rows(labels, axis)
    trial.union(table, table[:, :1])
    return len(np.unique(trial.find(labels)))


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one walk found. Identities are final: `class_of[identity]` numbers the channels.

    Attributes:
        graph: the graph of operations that was walked.
        openings: what is inside of its composite layers.
        calls: every call of every operation, in topological order.
        weights: `{id(variable): Weight}`.
        class_of: int array (identities,): the channel, 0 .. num_classes - 1.
        pinned: bool array (num_classes,).
        input_arrays, output_arrays: identity arrays of the model's inputs and outputs.
        tracer: what surgery needs to edit configurations and arguments.
    """

    graph: object
    openings: object
    calls: list[Call]
    weights: dict[int, Weight]
    class_of: np.ndarray
    pinned: np.ndarray
    reason_of: Callable[[np.ndarray], str]
    input_arrays: list[np.ndarray]
    tracer: Tracer

    @property
    def opened(self):
        """Paths of the layers made of layers that were opened: list of str."""
        return list(self.tracer.opened)

    def tensors(self):
        """Every identity array once: inputs, then outputs of calls."""
        seen = {}
        for array in [*self.input_arrays, *(x for call in self.calls for x in call.outputs)]:
            seen.setdefault(id(array), array)
        return list(seen.values())

    def vector(self, array):
        """An identity array as the identities along its varying axis, and how often it repeats."""
        small = np.asarray(compact(array))
        classes = self.class_of[small]
        axes = varying_axes(np.where(self.pinned[classes], -1, classes))
        if not axes:
            return small.reshape(-1)[:1], array.size
        line = rows(small, axes[0])[:, 0]
        return line, array.size // len(line)


def trace(model, input_shape=None):
    """Trace `model` with channel identities.

    Args:
        model: a built `keras.Model`; nested models, subclassed models and layers made of layers
            are walked into.
        input_shape: shape without batch size of the input (a list or dict of shapes for several),
            needed only where the model leaves a size open (None) or was never called.

    Returns:
        A `Trace`.

    Raises:
        ValueError: if a subclassed model cannot be opened, or for an open size and no
            `input_shape`.
    """
    from aip_tf.channels.rules import has_rule, run_rule

    input_shape = in_form(input_shape)
    openings = _keras.Openings(has_rule)
    graph = root_graph(model, openings, input_shape)
    tracer = Tracer(run_rule, openings)
    tracer.dissolve(graph)
    arrays = []
    for x, shape in zip(graph.inputs, input_shapes(graph, input_shape), strict=True):
        ids = tracer.identities.new(shape[-1] if shape else 1)
        tracer.identities.pin(ids, f"{x.name} is an input of the model")
        arrays.append(
            spread(ids, (1, *shape)).view(IdentityArray) if shape else ids.view(IdentityArray)
        )
    for x in tree.flatten(tracer.run(graph, arrays)):
        if isinstance(x, IdentityArray):
            tracer.identities.pin(np.asarray(compact(x)), "an output of the model")
    keep_disputed(tracer)
    for call in tracer.calls:
        for x in call.outputs:
            if len(long_axes(x)) > 1:
                tracer.close(x)
    return _finish(tracer, graph, arrays)


def _finish(tracer, graph, arrays):
    everything = np.arange(tracer.identities.size)
    roots = tracer.identities.find(everything)
    is_root = roots == everything
    representatives, class_of = np.flatnonzero(is_root), np.cumsum(is_root)[roots] - 1
    reasons = tracer.identities.reasons(representatives)
    return Trace(
        graph=graph,
        openings=tracer.openings,
        calls=tracer.calls,
        weights=tracer.weights,
        class_of=class_of,
        pinned=reasons > 0,
        reason_of=lambda index: tracer.identities.reason(reasons[index]),
        input_arrays=arrays,
        tracer=tracer,
    )

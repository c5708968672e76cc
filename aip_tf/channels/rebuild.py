"""Rebuild a model with fewer channels."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from aip_tf import _keras, failures

_LARGE = 2**22  # entries


def rebuild(model, traced, kept, dtype=None):
    """A new model without the channels that are not kept; `model` is not touched.

    Args:
        model: the `keras.Model` that was traced.
        traced: its `Trace`.
        kept: `Kept`.
        dtype: a floating type in which the new model computes and keeps its weights, such as
            "float64"; None: as `model`.

    Returns:
        A `keras.Model`; layers that were opened are nested Functional models in it.
    """
    return _Rebuild(traced, kept, dtype).run(model)


class _Rebuild:
    """One rebuilding: which copy stands for which layer and variable, nested models included.

    `note`, `layer`, `variable` and `seed_generator` are what `_keras.clone` asks for.
    """

    def __init__(self, traced, kept, dtype):
        self._trace = traced
        self._tracer = traced.tracer
        self._weights = traced.weights
        self._kept = kept
        self._dtype = dtype
        self._copies = {}  # id: (operation, its copy)
        self._whole = {}  # the same for composites inside of a layer that stays whole
        self._variables = {}  # id: (variable, its copy)
        self._resized = []  # (layer, copy) of layers that were made anew from configurations

    def run(self, model):
        """The copy of the traced model."""
        with _keras.copying():
            copy = self._model(model, self._trace.graph)
        for layer, new in self._resized:
            self._pair(layer, new)
        self._copy_weights(copy)
        pairs = [*self._copies.values(), *self._whole.values(), *self._variables.values()]
        for layer, new in self._resized:
            pairs += _keras.layer_pairs(layer, new)
        _keras.set_flags(p for p in pairs if isinstance(p[0], keras.layers.Layer | keras.Variable))
        return copy

    # --- models -------------------------------------------------------------------------------

    def _model(self, model, graph):
        """The copy of a model, or of an opened layer."""
        if id(model) not in self._copies:
            inputs = self._inputs(model, graph)
            is_graph = _keras.is_graph(model)
            if is_graph and isinstance(model, keras.Sequential) and not graph.dissolved:
                layers = [self._copy(layer) for layer in model.layers]
                copy = _keras.copy_sequential(model, layers, inputs[0])
            else:
                outputs = _keras.walk(graph, inputs, self._visitor(graph))
                if not is_graph:
                    outputs = _apart_from(inputs, outputs)
                keep = _with_constants if graph is self._trace.graph else _without_constants
                copy = keras.Model(
                    _in_structure(graph, inputs), keep(outputs, inputs[0]), name=model.name
                )
            _keras.take_policy(copy, model, self._dtype)
            self._copies[id(model)] = (model, copy)
        return self._copies[id(model)][1]

    def _inputs(self, model, graph):
        given = self._tracer.nested_inputs.get(id(model))
        shapes = [x.shape for x in graph.inputs]
        if given:
            shapes = [
                (s[0], *(b if b is None else k for b, k in zip(s[1:], kept[1:], strict=True)))
                for s, kept in zip(shapes, map(self._shape_left, given, shapes), strict=True)
            ]
        inputs = [
            _keras.copy_input(x, s, self._dtype) for x, s in zip(graph.inputs, shapes, strict=True)
        ]
        for old, new in zip(graph.inputs, inputs, strict=True):
            if layer := _keras.input_layer(old):
                self._copies[id(layer)] = (layer, _keras.input_layer(new))
        return inputs

    def _shape_left(self, given, shape):
        return shape if given is None else self._kept.shape(given)

    def _visitor(self, graph):
        def visit(node, args, kwargs):
            try:
                return self._call(graph, node, args, kwargs)
            except Exception as error:  # whatever a call on symbols may raise
                if failures.is_on_purpose(error):
                    raise
                raise ValueError(
                    f"Received a model whose layer {graph.names[id(node.operation)]!r} cannot be "
                    f"called again: {failures.words(error)} Expected one that takes the shapes "
                    "that the model takes, open sizes included: make the sizes of the model's "
                    "inputs known."
                ) from error

        return visit

    def _call(self, graph, node, args, kwargs):
        """The outputs of the copy of an operation."""
        operation = node.operation
        if isinstance(operation, _keras.Held):
            return self._hold(operation, args[0], graph.names[id(operation)])
        copy = self._copy(operation, graph.names[id(operation)])
        if nested := self._tracer.openings.inside(operation):
            given = _keras.given_tensors(node, args, kwargs)
            mask = _keras.masks_given(node, kwargs)
            masked = {} if mask is None else {"mask": mask}
            return _constants_back(nested, copy(_in_structure(nested, given), **masked))
        if id(node) in self._tracer.replacements:
            return self._tracer.replacements[id(node)](self._kept, copy, args, kwargs)
        if id(node) in self._tracer.argument_edits:
            args, kwargs = self._tracer.argument_edits[id(node)](self._kept, args, kwargs)
        if getattr(copy, "stateful", False) and not copy.built:
            _keras.build_at_once(copy, args[0].shape)
        return _keras.call_on_symbols(copy, args, kwargs)

    def _hold(self, held, x, name):
        """Stock layers for a variable that a composite layer owned."""
        variable = held.variable
        masks = self._masks(variable)
        shape = [len(masks[a]) if a in masks else s for a, s in enumerate(variable.shape)]
        dense, output = _keras.hold(held, x, tuple(shape), self._dtype)
        _keras.rename(dense, name)
        dense.kernel.regularizer = variable.regularizer
        held.trainable = variable.trainable  # a file keeps the flag of a layer, not of a variable
        self._copies[id(held)] = (held, dense)
        self._variables[id(variable)] = (variable, dense.kernel)
        return output

    # --- operations -----------------------------------------------------------------------------

    def _copy(self, operation, name=None):
        """The copy of an operation; `name` where its own is taken in the graph around it."""
        if nested := self._tracer.openings.inside(operation) or _keras.graph_inside(operation):
            copy = self._model(operation, nested)
        elif id(operation) in self._copies:
            return self._copies[id(operation)][1]
        elif isinstance(operation, keras.layers.Layer):
            copy = self._new_layer(operation)
        else:
            copy = _keras.copy_ops(operation, self._changes(operation))
        self._copies[id(operation)] = (operation, copy)
        if name is not None and name != copy.name:
            _keras.rename(copy, name)
        return copy

    def _changes(self, operation):
        """What the cut changes in the configuration of an operation: `{key: value}`."""
        changes = self._tracer.edited(operation, self._kept)
        is_layer = isinstance(operation, keras.layers.Layer)
        if self._dtype and not is_layer and "float" in str(getattr(operation, "dtype", None)):
            changes["dtype"] = self._dtype  # as of a Cast to the type of a layer
        return changes

    def _new_layer(self, layer):
        changes = self._changes(layer)
        if not changes and not self._is_cut(layer):
            return _keras.clone(layer, self, self._dtype)
        copy = _keras.resize(layer, changes, self)
        self._resized.append((layer, copy))
        if id(layer) in self._tracer.inner_inputs:  # nobody calls it on a symbol to build it
            shape = self._kept.shape(self._tracer.inner_inputs[id(layer)])
            copy.build((None, *shape[1:]))
        return copy

    def _is_cut(self, layer):
        """Whether a variable of the layer loses entries, those of inner layers aside."""
        apart = {id(v) for x in self._inner_layers(layer) for v in x.variables}
        return any(self._masks(v) for v in layer.variables if id(v) not in apart)

    def _inner_layers(self, layer):
        """The layers inside whose rules ran by themselves."""
        return [x for x in _keras.all_layers(layer) if id(x) in self._tracer.inner_inputs]

    def note(self, layer, copy):
        """A clone was begun."""
        self._clones_of(layer)[id(layer)] = (layer, copy)

    def layer(self, layer):
        """The copy of a layer inside of another that stays what it is."""
        known = self._clones_of(layer)
        if known is self._copies:
            return self._copy(layer)
        return known[id(layer)][1] if id(layer) in known else _keras.clone(layer, self, self._dtype)

    def _clones_of(self, layer):
        """An opened layer is a model in the graph; for the code of a layer around it, itself."""
        is_opened = self._tracer.openings.inside(layer) and not _keras.graph_inside(layer)
        return self._whole if is_opened else self._copies

    def variable(self, variable):
        """The copy of a variable inside of a cloned layer."""
        if id(variable) not in self._variables:
            copy = _keras.copy_variable(variable, self._dtype)
            self._variables[id(variable)] = (variable, copy)
        return self._variables[id(variable)][1]

    def seed_generator(self, generator):
        """The copy of a random generator, in the same state."""
        if id(generator) not in self._copies:
            copy = type(generator).from_config(generator.get_config())
            self._copies[id(generator)] = (generator, copy)
            self._variables[id(generator.state)] = (generator.state, copy.state)
        return self._copies[id(generator)][1]

    # --- weights --------------------------------------------------------------------------------

    def _pair(self, layer, copy):
        """Pair the variables of a resized layer, and give it what no config holds."""
        pairs = _keras.own_pairs(layer, copy)
        slices = [
            (old.shape, lambda array, masks=masks: _take(array, masks))
            for old, _ in pairs
            if (masks := self._masks(old))
        ]

        def shrink(value):
            return _keras.with_smaller_arrays(value, slices)

        _keras.graft(layer, copy, shrink, self)
        copied = [x for x in self._inner_layers(layer) if id(x) in self._copies]
        apart = {id(v) for x in copied for v in x.variables}
        for old, new in pairs:
            if id(old) in apart:
                continue
            if id(old) in self._variables:
                owner = self._weights[id(old)].path if id(old) in self._weights else layer.name
                raise ValueError(
                    f"Received the layer {layer.name!r}, which shares its variable {old.path!r} "
                    "with another layer. Expected a layer that changes its size to own its "
                    f"variables: leave it whole by ignore={owner!r} in the selection."
                )
            new.regularizer, new.constraint = shrink(old.regularizer), shrink(old.constraint)
            self._variables[id(old)] = (old, new)

    def _copy_weights(self, model):
        """Slice every variable into its copy."""
        # The largest first, while the least memory is taken.
        pairs = sorted(self._variables.values(), key=lambda pair: -math.prod(pair[0].shape))
        for old, new in pairs:
            value = self._slice(old)
            if value.shape != new.shape:  # a variable that a composite layer owned
                value = tf.reshape(value, new.shape)
            _keras.fill(new, value if new.dtype == old.dtype else tf.cast(value, new.dtype))
        for variable in model.variables:
            if not _keras.is_filled(variable):
                _keras.fill(variable)
        for _, copy in self._copies.values():
            if hasattr(copy, "finalize_state"):  # Normalization derives tensors from its weights.
                copy.finalize_state()

    def _masks(self, variable):
        """`{axis: indices that are left}` of a variable that loses some."""
        weight = self._weights.get(id(variable))
        masks = {a.axis: self._kept(a.ids) for a in weight.axes} if weight else {}
        return {axis: np.flatnonzero(mask) for axis, mask in masks.items() if not mask.all()}

    def _slice(self, variable):
        """What is left of a variable. Whole ones share their memory until either is changed."""
        masks = self._masks(variable)
        if len(masks) < 2 or math.prod(variable.shape) < _LARGE:
            return _take(variable.value, masks)
        # In blocks of rows: a large temporary for each axis would need as much memory again.
        rows = masks.pop(0, np.arange(variable.shape[0]))
        blocks = np.array_split(rows, 1 + math.prod(variable.shape) // _LARGE)
        return tf.concat([_take(tf.gather(variable.value, b), masks) for b in blocks], 0)


def _take(value, indices):
    for axis, index in indices.items():
        value = tf.gather(value, index, axis=axis)
    return value


def _in_structure(graph, values):
    """Flat values of inputs in the structure in which the model takes them; a single one alone."""
    packed = tree.pack_sequence_as(graph.structure, values)
    return packed[0] if isinstance(packed, list | tuple) and len(packed) == 1 else packed


def _without_constants(outputs, _):
    """The outputs that are tensors of the graph; Keras knows no others. See `_constants_back`."""
    if all(isinstance(x, keras.KerasTensor) for x in tree.flatten(outputs)):
        return outputs
    return [x for x in tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]


def _with_constants(outputs, x):
    """The outputs in their structure, constants and numbers among them as tensors of the graph."""

    def in_graph(y):
        if isinstance(y, keras.KerasTensor):
            return y
        return _keras.give(x, keras.ops.convert_to_tensor(y))

    return tree.map_structure(in_graph, outputs)


def _apart_from(inputs, outputs):
    """Outputs, those that are inputs passed on made tensors of their own: where a nested model
    returns what it was given, Keras takes the model for the maker of it."""
    given = {id(x) for x in inputs}
    return tree.map_structure(
        lambda x: keras.layers.Identity()(x) if id(x) in given else x, outputs
    )


def _constants_back(graph, outputs):
    """Outputs of a nested model as those of the graph that it was made of, constants included."""
    symbols = iter(tree.flatten(outputs))
    flat = [
        next(symbols) if isinstance(x, keras.KerasTensor) else x
        for x in tree.flatten(graph.outputs)
    ]
    return flat[0] if len(flat) == 1 else flat

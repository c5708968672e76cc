"""Rebuild a model with fewer channels, and build the masked twin that proves the cut."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from aip_tf import _keras
from aip_tf.channels.groups import partition
from aip_tf.channels.identities import compact

_LARGE = 2**22  # entries
_TOLERANCE = 1e-5


def prune_channels(model, keep_masks, input_shape=None):
    """A new model without the channels that the masks remove; `model` is not touched.

    Weights, `trainable` flags, names, dtype policies, regularizers and the order of weights
    survive. Sequential stays Sequential; a subclass of Functional comes back as plain
    `keras.Model`. The result is not compiled.

    Args:
        model: a Functional or built Sequential `keras.Model`.
        keep_masks: `{group name: bool array (num_channels,)}`, True = keep, for groups of
            `find_channel_groups(model)`. Groups that are not named are kept whole.
        input_shape: see `find_channel_groups`.

    Returns:
        A `keras.Model` whose outputs equal those of `mask_channels(model, keep_masks)`.

    Raises:
        ValueError: for an unknown group, a mask of another length or type or one that keeps
            nothing, a model without a graph, a layer without `get_config`.

    Example:

    >>> group = aip_tf.find_channel_groups(model)[0]
    >>> keep = np.arange(group.num_channels) % 2 == 0
    >>> smaller = aip_tf.prune_channels(model, {group.name: keep})
    """
    found = partition(model, input_shape)
    return _rebuild(model, found.trace, found.kept(keep_masks))


def recast(model, dtype, input_shape=None):
    """A copy of `model` in which every layer has the dtype policy `dtype`, such as "float64"."""
    found = partition(model, input_shape)
    return _rebuild(model, found.trace, found.kept({}), {"dtype": dtype})


def check_cut(before, after, keep_masks, inputs):
    """Law 1 on a batch: the cut model equals the masked one; decided in float64 when in doubt.

    Args:
        before, after: the model and `prune_channels(before, keep_masks)`.
        keep_masks: the masks.
        inputs: a batch of inputs.

    Returns:
        The largest difference of the outputs relative to the largest output: float.

    Raises:
        ValueError: if it exceeds 1e-5.

    Example:

    >>> error = check_cut(model, aip_tf.prune_channels(model, keep_masks), keep_masks, images)
    """
    shapes = [tuple(x.shape[1:]) for x in _keras.flat_inputs(before, inputs)]
    error = _difference(mask_channels(before, keep_masks, shapes), after, inputs)
    if error <= _TOLERANCE:
        return error
    inputs = tree.map_structure(_in_float64, inputs)
    before, after = (recast(model, "float64", shapes) for model in (before, after))
    error = _difference(mask_channels(before, keep_masks, shapes), after, inputs)
    if error > _TOLERANCE:
        raise ValueError(
            f"The cut of {before.name!r} is not exact: its output differs from the masked "
            f"model's by {error:.1e} (relative). Expected at most {_TOLERANCE:.0e}. The model was "
            "not replaced. A layer with a wrong channel rule is the usual cause: keep it whole by "
            "`ignore=` in the selection, and please report it."
        )
    return error


def _difference(expected, actual, inputs):
    pairs = [tree.flatten(m(inputs, training=False)) for m in (expected, actual)]
    arrays = [[np.asarray(x, np.float64) for x in outputs] for outputs in pairs]
    largest = max(max(np.abs(x).max() for x in arrays[0]), np.finfo(np.float32).tiny)
    return float(max(np.abs(a - b).max() for a, b in zip(*arrays, strict=True)) / largest)


def _in_float64(x):
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float64) if x.dtype.is_floating else x


def _rebuild(model, traced, kept, changes=()):
    rebuild = _Rebuild(traced, kept, dict(changes))
    with _keras.copying():
        copy = rebuild.model(model)
    rebuild.copy_weights()
    _keras.copy_flags(model, copy)
    return copy


class _Rebuild:
    """One rebuilding: which copy stands for which layer, nested models included."""

    def __init__(self, traced, kept, changes):
        self._tracer = traced.tracer
        self._weights = traced.weights
        self._kept = kept
        self._changes = changes
        self._copies = {}

    def model(self, model):
        """The copy of a model or nested model."""
        if id(model) not in self._copies:
            inputs = self._inputs(model)
            if isinstance(model, keras.Sequential):
                layers = [self._copy(layer) for layer in model.layers]
                copy = _keras.copy_sequential(model, layers, inputs[0])
            else:
                structure = _keras.input_structure(model, inputs)
                outputs = _keras.walk(model, inputs, self._visit)
                copy = keras.Model(structure, outputs, name=model.name)
            self._copies[id(model)] = (model, copy)
        return self._copies[id(model)][1]

    def _inputs(self, model):
        given = self._tracer.nested_inputs.get(id(model))
        symbols = _keras.graph_of(model).inputs
        shapes = [x.shape for x in symbols]
        if given:
            shapes = [
                (s[0], *(b if b is None else k for b, k in zip(s[1:], kept[1:], strict=True)))
                for s, kept in zip(shapes, map(self._kept.shape, given), strict=True)
            ]
        dtype = self._changes.get("dtype")
        return [_keras.copy_input(x, s, dtype) for x, s in zip(symbols, shapes, strict=True)]

    def _visit(self, node, args, kwargs):
        if _keras.is_graph(node.operation):
            return self._copy(node.operation)(*args, **kwargs)
        operation = self._copy(node.operation)
        if id(node) in self._tracer.replacements:
            return self._tracer.replacements[id(node)](self._kept, operation, args, kwargs)
        if id(node) in self._tracer.argument_edits:
            args, kwargs = self._tracer.argument_edits[id(node)](self._kept, args, kwargs)
        return operation(*args, **kwargs)

    def _copy(self, operation):
        if _keras.is_graph(operation):
            return self.model(operation)
        if id(operation) not in self._copies:
            self._copies[id(operation)] = (operation, self._new(operation))
        return self._copies[id(operation)][1]

    def _new(self, operation):
        changes = {} if not isinstance(operation, keras.layers.Layer) else dict(self._changes)
        changes |= self._tracer.edited(operation, self._kept)
        is_wrapper = isinstance(operation, keras.layers.Wrapper)
        if is_wrapper and id(operation) in self._tracer.wrapped:
            layer = self._new(self._tracer.wrapped[id(operation)])
            return _keras.copy_wrapper(operation, layer, changes)
        return _keras.copy_operation(operation, changes)

    def copy_weights(self):
        """Slice every variable into its copy."""
        layers = [
            (source, copy)
            for source, copy in self._copies.values()
            if isinstance(source, keras.layers.Layer) and not _keras.is_graph(source)
        ]
        pairs = [
            pair
            for source, copy in layers
            for pair in zip(source.variables, copy.variables, strict=True)
        ]
        # The largest first, while the least memory is taken.
        for old, new in sorted(pairs, key=lambda pair: -math.prod(pair[0].shape)):
            new.assign(self._slice(old))
        for _, copy in layers:
            if hasattr(copy, "finalize_state"):  # Normalization derives tensors from its weights.
                copy.finalize_state()

    def _slice(self, variable):
        """What is left of a variable. Whole ones share their memory until either is changed."""
        weight = self._weights.get(id(variable))
        masks = {a.axis: self._kept(a.ids) for a in weight.axes} if weight else {}
        masks = {axis: np.flatnonzero(mask) for axis, mask in masks.items() if not mask.all()}
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


def mask_channels(model, keep_masks, input_shape=None):
    """The reference for a cut: `model` itself, with removed channels zeroed wherever they are read.

    Entries of removed channels are set to zero in the inputs of every operation, by masks that are
    read off the identity arrays of the trace, not off the indices that surgery uses. Normalisations
    over channels use the kept channels only.

    Args:
        model, keep_masks, input_shape: see `prune_channels`.

    Returns:
        A `keras.Model` that shares the weights of `model`. It computes; it can be neither saved
        nor cut.

    Raises:
        ValueError: see `prune_channels`.
    """
    found = partition(model, input_shape)
    return _MaskedModel(model, found.trace, found.kept(keep_masks))


class _MaskedModel(keras.Model):
    def __init__(self, model, traced, kept):
        super().__init__(name=f"{model.name}_masked")
        self.model = model
        self._kept = kept
        self._calls = traced.calls
        self._masks = [[_mask(kept, x) for x in call.inputs] for call in traced.calls]
        self.built = True

    def call(self, inputs):
        calls = iter(zip(self._calls, self._masks, strict=True))

        def run(operation, args, kwargs, path):
            call, masks = next(calls)
            if any(mask is not None for mask in masks):
                args, kwargs = _masked(args, kwargs, masks)
            if call.masked_call:
                return call.masked_call(self._kept, operation, *args, **kwargs)
            return operation(*args, **kwargs)

        return _keras.run_graph(self.model, inputs, run)


def _mask(kept, array):
    mask = kept(compact(array))
    return None if mask.all() else mask


def _masked(args, kwargs, masks):
    masks = iter(masks)

    def apply(x):
        if not keras.ops.is_tensor(x):
            return x
        mask = next(masks)
        # Not a product: an operation may have made NaN of removed channels, as 0 / 0.
        return x if mask is None else ops.where(mask, x, ops.zeros_like(x))

    return tree.map_structure(apply, (args, kwargs))

"""What a model answers with: names, shapes and kinds of its outputs, from its graph alone."""

from typing import NamedTuple

import keras

from aip_tf import _keras
from aip_tf.task import labels

# Open image sizes (None) are taken as this many pixels when resolutions are told apart.
_OPEN_SIZE = 224


class Tensor(NamedTuple):
    """One tensor inside a model: the operation that makes it and its shape, batch included."""

    path: str
    operation: object
    shape: tuple
    num_read: int  # tensors of the model that the operation reads


def symbolic_outputs(model):
    """The model's outputs as a flat list of symbolic tensors.

    Raises:
        ValueError: for a subclassed model, which has none.
    """
    if not _keras.is_graph(model):
        raise ValueError(
            f"Received the {type(model).__name__} {model.name!r}, whose outputs are unknown before "
            "it runs. Expected a Functional or built Sequential keras.Model."
        )
    return keras.tree.flatten(model.outputs)


def output_names(model):
    """Names of the outputs; a Sequential's is that of its last layer."""
    outputs = symbolic_outputs(model)
    return list(getattr(model, "output_names", None) or [model.layers[-1].name])[: len(outputs)]


def floating_outputs(model):
    """Places of the outputs that are floating numbers, which an argmax or a comparison is not.

    Raises:
        ValueError: if there is none.
    """
    types = [keras.backend.standardize_dtype(x.dtype) for x in symbolic_outputs(model)]
    found = [place for place, name in enumerate(types) if "float" in name]
    if not found:
        raise ValueError(
            f"Received the model {model.name!r} with outputs of type {', '.join(types)}. Expected "
            "floating numbers from one of them, such as logits: by nothing else can a student be "
            "compared."
        )
    return found


def output_kinds(model):
    """What each output is, from the operation that made it.

    `"softmax"`, `"sigmoid"`, `"shares"` (a softmax along another axis than the last, such as all
    places of a map) or `"logits"`: anything else. Operations that only move values (Reshape,
    Flatten, Dropout, linear Activation) are looked through.
    """
    _, makers, outputs = trace(model)
    return [_kind(tensor, makers) for tensor in keras.tree.flatten(outputs)]


def num_units(shape):
    """Numbers that an output of `shape` (batch left out) says at a position; None: open."""
    return shape[-1] if shape else 1


def answer_forms(model, loss=None, metrics=None, truth=None):
    """What each output answers, see `labels.answer_form`.

    Args:
        model: a Functional or built Sequential model.
        loss: as for `compile`; None says nothing.
        metrics: likewise. Without labels, logits whose loss is nobody's but the user's are of a
            classifier if an accuracy is among them, and else values: as such classes may be
            compared, too.
        truth: a batch of labels as `fit` takes them, or None.

    Raises:
        ValueError: for labels that are not one for each output.
    """
    names = _keras.names_of_outputs(model, _keras.output_specs(model, model.inputs))
    shapes = [tuple(x.shape[1:]) for x in symbolic_outputs(model)]
    given = [None] * len(names) if truth is None else labels.labels_by_output(truth, names)
    each = zip(output_kinds(model), shapes, labels.by_output(loss, names), given, strict=True)
    unknown = "classes" if labels.are_of_classes(metrics) else "values"
    return [labels.answer_form(*one, unknown=unknown) for one in each]


def trace(model):
    """Walk shapes through the model: its tensors, {id: (operation, inputs)} and its outputs."""
    tensors, makers = [], {}

    def call(node, args, kwargs, path):
        operation = node.operation
        outputs = operation.compute_output_spec(*args, **kwargs)
        inputs = [x for x in keras.tree.flatten((args, kwargs)) if _is_symbol(x)]
        for x in keras.tree.flatten(outputs):
            makers[id(x)] = (operation, inputs, x)
            tensors.append(Tensor(path, operation, tuple(x.shape), len(inputs)))
        return outputs

    inputs = [keras.KerasTensor(_closed(x.shape), x.dtype) for x in model.inputs]
    outputs = _keras.run_graph(_keras.graph_of(model), inputs, call)
    return tensors, makers, outputs


def _is_symbol(x):
    return isinstance(x, keras.KerasTensor)


def _closed(shape):
    if len(shape) < 3:
        return shape
    return (shape[0], *(_OPEN_SIZE if n is None else n for n in shape[1:-1]), shape[-1])


def _kind(tensor, makers):
    while id(tensor) in makers:
        operation, inputs, _ = makers[id(tensor)]
        for name in ("softmax", "sigmoid"):
            if _applies(operation, name):
                return name if _is_along_last(operation, len(tensor.shape)) else "shares"
        if len(inputs) != 1 or not _moves_only(operation):
            break
        tensor = inputs[0]
    return "logits"


def _applies(operation, name):
    function = getattr(operation, "activation", None)
    if function is getattr(keras.activations, name):
        return True
    is_layer = name == "softmax" and isinstance(operation, keras.layers.Softmax)
    return is_layer or isinstance(operation, _keras.operation_type(name.capitalize()))


def _is_along_last(operation, rank):
    axis = getattr(operation, "axis", -1)
    return axis is None or {a % rank for a in keras.tree.flatten(axis)} == {rank - 1}


def _moves_only(operation):
    layers = (
        keras.layers.Reshape,
        keras.layers.Flatten,
        keras.layers.Dropout,
        keras.layers.Identity,
    )
    moves = tuple(t for t in map(_keras.operation_type, ("Reshape", "Squeeze", "Cast")) if t)
    linear = getattr(operation, "activation", None) is keras.activations.linear
    is_linear = isinstance(operation, keras.layers.Activation) and linear
    return is_linear or isinstance(operation, layers + moves)

"""Comparing graphs that were recorded of one layer: in two modes, with two batch sizes."""

import contextlib

import keras
import numpy as np
from keras import tree
from keras.src.ops.symbolic_arguments import SymbolicArguments

from aip_tf._keras.copies import copy_ops
from aip_tf._keras.graph import operation_type
from aip_tf._keras.held import Held

_NOT_SETTINGS = {
    "name",
    "_auto_config",
    "_inbound_nodes",
    "_lock",
    "_outbound_nodes",
    "_remat_mode",
}


class BatchSizeError(Exception):
    """What a layer does depends on the batch size."""


def is_symbol(x):
    """Whether `x` is a symbolic tensor."""
    return isinstance(x, keras.KerasTensor)


def are_alike(graph, other):
    """Whether two recordings call the same with the same settings, sizes and `training` aside."""
    if len(graph.nodes) != len(other.nodes):
        return False
    places = [_numbered(g) for g in (graph, other)]
    pairs = zip(graph.nodes, other.nodes, strict=True)
    same = all(_same_call(a, b, *places) for a, b in pairs)
    return same and _same(graph.outputs, other.outputs, *places)


def disagreement(graph, other):
    """Why two recordings do not call the same with the same settings; "" if they do.

    `training` may differ: where it follows the mode it is taken out of the arguments of `graph`,
    as Keras hands it on by itself.
    """
    if other is None or not are_alike(graph, other):
        return "what it does depends on `training` or on chance"
    for a, b in zip(graph.nodes, other.nodes, strict=True):
        modes = {x.arguments.kwargs.get("training") for x in (a, b)}
        if modes in ({True}, {False}):
            return f"its call fixes `training` of {a.operation.name}"
        if modes != {None}:
            rest = {k: v for k, v in a.arguments.kwargs.items() if k != "training"}
            a.arguments = SymbolicArguments(*a.arguments.args, **rest)
    return ""


def _share_constants(a, b):
    """Constants of two calls that repeat one entry for every sample become that entry; in place.

    As a causal mask does that was made for a batch. Only where the call then gives the same sizes.
    """
    flat = [tree.flatten((x.arguments.args, x.arguments.kwargs)) for x in (a, b)]
    if len(flat[0]) != len(flat[1]) or not any(map(_repeats, *flat)):
        return
    for node, own, others in ((a, *flat), (b, *reversed(flat))):
        shared = [x[:1] if _repeats(x, y) else x for x, y in zip(own, others, strict=True)]
        structure = (node.arguments.args, node.arguments.kwargs)
        args, kwargs = tree.pack_sequence_as(structure, shared)
        given = {k: v for k, v in kwargs.items() if v is not None}
        found = tree.flatten(node.operation.compute_output_spec(*args, **given))
        if not all(_fit(x.shape, y.shape) for x, y in zip(found, node.outputs, strict=True)):
            raise BatchSizeError("what it does depends on the batch size")
        node.arguments = SymbolicArguments(*args, **kwargs)


def _fit(shape, other):
    """Whether two shapes may be the same, sizes that are open aside."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(None in pair or len({*pair}) == 1 for pair in pairs)


def _repeats(x, y):
    """Whether two constants differ in their number of equal entries only."""
    if not all(isinstance(v, np.ndarray) or keras.ops.is_tensor(v) for v in (x, y)):
        return False
    x, y = np.asarray(x), np.asarray(y)
    alike = x.ndim > 1 and len(x) != len(y) and x.shape[1:] == y.shape[1:]
    return alike and bool((x == x[:1]).all() and (y == x[:1]).all())


def _numbered(graph):
    """`{id(tensor): number}`, in the order in which tensors come up."""
    tensors = [*graph.inputs, *(x for node in graph.nodes for x in node.outputs)]
    return {id(x): i for i, x in enumerate(tensors)}


def _same_call(a, b, places, others):
    if a.operation is not b.operation and (
        type(a.operation) is not type(b.operation)
        or not _same(_settings(a.operation), _settings(b.operation), places, others)
    ):
        return False
    return _same(a.arguments.args, b.arguments.args, places, others) and _same(
        *({k: v for k, v in x.arguments.kwargs.items() if k != "training"} for x in (a, b)),
        places,
        others,
    )


def _settings(operation):
    """What tells two operations of a class apart; a layer with variables is only itself."""
    if isinstance(operation, keras.layers.Layer):
        if operation.variables:
            is_held = isinstance(operation, Held)
            return id(operation.variable) if is_held else id(operation)
        with contextlib.suppress(NotImplementedError, TypeError, OSError):
            return {k: v for k, v in operation.get_config().items() if k != "name"}
        return id(operation)
    return {k: v for k, v in vars(operation).items() if k not in _NOT_SETTINGS}


def _same(a, b, places, others):
    """Whether two structures hold the same: tensors by number, arrays by value."""
    a, b = ([*tree.flatten_with_path(x)] for x in (a, b))
    return len(a) == len(b) and all(
        p == q and _same_leaf(x, y, places, others) for (p, x), (q, y) in zip(a, b, strict=True)
    )


def _same_leaf(x, y, places, others):
    if is_symbol(x) or is_symbol(y):
        return places.get(id(x), -1) == others.get(id(y), -2)
    if x is y:
        return True
    if keras.ops.is_tensor(x) or isinstance(x, np.ndarray):
        x, y = np.asarray(x), np.asarray(y)
        return x.shape == y.shape and x.dtype == y.dtype and bool(np.array_equal(x, y))
    return type(x) is type(y) and bool(x == y)


def open_sizes(graph, other):
    """Leave the sizes open in `graph` that differ in another call of the same layer; in place."""
    tensors = [[*g.inputs, *(x for node in g.nodes for x in node.outputs)] for g in (graph, other)]
    for x, y in zip(*tensors, strict=True):
        if len(x.shape) == len(y.shape):
            pairs = zip(x.shape, y.shape, strict=True)
            x._shape = tuple(s if s == t else None for s, t in pairs)


def open_batch(graph, other):
    """Leave open in `graph` what differs from the same call with another batch size; in place.

    Raises:
        BatchSizeError: if more than the sizes of reshapes differs.
    """
    if other is None or len(graph.nodes) != len(other.nodes):
        raise BatchSizeError("what it does depends on the batch size")
    places = [_numbered(g) for g in (graph, other)]
    for a, b in zip(graph.nodes, other.nodes, strict=True):
        _share_constants(a, b)
        if isinstance(a.operation, operation_type("Reshape")):
            sizes = zip(a.outputs[0].shape, b.outputs[0].shape, strict=True)  # a -1 is known there
            sizes = tuple(s if s == t and s is not None else -1 for s, t in sizes)
            if sizes.count(-1) > 1:
                raise BatchSizeError("what it does depends on the batch size")
            name = graph.names[id(a.operation)]
            a.operation = copy_ops(a.operation, {"newshape": sizes})
            graph.names[id(a.operation)] = name
            same = _same(a.arguments.args, b.arguments.args, *places)
        else:
            same = _same_call(a, b, *places)
        if not same:
            raise BatchSizeError("what it does depends on the batch size")
        for x, y in zip(a.outputs, b.outputs, strict=True):
            x._shape = tuple(s if s == t else None for s, t in zip(x.shape, y.shape, strict=True))
    for x in graph.inputs:
        x._shape = (None, *x.shape[1:]) if x.shape else ()

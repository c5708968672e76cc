"""Comparing graphs that were recorded of one layer: in two modes, with two batch sizes."""

import contextlib
import functools

import keras
import numpy as np
from keras import tree

from aip_tf._keras.copies import copy_ops
from aip_tf._keras.held import Given, Held
from aip_tf._keras.layers import operation_type
from aip_tf._keras.nodes import Arguments, Call, CannotOpenError, flat_arguments, settings_of
from aip_tf._keras.plain import is_symbol

_PLAIN = {bool, int, float, str, type(None)}


class BatchSizeError(CannotOpenError):
    """What a layer does depends on the batch size."""

    def __init__(self):
        super().__init__("what it does depends on the batch size")


def is_constant(x):
    """Whether `x` is an array or a tensor with values, and no variable."""
    if is_symbol(x) or isinstance(x, keras.Variable):
        return False
    return isinstance(x, np.ndarray) or (hasattr(x, "numpy") and keras.ops.is_tensor(x))


def are_alike(graph, other):
    """Whether two recordings call the same with the same settings, sizes and `training` aside."""
    if len(graph.nodes) != len(other.nodes):
        return False
    twins = _twins(graph, other)
    pairs = zip(graph.nodes, other.nodes, strict=True)
    calls = (same_call(a, b, twins) or same_open_reshape(a, b, twins) for a, b in pairs)
    return all(calls) and same(graph.outputs, other.outputs, twins)


def _share_constants(graphs, nodes, place):
    """Constants of two calls that repeat one entry for every sample become that entry; in place.

    As a causal mask does that was made for a batch. Where the call would then give other sizes, the
    entry is repeated by a call of `Given`.
    """
    flat = [flat_arguments(x) for x in nodes]
    if len(flat[0]) != len(flat[1]) or not any(places := [*map(_repeats, *flat)]):
        return
    shared = [_replaced(node, places, lambda x: x[:1]) for node in nodes]
    if not all(map(_keeps_sizes, nodes, shared)):
        hung = [functools.partial(_hung, graph, place) for graph in graphs]
        shared = [_replaced(node, places, f) for node, f in zip(nodes, hung, strict=True)]
    for node, arguments in zip(nodes, shared, strict=True):
        node.arguments = arguments


def _replaced(node, places, function):
    """The arguments of a call, with `function` of those at some places."""
    structure = (node.arguments.args, node.arguments.kwargs)
    flat = zip(tree.flatten(structure), places, strict=True)
    args, kwargs = tree.pack_sequence_as(structure, [function(x) if p else x for x, p in flat])
    return Arguments(args, kwargs)


def _keeps_sizes(node, arguments):
    """Whether a call with other arguments gives outputs of the same sizes."""
    given = {k: v for k, v in arguments.kwargs.items() if v is not None}
    try:
        found = tree.flatten(node.operation.compute_output_spec(*arguments.args, **given))
    except ValueError:  # as of Concatenate
        return False
    return all(_fit(x.shape, y.shape) for x, y in zip(found, node.outputs, strict=True))


def _hung(graph, place, x):
    """A symbol for a constant that repeats one entry for every sample."""
    call = Call.of(Given(x.shape[1:]), graph.inputs[place], x[:1])
    if call.outputs[0].shape != x.shape:
        raise BatchSizeError
    graph.add(call)
    return call.outputs[0]


def _batched(graphs):
    """Which input says how many samples there are: the first whose sizes differ, or None."""
    pairs = enumerate(zip(*(g.inputs for g in graphs), strict=True))
    return next((i for i, (x, y) in pairs if x.shape != y.shape), None)


def _repeated(graphs, nodes, place):
    """The sizes behind the batch axis of what two calls repeat for every sample; else None."""
    sizes = [node.outputs[0].shape for node in nodes]
    batches = [graph.inputs[place].shape[:1] for graph in graphs]
    if sizes[0] == sizes[1] or [s[:1] for s in sizes] != batches:
        return None
    if isinstance(nodes[0].operation, Given):
        return sizes[0][1:] if _repeats(*(x.arguments.args[1] for x in nodes)) else None
    source, other = (node.input_tensors[0].shape for node in nodes)
    if source != other or (len(source) == len(sizes[0]) and source[0] != 1):
        return None
    if isinstance(nodes[0].operation, operation_type("BroadcastTo")):
        return sizes[0][1:]
    is_repeated = isinstance(nodes[0].operation, (operation_type("Repeat"), operation_type("Tile")))
    return source[1:] if is_repeated and source[1:] == sizes[0][1:] else None


def _give(graph, node, place, rest):
    """Let a call be one of `Given`: for any number of samples; in place."""
    if isinstance(node.operation, Given):
        value = node.arguments.args[1][:1]
    else:
        value = node.input_tensors[0]
    name = graph.names[id(node.operation)]
    node.operation = Given(rest)
    node.arguments = Arguments((graph.inputs[place], value), {})
    graph.names[id(node.operation)] = name


def _fit(shape, other):
    """Whether two shapes may be the same, sizes that are open aside."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(None in pair or len({*pair}) == 1 for pair in pairs)


def _repeats(x, y):
    """Whether two constants differ in their number of equal entries only."""
    if not is_constant(x) or not is_constant(y):
        return False
    x, y = np.asarray(x), np.asarray(y)
    alike = x.ndim > 1 and len(x) != len(y) and x.shape[1:] == y.shape[1:]
    return alike and bool((x == x[:1]).all() and (y == x[:1]).all())


def _tensors(graph):
    """All symbols of a graph, in the order in which they come up."""
    return [*graph.inputs, *(x for node in graph.nodes for x in node.outputs)]


def _twins(graph, other):
    """`{id(tensor of graph): tensor of other}`: which stand at one place."""
    pairs = zip(_tensors(graph), _tensors(other), strict=False)
    return {id(x): y for x, y in pairs}


def same_call(a, b, twins):
    """Whether two calls are the same, `training` aside.

    Args:
        a, b: nodes.
        twins: `{id(symbol in a): the same in b}`; a symbol that is not there is only itself.
    """
    if a.operation is not b.operation and (
        type(a.operation) is not type(b.operation)
        or not same(_settings(a.operation), _settings(b.operation), twins)
    ):
        return False
    a, b = a.arguments, b.arguments
    rests = [{k: v for k, v in x.kwargs.items() if k != "training"} for x in (a, b)]
    return same(a.args, b.args, twins) and (not any(rests) or same(*rests, twins))


def same_open_reshape(a, b, twins):
    """Whether a reshape with known sizes is `b`, some of whose sizes are open or inferred."""
    sizes = [_target(x.operation) for x in (a, b)]
    fits = all(sizes) and len(sizes[0]) == len(sizes[1])
    fits = fits and all(t in (None, -1, s) for s, t in zip(*sizes, strict=True))
    return fits and same(a.arguments.args, b.arguments.args, twins)


def _target(operation):
    """The sizes that a reshape asks for, that of the batch in front; None: it is no reshape."""
    if isinstance(operation, keras.layers.Reshape):
        return [-1, *operation.target_shape]
    is_reshape = isinstance(operation, operation_type("Reshape"))
    return tree.flatten(operation.newshape) if is_reshape else None


def _settings(operation):
    """What tells two operations of a class apart; a layer with variables is only itself."""
    if isinstance(operation, keras.layers.Layer):
        if operation.variables:
            is_held = isinstance(operation, Held)
            return id(operation.variable) if is_held else id(operation)
        with contextlib.suppress(NotImplementedError, TypeError, OSError):
            return {k: v for k, v in operation.get_config().items() if k != "name"}
        return id(operation)
    return settings_of(operation)


def same(a, b, twins):
    """Whether two structures hold the same: symbols that are twins, arrays by value."""
    kinds = [_plain_types(x) for x in (a, b)]
    if all(kinds):  # the usual settings of an operation
        return a == b and kinds[0] == kinds[1]  # 1 == True
    a, b = ([*_leaves(x)] for x in (a, b))
    return len(a) == len(b) and all(
        p == q and _same_leaf(x, y, twins) for (p, x), (q, y) in zip(a, b, strict=True)
    )


def _plain_types(settings):
    """`{key: type}` of a dict of numbers, words and None; else None."""
    if type(settings) is not dict:
        return None
    types = {key: type(x) for key, x in settings.items()}
    return types if _PLAIN.issuperset(types.values()) else None


def _leaves(structure):
    """As `tree.flatten_with_path`, which is slow, of symbols in a tuple."""
    if type(structure) is tuple and all(map(is_symbol, structure)):
        return (((i,), x) for i, x in enumerate(structure))
    return tree.flatten_with_path(structure)


def _same_leaf(x, y, twins):
    if isinstance(x, keras.Variable):  # also while it passes for a symbol
        return x is y
    if is_symbol(x) or is_symbol(y):
        return twins.get(id(x), x) is y
    if x is y:
        return True
    if is_constant(x):
        x, y = np.asarray(x), np.asarray(y)
        return x.shape == y.shape and x.dtype == y.dtype and bool(np.array_equal(x, y))
    return type(x) is type(y) and bool(x == y)


def open_sizes(graph, other):
    """Leave the sizes open in `graph` that differ in another call of the same layer; in place."""
    for x, y in zip(_tensors(graph), _tensors(other), strict=True):
        if len(x.shape) == len(y.shape):
            pairs = zip(x.shape, y.shape, strict=True)
            x._shape = tuple(s if s == t else None for s, t in pairs)


def open_batch(graph, other):
    """Leave open in `graph` what differs from the same call with another batch size; in place.

    Raises:
        BatchSizeError: if more than the sizes of reshapes differs.
    """
    if other is None or len(graph.nodes) != len(other.nodes):
        raise BatchSizeError
    _share_samples((graph, other))
    twins = _twins(graph, other)
    for a, b in zip(graph.nodes, other.nodes, strict=True):
        if isinstance(a.operation, operation_type("Reshape")):
            _open_reshape(graph, a, b)
            alike = same(a.arguments.args, b.arguments.args, twins)
        else:
            alike = same_call(a, b, twins)
        if not alike:
            raise BatchSizeError
        _open_shapes(a.outputs, b.outputs)
    _open_shapes(graph.inputs, other.inputs)


def _open_reshape(graph, a, b):
    """Let a reshape infer the size that is open, beside that of the batch in front; in place."""
    shapes = [x.outputs[0].shape for x in (a, b)]  # a -1 is known there
    sizes = tuple(s if s == t and s is not None else -1 for s, t in zip(*shapes, strict=True))
    source, other = (x.input_tensors[0] for x in (a, b))
    keeps_batch = sizes[:1] == (-1,) and source.shape[0] in (None, shapes[0][0])
    keeps_batch = keeps_batch and other.shape[:1] == shapes[1][:1]
    asked = zip(sizes[1:], a.operation.newshape[1:], strict=True) if keeps_batch else ()
    rest = tuple(-1 if -1 in pair else pair[0] for pair in asked)  # it may be another at each call
    name = graph.names[id(a.operation)]
    if rest.count(-1) == 1:
        a.operation = keras.layers.Reshape(rest, name=name, dtype=source.dtype)
        a.operation.build((None, *source.shape[1:]))
    elif sizes.count(-1) < 2:
        a.operation = copy_ops(a.operation, {"newshape": sizes})
    else:
        raise BatchSizeError
    graph.names[id(a.operation)] = name


def _open_shapes(tensors, others):
    for x, y in zip(tensors, others, strict=True):
        x._shape = tuple(s if s == t else None for s, t in zip(x.shape, y.shape, strict=True))


def _share_samples(graphs):
    """Let two graphs repeat for any number of samples what they repeat for their own; in place."""
    place = _batched(graphs)
    calls = [] if place is None else list(zip(*(g.nodes for g in graphs), strict=True))
    for nodes in calls:
        if (rest := _repeated(graphs, nodes, place)) is not None:
            for graph, node in zip(graphs, nodes, strict=True):
                _give(graph, node, place, rest)
        _share_constants(graphs, nodes, place)

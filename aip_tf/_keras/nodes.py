"""Nodes: the calls of operations on symbols, and which of them lead to a tensor."""

import inspect

import keras
from keras import tree

_RETURNS_ANOTHERS = "{} in its call returns a tensor that it did not make"
_NOT_SETTINGS = {
    "name",
    "_auto_config",
    "_inbound_nodes",
    "_lock",
    "_outbound_nodes",
    "_remat_mode",
}


class CannotOpenError(Exception):
    """Why a layer stays whole: the text ends a sentence that begins with the layer."""


class Call:
    """A call of a layer on symbols, as Keras' `Node`; but only its outputs know of it."""

    def __init__(self, operation, args, kwargs, outputs):
        self.operation = operation
        self.arguments = Arguments(*_first_by_place(operation, args, kwargs))
        self.outputs = tree.flatten(outputs)
        for x in self.outputs:
            x._made_by = self

    @classmethod
    def of(cls, operation, *args):
        """The call of `operation` on symbols, its outputs made here."""
        return cls(operation, args, {}, operation.compute_output_spec(*args))

    @property
    def input_tensors(self):
        return self.arguments.keras_tensors


class _ByPlace:
    """A node of Keras, the first argument of which is given by its name, as if by its place."""

    def __init__(self, node, args, kwargs):
        self.operation, self.outputs = node.operation, node.outputs
        self.arguments = Arguments(args, kwargs)

    @property
    def input_tensors(self):
        return self.arguments.keras_tensors


def by_place(node):
    """A node of Keras, or one object that stands for it where a tensor is called by a name that
    only its class knows: `Conv2D(8, 3)(inputs=x)` is `Conv2D(8, 3)(x)` to everything here."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    found = _first_by_place(node.operation, args, kwargs)
    if found[0] is args:
        return node
    if not hasattr(node, "_by_place"):  # one for each: what a trace notes, it notes by node
        node._by_place = _ByPlace(node, *found)
    return node._by_place


def _first_by_place(operation, args, kwargs):
    """The arguments of a call with the first one by its place; a rule may name it otherwise."""
    if args or not kwargs:
        return args, kwargs
    first = next(iter(inspect.signature(operation.call).parameters.values()), None)
    if first is None or first.kind != first.POSITIONAL_OR_KEYWORD or first.name not in kwargs:
        return args, kwargs
    return (kwargs[first.name],), {k: v for k, v in kwargs.items() if k != first.name}


class Arguments:
    """The arguments of a `Call`, as Keras' `SymbolicArguments`, in less time."""

    def __init__(self, args, kwargs):
        if len(args) == 1 and not kwargs and isinstance(args[0], keras.KerasTensor):
            self.args, self.kwargs, self.flat = args, kwargs, args  # the usual case
        else:  # a list among them may grow later
            self.args, self.kwargs = tree.map_structure(lambda x: x, (args, kwargs))
            self.flat = tree.flatten((args, kwargs))
        self.keras_tensors = [x for x in self.flat if isinstance(x, keras.KerasTensor)]

    def fill_in(self, values):
        """`args` and `kwargs` with `{id(symbol): value}` in place of symbols."""
        return tree.map_structure(
            lambda x: values.get(id(x)) if isinstance(x, keras.KerasTensor) else x,
            (self.args, self.kwargs),
        )


def check_calls(nodes, given):
    """Refuse what a graph does not tell all of: `ops.cond`, `ops.map` run functions of their own.

    Args:
        nodes: the calls that were found.
        given: the symbols that nothing in the graph may have made.

    Raises:
        CannotOpenError: if there is such a call.
    """
    for node in nodes:
        operation = node.operation
        if not isinstance(operation, keras.layers.Layer):
            settings = [*settings_of(operation).values(), *flat_arguments(node)]
            if any(map(callable, tree.flatten(settings))):
                raise CannotOpenError(f"its call hands a function to {type(operation).__name__}")
    for operation in filter(None, map(made_by_keras, given)):
        raise CannotOpenError(_RETURNS_ANOTHERS.format(type(operation).__name__))


def settings_of(operation):
    """What an operation of `keras.ops` was made with: dict."""
    return {k: v for k, v in vars(operation).items() if k not in _NOT_SETTINGS}


def flat_arguments(node):
    """All arguments of a call as a list."""
    is_ours = isinstance(node.arguments, Arguments)
    return node.arguments.flat if is_ours else node.arguments._flat_arguments


def nodes_up_to(tensors, done):
    """The calls that lead to symbolic tensors, in topological order: list of nodes.

    Args:
        tensors: list of symbolic tensors.
        done: ids of tensors that nothing is asked of; all that were met are added.

    Raises:
        CannotOpenError: if one does not come from those of `done`.
    """
    order, begun = [], set()
    stack = list(reversed(tensors))
    while stack:
        x = stack[-1]
        if id(x) in done:
            stack.pop()
            continue
        node = _node_of(x)
        missing = [t for t in node.input_tensors if id(t) not in done]
        if missing and id(node) not in begun:
            begun.add(id(node))
            stack.extend(reversed(missing))
            continue
        order.append(node)
        done.update(id(t) for t in node.outputs)
    return order


def _node_of(x):
    operation = made_by_keras(x)
    if hasattr(x, "_made_by"):
        if operation not in (None, x._made_by.operation):
            raise CannotOpenError(_RETURNS_ANOTHERS.format(type(operation).__name__))
        return x._made_by
    if operation is None or isinstance(operation, keras.layers.InputLayer):
        raise CannotOpenError("its call uses a tensor from outside")
    return by_place(operation._inbound_nodes[x._keras_history.node_index])


def made_by_keras(x):
    """The operation of which Keras notes that it made a symbol, or None."""
    history = getattr(x, "_keras_history", None)  # that of what nothing made names no operation
    return history and history.operation

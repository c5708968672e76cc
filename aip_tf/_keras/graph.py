"""Graphs of operations: in which order they run, layers by path."""

import itertools

import keras
from keras import tree
from keras.src.models.functional import Functional, operation_fn
from keras.src.utils.naming import to_snake_case

from aip_tf._keras.nodes import by_place, flat_arguments
from aip_tf._keras.own_calls import graph_computes_around


class Graph:
    """Operations in an order in which they can run.

    Attributes:
        inputs: list of symbolic tensors.
        nodes: the calls, each with `operation`, `arguments`, `input_tensors`, `outputs`.
        outputs: symbolic tensors (constants may stand among them) in the structure of the model.
        structure: the symbolic inputs in the structure in which the model takes them.
        names: `{id(operation): name}`, each name once.
        dissolved: `{id(operation): Graph}`: nested graphs whose operations count as this one's.
    """

    def __init__(self, inputs, nodes, outputs, structure=None, is_passing=lambda operation: False):
        self.inputs = inputs
        self.nodes = nodes
        self.outputs = outputs
        self.structure = inputs if structure is None else structure
        self.names = _unique_names(nodes, is_passing)
        self.dissolved = {}

    def add(self, node):
        """Put the call of a further operation in front."""
        self.nodes.insert(0, node)
        taken = set(self.names.values())
        names = itertools.chain(
            [node.operation.name], (f"{node.operation.name}_{i}" for i in itertools.count(1))
        )
        self.names[id(node.operation)] = next(name for name in names if name not in taken)


def _unique_names(nodes, is_passing):
    """Names of operations; those that are passing are numbered anew by class.

    Keras counts automatic names on, so an operation made at every call never has the same.
    """
    names, used = {}, set()
    for node in nodes:
        operation = node.operation
        if id(operation) not in names:
            stem = name = operation.name
            if is_passing(operation):
                stem = name = to_snake_case(type(operation).__name__)
            number = 0
            while name in used:
                number += 1
                name = f"{stem}_{number}"
            names[id(operation)] = name
            used.add(name)
    return names


def is_graph(operation):
    """Whether `operation` is a Functional or built Sequential model that runs Keras' own `call`."""
    if isinstance(operation, keras.Sequential):
        is_one = type(operation).call is keras.Sequential.call
        is_one = is_one and operation.built and operation._functional is not None
    else:
        is_one = isinstance(operation, Functional) and type(operation).call is Functional.call
    return is_one and not graph_computes_around(operation)


def graph_inside(operation):
    """The `Graph` of a Functional or Sequential model; None for every other operation."""
    if not is_graph(operation):
        return None
    model = operation._functional if isinstance(operation, keras.Sequential) else operation
    depths = sorted(model._nodes_by_depth, reverse=True)
    found = [n for depth in depths for n in model._nodes_by_depth[depth] if not n.is_input]
    nodes = list(map(by_place, found))
    return Graph(model.inputs, nodes, model._outputs_struct, model._inputs_struct)


def graph_of(model):
    """The `Graph` of `model`.

    Raises:
        ValueError: if the model is subclassed or not built, so that it has no graph.
    """
    graph = graph_inside(model)
    if graph is None:
        kind = type(model).__name__
        hint = (
            "call `model.build(input_shape)` or start it with keras.Input"
            if isinstance(model, keras.Sequential)
            else "aip_tf.prune_channels(model, {}) makes a Functional copy of a subclassed one"
        )
        raise ValueError(
            f"Received a {kind} without a graph of operations. Expected a built Sequential or a "
            f"Functional keras.Model; {hint}."
        )
    return graph


def walk(graph, inputs, visit):
    """Run a graph once, in topological order: the one walk that everything shares.

    Args:
        graph: a `Graph`.
        inputs: the values of its inputs, of any kind (tensors, symbols, identity arrays), in the
            model's structure or as a flat list.
        visit: `visit(node, args, kwargs) -> outputs`, called for every operation (a nested model
            counts as one unless it is dissolved), with `args` and `kwargs` in which values stand
            for tensors.

    Returns:
        The values of the outputs, in the model's structure.
    """
    values = {id(x): v for x, v in zip(graph.inputs, flat_inputs(graph, inputs), strict=True)}
    read = [{id(x) for x in node.input_tensors} for node in graph.nodes]
    done = _done_behind(graph, read)
    for place, node in enumerate(graph.nodes):
        if not read[place] <= values.keys():
            continue
        args, kwargs = _fill_in(node.arguments, values)
        nested = graph.dissolved.get(id(node.operation))
        if nested is None:
            outputs = visit(node, args, kwargs)
        else:
            outputs = walk(nested, _masked_inputs(node, args, kwargs), visit)
        if isinstance(outputs, tuple | list | dict):
            flat = [y for y in tree.flatten(outputs) if y is not None]
            values.update((id(x), y) for x, y in zip(node.outputs, flat, strict=True))
        else:
            values[id(node.outputs[0])] = outputs
        del args, kwargs, outputs  # tensors live no longer than they are read
        for key in done[place]:
            values.pop(key, None)
    flat = [values.get(id(x), x) for x in tree.flatten(graph.outputs)]
    return tree.pack_sequence_as(graph.outputs, flat)


def _done_behind(graph, read):
    """For each node the ids of the tensors that nobody reads behind it; `read`: those it reads."""
    needed, done = {id(x) for x in tree.flatten(graph.outputs)}, []
    for node, keys in zip(reversed(graph.nodes), reversed(read), strict=True):
        last = keys.union(map(id, node.outputs)) - needed
        needed |= last
        done.append(last)
    return done[::-1]


def _fill_in(arguments, values):
    """As `arguments.fill_in`, which is slow for a list, or a keyword, if only `mask=None`."""
    args, kwargs = arguments.args, arguments.kwargs
    plain = not kwargs or all(v is None or isinstance(v, bool) for v in kwargs.values())
    if plain and len(args) == 1:
        x = args[0]
        if isinstance(x, keras.KerasTensor):
            return (values[id(x)],), dict(kwargs)
        if type(x) is list and all(isinstance(y, keras.KerasTensor) for y in x):
            return ([values[id(y)] for y in x],), dict(kwargs)
    return arguments.fill_in(values)


def tensor_places(node):
    """For every flat argument of a call whether it is a tensor of the graph: list of bool."""
    return [isinstance(x, keras.KerasTensor) for x in flat_arguments(node)]


def run_graph(graph, inputs, call, inside=graph_inside, prefix=""):
    """Walk a graph and everything nested in it: `call(node, args, kwargs, path) -> outputs`.

    Args:
        graph: a `Graph`.
        inputs: see `walk`.
        call: runs one operation; `path` is the operation's name behind those of the models it is
            nested in: `"outer/inner"`. `run_operation` is the forward pass.
        inside: `inside(operation) -> Graph or None`: into which operations to walk.
    """

    def visit(node, args, kwargs):
        path = prefix + graph.names[id(node.operation)]
        nested = inside(node.operation)
        if nested is None:
            return call(node, args, kwargs, path)
        given = _masked_inputs(node, args, kwargs)
        return run_graph(nested, given, call, inside, path + "/")

    return walk(graph, inputs, visit)


def _masked_inputs(node, args, kwargs):
    """What a nested graph is given by a call, the masks with it."""
    given = given_tensors(node, args, kwargs)
    for x, mask in zip(given, tree.flatten(masks_given(node, kwargs)), strict=False):
        if mask is not None:
            x._keras_mask = mask
    return given


def given_tensors(node, args, kwargs):
    """Those of the arguments of a call that stand for tensors of the graph, as a flat list.

    Of the call of a model these are its inputs; a mask travels with them, see `masks_given`.
    """
    if len(node.input_tensors) == 1 and len(args) == 1 and not isinstance(args[0], list | dict):
        return [args[0]]
    arguments, places = (args, kwargs), tensor_places(node)
    if graph_inside(node.operation) is not None:
        apart = tree.pack_sequence_as(arguments, places)
        arguments, places = (
            (args, _without_mask(kwargs)),
            tree.flatten((apart[0], _without_mask(apart[1]))),
        )
    return [x for x, traced in zip(tree.flatten(arguments), places, strict=True) if traced]


def _without_mask(kwargs):
    return {k: v for k, v in kwargs.items() if k != "mask"}


def masks_given(node, kwargs):
    """The `mask` argument, if any, with which a model is called inside of a graph."""
    return kwargs.get("mask") if graph_inside(node.operation) is not None else None


def run_operation(node, args, kwargs, training=None):
    """Call the operation of a node with values, in training or inference mode."""
    return operation_fn(node.operation, training=training)(*args, **kwargs)


def flat_inputs(graph, inputs):
    """`inputs`, in the graph's structure or named by a dict, as a list in the graph's order."""
    while isinstance(inputs, tuple | list) and len(inputs) == 1 and len(graph.inputs) > 1:
        inputs = inputs[0]
    if isinstance(inputs, dict) and not isinstance(graph.structure, dict):
        return [inputs[x.name] for x in graph.inputs]
    return tree.flatten(inputs)


def standardized(graph, inputs):
    """Batches of inputs as the graph's own model takes them: a flat list of tensors of its types.

    As `keras.Model.__call__` does, an axis of size 1 at the end may be missing or too many.
    """
    converted = []
    for x, symbol in zip(flat_inputs(graph, inputs), graph.inputs, strict=True):
        if x is not None:
            mask = getattr(x, "_keras_mask", None)
            x = keras.ops.convert_to_tensor(x, dtype=symbol.dtype, sparse=symbol.sparse)
            rank = len(symbol.shape)
            if len(x.shape) == rank + 1 and x.shape[-1] == 1:
                x = keras.ops.squeeze(x, axis=-1)
            elif len(x.shape) == rank - 1 and symbol.shape[-1] == 1:
                x = keras.ops.expand_dims(x, axis=-1)
            if mask is not None:
                x._keras_mask = mask
        converted.append(x)
    return converted


def mask_of(x):
    """The mask that travels with a tensor, or None."""
    return getattr(x, "_keras_mask", None)


def with_mask_of(source, x):
    """`x`, with the mask that travels with `source`."""
    mask = mask_of(source)
    if mask is not None:
        x._keras_mask = mask
    return x


def output_shapes(node, shapes):
    """Shapes of the outputs of `node` for inputs of the given `shapes`, batch size included.

    They are in the graph already unless a nested model is called on another size than it was
    built with, or a size was left open (None): then Keras infers them, or a run on zeros tells.
    """
    known = [x.shape for x in node.outputs]
    built = [x.shape[1:] for x in node.input_tensors]
    if built == [s[1:] for s in shapes] and not [s for s in known if None in s[1:]]:
        return known
    open_batch = [
        (x.shape[0] and s[0], *s[1:]) if s else ()
        for x, s in zip(node.input_tensors, shapes, strict=True)
    ]
    found = _inferred_shapes(node, open_batch)
    if _are_open(found):  # what follows the batch size is open as long as that is
        found = _inferred_shapes(node, shapes)
    if _are_open(found):  # only a run tells what a layer leaves open
        zeros = {
            id(x): keras.ops.zeros(s, x.dtype)
            for s, x in zip(shapes, node.input_tensors, strict=True)
        }
        outputs = run_operation(node, *node.arguments.fill_in(zeros), training=False)
        found = [tuple(x.shape) for x in tree.flatten(outputs) if x is not None]
    return found


def _are_open(shapes):
    return shapes is None or any(None in s[1:] for s in shapes)


def _inferred_shapes(node, shapes):
    """What Keras infers; None where it cannot, as for a `compute_output_spec` of other arguments
    than those of `call`."""
    tensors = {
        id(x): keras.KerasTensor(s, x.dtype)
        for s, x in zip(shapes, node.input_tensors, strict=True)
    }
    args, kwargs = node.arguments.fill_in(tensors)
    try:
        outputs = node.operation.compute_output_spec(*args, **kwargs)
    except Exception:
        return None
    return [x.shape for x in tree.flatten(outputs) if x is not None]


def layer_at(model, path):
    """The layer of `model` at `path` (`"outer/inner"`: inside nested models and wrappers).

    Raises:
        ValueError: if there is none.
    """
    owner = model
    for name in path.split("/"):
        inside = {x.name: x for x in _inside(owner)}
        if name not in inside:
            raise ValueError(
                f"Received the layer path {path!r}, but {owner.name!r} has no layer {name!r}. "
                f"Expected one of: {', '.join(sorted(inside)) or 'none: it contains no layers'}."
            )
        owner = inside[name]
    return owner


def _inside(owner):
    if is_graph(owner):
        graph = graph_inside(owner)
        return [node.operation for node in graph.nodes] + list(owner.layers)
    return list(owner._flatten_layers(include_self=False, recursive=False))

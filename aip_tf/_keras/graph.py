"""The graph of a Functional model: in which order its operations run, layers by path, taps."""

import importlib
import inspect

import keras
from keras import tree
from keras.src.models.functional import Functional, operation_fn
from keras.src.ops.operation import Operation

_OPERATION_MODULES = ("core", "image", "linalg", "math", "nn", "numpy")


def is_graph(operation):
    """Whether `operation` is a Functional or built Sequential model that runs Keras' own `call`."""
    if isinstance(operation, keras.Sequential):
        return operation.built and operation._functional is not None
    return isinstance(operation, Functional) and type(operation).call is Functional.call


def graph_of(model):
    """The Functional graph of `model`.

    Raises:
        ValueError: if the model is subclassed or not built, so that it has no graph.
    """
    if not is_graph(model):
        kind = type(model).__name__
        hint = (
            "call `model.build(input_shape)` or start it with keras.Input"
            if isinstance(model, keras.Sequential)
            else "build it with keras.Input and keras.Model(inputs, outputs)"
        )
        raise ValueError(
            f"Received a {kind} without a graph of operations. Expected a built Sequential or a "
            f"Functional keras.Model: only those can be traced and cut; {hint}."
        )
    return model._functional if isinstance(model, keras.Sequential) else model


def walk(model, inputs, visit):
    """Run the graph of `model` once, in topological order: the one walk that everything shares.

    Args:
        model: a Functional or built Sequential model.
        inputs: the values of its inputs, of any kind (tensors, symbols, identity arrays), in the
            model's structure or as a flat list.
        visit: `visit(node, args, kwargs) -> outputs`, called for every operation (a nested model
            counts as one), with `args` and `kwargs` in which values stand for tensors.

    Returns:
        The values of the outputs, in the model's structure.
    """
    graph = graph_of(model)
    values = {id(x): v for x, v in zip(graph.inputs, flat_inputs(graph, inputs), strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or not values.keys() >= {id(x) for x in node.input_tensors}:
                continue
            args, kwargs = _fill_in(node.arguments, values)
            outputs = visit(node, args, kwargs)
            if isinstance(outputs, tuple | list | dict):
                flat = tree.flatten(outputs)
                values.update((id(x), y) for x, y in zip(node.outputs, flat, strict=True))
            else:
                values[id(node.outputs[0])] = outputs
    return tree.pack_sequence_as(graph._outputs_struct, [values[id(x)] for x in graph.outputs])


def _fill_in(arguments, values):
    """As `arguments.fill_in`, which is slow where a keyword is given, if only `mask=None`."""
    single = len(arguments.args) == 1 and isinstance(arguments.args[0], keras.KerasTensor)
    if single and all(v is None or isinstance(v, bool) for v in arguments.kwargs.values()):
        return (values[id(arguments.args[0])],), dict(arguments.kwargs)
    return arguments.fill_in(values)


def run_graph(model, inputs, call, prefix=""):
    """Walk `model` and every model nested in it: `call(operation, args, kwargs, path) -> outputs`.

    `path` is the operation's name behind those of the models it is nested in: `"outer/inner"`. With
    `call=lambda operation, args, kwargs, path: operation(*args, **kwargs)` it is the forward pass.
    """

    def visit(node, args, kwargs):
        path = prefix + node.operation.name
        if is_graph(node.operation):
            return run_graph(node.operation, args, call, path + "/")
        return call(node.operation, args, kwargs, path)

    return walk(model, inputs, visit)


def observe(model, inputs, see):
    """Run `model` in inference mode and show every call: `see(operation, path, tensors, outputs)`.

    `tensors` is the flat list of what the operation was called on. Returns the model's outputs.
    """

    def call(operation, args, kwargs, path):
        outputs = operation_fn(operation, training=False)(*args, **kwargs)
        tensors = [x for x in tree.flatten((args, kwargs)) if keras.ops.is_tensor(x)]
        see(operation, path, tensors, outputs)
        return outputs

    return run_graph(model, graph_of(model)._standardize_inputs(inputs), call)


def flat_inputs(graph, inputs):
    """`inputs`, in the graph's structure or named by a dict, as a list in the graph's order."""
    while isinstance(inputs, tuple | list) and len(inputs) == 1 and len(graph.inputs) > 1:
        inputs = inputs[0]
    if isinstance(inputs, dict) and not isinstance(graph._inputs_struct, dict):
        return [inputs[x.name] for x in graph.inputs]
    return tree.flatten(inputs)


def input_structure(model, values):
    """Flat `values` of the inputs in the structure (list, dict) that `model` was built with."""
    return tree.pack_sequence_as(graph_of(model)._inputs_struct, values)


def output_shapes(node, shapes):
    """Shapes of the outputs of `node` for inputs of the given `shapes`, batch size included.

    They are in the graph already unless a nested model is called on another size than it was
    built with, or a size was left open (None): then Keras infers them.
    """
    known = [x.shape for x in node.outputs]
    built = [x.shape[1:] for x in node.input_tensors]
    if built == [s[1:] for s in shapes] and all(None not in s[1:] for s in known):
        return known
    tensors = {
        id(x): keras.KerasTensor((None, *s[1:]), x.dtype)
        for s, x in zip(shapes, node.input_tensors, strict=True)
    }
    args, kwargs = node.arguments.fill_in(tensors)
    return [x.shape for x in tree.flatten(node.operation.compute_output_spec(*args, **kwargs))]


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
        return graph_of(owner).operations
    return list(owner._flatten_layers(include_self=False, recursive=False))


def operation_type(name):
    """The class behind a function of `keras.ops`, or None where this Keras has none."""
    for module in _OPERATION_MODULES:
        found = getattr(importlib.import_module(f"keras.src.ops.{module}"), name, None)
        if inspect.isclass(found) and issubclass(found, Operation):
            return found
    return None


def application_layers():
    """The layer classes that networks of `keras.applications` define for themselves, by name."""
    from keras.src.applications import convnext, inception_resnet_v2

    modules = (convnext, inception_resnet_v2)
    names = ("LayerScale", "StochasticDepth", "CustomScaleLayer")
    return {n: getattr(m, n) for m in modules for n in names if hasattr(m, n)}


def variables_by_training(layer):
    """The two lists of variables that `layer.stateless_call` takes the values of."""
    return layer.trainable_variables, layer.non_trainable_variables


def random_states(layer):
    """The variables of the random generators in `layer` and in what it contains."""
    return [g.state for x in layer._flatten_layers() for g in x._seed_generators]


def all_layers(model):
    """Every layer inside `model`, those of nested models and wrappers included."""
    return list(model._flatten_layers(include_self=False))


def attention_projections(layer):
    """The projections of an attention layer with heads by name: query, key, value, output, gate."""
    found = {
        "query": layer._query_dense,
        "key": layer._key_dense,
        "value": layer._value_dense,
        "output": layer._output_dense,
    }
    gate = getattr(layer, "_gate_dense", None)
    return found if gate is None else found | {"gate": gate}


class TappedModel(keras.Model):
    """`model`, whose call also returns what is read at some paths: `(outputs, {path: found})`.

    `taps` is {path: function}; of `function(x) -> (y, found)` the model goes on with y, equal to x.
    The layers are the model's own; no node is added to its graph.
    """

    def __init__(self, model, taps):
        super().__init__(name=f"{model.name}_tapped")
        self.model = model
        self.taps = taps
        self.built = True
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True

    def call(self, inputs, training=None):
        found = {}

        def call(operation, args, kwargs, path):
            x = operation_fn(operation, training=training)(*args, **kwargs)
            if path in self.taps:
                mask = getattr(x, "_keras_mask", None)
                x, found[path] = self.taps[path](x)
                if mask is not None:
                    x._keras_mask = mask
            return x

        return run_graph(self.model, graph_of(self.model)._standardize_inputs(inputs), call), found

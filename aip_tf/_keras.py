"""The only file that touches Keras' internals: graph nodes, private classes, private attributes.

Everything here answers a question that Keras' public interface does not: in which order do the
operations of a Functional model run, how is one of them copied with another width.
"""

import contextlib
import importlib
import inspect

import keras
import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.models.functional import Functional, operation_fn
from keras.src.ops.operation import Operation
from keras.src.saving.serialization_lib import SafeModeScope
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

_OPERATION_MODULES = ("core", "image", "linalg", "math", "nn", "numpy")


# --- the graph --------------------------------------------------------------------------------


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


# --- copies -----------------------------------------------------------------------------------


@contextlib.contextmanager
def copying():
    """Copies made inside have no initial weights: assign them all. They may contain lambdas.

    Untouched memory saves time and space. The initializers in the configurations stay as they are.
    """
    original = keras.layers.Layer.add_weight

    def add_weight(self, *args, **kwargs):
        if len(args) < 2:
            kwargs["initializer"] = lambda shape, dtype: tf.raw_ops.Empty(shape=shape, dtype=dtype)
        return original(self, *args, **kwargs)

    keras.layers.Layer.add_weight = add_weight
    try:
        with SafeModeScope(False):
            yield
    finally:
        keras.layers.Layer.add_weight = original


def copy_operation(operation, changes):
    """A new operation like `operation`, with `changes` to its configuration.

    Args:
        operation: a layer or an operation of `keras.ops`.
        changes: `{key: value}`.
    """
    if not isinstance(operation, keras.layers.Layer):
        return _copy_ops(operation, changes)
    try:
        config = operation.get_config()
    except NotImplementedError as error:
        raise ValueError(
            f"Received the layer {operation.name!r} of {type(operation).__name__}, which cannot be "
            f"copied: it has no `get_config`. Expected every layer of a model that is cut to "
            f"implement `get_config`, as saving it does."
        ) from error
    return type(operation).from_config(config | changes)


def copy_wrapper(wrapper, layer, changes):
    """A new wrapper (TimeDistributed) like `wrapper` around `layer`."""
    config = wrapper.get_config() | changes
    config.pop("layer")
    return type(wrapper)(layer, **config)


def _copy_ops(operation, changes):
    parameters = inspect.signature(type(operation).__init__).parameters
    names = [
        n for n, p in parameters.items() if n not in ("self", "name") and p.kind != p.VAR_KEYWORD
    ]
    if not all(hasattr(operation, n) or n in changes for n in names):
        return operation
    settings = {n: getattr(operation, n, None) for n in names} | changes
    return type(operation)(**settings, name=operation.name)


def new_operation(type_name, name, **settings):
    """An operation of `keras.ops` by class name, with a name of its own: `Take`, axis=-1."""
    return operation_type(type_name)(**settings, name=name)


def copy_input(tensor, shape, dtype=None):
    """A new `keras.Input` like the symbolic input `tensor`, of another shape.

    Args:
        tensor: a symbolic input of a model.
        shape: its new shape, with the batch size.
        dtype: its new type if it is a floating one; None: as before.
    """
    floating = "float" in tensor.dtype
    settings = {"name": tensor.name, "dtype": dtype if dtype and floating else tensor.dtype}
    layer = tensor._keras_history.operation
    if isinstance(layer, keras.layers.InputLayer):
        settings |= {"name": layer.name, "sparse": tensor.sparse, "optional": layer.optional}
    return keras.Input(batch_shape=shape, **settings)


def copy_sequential(model, layers, inputs):
    """A Sequential model of `layers`; it starts with an input if `model` does."""
    first = [inputs] if isinstance(model._layers[0], keras.layers.InputLayer) else []
    copy = keras.Sequential(first + layers, name=model.name)
    if not first:
        copy.build(inputs.shape)
    return copy


def copy_flags(source, copy):
    """Give `copy` and everything inside it the `trainable` flags of `source`."""
    old = [source, *source._flatten_layers(include_self=False)]
    new = [copy, *copy._flatten_layers(include_self=False)]
    layers = zip(_without_graphs(old), _without_graphs(new), strict=True)
    variables = zip(source.variables, copy.variables, strict=True)
    for before, after in [*layers, *variables]:
        if after.trainable != before.trainable:
            after.trainable = before.trainable


def _without_graphs(layers):
    """A Sequential's inner Functional exists only once it was used: leave it out of the count."""
    hidden = {id(x._functional) for x in layers if isinstance(x, keras.Sequential)}
    return [x for x in layers if not (id(x) in hidden or isinstance(x, keras.layers.InputLayer))]


# --- private classes and attributes -------------------------------------------------------------


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


def all_layers(model):
    """Every layer inside `model`, those of nested models and wrappers included."""
    return list(model._flatten_layers(include_self=False))


def compiled_loss_and_metrics(model):
    """The loss and the list of metrics that `model` was compiled with; None each without."""
    if not model.compiled:
        return None, None
    return model.loss, model._compile_metrics and model._compile_metrics._user_metrics


def attention_projections(layer):
    """The projections of a MultiHeadAttention layer: query, key, value and output."""
    return layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense


# --- several machines ---------------------------------------------------------------------------


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


class ReplicaModel(keras.Model):
    """A built keras.Model with custom steps that run under every `tf.distribute` strategy.

    Plain Keras 3 cannot run MultiWorkerMirroredStrategy (keras#20585): it builds from a batch that
    it reduced wrongly, and averages metrics over axis 0 of a scalar.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = self.distribute_strategy
        if iterator is None or not is_multi_worker(strategy):
            return super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        _, _, batches = next(iter(iterator))
        batch = tree.map_structure(
            lambda x: strategy.experimental_local_results(x)[0], next(batches)
        )
        with strategy.scope():
            self._symbolic_build(data_batch=batch)

    def loss_parts(self, y, y_pred, sample_weight):
        """The compiled loss (None without one) and the losses of layers and regularisers.

        Both are divided by the number of replicas already, as gradients are summed over them.
        """
        compiled = self._compile_loss
        labels = None if compiled is None else compiled(y, y_pred, sample_weight)
        return labels, [self._aggregate_additional_loss(loss) for loss in self.losses]

    def record_loss(self, loss, num_samples):
        """Add a loss that is divided by the number of replicas to the log entry `loss`."""
        self._loss_tracker.update_state(
            unscale_loss_for_distribution(loss), sample_weight=num_samples
        )

    def shape_logs(self, logs):
        """`logs` as `fit` can average them over replicas: of shape (1,) on several machines."""
        if not is_multi_worker(self.distribute_strategy):
            return logs
        return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}


def is_multi_worker(strategy):
    """Whether `strategy` spans several processes, each with its own data pipeline."""
    return _collective_all_reduce_multi_worker(strategy)


def multi_worker_strategy(check_seconds):
    """A MultiWorkerMirroredStrategy that looks at the other workers every `check_seconds`.

    TensorFlow looks every 30 seconds and asks four times, 10 seconds each, before it gives up: a
    dead machine could go unnoticed for longer than a minute.
    """
    CollectiveAllReduceExtended._check_health_interval = check_seconds
    return tf.distribute.MultiWorkerMirroredStrategy()

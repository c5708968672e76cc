"""Copies of layers and operations, some of them with another width."""

import contextlib
import inspect

import keras
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope

from aip_tf._keras.graph import operation_type


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

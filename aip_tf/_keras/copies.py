"""Copies of layers: what is alive travels; a configuration is asked for a new width only.

A configuration stores an activation by its name, forgets what its author forgot, and cannot name
what is not registered. So a layer that keeps its size is *cloned*: a new object with the same
attributes, its own variables and its own sublayers. A layer that changes its size is made anew from
its configuration with the changes, and gets its functions, regularizers, constraints and
initializers back as the objects they are (see `resizing`).

New variables have no values until `fill` gives them one: nothing is initialized for nothing.
"""

import contextlib
import functools
import inspect
import types

import keras
from keras.src.backend.common import global_state
from keras.src.saving.serialization_lib import SafeModeScope, SerializableDict

from aip_tf._keras.layers import operation_type

_UNFILLED = "uninitialized_variables"  # where Keras notes them
# What a new layer has of its own; the rest of its attributes are those of the source.
OWN = {
    "_call_signature",
    "_inbound_nodes",
    "_layers",
    "_losses",
    "_losses_override",
    "_loss_ids",
    "_metrics",
    "_non_trainable_variables",
    "_outbound_nodes",
    "_saved_model_arg_spec",
    "_saved_model_inputs_spec",
    "_seed_generators",
    "_self_name_based_restores",
    "_self_saveable_object_factories",
    "_self_setattr_tracking",
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_deferred_dependencies",
    "_self_unconditional_dependency_names",
    "_self_update_uid",
    "_tracked",
    "_tracker",
    "_trainable_variables",
    "build",
    "quantize",
}


@contextlib.contextmanager
def copying():
    """Variables made inside, in this thread, have no values: `fill` them all behind it.

    Layers made inside may hold functions that are not registered for saving.
    """
    before = list(global_state.get_global_attribute(_UNFILLED, []))
    try:
        with keras.StatelessScope(initialize_variables=False), SafeModeScope(False):
            yield
    finally:
        global_state.set_global_attribute(_UNFILLED, before)


def build_at_once(layer, shape):
    """Build a layer while `copying`, with values: one that makes its state of arrays needs them."""
    scope = global_state.get_global_attribute("stateless_scope")
    global_state.set_global_attribute("stateless_scope", None)
    try:
        layer.build(shape)
    finally:
        global_state.set_global_attribute("stateless_scope", scope)


def fill(variable, value=None):
    """Give a variable made while `copying` its value; None: what its own initializer makes."""
    if is_filled(variable):
        variable.assign(value)
        return
    if value is not None:
        variable._initializer = lambda shape, dtype: value
    variable._deferred_initialize()


def is_filled(variable):
    """Whether `variable` has a value."""
    return variable._value is not None


def copy_variable(variable, dtype=None):
    """A variable without value like `variable`; `dtype` replaces a floating type."""
    floating = dtype and "float" in variable.dtype
    copy = keras.Variable(
        initializer=lambda shape, dtype: keras.ops.cast(variable.value, dtype),
        shape=variable.shape,
        dtype=dtype if floating else variable.dtype,
        trainable=variable.trainable,
        autocast=variable._autocast,
        aggregation=variable.aggregation,
        synchronization=variable.synchronization,
        name=variable.name,
    )
    copy._path = variable.path
    copy.regularizer, copy.constraint = variable.regularizer, variable.constraint
    copy.overwrite_with_gradient = variable.overwrite_with_gradient
    return copy


# --- layers that keep their size ----------------------------------------------------------------


def clone(layer, copies, dtype=None):
    """A new layer with the attributes of `layer`, its own variables and its own sublayers.

    Args:
        layer: a built layer that is no graph.
        copies: `copies.layer(layer)` and `copies.variable(variable)` give the copy of what is
            inside; `copies.note(layer, copy)` is told of the new layer before anything is asked.
        dtype: a floating type for all computation inside, or None.
    """
    copy = _blank(layer)
    copies.note(layer, copy)
    fresh = set(vars(copy)) - layer_attributes() if isinstance(layer, keras.Model) else set()
    with _unlocked(copy):
        for name, value in vars(layer).items():
            if name not in OWN and name not in fresh:
                setattr(copy, name, translated(value, copies))
        if dtype is not None:
            copy._dtype_policy = keras.dtype_policies.get(dtype)
        _track_in_order(layer, copy, copies)
    if type(layer) is keras.layers.Identity and layer._auto_config is None:
        # One that was given a policy object cannot be saved; one of the same name can.
        copy._auto_config = SerializableDict(dtype=copy.dtype_policy.name)
    return copy


@functools.cache
def layer_attributes():
    """What Keras sets on every layer."""
    return frozenset(vars(keras.layers.Layer()))


def _blank(layer):
    """An object of the layer's class on which only Keras' own constructor has run."""
    copy = type(layer).__new__(type(layer))
    base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
    base.__init__(copy, name=layer.name)
    return copy


@contextlib.contextmanager
def _unlocked(layer):
    layer._tracker.unlock()
    yield
    if layer.built:
        layer._lock_state()


def _track_in_order(layer, copy, copies):
    """Let `copy` list its variables and layers in the order of `layer`, none missing or twice."""
    order = {
        "_trainable_variables": copies.variable,
        "_non_trainable_variables": copies.variable,
        "_layers": copies.layer,
    }
    stores = ("trainable_variables", "non_trainable_variables", "layers")
    for (name, copy_of), store in zip(order.items(), stores, strict=True):
        found = [copy_of(x) for x in getattr(layer, name)]
        getattr(copy, name)[:] = found
        copy._tracker.stored_ids[store] = {id(x) for x in found}


def translated(value, copies):
    """`value` with the copies in place of the layers and variables in it; the rest is shared."""
    if isinstance(value, keras.Variable):
        return copies.variable(value)
    if isinstance(value, keras.layers.Layer):
        return copies.layer(value)
    if isinstance(value, keras.random.SeedGenerator):
        return copies.seed_generator(value)
    if isinstance(value, types.MethodType):
        owner = translated(value.__self__, copies)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        new = [translated(x, copies) for x in parts]
        same = all(a is b for a, b in zip(parts, new, strict=True))
        return value if same else functools.partial(new[0], *new[1], **new[2])
    if isinstance(value, types.FunctionType):
        return _translated_function(value, copies)
    return _translated_container(value, copies)


def _translated_container(value, copies):
    if isinstance(value, dict):
        new = {k: translated(v, copies) for k, v in value.items()}
        return new if any(new[k] is not value[k] for k in value) else value
    if isinstance(value, list | tuple | set | frozenset):
        old = list(value)
        new = [translated(x, copies) for x in old]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return list(value) if isinstance(value, list) else value
        if hasattr(value, "_fields"):
            return type(value)(*new)
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return kind(new)
    return value


def _translated_function(function, copies):
    """A function that closes over layers, their methods or variables closes over their copies."""
    if not function.__closure__:
        return function
    contents = []
    for cell in function.__closure__:
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # an empty cell
            return function
    moved = keras.layers.Layer | keras.Variable | types.MethodType
    if not any(isinstance(x, moved) for x in contents):
        return function
    new = [types.CellType(translated(x, copies)) for x in contents]
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, tuple(new)
    )
    copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return functools.update_wrapper(copy, function)


# --- operations, inputs, models -------------------------------------------------------------------


def copy_ops(operation, changes):
    """A new operation of `keras.ops` like `operation`, with `changes` to its arguments."""
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

    Its name is that of the layer: Keras takes data by it and writes it to files. The tensor's own
    is another, such as `keras_tensor_7`, where nobody named the input.

    Args:
        tensor: a symbolic input of a model.
        shape: its new shape, with the batch size.
        dtype: its new type if it is a floating one; None: as before.
    """
    floating = "float" in tensor.dtype
    settings = {"name": tensor.name, "dtype": dtype if dtype and floating else tensor.dtype}
    if layer := input_layer(tensor):
        settings |= {"name": layer.name, "sparse": tensor.sparse, "optional": layer.optional}
    return keras.Input(batch_shape=shape, **settings)


def input_layer(tensor):
    """The InputLayer behind a symbolic input, or None."""
    history = getattr(tensor, "_keras_history", None)
    layer = history and history.operation
    return layer if isinstance(layer, keras.layers.InputLayer) else None


def is_optional(tensor):
    """Whether a tensor is an input of a model that need not be given."""
    return bool((layer := input_layer(tensor)) and layer.optional)


def copy_sequential(model, layers, inputs):
    """A Sequential model of `layers`; it starts with an input if `model` does."""
    first = [inputs] if isinstance(model._layers[0], keras.layers.InputLayer) else []
    copy = keras.Sequential(first + layers, name=model.name)
    if not first:
        copy.build(inputs.shape)
    return copy


def take_policy(copy, model, dtype):
    """Give a Functional copy the dtype policy of its model, or `dtype`: `compile` goes by it."""
    copy._dtype_policy = keras.dtype_policies.get(dtype) if dtype else model.dtype_policy


def set_flags(pairs):
    """Give copies the `trainable` flags of their sources, each its own, none inherited.

    Args:
        pairs: pairs of layers and pairs of variables.
    """
    for source, copy in pairs:
        if isinstance(source, keras.Variable):
            copy.trainable = source.trainable
        else:
            copy._trainable = source._trainable


def rename(operation, name):
    """Give a copy another name."""
    operation.name = name

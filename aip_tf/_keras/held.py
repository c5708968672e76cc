"""Variables that a composite layer owns itself, constants that it calls layers on: what stands for
them in its graph, and in a copy."""

import functools
import math

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope

_BY_ENTRY = {getattr(keras.regularizers, name) for name in ("L1", "L2", "L1L2")}
_NO_OPERATORS = {"__init__", "__init_subclass__", "__new__", "__repr__", "__class__"}


class Held(keras.layers.Layer):
    """Stands for a variable in the graph of the layer that owns it; its call returns the value.

    Args:
        variable: the `keras.Variable`.
        dtype: the dtype policy of the owner.
    """

    def __init__(self, variable, dtype):
        super().__init__(name=variable.name, dtype=dtype)
        self.variable = variable
        self.built = True

    def call(self, x):
        return ops.convert_to_tensor(self.variable)

    def compute_output_spec(self, x):
        is_floating = "float" in self.variable.dtype
        dtype = self.compute_dtype if is_floating else self.variable.dtype
        return keras.KerasTensor(self.variable.shape, dtype)


@functools.cache
def symbolic_class(cls):
    """A subclass of a variable's class that operations take for a symbolic tensor.

    So they are recorded with the variable as their argument, and do not compute with its value.
    """
    operators = {
        name: method
        for name, method in vars(keras.KerasTensor).items()
        if name.startswith("__") and name not in _NO_OPERATORS and callable(method)
    }
    settings = {"record_history": True, "sparse": False, "ragged": False}
    own = {"__module__": cls.__module__, "__getitem__": _part, "assign": _assign}
    members = operators | settings | own
    return type(cls)(cls.__name__, (cls, keras.KerasTensor), members)


def _part(variable, key):
    """Keras knows no slice of a symbol but in a tuple."""
    return keras.KerasTensor.__getitem__(variable, (key,) if isinstance(key, slice) else key)


def _assign(variable, value):
    """Tell the scope around; `value` may be a symbol."""
    get_stateless_scope().add_update((variable, value))
    return value


def hold(held, x, shape, dtype=None):
    """What stands for `held` in a copy that loads without us: a Dense layer that reads a one.

    Args:
        held: a `Held`.
        x: a symbolic tensor to hang it on; its values do not matter.
        shape: shape of the variable that is left.
        dtype: the floating type in which the copy computes; None: that of the owner.

    Returns:
        The Dense layer, whose kernel (1, size) holds the values, and its output of `shape`.
    """
    is_floating = "float" in held.variable.dtype
    # A kernel is no integer: half precision would round those that do not fit.
    policy = keras.dtype_policies.get(dtype or (held.dtype_policy if is_floating else "float32"))
    one = ops.cast(ops.ones_like(ops.sum(x)), policy.compute_dtype)
    dense = keras.layers.Dense(math.prod(shape), use_bias=False, name=held.name, dtype=policy)
    values = ops.reshape(dense(ops.reshape(one, (1, 1))), shape)
    return dense, values if is_floating else ops.cast(values, held.variable.dtype)


class Given(keras.Operation):
    """A constant in a graph, hung on a symbol: so a layer that is called on one leaves a node.

    Or anything that is repeated for every sample.

    Args:
        rest: sizes behind the batch axis, if it is repeated; None: the value stays what it is.
    """

    def __init__(self, rest=None, *, name="given"):
        super().__init__(name=name)
        self.rest = rest

    def call(self, x, value):
        return give(x, value, self.rest)

    def compute_output_spec(self, x, value):
        shape = value.shape if self.rest is None else (x.shape[0], *self.rest)
        return keras.KerasTensor(shape, keras.backend.standardize_dtype(value.dtype))


def give(x, value, rest=None):
    """What `Given` computes, by stock operations; the values of `x` do not matter."""
    axes = None if rest is None else tuple(range(1, len(x.shape)))
    either = ops.equal(ops.sum(x, axes), 0)
    if rest is not None:
        either = ops.reshape(either, (-1, *[1] * len(rest)))
        if tuple(value.shape) != (1, *rest):
            value = ops.broadcast_to(value, (1, *rest))
    return ops.where(either, value, value)


def why_not_held(variable):
    """Why no stock layer can stand for an own variable of a composite, or None."""
    if variable.constraint is not None:
        return f"its variable {variable.path!r} has a constraint, which sees its shape"
    if variable.regularizer is not None and type(variable.regularizer) not in _BY_ENTRY:
        kind = type(variable.regularizer).__name__
        return f"its variable {variable.path!r} has the regularizer {kind}, which sees its shape"
    return None

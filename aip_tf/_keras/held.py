"""Variables that a composite layer owns itself: a layer that holds one, and stock layers for it."""

import functools
import math

import keras
from keras import ops


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
        return keras.KerasTensor(self.variable.shape, self.compute_dtype)


_OPERATORS = {
    "__add__": ops.add,
    "__matmul__": ops.matmul,
    "__mul__": ops.multiply,
    "__pow__": ops.power,
    "__sub__": ops.subtract,
    "__truediv__": ops.true_divide,
}


@functools.cache
def symbolic_class(cls):
    """A subclass of a variable's class that may stand left of a symbolic tensor: `gamma * x`."""

    def method(name, function):
        def operate(self, other):
            if isinstance(other, keras.KerasTensor):
                return function(self, other)
            return getattr(cls, name)(self, other)

        return operate

    methods = {name: method(name, function) for name, function in _OPERATORS.items()}
    return type(cls)(cls.__name__, (cls,), methods | {"__module__": cls.__module__})


def hold(held, x, shape):
    """What stands for `held` in a copy that loads without us: a Dense layer that reads a one.

    Args:
        held: a `Held`.
        x: a symbolic tensor to hang it on; its values do not matter.
        shape: shape of the variable that is left.

    Returns:
        The Dense layer, whose kernel (1, size) holds the values, and its output of `shape`.
    """
    one = ops.cast(ops.ones_like(ops.sum(x)), held.compute_dtype)
    dense = keras.layers.Dense(
        math.prod(shape), use_bias=False, name=held.name, dtype=held.dtype_policy
    )
    return dense, ops.reshape(dense(ops.reshape(one, (1, 1))), shape)

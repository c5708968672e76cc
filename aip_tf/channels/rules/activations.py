"""Activation functions: which of them treat every entry alone is read off what they compute."""

import enum
import functools

import keras

from aip_tf import _keras

# TensorFlow's operations that compute each entry from the entries at the same place.
_ELEMENTWISE = """
    Abs Acos Acosh Add AddV2 Asin Asinh Atan Atan2 Atanh BesselI0e BesselI1e BitwiseAnd
    BitwiseOr BitwiseXor Cast Ceil CheckNumerics ClipByValue Cos Cosh Digamma Div DivNoNan Elu
    Equal Erf Erfc Erfinv Exp Expm1 Fill Floor FloorDiv FloorMod Greater GreaterEqual Identity
    IdentityN Igamma Inv IsFinite IsInf IsNan LeakyRelu Less LessEqual Lgamma Log Log1p
    LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter
    NotEqual OnesLike Pow PreventGradient ReadVariableOp RealDiv Reciprocal Relu Relu6 Rint
    Round Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Sinh Snapshot Softplus Softsign Sqrt
    Square SquaredDifference StopGradient Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py
    Xlogy ZerosLike
"""

# Noise is drawn for each entry, sample or channel alike: it depends on no other entry. But what is
# drawn for fewer channels is something else, so it may not be part of an answer.
_RANDOM = """
    MultinomialV2 ParameterizedTruncatedNormal RandomGamma RandomStandardNormal RandomUniform
    RandomUniformInt StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomUniform
    StatelessRandomUniformV2 StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
"""

# A tuple: a function need not be hashable.
_SOFTMAX = (keras.activations.softmax, keras.activations.log_softmax, keras.ops.softmax)


class _Value(enum.Enum):
    """What a recorded tensor holds."""

    ENTRIES = 1  # each entry depends on the input's entry at the same place
    NUMBER = 2  # the same number for every entry
    SIZES = 3  # the shape of the input
    TABLE = 4  # constants of several entries


def elementwise_reason(function, rank, dtype):
    """Why `function` may mix the entries of a tensor: part of a sentence; "" if it does not.

    Args:
        function: any callable of a tensor; None is the identity.
        rank: number of axes of the tensor.
        dtype: its type.
    """
    if function is None:
        return ""
    try:
        return _remembered_reason(function, rank, dtype)
    except TypeError:  # not hashable
        return recorded_reason(function, rank, dtype)


@functools.lru_cache(maxsize=256)
def _remembered_reason(function, rank, dtype):
    return recorded_reason(function, rank, dtype)


def recorded_reason(function, rank, dtype, may_draw=False):
    """As `elementwise_reason`; nothing is remembered of the function, and noise may be asked for.

    Args:
        function, rank, dtype: see `elementwise_reason`.
        may_draw: whether it may draw random numbers, as in training.
    """
    try:
        graph = _keras.recorded_graph(function, rank, dtype)
    except Exception as error:  # whatever a user's function raises: then it is unknown
        kind = type(error).__name__
        return f"which cannot be read: it raises {kind} for a tensor of open sizes"
    value, *others = _follow(graph, [_Value.ENTRIES], may_draw)
    if value in _RANDOM.split():
        return "which draws random numbers at inference"
    if isinstance(value, str):
        return f"which may mix its channels: it computes {value}"
    alone = value is _Value.ENTRIES and not others
    return "" if alone else "which does not return one value for each entry"


def _follow(graph, given, may_draw):
    """What the outputs of a recorded graph hold, given what its first inputs hold.

    Returns:
        For each output a `_Value`, or the name of an operation for which it is none of these.
    """
    held = [_held(x) for x in graph.inputs[len(given) :]]
    values = {x.name: value for x, value in zip(graph.inputs, [*given, *held], strict=True)}
    for operation in graph.get_operations():
        if operation.outputs and operation.outputs[0].name not in values:
            found = _computed(operation, [values[x.name] for x in operation.inputs], may_draw)
            values.update((x.name, v) for x, v in zip(operation.outputs, found, strict=True))
    return [values[x.name] for x in graph.outputs]


def _held(tensor):
    """A constant or variable: a number, or a table that would belong to certain channels."""
    sizes = tensor.shape
    return _Value.NUMBER if sizes.rank is not None and sizes.num_elements() == 1 else _Value.TABLE


def _computed(operation, values, may_draw):
    count = len(operation.outputs)
    mixed = [v for v in values if isinstance(v, str)]
    if mixed:
        return mixed[:1] * count
    if operation.type == "Const":
        return [_held(operation.outputs[0])]
    if operation.type == "Shape":
        return [_Value.SIZES]
    if operation.type == "Fill":
        return [values[1]]
    if operation.type == "ReadVariableOp":
        return [_held(operation.outputs[0])]
    inner = _keras.called_graph(operation)
    if inner is not None:
        return _follow(inner, values, may_draw)
    if operation.type in _RANDOM.split():
        return [_Value.NUMBER if may_draw else operation.type] * count
    is_elementwise = operation.type in _ELEMENTWISE.split()
    if _Value.ENTRIES not in values:
        others = set(values) - {_Value.NUMBER}
        if not is_elementwise or others:
            return [_Value.SIZES if _Value.SIZES in others else _Value.TABLE] * count
        return [_Value.NUMBER] * count
    if not is_elementwise:
        return [operation.type] * count
    if _Value.SIZES in values:
        return [f"{operation.type} with the sizes of the tensor"] * count
    if _Value.TABLE in values:
        return [f"{operation.type} with constants of several entries"] * count
    return [_Value.ENTRIES] * count


def name_of(function):
    """How a reason names a function."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return getattr(function, "__name__", None) or type(function).__name__


def activate(call, x, activation):
    """`x` behind an activation: unchanged if that treats every entry alone, else kept whole.

    Args:
        call: the `Call` of the layer that applies it.
        x: identity array.
        activation: a function, a layer, or None.

    Returns:
        The identity array of the result.
    """
    if isinstance(activation, keras.layers.Layer):
        return _activation_layer(call, x, activation)
    if activation in _SOFTMAX and call.settle(x) not in (None, x.ndim - 1):
        return x
    reason = elementwise_reason(activation, x.ndim, call.operation.compute_dtype)
    if reason:
        call.pin(x, f"{call.label} applies `{name_of(activation)}`, {reason}")
    return x


def _activation_layer(call, x, layer):
    if not layer.built:
        call.pin(
            x,
            f"{call.label} applies `{layer.name}`, a layer whose weights do not exist yet (call "
            f"the model on a batch first)",
        )
        return x
    inner = call.inside(layer, x, x.shape)
    if inner.masked_call:  # it treats absent channels in its own way
        call.pin(x, f"{call.label} applies `{layer.name}`, a layer that mixes its channels")
    return inner.outputs[0]

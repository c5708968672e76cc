"""Operations that compute each entry from the entries at the same place."""

import numpy as np
from keras import layers

from aip_tf import _keras
from aip_tf.channels.identities import IdentityArray, compact, rows
from aip_tf.channels.rules.activations import activate
from aip_tf.channels.rules.table import keep_all, operations, register_channel_rule

_UNARY = """
    Abs Absolute Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctanh BitwiseInvert BitwiseNot
    Cast Cbrt Ceil Celu Clip Conj Conjugate ConvertToTensor Copy Cos Cosh Deg2rad Elu EmptyLike
    Erf Erfc Erfinv Exp Exp2 Expm1 Fabs Floor FullLike Gelu HardShrink HardSigmoid HardSilu
    HardTanh I0 Imag Isfinite Isinf Isnan Isneginf Isposinf Isreal LeakyRelu Log Log10 Log1p
    Log2 LogSigmoid LogicalNot NanToNum Negative OnesLike Rad2deg ReLU Real Reciprocal Relu Relu6
    Round Rsqrt SaturateCast Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh SoftShrink Softplus
    Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient Tan Tanh TanhShrink
    Threshold Trunc ZerosLike
"""

_BINARY = """
    Arctan2 BitwiseAnd BitwiseLeftShift BitwiseOr BitwiseRightShift BitwiseXor Divide
    DivideNoNan Equal FloorDivide Fmax Fmin Fmod Gcd Greater GreaterEqual Heaviside Hypot
    Isclose Lcm Ldexp LeftShift Less LessEqual Logaddexp Logaddexp2 LogicalAnd LogicalOr
    LogicalXor Maximum Minimum Mod Multiply Nextafter NotEqual Power RightShift TrueDivide Where
"""


@register_channel_rule(
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    *operations(*_UNARY.split()),
)
def unary(call, x, *bounds, **settings):
    """Each entry alone: nothing changes, unless a noise shape names the number of channels."""
    noise_shape = getattr(call.operation, "noise_shape", None)
    axis = call.settle(x) if noise_shape is not None else None
    if axis is not None and noise_shape[axis] not in (None, 1):
        return keep_all(call, f"{call.path} has the noise shape {noise_shape}")
    given = [*bounds, *settings.values()]
    if not isinstance(call.operation, layers.Layer):  # such as the bounds of Clip
        given += [v for k, v in vars(call.operation).items() if k[0] != "_"]
    if isinstance(x, list) or any(isinstance(v, IdentityArray) or np.size(v) > 1 for v in given):
        return keep_all(call, f"{call.path} has tensors as settings")
    return x


@register_channel_rule(layers.Activation)
def activation(call, x):
    """Any function of each entry alone; one that mixes channels keeps them."""
    return activate(call, x, call.operation.activation)


@register_channel_rule(layers.Softmax, *operations("Softmax", "LogSoftmax", "Sparsemax"))
def softmax(call, x, mask=None):
    """Every entry depends on all others along the axis: channels that lie there are kept."""
    axis = getattr(call.operation, "axis", -1)
    axes = [a % x.ndim for a in (axis if isinstance(axis, tuple | list) else [axis])]
    if call.settle(x) in axes:
        call.pin(x, f"{call.label} normalises over these channels")
    if mask is not None:
        return broadcast(call, x, mask)
    return x


@register_channel_rule(layers.PReLU)
def prelu(call, x):
    """One slope per entry, shared along the shared axes."""
    axis = call.settle(x)
    alpha = call.operation.alpha
    if axis and alpha.shape[axis - 1] > 1:
        call.weight(alpha, axis - 1, call.channels(x, axis), "channelwise")
    return x


@register_channel_rule(layers.Rescaling)
def rescaling(call, x):
    """Scale and offset: one number, or one for each channel (then edited)."""
    for key in ("scale", "offset"):
        value = getattr(call.operation, key)
        if np.size(value) == 1:
            continue
        if np.ndim(value) == 1:
            ids = call.channels(x)
            call.config(key, ids, lambda kept, v=value, ids=ids: np.asarray(v)[kept(ids)].tolist())
        else:
            call.pin(x, f"{call.label} has a {key} of several axes")
    return x


def broadcast(call, *values, residual=False):
    """Rule R2: unify entry by entry, with numpy's broadcasting.

    An operand of size 1 that is stretched along an axis on which another varies is kept whole: its
    one channel belongs to all of theirs.
    """
    places = [k for k, x in enumerate(values) if isinstance(x, IdentityArray) or np.ndim(x)]
    arrays = [
        values[k] if isinstance(values[k], IdentityArray) else call.constant(values[k], k)
        for k in places
    ]
    rank = max(x.ndim for x in arrays)
    arrays = [x.reshape((1,) * (rank - x.ndim) + x.shape) if x.ndim < rank else x for x in arrays]
    shapes = [x.shape for x in arrays]
    shape = shapes[0] if len({*shapes}) == 1 else np.broadcast_shapes(*shapes)
    _lay_constants(call, arrays, [k not in call.constants for k in places])
    axes = [call.settle(x) for x in arrays]
    widths = [1 if a is None else s[a] for s, a in zip(shapes, axes, strict=True)]
    first = widths.index(max(widths))
    output, varying = arrays[first], axes[first]
    fits = output.shape == shape  # a view all the same: the result is a tensor of its own
    result = output.view() if fits else np.broadcast_to(compact(output), shape)
    for x, axis in zip(arrays, axes, strict=True):
        if x is output:
            continue
        if varying is not None and x.shape[varying] < shape[varying]:
            call.pin(x, f"{call.label} stretches it over other channels")
        elif axis is not None and output.shape[axis] < shape[axis]:
            for operand in (x, output):  # each lies along an axis on which the other has none
                call.pin(operand, f"{call.label} crosses these channels with others")
        else:
            call.unify(compact(x), compact(output))
    if residual and len(arrays) > 1:
        call.residual(output)
    return result


def _lay_constants(call, arrays, are_traced):
    """Lay constants along the axis of the channels they meet: they may vary along others, and be
    longer there, as a table of positions is."""
    traced = [x for x, is_traced in zip(arrays, are_traced, strict=True) if is_traced]
    axes = [(x.shape[a], a) for x in traced if (a := call.settle(x)) is not None]
    for x, is_traced in zip(arrays, are_traced, strict=True):
        if axes and not is_traced:
            table = rows(x, max(axes)[1])
            call.unify(table, table[:, :1])


@register_channel_rule(*operations(*_BINARY.split()))
def binary(call, *values):
    """Two or three operands, tensors or constants."""
    return broadcast(call, *values)


@register_channel_rule(*operations("Add", "Subtract"))
def addition(call, *values):
    """A sum of two operands."""
    return broadcast(call, *values, residual=True)


@register_channel_rule(layers.Multiply, layers.Maximum, layers.Minimum)
def merge(call, values):
    """Entry by entry: channel i of all inputs is one channel."""
    return broadcast_layer(call, values)


@register_channel_rule(layers.Add, layers.Subtract, layers.Average)
def sum_layer(call, values):
    """A residual connection: channel i of all inputs is one channel."""
    return broadcast_layer(call, values, residual=True)


def broadcast_layer(call, values, residual=False):
    """Merging layers align operands of lower rank behind the batch axis, not at the end."""
    rank = max(x.ndim for x in values)
    aligned = [
        x if x.ndim == rank else x.reshape(x.shape[0], *(1,) * (rank - x.ndim), *x.shape[1:])
        for x in values
    ]
    return broadcast(call, *(x.view(IdentityArray) for x in aligned), residual=residual)


_application_layers = _keras.application_layers()


@register_channel_rule(_application_layers["StochasticDepth"])
def stochastic_depth(call, x):
    """Drops whole samples."""
    return x


@register_channel_rule(_application_layers["CustomScaleLayer"])
def scaled_sum(call, values):
    """Inception-ResNet's `x + scale * residual`."""
    return broadcast(call, *values, residual=True)


@register_channel_rule(_application_layers["LayerScale"])
def layer_scale(call, x):
    """ConvNeXt's learnt factor for each channel."""
    ids = call.channels(x)
    call.weight(call.operation.gamma, 0, ids, "channelwise")
    call.config("projection_dim", ids)
    return x

"""The table of rules, and what happens to an operation that is not in it."""

import functools
import inspect
import math

import keras
from keras import tree

from aip_tf import _keras
from aip_tf.channels.rules.activations import recorded_reason

_rules = {}
# What a class statement leaves in a class whose body is empty.
_METADATA = """
    __annotations__ __dict__ __doc__ __firstlineno__ __module__ __static_attributes__ __weakref__
"""


def register_channel_rule(*operation_types):
    """Teach the tracer a layer or operation; used as a decorator. Later registrations win.

    The rule stands for exactly these classes, and for subclasses that change nothing: any other
    subclass may compute something else, and what is unknown is kept, never guessed.

    Args:
        *operation_types: subclasses of `keras.layers.Layer` or `keras.Operation`.

    Returns:
        A decorator for `rule(call, *args, **kwargs) -> identity arrays of the outputs`; `call` is
        documented in `aip_tf.channels.call.Call`.

    Raises:
        ValueError: if one of the types is not a class.

    Example:

    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
    ...     def call(self, x):
    ...         return x * self.factor
    >>> @aip_tf.register_channel_rule(Scale)
    ... def scale(call, x):
    ...     call.weight(call.operation.factor, 0, call.channels(x), "channelwise")
    ...     return x
    """
    for operation_type in operation_types:
        if not inspect.isclass(operation_type):
            raise ValueError(
                f"Received {operation_type!r} as an operation type. Expected a class, as in "
                f"@register_channel_rule(MyLayer)."
            )

    def register(rule):
        for operation_type in operation_types:
            _rules[operation_type] = rule
        return rule

    return register


def operations(*names):
    """The classes behind functions of `keras.ops` by class name, where this Keras has them."""
    return [found for name in names if (found := _keras.operation_type(name)) is not None]


def has_rule(operation):
    """Whether there is a rule for the class of `operation`, which calls what its class does."""
    return _rule_of_class(operation) is not None


def _rule_of_class(operation):
    return None if "call" in vars(operation) else _rule_for(type(operation))


def stock_layers(*names):
    """The classes of `keras.layers` by name, where this Keras has them."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


def _rule_for(kind):
    """The rule for a class: its own, or that of a base of which it changes nothing; else None."""
    for base in kind.__mro__:
        if base in _rules:
            return _rules[base]
        if any(
            name not in _METADATA.split() and not name.startswith("_api_") for name in vars(base)
        ):
            return None
    return None


def known_rules():
    """All rules: `{class of a layer or operation: rule}`."""
    return dict(_rules)


def run_rule(call, args, kwargs):
    """Run the rule for the operation of a `Call`: the identity arrays of its outputs.

    A layer with variables that its rule does not know is kept whole after all.
    """
    kwargs = {k: v for k, v in kwargs.items() if v is not None and k != "training"}
    rule = _rule_of_class(call.operation) or unknown
    not_taken = _strange(rule, kwargs) if kwargs else []
    if not_taken:
        return keep_all(
            call, f"{call.label} is called with {_listed(not_taken)}, which its rule ignores"
        )
    outputs = rule(call, *args, **kwargs)
    strange = _unknown_variables(call)
    if strange:
        reason = f"{call.label} has {_listed(strange)}, which its channel rule does not know"
        reason += _remedy(call.operation, strange)
        call.keep(reason)
        for x in tree.flatten(outputs):
            call.pin(x, reason)
    return outputs


def _strange(rule, kwargs):
    parameters = inspect.signature(rule).parameters
    catches_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    return [] if catches_all else [k for k in kwargs if k not in parameters]


def _remedy(layer, names):
    """What to do about the mode that brought a layer its strange variables."""
    if any(name.startswith("lora") for name in names):
        return (
            " (LoRA: to merge it, `save_weights`, then `load_weights` into the same model without "
            "`enable_lora`)"
        )
    mode = layer.quantization_mode
    return f" (it is quantized to {mode}: cut the model before it is quantized)" if mode else ""


def _unknown_variables(call):
    """Names of the layer's variables of which its rule said nothing, though it spoke of others."""
    layer = call.operation
    if not call.declares or not isinstance(layer, keras.layers.Layer):
        return []
    strange = [v for v in layer.variables if id(v) not in call.known_variables]
    if not strange:  # the usual case
        return []
    random = {id(v) for v in _keras.random_states(layer)}
    names = [v.name for v in strange if id(v) not in random and math.prod(v.shape) > 1]
    return [n for n in names if n.startswith("lora")] or names


def _listed(names):
    names = [f"`{n}`" for n in dict.fromkeys(names)]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def unknown(call, *args, **kwargs):
    """Everything that an operation without a rule touches is kept.

    Unless it is seen to compute each entry alone, as a Lambda with a function of TensorFlow.
    """
    if not kwargs and _treats_entries_alone(call, args):
        return args[0]
    kind = type(call.operation).__name__
    reason = f"{call.path} has no channel rule (register_channel_rule({kind}) adds one)"
    if unopened := call.unopened:
        reason += f" and cannot be opened: {unopened}"
    return keep_all(call, reason, call.macs_inside())


def _treats_entries_alone(call, args):
    """Whether a layer without weights does, in both modes; in training it may draw at random."""
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or layer.weights or len(args) != 1:
        return False
    same_shape = (
        len(call.inputs) == 1 and call.inputs[0] is args[0] and call.shapes == [args[0].shape]
    )
    return same_shape and not any(
        recorded_reason(
            functools.partial(layer, training=training),
            args[0].ndim,
            layer.compute_dtype,
            may_draw=training,
        )
        for training in (False, True)
    )


def keep_all(call, reason, macs=0):
    """Pin what flows into a call and what flows out of it; `macs` is what it costs then."""
    for x in call.inputs:
        call.pin(x, reason)
    if macs:
        call.macs(call.pinned((1,), reason), factor=macs)
    return [call.pinned(shape, reason) for shape in call.shapes]

"""Calls of layers on symbols, quicker than Keras': where it would do nothing but compute."""

import types

import keras
from keras import tree
from keras.src.backend.common.variables import get_autocast_scope
from keras.src.distribution import distribution
from keras.src.layers.merging.base_merge import Merge
from keras.src.utils.python_utils import is_default

from aip_tf._keras.nodes import Call

_STOCK = ("keras.src.layers.", "keras.src.models.")
_SETTINGS = (bool, int, float, str, type(None))


class Plain:
    """Which calls are plain: no mask, no cast, no loss, nothing to be built, to be put elsewhere.

    Of a plain call `Layer.__call__` hands `training` on, calls, and leaves a node behind. Asking it
    again and again whether there is more to do is most of its time.
    """

    def __init__(self):
        self._is_spread = distribution() is not None
        self._layers = {}

    def takes(self, layer, args, kwargs):
        """Whether a call of `layer` on symbols is plain."""
        if id(layer) not in self._layers:
            self._layers[id(layer)] = _is_plain(layer)
        if self._is_spread or not self._layers[id(layer)] or get_autocast_scope() is not None:
            return False
        kwargs = without_mode(kwargs)
        if len(args) == 1 and is_symbol(args[0]) and not kwargs:
            return _fits(layer, args[0])
        if not all(map(is_symbol, args)) and "mask" in " ".join(layer.call_signature_parameters):
            return False  # Keras fills in a list of masks
        return all(_fits(layer, x) for x in tree.flatten((args, kwargs)))


def call_composite(layer, args, kwargs):
    """A plain call of a layer that is recorded; returns its outputs."""
    parameters = layer.call_signature_parameters
    given = {k: v for k, v in kwargs.items() if k != "training" or k in parameters}
    usual = {"training": usual_mode(layer)}
    spec = types.SimpleNamespace(user_arguments_dict=kwargs, arguments_dict=usual)
    try:
        context = layer._get_call_context()
        layer._resolve_and_populate_arg("training", spec, context, given)
        outputs = layer.symbolic_call(*args, **given)
    finally:
        layer._maybe_reset_call_context()
    Call(layer, args, without_mode(kwargs), outputs)
    return outputs


def call_leaf(layer, args, kwargs):
    """A plain call of a stock layer or model; None: only Keras knows what it gives."""
    if kwargs.keys() - {"training"} or not str(type(layer).__module__).startswith(_STOCK):
        return None
    try:
        outputs = _outputs(layer, args)
    except ValueError:  # a model is called on another size
        return None
    Call(layer, args, {}, outputs)
    return outputs


def usual_mode(layer):
    """The default of `training` in a layer's call: its mode where nobody says one; or None."""
    found = layer._call_signature.parameters.get("training")
    return None if found is None or found.default is found.empty else found.default


def without_mode(kwargs):
    """Keyword arguments without `training`."""
    return {k: v for k, v in kwargs.items() if k != "training"} if kwargs else kwargs


def stand_in(x, batch=None, name=None):
    """A symbol like another, without its history; where its batch size is open, it is `batch`."""
    shape = x.shape if batch is None or not has_open_batch(x) else (batch, *x.shape[1:])
    return keras.KerasTensor(shape, x.dtype, sparse=x.sparse, name=name or x.name)


def is_symbol(x):
    """Whether `x` is a symbolic tensor."""
    return isinstance(x, keras.KerasTensor)


def has_open_batch(x):
    """Whether `x` is a symbol for any number of samples."""
    return is_symbol(x) and x.shape[:1] == (None,)


def _is_plain(layer):
    cls, base = type(layer).__mro__[1], keras.layers.Layer  # the first is the one that records
    # A layer that merges makes no mask of none; any other may.
    has_masks = cls.compute_mask is not base.compute_mask and not issubclass(cls, Merge)
    return (
        layer.built
        and cls.__call__ is base.__call__
        and layer._call_context_args == {"training"}
        and layer.input_dtype == layer.variable_dtype
        and layer.activity_regularizer is None
        and not (has_masks and layer.supports_masking)
    )


def _fits(layer, x):
    """Whether an argument is used as it is."""
    if not is_symbol(x):
        return isinstance(x, _SETTINGS)
    is_cast = "float" in x.dtype and x.dtype != layer.input_dtype
    return not is_cast and getattr(x, "_keras_mask", None) is None


def _outputs(layer, args):
    """What a layer gives: asked by size where that is enough, which is ten times quicker."""
    cls, base = type(layer), keras.layers.Layer
    is_by_size = cls.compute_output_spec is base.compute_output_spec and not is_default(
        cls.compute_output_shape
    )
    if is_by_size and len(args) == 1 and is_symbol(args[0]):
        shape = layer.compute_output_shape(args[0].shape)
        if isinstance(shape, tuple) and all(isinstance(s, int | None) for s in shape):
            return keras.KerasTensor(shape, layer.compute_dtype, name=layer.name)
    return tree.map_structure(stand_in, layer.compute_output_spec(*args))  # never an argument

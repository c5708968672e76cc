"""Calls of stock layers on symbols, quicker than Keras': what they give is known from before."""

import keras
from keras import tree
from keras.src.backend.common.variables import get_autocast_scope
from keras.src.ops.node import Node


class Specs:
    """What stock layers give for symbols of a size: the same in both modes, so it is asked once."""

    def __init__(self):
        self._known = {}

    def call(self, layer, args, kwargs):
        """The outputs of a call, and its node left behind; None: Keras has to call the layer."""
        if len(args) != 1 or kwargs.keys() - {"training"} or not _is_simple(layer, args[0]):
            return None
        x = args[0]
        key = (id(layer), x.shape, x.dtype)
        if key not in self._known:
            self._known[key] = layer.compute_output_spec(x)
        outputs = tree.map_structure(stand_in, self._known[key])
        Node(operation=layer, call_args=args, call_kwargs=kwargs, outputs=outputs)
        return outputs


def _is_simple(layer, x):
    """Whether a call does nothing but compute: no mask, no cast, no loss, nothing to be built."""
    return (
        isinstance(x, keras.KerasTensor)
        and layer.built
        and x.dtype == layer.input_dtype == layer.variable_dtype
        and get_autocast_scope() is None
        and getattr(x, "_keras_mask", None) is None
        and type(layer).compute_mask is keras.layers.Layer.compute_mask
        and layer.activity_regularizer is None
        and type(layer).__module__.startswith("keras.src.layers.")
    )


def stand_in(x):
    """A symbol like another, without its history."""
    return keras.KerasTensor(x.shape, x.dtype, sparse=x.sparse)

"""Which layers stay whole because of the masks that travel with tensors."""

from keras import tree
from keras.src.utils.python_utils import is_default

from aip_tf._keras.graph import mask_of
from aip_tf._keras.plain import is_symbol

DOUBTFUL = "it calls {!r}, which computes a mask of its own: on values it may be another"
_HANDS_ON = "it hands the mask of its input on"


def refusal(layer, args, kwargs, is_explicit):
    """Why masks forbid to open a layer that is called like this, or None.

    Args:
        layer: the composite layer.
        args, kwargs: of its `call`.
        is_explicit: whether the mask among them was given to the layer, not found by Keras.
    """
    if _are_masked((args, kwargs)) and layer.supports_masking:
        return _HANDS_ON
    if is_given(kwargs) and not is_explicit:
        return "a mask reaches it with its input"
    return None


def is_given(kwargs):
    """Whether a call is given a mask; for a list of tensors without any Keras makes one of None."""
    return any(x is not None for x in tree.flatten(kwargs.get("mask")))


def is_doubtful(layer, outputs, reason):
    """Whether a layer that stays whole for `reason` may put out another mask than on symbols: on
    values Keras does not ask `compute_mask` where a layer inside of it has set a mask already."""
    is_asked = reason == _HANDS_ON and not is_default(layer.compute_mask)
    return is_asked and _are_masked(outputs)


def _are_masked(tensors):
    return any(mask_of(x) is not None for x in tree.flatten(tensors) if is_symbol(x))

"""Which layers do the same in training and in inference mode."""

import keras

from aip_tf._keras.graph import is_graph


def is_modeless(layer):
    """Whether a layer, as it is, does the same in both modes, with all that is inside.

    Such as a frozen backbone without dropout that is called with `training=False`.
    """
    return all(map(_is_modeless, layer._flatten_layers()))


def _is_modeless(layer):
    if not layer._call_has_context_arg.get("training") or is_graph(layer):
        return True
    return isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable

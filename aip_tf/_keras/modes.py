"""Training and inference mode: which layers do the same in both, and what says which it is."""

import keras

from aip_tf._keras.graph import is_graph
from aip_tf._keras.nodes import Arguments
from aip_tf._keras.plain import usual_mode, without_mode


def is_modeless(layer):
    """Whether a layer, as it is, does the same in both modes, with all that is inside.

    Such as a frozen backbone without dropout that is called with `training=False`.
    """
    return all(map(_is_modeless, layer._flatten_layers()))


def leave_to_mode(node, is_quiet):
    """Take `training` out of the arguments of a call: it follows the mode, as Keras has it do.

    Where nobody says a mode, a layer that trains by then, as random augmentation does, would do so
    though its call said None, or though a layer around it infers by then (`is_quiet`).
    """
    args, kwargs = node.arguments.args, node.arguments.kwargs
    is_told = is_quiet or "training" in kwargs
    if is_told and isinstance(node.operation, keras.layers.Layer) and usual_mode(node.operation):
        node.arguments = Arguments(args, kwargs | {"training": None})
    elif "training" in kwargs:
        node.arguments = Arguments(args, without_mode(kwargs))


def _is_modeless(layer):
    if not layer._call_has_context_arg.get("training") or is_graph(layer):
        return True
    return isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable

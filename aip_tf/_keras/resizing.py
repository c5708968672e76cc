"""Layers that change their size: made anew from their configuration, alive as the source is."""

import functools
import types

import keras
import numpy as np

from aip_tf._keras.copies import OWN, layer_attributes, translated


def resize(layer, changes, copies):
    """A new, unbuilt layer of the configuration of `layer` with `changes`.

    Args:
        layer: a layer.
        changes: `{key: value}`.
        copies: see `clone`.

    Raises:
        ValueError: if the layer has no configuration.
    """
    try:
        config = _config_of(layer)
    except Exception as error:
        raise ValueError(
            f"Received the layer {layer.name!r} of {type(layer).__name__}, whose channels are cut "
            f"but which has no usable `get_config` ({error}). Expected every layer that changes "
            "its size to implement `get_config`, or to be left whole: "
            f"ignore={layer.name!r} in the selection."
        ) from error
    config |= {k: _alive(layer, k, v, copies) for k, v in config.items() if k not in changes}
    if isinstance(layer, keras.layers.Wrapper) and "layer" not in changes:
        copy = type(layer)(config.pop("layer"), **config | changes)
    else:
        copy = type(layer).from_config(config | changes)
        if not str(type(layer).__module__).startswith("keras.src."):
            _remember(layer, type(layer).from_config(dict(config)), copy)
    copy.autocast, copy.supports_masking = layer.autocast, layer.supports_masking  # in no config
    return copy


def _config_of(layer):
    """The configuration of a layer; functions that Keras cannot write down stand aside."""
    try:
        return layer.get_config()
    except (TypeError, OSError, ValueError):
        return _without_functions(layer).get_config()


def _without_functions(layer):
    """A stand-in for a layer, good for its configuration alone, without functions as attributes."""
    stand_in = object.__new__(type(layer))
    for name, value in vars(layer).items():
        if isinstance(value, keras.layers.Layer):
            value = _without_functions(value)
        elif name not in OWN and isinstance(value, types.FunctionType | functools.partial):
            value = keras.activations.linear
        vars(stand_in)[name] = value
    return stand_in


def _alive(layer, key, value, copies):
    """The object that an entry of a configuration stands for, where the layer has it at hand."""
    live = getattr(layer, key, None)
    live = getattr(layer, f"_{key}", None) if live is None else live
    if not isinstance(value, str | dict | None) or not _is_alive(live):
        return value
    if key == "cell":  # a recurrent layer makes it anew, and from a dictionary only
        return _unbuilt(value)
    if isinstance(live, keras.initializers.Initializer):
        return "zeros"  # the values are those of the source; see `graft` for the object
    return copies.layer(live) if isinstance(live, keras.layers.Layer) else live


def _unbuilt(config):
    """A serialized layer without the sizes on which it was built, at every level."""
    if isinstance(config, list):
        return [_unbuilt(x) for x in config]
    if not isinstance(config, dict):
        return config
    return {k: _unbuilt(v) for k, v in config.items() if k != "build_config"}


def _is_alive(value):
    """Whether `value` is an object or function that computes, and no type, method or variable."""
    if isinstance(value, keras.regularizers.Regularizer | keras.constraints.Constraint):
        return True
    passive = type | types.MethodType | keras.Variable | keras.DTypePolicy
    return callable(value) and not isinstance(value, passive)


def _remember(layer, unchanged, copy):
    """Give `copy` what the configuration of `layer` forgets: where `unchanged` differs from it."""
    simple = (bool, int, float, str, type(None))
    for name, value in vars(layer).items():
        known = vars(unchanged)
        if name in OWN or name in layer_attributes() or name not in known:
            continue
        if isinstance(value, simple) and value != known[name]:
            setattr(copy, name, value)


def graft(layer, copy, shrink, copies):
    """Give a resized and built `copy` the functions and objects of `layer`, at every level.

    Args:
        layer: the source.
        copy: made by `resize`, built.
        shrink: `shrink(object) -> object`, without the removed channels in its arrays.
        copies: see `clone`; functions that close over layers close over their copies.
    """
    for old, new in zip(_with_inside(layer), _with_inside(copy), strict=True):
        for name, value in vars(old).items():
            inside = isinstance(value, keras.layers.Layer)
            if name in vars(new) and name not in OWN and _is_alive(value) and not inside:
                setattr(new, name, shrink(translated(value, copies)))


def _with_inside(layer):
    return [layer, *layer._flatten_layers(include_self=False)]


def own_pairs(layer, copy):
    """Pairs (variable, its copy) of a layer and a resized copy, those of sublayers included.

    Raises:
        ValueError: if the two do not own the same variables.
    """
    old, new = layer.variables, copy.variables
    if [*map(_stem, old)] != [*map(_stem, new)]:
        raise ValueError(
            f"Received the layer {layer.name!r} of {type(layer).__name__}, whose copy from its "
            f"configuration owns the variables {[v.name for v in new]}. Expected those of the "
            f"layer, {[v.name for v in old]}: a layer that changes its size must make them all "
            "from its configuration, or be left whole (`ignore=` in the selection)."
        )
    return list(zip(old, new, strict=True))


def _stem(variable):
    """The name of a variable without the number by which Keras tells automatic names apart."""
    return variable.name.rstrip("0123456789").rstrip("_")


def layer_pairs(layer, copy):
    """Pairs (layer, its copy): a layer, a resized copy, and what is inside of both."""
    return list(zip(_with_inside(layer), _with_inside(copy), strict=True))


def with_smaller_arrays(value, slices):
    """An initializer, regularizer or constraint whose arrays have lost the removed channels.

    Args:
        value: the object; it is not changed.
        slices: list of `(shape, function)`: an array of that shape becomes `function(array)`.

    Returns:
        `value` itself if no array in it has one of the shapes.
    """
    if not hasattr(value, "get_config"):
        return value
    arrays = {}
    for name, held in vars(value).items():
        for shape, function in slices:
            if name not in arrays and _shape_of(held) == tuple(shape):
                arrays[name] = np.asarray(function(np.asarray(held)))
    if not arrays:
        return value
    smaller = object.__new__(type(value))
    vars(smaller).update(vars(value) | arrays)
    return smaller


def _shape_of(value):
    """The shape of an array, tensor or nested list of numbers; None of everything else."""
    if isinstance(value, list | np.ndarray) or keras.ops.is_tensor(value):
        array = np.asarray(value)
        return array.shape if np.issubdtype(array.dtype, np.number) else None
    return None

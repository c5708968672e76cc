"""What makes two runs the same run: models and settings as plain values, alike in every process.

Keras numbers the names of layers anew in every process, sets have no order, objects show their
address: none of that may make a difference. Another architecture, other weights, another function
under the same name must make one.
"""

import codecs
import functools
import hashlib
import json
import marshal
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras

_MOST_VALUES = 64  # of an array: longer ones are known by their sum


def of_model(model):
    """The identity of a model: `{"architecture": sum, "weights": sum}`, sums in hexadecimal.

    Names that Keras chose make no difference.

    >>> def build():
    ...     keras.utils.set_random_seed(0)
    ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> of_model(build()) == of_model(build())
    True
    """
    return {"architecture": _architecture(model), "weights": digest(model.weights)}


def digest(arrays):
    """One sum over arrays, tensors or variables: of their bytes, types and shapes, in order."""
    found = hashlib.sha256()
    for value in arrays:
        array = np.asarray(value)
        text = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        found.update(f"{array.dtype}{array.shape}".encode() + text)
    return found.hexdigest()[:16]


def describe(value):
    """A setting as a plain value: the same in every process, another one for another setting.

    Args:
        value: anything that `prune` takes: numbers, names, sets, arrays, callables (by name and
            code), Keras objects and other objects (by class and what they hold).

    >>> describe({"a": np.float32(0.5), "b": {3, 1, 2}})
    {'a': 0.5, 'b': [1, 2, 3]}
    """
    return _describe(value, ())


def _describe(value, around):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if any(value is x for x in around):  # an object that holds itself
        return type(value).__name__
    inner = functools.partial(_describe, around=(*around, value))
    for kind, describe_kind in _KINDS:
        if isinstance(value, kind):
            return describe_kind(value, inner)
    return _object(value, inner)


def _object(value, inner):
    if callable(value) and hasattr(value, "__code__"):
        return _function(value, inner)
    if (config := _config(value)) is not None:
        config = {k: v for k, v in config.items() if k != "name"}
        return {"class": type(value).__name__, **inner(_unnamed(config))}
    held = getattr(value, "__dict__", None)
    if held is None:
        return getattr(value, "__name__", type(value).__name__)
    public = {k: v for k, v in held.items() if k != "name"}
    return {"class": type(value).__name__, **inner(public)}


def _config(value):
    """The configuration of a Keras object; None if it has none."""
    try:
        return value.get_config()
    except (AttributeError, NotImplementedError):
        return None


def _array(value, inner):
    array = np.asarray(value)
    return array.tolist() if array.size <= _MOST_VALUES else f"array {digest([array])}"


def _function(function, inner):
    """By name and code, and by what it takes from around it."""
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    parts = [*_code(function.__code__), json.dumps([inner(x) for x in held], default=str)]
    sum_ = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    return f"{function.__name__} (code {sum_})"


def _code(code):
    """What a function does, without where it stands."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            yield from _code(constant)
        else:
            yield repr(sorted(constant) if isinstance(constant, frozenset) else constant)


def _partial(value, inner):
    return {"function": inner(value.func), "arguments": inner([*value.args, value.keywords])}


def _mapping(value, inner):
    return {str(key): inner(item) for key, item in value.items()}


def _set(value, inner):
    return sorted((inner(item) for item in value), key=lambda item: json.dumps(item, default=str))


def _dataset(value, inner):
    """What it yields, not how: that has numbers which differ from process to process."""
    size = int(value.cardinality())
    return {"class": "Dataset", "elements": str(value.element_spec), "batches": size}


def _optimizer(value, inner):
    return {"class": type(value).__name__, **inner(_keras.optimizer_settings(value))}


def _model(value, inner):
    return {"class": type(value).__name__, **of_model(value)}


_KINDS = (
    (type, lambda value, inner: value.__name__),
    (Mapping, _mapping),
    (set | frozenset, _set),
    (list | tuple, lambda value, inner: [inner(item) for item in value]),
    (keras.Model, _model),
    (keras.optimizers.Optimizer, _optimizer),
    (tf.data.Dataset, _dataset),
    (keras.Variable | np.ndarray | np.generic, _array),
    (functools.partial, _partial),
)


def _architecture(model):
    try:
        config = _unnamed(model.get_config())
    except Exception:  # whatever a foreign get_config does: its classes and shapes are left
        config = [type(layer).__name__ for layer in _keras.all_layers(model)]
    shapes = [list(weight.shape) for weight in model.weights]
    text = json.dumps([type(model).__name__, config, shapes], sort_keys=True, default=describe)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unnamed(config):
    """A configuration with names replaced by numbers, and lambdas by their code."""
    names = {}
    for name in _names(config):
        names.setdefault(name, f"#{len(names)}")
    return _renamed(config, names)


def _names(config):
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            yield config["name"]
        for value in config.values():
            yield from _names(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _names(value)


def _renamed(config, names):
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            code = marshal.loads(codecs.decode(config["config"]["code"].encode(), "base64"))
            return list(_code(code))
        kept = {k: v for k, v in config.items() if k != "shared_object_id"}
        return {key: _renamed(value, names) for key, value in kept.items()}
    if isinstance(config, list | tuple):
        return [_renamed(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config

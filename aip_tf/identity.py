"""What makes two runs the same run: models and settings as plain values, alike in every process.

Keras numbers the names of layers anew in every process, sets have no order, objects show their
address, code moves in its file: none of that may make a difference. Another architecture, other
weights, other code under the same name must make one: what a function does is its code, its
defaults, and what it takes from around it and from its module.
"""

import codecs
import copyreg
import functools
import hashlib
import json
import marshal
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.failures import is_of_a_library

_PACKAGE = Path(__file__).resolve().parent
_DATA = (bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset, type(None))
_NO_CODE = {  # of a class: where it stands, and what copying leaves there
    *("__module__", "__doc__", "__firstlineno__", "__static_attributes__", "__slotnames__")
}
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
            code), Keras objects and other objects (by class and what they hold; a class that is
            not of a library by its code, too).

    >>> describe({"a": np.float32(0.5), "b": {3, 1, 2}})
    {'a': 0.5, 'b': [1, 2, 3]}
    """
    return _describe(value, (), {})


def _describe(value, around, told):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if any(value is x for x in around):  # an object that holds itself
        return type(value).__name__
    if isinstance(value, types.FunctionType | type):
        if id(value) in told:  # once is enough, and functions may call one another
            return value.__name__
        told[id(value)] = value
    inner = functools.partial(_describe, around=(*around, value), told=told)
    for kind, describe_kind in _KINDS:
        if isinstance(value, kind):
            return describe_kind(value, inner)
    return _object(value, inner)


def _object(value, inner):
    if isinstance(value, tf.types.experimental.PolymorphicFunction):
        return inner(value.python_function)
    if tf.is_tensor(value) and hasattr(value, "numpy"):  # with a value, not a symbol
        return _array(value, inner)
    class_ = inner(type(value))
    if (config := _config(value)) is not None:
        config = {k: v for k, v in config.items() if k != "name"}
        return {"class": class_, **inner(_unnamed(config)), **inner(_own_functions(value))}
    held = getattr(value, "__dict__", None)
    if held is None:
        return getattr(value, "__name__", None) or _without_attributes(value, class_, inner)
    public = {k: v for k, v in held.items() if k != "name"}
    return {"class": class_, **inner(public)}


def _without_attributes(value, class_, inner):
    """By what a copy would be made of: slots, a path, a date, a regular expression."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        made_of = reduce(value) if reduce else value.__reduce_ex__(2)
    except TypeError:  # an iterator, a lock: nobody can say
        return class_
    return {"class": class_, "made of": inner(made_of[1:3])}


def _config(value):
    """The configuration of a Keras object; None if it has none."""
    try:
        return value.get_config()
    except (AttributeError, NotImplementedError):
        return None


def _array(value, inner):
    array = np.asarray(value)
    return array.tolist() if array.size <= _MOST_VALUES else f"array {digest([array])}"


# --- code -----------------------------------------------------------------------------------------


def _function(function, inner):
    """By name and code, and by what it takes from around it and from its module."""
    held = [_content(cell) for cell in function.__closure__ or ()]
    if is_of_a_library(function.__code__.co_filename):  # perhaps a decorator's, around own code
        own = [inner(x) for x in held if _is_own_code(x)]
        return f"{function.__qualname__} (around {_sum(own)})" if own else function.__qualname__
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    held += [_globals_of(function)]
    return f"{function.__name__} (code {_sum([*_code(function.__code__), *map(inner, held)])})"


def _method(method, inner):
    """A bound method is of its owner."""
    return {"method": inner(method.__func__), "of": inner(method.__self__)}


def _class(class_, inner):
    """By name; one of the user's by the code of its methods, too, those of its bases included."""
    members = {
        f"{base.__name__}.{name}": inside
        for base in class_.__mro__
        if _is_of_the_user(base)
        for name, member in vars(base).items()
        if isinstance(inside := _inside(member), (types.FunctionType, *_DATA))
        and name not in _NO_CODE
    }
    return f"{class_.__name__} (code {_sum([inner(members)])})" if members else class_.__name__


def _inside(member):
    """The function in a member of a class: a method of the class, a static one, a property."""
    return getattr(member, "__func__", None) or getattr(member, "fget", None) or member


def _is_of_the_user(class_):
    file = getattr(sys.modules.get(class_.__module__), "__file__", None)
    if file is None:  # a notebook, or built in
        return class_.__module__ not in sys.builtin_module_names
    return not is_of_a_library(file) and not Path(file).resolve().is_relative_to(_PACKAGE)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # an empty one
        return None


def _globals_of(function):
    """Data, functions and classes that the code reads from its module, by name."""
    names = sorted(set(_names_in(function.__code__)) & function.__globals__.keys())
    found = {name: function.__globals__[name] for name in names}
    kinds = (*_DATA, np.ndarray, np.generic, type, types.FunctionType, functools.partial)
    return {name: value for name, value in found.items() if isinstance(value, kinds)}


def _names_in(code):
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _code(code):
    """What a function does, without where it stands."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)


def _sum(parts):
    text = json.dumps(list(parts), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _own_functions(owner):
    """Functions and objects of the user's among the attributes of a Keras object, by name."""
    kept = _keras.layer_attributes() if isinstance(owner, keras.layers.Layer) else ()
    return {
        name: value
        for name, value in getattr(owner, "__dict__", {}).items()
        if name not in kept and _is_own_code(value)
    }


def _is_own_code(value):
    if isinstance(value, types.MethodType):
        return _is_own_code(value.__func__)
    if isinstance(value, functools.partial):
        return _is_own_code(value.func)
    if isinstance(value, types.FunctionType):
        return not is_of_a_library(value.__code__.co_filename)
    is_part = isinstance(value, keras.layers.Layer | keras.Variable | keras.KerasTensor)
    return callable(value) and not is_part and _is_of_the_user(type(value))


# --- data, objects of Keras -----------------------------------------------------------------------


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
    (type, _class),
    (types.MethodType, _method),
    (types.FunctionType, _function),
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
    own = [_layer(layer) for layer in [model, *_keras.all_layers(model)]]
    parts = [type(model).__name__, config, shapes, own]
    text = json.dumps(parts, sort_keys=True, default=describe)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _layer(layer):
    """What no configuration tells: the functions a layer holds; of one of the user's its code."""
    found = describe(_own_functions(layer))
    if _is_of_the_user(type(layer)):
        fresh = _keras.layer_attributes()
        held = {k: v for k, v in vars(layer).items() if k not in fresh and v is not layer.name}
        data = {k: v for k, v in held.items() if _is_data(v)}
        found = {**found, "class": describe(type(layer)), **describe(data)}
    return found


def _is_data(value):
    if isinstance(value, dict):
        return all(map(_is_data, [*value, *value.values()]))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_data, value))
    return isinstance(value, (*_DATA, np.ndarray, np.generic))


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

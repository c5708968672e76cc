"""Private classes, and what layers and models hold behind their names."""

import contextlib
import functools
import importlib
import inspect
import types

import keras
from keras import layers, tree
from keras.src.models.functional import Functional
from keras.src.ops.operation import Operation

_CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_OPERATION_MODULES = (
    *(f"ops.{name}" for name in ("core", "image", "linalg", "math", "nn", "numpy")),
    "activations.activations",
)
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
_REACHED = (*_FUNCTIONS, layers.Layer, keras.Variable)


@functools.cache
def operation_type(name):
    """The class behind a function of `keras.ops` or `keras.activations`, or None where this Keras
    has none."""
    for module in _OPERATION_MODULES:
        found = getattr(importlib.import_module(f"keras.src.{module}"), name, None)
        if inspect.isclass(found) and issubclass(found, Operation):
            return found
    return None


def application_layers():
    """The layer classes that networks of `keras.applications` define for themselves, by name."""
    from keras.src.applications import convnext, inception_resnet_v2

    modules = (convnext, inception_resnet_v2)
    names = ("LayerScale", "StochasticDepth", "CustomScaleLayer")
    return {n: getattr(m, n) for m in modules for n in names if hasattr(m, n)}


def own_variables(layer):
    """The variables that a layer made itself: not those of its sublayers or random generators."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def reached_variables(layer):
    """The variables of what the functions that a layer holds close over or call by a global name:
    list."""
    found, seen = [], set()
    waiting = [x for x in vars(layer).values() if isinstance(x, _FUNCTIONS)]
    while waiting:
        x = waiting.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, keras.Variable):
            found.append(x)
        elif isinstance(x, layers.Layer):
            found += x.variables
        elif isinstance(x, functools.partial):
            waiting += [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, types.MethodType):
            waiting += [x.__self__, x.__func__]
        elif isinstance(x, types.FunctionType) and not _is_of_keras(x):
            named = (x.__globals__.get(name) for name in x.__code__.co_names)
            waiting += [y for y in (*_closed_over(x), *named) if isinstance(y, _REACHED)]
    return found


def _is_of_keras(function):
    return (function.__module__ or "").startswith("keras.")


def _closed_over(function):
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            yield cell.cell_contents


def built_shapes(model):
    """Shapes without batch size that a subclassed model was built on, or None."""
    if isinstance(model, Functional):  # whose call is its own
        return tree.map_structure(lambda x: tuple(x.shape[1:]), model._inputs_struct)
    shapes = model._build_shapes_dict
    if not shapes or len(shapes) != 1:
        return None
    return tree.map_shape_structure(lambda s: tuple(s[1:]), next(iter(shapes.values())))


def further_arguments(model, with_optional=True):
    """Names of what the call of a model may take beside its first argument: list of str.

    Args:
        model: a subclassed model.
        with_optional: also those whose default is None, which may stand for a tensor or for none.
    """
    found = []
    for name, parameter in list(inspect.signature(model.call).parameters.items())[1:]:
        may_be_none = with_optional and parameter.default is None
        is_needed = parameter.default is parameter.empty and parameter.kind not in _CATCH_ALL
        if name not in ("training", "mask") and (may_be_none or is_needed):
            found.append(name)
    return found


def sublayers(layer):
    """The layers directly inside of a layer or model that is no graph."""
    return list(layer._layers)


def random_states(layer):
    """The variables of the random generators in `layer` and in what it contains."""
    return [g.state for x in layer._flatten_layers() for g in x._seed_generators]


def all_layers(model):
    """Every layer inside `model`, those of nested models and wrappers included."""
    return list(model._flatten_layers(include_self=False))


def batch_normalizations(model):
    """The trainable BatchNormalizations inside `model`: those that look at the batch."""
    return [
        layer
        for layer in all_layers(model)
        if isinstance(layer, layers.BatchNormalization) and layer.trainable
    ]


def keeps_statistics(operation):
    """Whether a layer, or one inside, has variables that training moves without a gradient."""
    is_layer = isinstance(operation, layers.Layer)
    return is_layer and any(x._non_trainable_variables for x in operation._flatten_layers())


def attention_projections(layer):
    """The projections of an attention layer with heads by name: query, key, value, output, gate."""
    found = {
        "query": layer._query_dense,
        "key": layer._key_dense,
        "value": layer._value_dense,
        "output": layer._output_dense,
    }
    gate = getattr(layer, "_gate_dense", None)
    return found if gate is None else found | {"gate": gate}

"""Classes with a `__call__` of their own.

What one computes around Keras' `__call__` no node tells, so it stays whole. One that only looks on,
as those of keras-hub's tasks do, is like any other: a call on symbols tells which it is.
"""

import contextlib
import itertools
import weakref

import keras
from keras import tree
from keras.src.models.functional import Functional

from aip_tf._keras.nodes import CannotOpenError, nodes_up_to
from aip_tf._keras.plain import is_symbol, stand_in

_known = weakref.WeakKeyDictionary()  # {model with a graph: whether it computes}


def has_own_call(layer):
    """Whether a class outside of Keras wraps `Layer.__call__`."""
    kinds = itertools.takewhile(lambda kind: kind is not keras.layers.Layer, type(layer).__mro__)
    return any(
        "__call__" in vars(kind)
        and "_is_recorded" not in vars(kind)
        and not str(kind.__module__).startswith("keras.")
        for kind in kinds
    )


def computes_around(layer, args, kwargs):
    """Whether an own `__call__` does more, on such arguments, than to call Keras' `__call__`."""
    return has_own_call(layer) and _seen(layer, args, kwargs, own=True) != _seen(
        layer, args, kwargs, own=False
    )


def graph_computes_around(model):
    """As `computes_around`, of a Functional or built Sequential model on what it was built on."""
    if not has_own_call(model):
        return False
    if model not in _known:
        functional = model if isinstance(model, Functional) else model._functional
        _known[model] = computes_around(model, (functional._inputs_struct,), {})
    return _known[model]


def call_on_symbols(operation, args, kwargs):
    """Call an operation on symbols so that it is one node, whatever its class does around that."""
    if isinstance(operation, keras.layers.Layer) and has_own_call(operation):
        return keras.layers.Layer.__call__(operation, *args, **kwargs)
    return operation(*args, **kwargs)


def _seen(layer, args, kwargs, own):
    """Whether what a layer's symbolic call gives is returned, and what reached it; None: an error.

    Of every symbol: by how many operations it was made of the arguments, its shape and type.
    """
    args, kwargs = tree.map_structure(
        lambda x: stand_in(x) if is_symbol(x) else x, (tuple(args), dict(kwargs))
    )
    given = [x for x in tree.flatten((args, kwargs)) if is_symbol(x)]
    reached, result = [], keras.KerasTensor((None, 1))

    def symbolic_call(*args, **kwargs):
        reached.append((args, kwargs))
        return result

    kind = next(k for k in type(layer).__mro__ if "_is_recorded" not in vars(k))
    vars(layer)["symbolic_call"] = symbolic_call
    try:
        call = kind.__call__ if own else keras.layers.Layer.__call__
        is_returned = call(layer, *args, **kwargs) is result
        return is_returned, [(p, _told(x, given)) for p, x in tree.flatten_with_path(reached)]
    except Exception:  # whatever the class raises
        return None
    finally:
        del vars(layer)["symbolic_call"]


def _told(x, given):
    if not is_symbol(x):
        return repr(x)
    with contextlib.suppress(CannotOpenError):
        return len(nodes_up_to([x], set(map(id, given)))), x.shape, x.dtype
    return None

"""Sizes that are open while a layer is recorded: of its arguments, and in what it calls."""

import keras
import tensorflow as tf
from keras import tree

from aip_tf._keras.copies import copy_ops
from aip_tf._keras.graph import with_mask_of
from aip_tf._keras.plain import has_open_batch, is_symbol, stand_in


def placeholders(args, kwargs, batch=None):
    """Arguments in which every symbol is a new one; also these as a list."""
    symbols = []

    def replaced(x):
        if not is_symbol(x):
            return x
        # an input layer of a copy is called so
        symbol = stand_in(x, batch, f"keras_tensor_{len(symbols)}")
        symbols.append(symbol)
        return with_mask_of(x, symbol)

    args, kwargs = tree.map_structure(replaced, (tuple(args), dict(kwargs)))
    return args, kwargs, symbols


def fixed_batch(model):
    """The number of samples that a model or a graph takes in a batch; None where any will do."""
    symbols = tree.flatten(getattr(model, "inputs", None) or ())
    return next((x.shape[0] for x in symbols if len(x.shape) and x.shape[0]), None)


def first_samples(model, inputs, count):
    """The first `count` samples of a batch of a model's inputs; all where it takes so many only, or
    where a tensor is sparse."""
    flat = tree.flatten(inputs)
    if fixed_batch(model) or any(isinstance(x, tf.SparseTensor) for x in flat):
        return inputs
    return tree.map_structure(lambda x: x if x is None else x[:count], inputs)


def with_known_sizes(args, kwargs, size):
    """Arguments in which every size behind the batch axis that is open is `size`; None: none is."""
    symbols = [x for x in tree.flatten((args, kwargs)) if is_symbol(x)]
    if not any(None in x.shape[1:] for x in symbols):
        return None

    def known(x):
        if not is_symbol(x) or None not in x.shape[1:]:
            return x
        symbol = stand_in(x)
        symbol._shape = (*x.shape[:1], *(size if s is None else s for s in x.shape[1:]))
        return with_mask_of(x, symbol)

    return tree.map_structure(known, (tuple(args), dict(kwargs)))


def takes_any_batch(args, kwargs):
    """Whether one of the arguments of a call has an open batch size."""
    return any(map(has_open_batch, tree.flatten((args, kwargs))))


def has_open_size(node, setting):
    """Whether an open size has become a setting of an operation."""
    sizes = getattr(node.operation, setting, None)
    if not sizes or isinstance(node.operation, keras.layers.Layer):
        return False
    return None in tree.flatten(sizes)


def open_reshapes(nodes):
    """The reshapes to a size that is open."""
    return [x for x in nodes if has_open_size(x, "newshape")]


def can_infer(node):
    """Whether a reshape leaves no more than one size open: the others tell it when it runs."""
    return sum(s in (None, -1) for s in node.operation.newshape) == 1


def infer(node):
    """Let a reshape infer the size that is open; in place."""
    sizes = tuple(-1 if s is None else s for s in node.operation.newshape)
    node.operation = copy_ops(node.operation, {"newshape": sizes})

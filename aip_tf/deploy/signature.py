"""What goes into a model and what comes out, by the names that the delivered files use."""

import re
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras


def input_structure(model):
    """Returns the symbolic inputs in the structure that the model is called with."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def name_of(tensor):
    """The name of a symbolic input, which is that of its layer: Keras takes data by it, and keeps
    it in files. Where nobody named the input, the tensor itself is called `keras_tensor_7`."""
    layer = _keras.input_layer(tensor)
    return tensor.name if layer is None else layer.name


def input_names(model):
    """Returns {name of the symbolic input: name in the signature}.

    Raises:
        ValueError: for a model without symbolic inputs.
    """
    if not (isinstance(model, keras.Model) and getattr(model, "inputs", None)):
        raise ValueError(
            f"Received a {type(model).__name__} without symbolic inputs. Expected a built "
            "Functional or Sequential keras.Model. Build it from keras.Input."
        )
    return {name_of(x): identifier(name_of(x)) for x in model.inputs}


def identifier(name):
    """A name as signatures take it: anything but letters, digits and `_` becomes `_`."""
    return re.sub(r"\W", "_", str(name), flags=re.ASCII)


def in_structure(model, feeds):
    """Feeds in the structure of a model's inputs.

    A loaded Sequential that was saved without an Input names it anew: then the order tells.
    """
    names = input_names(model)
    ordered = [names[name_of(tensor)] for tensor in _ordered(input_structure(model))]
    by_name = (
        feeds if set(ordered) == set(feeds) else dict(zip(ordered, feeds.values(), strict=True))
    )
    return keras.tree.map_structure(lambda x: by_name[names[name_of(x)]], input_structure(model))


def _ordered(structure):
    """The symbolic inputs in the order in which they are written: flattening may sort keys."""
    if isinstance(structure, Mapping | list | tuple):
        parts = structure.values() if isinstance(structure, Mapping) else structure
        return [leaf for part in parts for leaf in _ordered(part)]
    return [structure]


def feeds_from(model, data):
    """Returns {name in the signature: array} of one batch, in the model's input structure.

    Args:
        model: the model.
        data: arrays in its input structure, or in a mapping from the names of its inputs.

    Raises:
        ValueError: if they do not fit, or are no batch of one size above 0.
    """
    names = input_names(model)
    structure = input_structure(model)
    if isinstance(data, Mapping) and not isinstance(structure, Mapping):
        structure = {name_of(tensor): tensor for tensor in model.inputs}
    try:
        leaves = dict(_paired_leaves(structure, data))
    except (KeyError, TypeError, ValueError) as error:
        wanted = keras.tree.map_structure(lambda tensor: tensor.shape, structure)
        raise ValueError(
            f"Received data that do not fit the model's inputs ({error}). Expected arrays in the "
            f"structure {wanted}; labels stand beside them, as in (inputs, labels)."
        ) from error
    sizes = {len(batch) for batch in leaves.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"Received data with batch sizes {sorted(sizes)}. Expected one size above 0. Give "
            "every input the same number of samples."
        )
    return {names[name_of(x)]: leaves[name_of(x)] for x in _ordered(input_structure(model))}


def _paired_leaves(structure, data):
    """Yields (name, batch). By key where there are keys: flattening may sort them."""
    if isinstance(structure, Mapping):
        for key in structure:
            yield from _paired_leaves(structure[key], data[key])
    elif isinstance(structure, list | tuple):
        parts = [data] if len(structure) == 1 and not isinstance(data, list | tuple) else data
        for part, batch in zip(structure, parts, strict=True):
            yield from _paired_leaves(part, batch)
    else:
        batch = np.asarray(data).astype(keras.backend.standardize_dtype(structure.dtype))
        fits = batch.ndim == len(structure.shape) and all(
            size in (None, actual)
            for size, actual in zip(structure.shape[1:], batch.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(f"shape {batch.shape} for input {name_of(structure)!r}")
        yield name_of(structure), batch


def outputs_by_name(outputs):
    """Returns {name in the signature: tensor} of a model's outputs."""
    return dict(_named_leaves(outputs))


def _named_leaves(outputs):
    if not isinstance(outputs, Mapping):
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        outputs = {f"output_{index}": output for index, output in enumerate(outputs)}
    for key, output in outputs.items():
        if isinstance(output, Mapping | list | tuple):
            for name, leaf in _named_leaves(output):
                yield f"{identifier(key)}_{name}", leaf
        else:
            yield identifier(key), output


def outputs_in_structure(structure, named):
    """Returns what `outputs_by_name` named, in the structure that it came from."""
    names = outputs_by_name(_numbered(structure))
    numbers = {number: named[name] for name, number in names.items()}
    return keras.tree.map_structure(lambda number: numbers[number], _numbered(structure))


def _numbered(structure):
    count = len(keras.tree.flatten(structure))
    return keras.tree.pack_sequence_as(structure, list(range(count)))


def as_float64(value):
    """Returns any tensor, also a bfloat16 one, as float64."""
    return np.asarray(tf.cast(value, tf.float64))

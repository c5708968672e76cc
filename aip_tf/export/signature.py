"""What goes into a model and what comes out, by the names that the exported files use."""

import re
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

_NUM_RANDOM_SAMPLES = 4


def input_structure(model: keras.Model):
    """Returns the symbolic inputs in the structure that the model is called with."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def input_names(model: keras.Model) -> dict[str, str]:
    """Returns {name of the symbolic input: name in the exported signature}."""
    if not (isinstance(model, keras.Model) and getattr(model, "inputs", None)):
        raise ValueError(
            f"Received a {type(model).__name__} without symbolic inputs. Expected a built "
            "Functional or Sequential keras.Model. Build it from keras.Input."
        )
    return {tensor.name: _identifier(tensor.name) for tensor in model.inputs}


def _identifier(name):
    return re.sub(r"\W", "_", str(name), flags=re.ASCII)


def make_feeds(model: keras.Model, names: dict, check_data, seed: int) -> dict[str, np.ndarray]:
    """Returns {name in the signature: batch}, the form that every runtime here takes."""
    if check_data is None:
        generator = np.random.default_rng(seed)
        leaves = {tensor.name: _random_batch(tensor, generator) for tensor in model.inputs}
    else:
        leaves = _leaves_by_name(model, _first_batch(check_data))
    sizes = {len(batch) for batch in leaves.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"Received check_data with batch sizes {sorted(sizes)}. Expected one size above 0. "
            "Give every input the same number of samples."
        )
    return {names[name]: batch for name, batch in leaves.items()}


def _first_batch(data):
    if not isinstance(data, tf.data.Dataset):
        return data
    batch = next(iter(data.take(1)), None)
    if batch is None:
        raise ValueError(
            "Received check_data without elements. Expected a tf.data.Dataset with at least "
            "one batch. Check its filters, its files, and whether it was used up."
        )
    return batch[0] if isinstance(batch, tuple) else batch


def _leaves_by_name(model, data):
    structure = input_structure(model)
    if isinstance(data, Mapping) and not isinstance(structure, Mapping):
        structure = {tensor.name: tensor for tensor in model.inputs}
    try:
        return dict(_paired_leaves(structure, data))
    except (KeyError, TypeError, ValueError) as error:
        wanted = keras.tree.map_structure(lambda tensor: tensor.shape, structure)
        raise ValueError(
            f"Received check_data that does not fit the model's inputs ({error}). "
            f"Expected arrays in the structure {wanted}. Pass inputs only, without labels."
        ) from error


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
            raise ValueError(f"shape {batch.shape} for input {structure.name!r}")
        yield structure.name, batch


def _random_batch(tensor, generator):
    size = tensor.shape[0] or _NUM_RANDOM_SAMPLES
    shape, dtype = (size, *tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype)
    if None in shape or dtype == "string":
        raise ValueError(
            f"Received input {tensor.name!r} of shape {tensor.shape} and type {dtype}, for "
            "which no random batch can be made. Expected known sizes and numbers. Pass "
            "check_data=a batch of real samples."
        )
    if "float" in dtype:
        return generator.standard_normal(shape).astype(dtype)
    # Small integers are legal as pixels and as indices of any embedding.
    return generator.integers(0, 256 if dtype == "uint8" else 2, shape).astype(dtype)


def outputs_by_name(outputs) -> dict:
    """Returns {name in the signature: tensor} of a model's outputs."""
    if not isinstance(outputs, Mapping):
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        outputs = {f"output_{index}": output for index, output in enumerate(outputs)}
    named = {}
    for key, output in outputs.items():
        if isinstance(output, Mapping | list | tuple):
            inner = outputs_by_name(output).items()
            named |= {f"{_identifier(key)}_{name}": leaf for name, leaf in inner}
        else:
            named[_identifier(key)] = output
    return named


def _call(model, names, feeds):
    inputs = keras.tree.map_structure(lambda t: feeds[names[t.name]], input_structure(model))
    return outputs_by_name(model(inputs, training=False))


def finite_outputs(model: keras.Model, names: dict, feeds: dict) -> dict[str, np.ndarray]:
    """Returns {name in the signature: the Keras model's output}; refuses NaN and infinity."""
    outputs = {name: as_float64(value) for name, value in _call(model, names, feeds).items()}
    broken = [name for name, value in outputs.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"Received a model whose outputs {broken} are not finite on the check data. "
            "Expected finite numbers, for nothing can be compared with NaN or infinity. "
            "Check the model's weights and the range of the data."
        )
    return outputs


def as_float64(value) -> np.ndarray:
    """Returns any tensor, also a bfloat16 one, as float64."""
    return np.asarray(tf.cast(value, tf.float64))

"""Whether a batch can be fed to a model at all: its parts, its inputs, the model's weights.

Every message says what was received, what was expected, and how to mend it.
"""

import contextlib

import keras
import numpy as np

from aip_tf import _keras, failures
from aip_tf.arguments import shown

_AT_ONCE = 4096  # samples
_BESIDE = "labels stand beside the inputs, (inputs, labels)"
_NUMBERS = ("float", "bfloat", "int", "uint", "bool")  # how names of types begin


@contextlib.contextmanager
def found_in(what):
    """Names the data in front of what is wrong with them, such as "validation data"."""
    try:
        yield
    except ValueError as error:
        if not failures.is_on_purpose(error):
            raise
        raise ValueError(f"In the {what}: {error}") from error


def check_model(model):
    """Whether something is a model at all."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Received model={shown(model)}. Expected a keras.Model: call the builder first, as in "
            "aip_tf.zoo.resnet20(), or load a file by aip_tf.load_model."
        )


def check_weights(model):
    """Whether every weight of a model is a number: what is learnt from others is none."""
    broken = [v.path for v in model.weights if not are_finite(v)]
    if broken:
        raise ValueError(
            f"Received the model {model.name!r} with NaN or infinity in {len(broken)} of its "
            f"weights, first in {broken[0]!r}. Expected finite weights: build it anew, or load "
            "them from a file of before its training failed."
        )


def parts(batch):
    """Inputs and labels of a batch.

    Raises:
        ValueError: for a batch without labels.
    """
    if isinstance(batch, list | tuple) and len(batch) in (2, 3) and batch[1] is not None:
        _check_sample_weights(batch[2:])
        return batch[0], batch[1]
    raise ValueError(
        f"Received a batch of {_described(batch)}. Expected (inputs, labels) or (inputs, labels, "
        "sample_weights): the labels say what the student must keep."
    )


def _check_sample_weights(weights):
    for x in keras.tree.flatten(weights):
        if x is not None and not (are_numbers(x) and are_finite(x)):
            raise ValueError(
                f"Received sample weights of type {type_of(x)} that are not all finite numbers. "
                "Expected a number >= 0 for each sample."
            )


def check_sizes(batch):
    """Whether the parts of a batch have as many samples each, and any at all."""
    sizes = [np.shape(x)[0] for x in keras.tree.flatten(batch) if x is not None and np.ndim(x)]
    if sizes and (min(sizes) == 0 or len(set(sizes)) > 1):
        raise ValueError(
            f"Received a batch whose parts have {', '.join(map(str, sizes))} samples. Expected as "
            "many labels (and weights) as inputs, and at least one."
        )


def check_inputs(model, inputs):
    """Whether a batch of inputs can be fed to a model: how many, their sizes, their types."""
    if not _keras.is_graph(model):
        return
    expected = keras.tree.flatten(model.inputs)
    try:
        given = _keras.flat_inputs(_keras.graph_of(model), inputs)
    except KeyError as error:
        raise ValueError(
            f"Received inputs named {sorted(inputs)}. Expected {[x.name for x in expected]}: "
            f"{error} is missing; {_BESIDE}."
        ) from error
    if len(given) != len(expected):
        raise ValueError(
            f"Received {len(given)} inputs in a batch. Expected {len(expected)}, one for each of "
            f"{[x.name for x in expected]}{f'; {_BESIDE}' if isinstance(inputs, dict) else ''}."
        )
    for x, symbol in zip(given, expected, strict=True):
        _check_input(x, symbol)


def unread(model, inputs):
    """Keys of a dictionary of inputs that a model does not read."""
    if not isinstance(inputs, dict) or not _keras.is_graph(model):
        return []
    taken = {id(x) for x in _keras.flat_inputs(_keras.graph_of(model), inputs)}
    return [key for key, x in inputs.items() if id(x) not in taken]


def check_all_inputs(inputs):
    """Whether all inputs of a data set, where they are at hand as arrays, are finite."""
    for x in keras.tree.flatten(inputs):
        for start in range(0, len(x) if x is not None and are_numbers(x) else 0, _AT_ONCE):
            if not are_finite(x[start : start + _AT_ONCE]):
                place = next(i for i in range(start, len(x)) if not are_finite(x[i]))
                raise ValueError(
                    f"Received inputs that hold NaN or infinity, first in sample {place}. Expected "
                    "finite numbers: leave those samples out, or replace the values."
                )


def _check_input(x, symbol):
    shape, wanted = tuple(np.shape(x)), tuple(symbol.shape)
    if not (shape and _fits(shape[1:], wanted[1:])):
        raise ValueError(
            f"Received a batch of inputs of shape {shape}. Expected {wanted}, as the model's input "
            f"{symbol.name!r} is: {_remedy(shape, wanted)}"
        )
    if not are_numbers(x):
        raise ValueError(
            f"Received inputs of type {type_of(x)} for {symbol.name!r}. Expected numbers, as "
            f"{symbol.dtype}."
        )
    if not are_finite(x):
        raise ValueError(
            f"Received inputs that hold NaN or infinity for {symbol.name!r}. Expected finite "
            "numbers: leave those samples out, or replace the values."
        )


def type_of(x):
    """The name of the type of an array, tensor or variable."""
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    return getattr(dtype, "name", str(dtype))


def are_numbers(x):
    """Whether an array holds numbers, or truth values."""
    return type_of(x).startswith(_NUMBERS)


def are_finite(x):
    """Whether an array of numbers is free of NaN and infinity."""
    return "float" not in type_of(x) or bool(np.isfinite(np.asarray(x, "float32")).all())


def _fits(shape, wanted):
    """Whether sizes are the wanted ones; None is any."""
    return len(shape) == len(wanted) and all(
        b in (None, a) for a, b in zip(shape, wanted, strict=True)
    )


def _remedy(shape, wanted):
    if _fits(shape, wanted[1:]):
        return "this is a single sample, give batches: dataset.batch(32), or x[None] of an array."
    shape, wanted = shape[1:], wanted[1:]
    if len(shape) == len(wanted) == 3 and shape[:2] == wanted[:2]:
        return f"give images of {wanted[2]} channels instead of {shape[2]}."
    if len(shape) == len(wanted) == 3 and shape[2] == wanted[2]:
        return f"resize the images to {wanted[0]}x{wanted[1]} pixels, or build the model for them."
    if len(shape) == len(wanted) - 1:
        return "add the missing axis (one channel: images[..., None])."
    return "reshape the data, or build the model for it."


def _described(batch):
    if isinstance(batch, list | tuple):
        return f"{len(batch)} parts"
    return f"one {type(batch).__name__}, without labels"

"""What a loss wants to be told, and what form the labels at hand have."""

import inspect

import keras
import numpy as np

_WANTED = {
    "integer": ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy"),
    "one_hot": (
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "categorical_hinge",
        "kl_divergence",
    ),
    "binary": ("binary_crossentropy", "binary_focal_crossentropy"),
    "values": (
        "mean_squared_error",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_logarithmic_error",
        "log_cosh",
        "huber",
        "poisson",
        "cosine_similarity",
        "hinge",
        "squared_hinge",
    ),
}
FORMS = ("classes", "yes/no", "values")  # what an output may answer
_OPEN = ("crossentropy", "ce")  # the cross-entropy that fits output and labels
_FORM_OF = {
    getattr(keras.losses, name): form
    for form, names in _WANTED.items()
    for name in names
    if hasattr(keras.losses, name)
}


def resolved(loss, shape, truth):
    """The Keras loss of one output: a function or a `keras.losses.Loss`; None without one.

    Args:
        loss: as given to `compile`; "crossentropy" is the one that fits output and labels.
        shape: the output's, without batch.
        truth: a batch of its labels.
    """
    if isinstance(loss, str) and loss.lower() in _OPEN:
        if is_single(shape):
            return keras.losses.binary_crossentropy
        is_integer = given_form(truth, shape) == "integer"
        return getattr(keras.losses, f"{'sparse_' * is_integer}categorical_crossentropy")
    return keras.losses.get(loss)


def wanted_form(loss):
    """The labels that `loss` takes.

    Args:
        loss: a resolved Keras loss of one output, a function or a `keras.losses.Loss`; or None.

    Returns:
        `"integer"` (one class number for each position), `"one_hot"` (a row of class
        probabilities), `"binary"` (0 or 1 for each entry), `"values"`, or `""`: unknown.
    """
    return _FORM_OF.get(_function(loss), "")


def counted(loss, truth):
    """The labels, flat, that a loss looks at: those of its `ignore_class` it does not."""
    values, ignored = np.ravel(truth), getattr(loss, "ignore_class", None)
    return values if ignored is None else values[values != ignored]


def takes_probabilities(loss):
    """Whether a cross-entropy wants probabilities (`from_logits=False`); None: no such loss."""
    if hasattr(loss, "from_logits"):
        return not loss.from_logits
    function = _function(loss)
    if not callable(function) or function not in _FORM_OF:
        return None
    parameter = inspect.signature(function).parameters.get("from_logits")
    return None if parameter is None else not parameter.default


def _function(loss):
    return getattr(loss, "fn", loss)


def given_form(labels, shape):
    """The form of a batch of labels beside outputs of `shape` (batch left out).

    Returns:
        `"integer"` where each position has one number and the output several; `"dense"` where each
        entry of the output has its own number; `""` where neither fits.
    """
    size = tuple(np.shape(labels)[1:])
    single = shape[-1:] == (1,)
    if not is_single(shape) and _fits(size, shape[:-1], (*shape[:-1], 1)):
        return "integer"
    return "dense" if _fits(size, shape, shape[:-1] if single else shape) else ""


def is_single(shape):
    """Whether an output of `shape`, without batch, is one number at a position."""
    return shape[-1:] in ((), (1,))


def _fits(size, *shapes):
    """Whether `size` is one of `shapes`, in which None stands for any number."""
    return any(
        len(size) == len(shape) and all(b in (None, a) for a, b in zip(size, shape, strict=True))
        for shape in shapes
    )


def one_hot(labels, shape):
    """Integer labels as rows of zeros with a one, for outputs of `shape`."""
    labels = keras.ops.cast(labels, "int32")
    if len(labels.shape) == len(shape) + 1:
        labels = keras.ops.squeeze(labels, axis=-1)
    return keras.ops.one_hot(labels, shape[-1], dtype="float32")


def spread(value, names):
    """A loss, metrics or labels as given to Keras, as a list with one entry for each output.

    Args:
        value: None or one thing for all outputs, a list or tuple in their order, or a dictionary
            by their names (missing: None).
        names: names of the outputs.

    Raises:
        ValueError: for a list of another length or unknown names.
    """
    if isinstance(value, dict) and set(value) <= set(names):
        return [value.get(name) for name in names]
    if isinstance(value, list | tuple) and len(value) == len(names):
        return list(value)
    if isinstance(value, dict | list | tuple):
        given = sorted(value) if isinstance(value, dict) else f"{len(value)} entries"
        raise ValueError(f"Received {given} for the outputs {names}. Expected one for each output.")
    return [value] * len(names)


def labels_by_output(truth, names):
    """Labels as a list with an entry for each output.

    Raises:
        ValueError: if there are not as many labels as outputs, or under other names.
    """
    if len(names) > 1 and not isinstance(truth, list | tuple | dict):
        raise ValueError(
            f"Received labels of shape {tuple(np.shape(truth))} for {len(names)} outputs. Expected "
            f"a list or a dictionary with labels for each of {names}."
        )
    if len(names) == 1 and isinstance(truth, list | tuple) and len(truth) != 1:
        truth = np.asarray(truth)
    return spread(truth, names)


def by_output(loss, names):
    """A loss as given to `compile`, as a list with one entry for each output; None: unknown.

    Nested lists and dictionaries are in the order of the outputs, as Keras flattens both.
    """
    try:
        return spread(loss, names)
    except ValueError:
        flat = keras.tree.flatten(loss)
        return flat if len(flat) == len(names) else [None] * len(names)


def answer_form(kind, shape, loss=None, truth=None, unknown="classes"):
    """What the answers of one output are, as its making, its loss and its labels say.

    Args:
        kind: see `outputs.output_kinds`.
        shape: the output's, without batch.
        loss: as given to `compile`; None says nothing.
        truth: a batch of its labels, which tell where the loss is nobody's but the user's; or None.
        unknown: what logits of such a loss are without labels.

    Returns:
        `"classes"` (one of several), `"yes/no"` (each unit for itself) or `"values"`.
    """
    is_open = loss is None or (isinstance(loss, str) and loss.lower() in _OPEN)
    wanted = "" if is_open else wanted_form(keras.losses.get(loss))
    if kind == "logits" and not is_open and not wanted:
        wanted = unknown if truth is None else _form_of_labels(truth, shape)
    if wanted == "values" or kind == "shares":
        return "values"
    are_several = kind != "softmax" and wanted == "binary"
    return "yes/no" if kind == "sigmoid" or is_single(shape) or are_several else "classes"


def _form_of_labels(truth, shape):
    """`"binary"` or `"values"`, as `wanted_form`; `""` for classes."""
    if given_form(truth, shape) != "dense":
        return ""
    if not is_single(shape) and _are_shares(truth):
        return ""
    return "binary" if set(np.unique(truth)) <= {0, 1} else "values"


def are_of_classes(metrics):
    """Whether an accuracy is among metrics as given to `compile`."""
    return any("acc" in _name(metric).lower() for metric in keras.tree.flatten(metrics))


def _name(metric):
    return metric if isinstance(metric, str) else getattr(metric, "name", None) or repr(metric)


def kind_from_loss(loss):
    """What an output is whose making is unknown (a subclassed model), as its loss reads it."""
    if not takes_probabilities(loss):
        return "logits"
    return "sigmoid" if wanted_form(loss) == "binary" else "softmax"


def default_loss(name, kind, shape, truth):
    """The cross-entropy that fits a classifying output and its labels.

    Raises:
        ValueError: for labels that fit none.
    """
    form = given_form(truth, shape) if truth is not None else ""
    from_logits = kind == "logits"
    if kind and form == "dense" and (is_single(shape) or kind == "sigmoid"):
        if _within_one(truth):
            return keras.losses.BinaryCrossentropy(from_logits=from_logits)
    elif kind and form == "dense" and (kind == "softmax" or _are_shares(truth)):
        return keras.losses.CategoricalCrossentropy(from_logits=from_logits)
    elif kind and form == "integer":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    single = "One unit tells two classes apart, labelled 0 and 1; " if is_single(shape) else ""
    raise ValueError(
        f"Received a model with the output {name!r} of shape {(None, *shape)} and labels of shape "
        f"{tuple(np.shape(truth))}{_range(truth)}, but no loss. Expected a classifier and its "
        f"classes. {single or 'The last layer has a unit for each class; '}where the labels are "
        "values, compile the model or give Recovery(loss=...)."
    )


def _range(truth):
    values = np.asarray(truth)
    return f" from {values.min():g} to {values.max():g}" if values.size else ""


def _within_one(truth):
    values = np.asarray(truth)
    return bool(values.min() >= 0 and values.max() <= 1)


def _are_shares(truth):
    return _within_one(truth) and bool(np.allclose(np.asarray(truth).sum(axis=-1), 1, atol=1e-3))

"""Test data for files of which nothing is known but the signature."""

from collections.abc import Mapping

import keras
import numpy as np

from aip_tf.datasets import Data
from aip_tf.datasets.adapt import as_dataset
from aip_tf.datasets.looks import reading
from aip_tf.deploy import signature


def batches(data):
    """Yields `(inputs, labels)` of arrays; labels are None where there are none.

    Args:
        data: a `datasets.Data`, whose test part counts, or what `fit` takes; see `prune`.

    Raises:
        ValueError: for anything else, or data without elements.
    """
    dataset = data.test if isinstance(data, Data) else as_dataset(data, shuffle=False, role="data")
    is_empty = True
    with reading(dataset, "data"):
        for element in dataset:
            is_empty = False
            inputs, *truth = element if isinstance(element, tuple) else (element,)
            inputs, *truth = keras.tree.map_structure(np.asarray, (inputs, *truth[:1]))
            yield inputs, truth[0] if truth else None
    if is_empty:
        raise ValueError("Received data without elements. Expected at least one batch.")


def feeds_of(program, inputs, path):
    """{name in the signature: array} of a batch of inputs, by name or in order.

    Raises:
        ValueError: if they do not fit the `Program` at a path.
    """
    given = inputs
    if isinstance(inputs, Mapping):
        known = {signature.identifier(name): value for name, value in inputs.items()}
        given = [known.get(signature.identifier(name)) for name in program.inputs]
    values = [x for x in keras.tree.flatten(given) if x is not None]
    if len(values) != len(program.inputs) or not all(
        map(_fits, values, (shape for _, shape in program.inputs.values()))
    ):
        raise ValueError(
            f"Received data of the shapes {keras.tree.map_structure(np.shape, inputs)} for "
            f"'{path}', which takes {program.describe()['inputs']}. Expected inputs of these "
            "names, or in this order, and of these sizes."
        )
    named = zip(program.inputs.items(), values, strict=True)
    return {name: _as(dtype, value) for (name, (dtype, _)), value in named}


def _fits(value, shape):
    same = (size in (None, own) for size, own in zip(shape[1:], value.shape[1:], strict=False))
    return value.ndim == len(shape) and all(same)


def _as(dtype, value):
    """As a file takes it; LiteRT makes whole numbers of floats by itself, as the file says."""
    is_kept = value.dtype.kind == "f" and "int" in dtype
    return value if is_kept else value.astype(dtype)


class Decisions:
    """Which class each answer names, batch by batch.

    Args:
        path: of the file that answers, for messages.
    """

    def __init__(self, path):
        self._path = path
        self._seen = []
        self._num_classes = None

    def see(self, answers):
        """Note the answers to a batch, {name: array}; only of a single output."""
        if len(answers) == 1:
            (values,) = answers.values()
            self._num_classes = values.shape[-1] if values.ndim > 1 else 1
            # Of a single unit the value itself: where its middle is, all of them together tell.
            self._seen.append(values.argmax(-1) if self._num_classes > 1 else _column(values))

    def classes(self):
        """All of them as integers, or None where there are several outputs."""
        if not self._seen:
            return None
        found = np.concatenate(self._seen)
        if self._num_classes > 1:
            return found
        is_probability = found.min() >= 0 and found.max() <= 1
        return (found > (0.5 if is_probability else 0.0)).astype(int)

    def labels(self, given):
        """Labels as `fit` takes them, as integers in the shape of the classes.

        Raises:
            ValueError: for labels that are no classes of this file, or several outputs.
        """
        classes, given = self.classes(), np.asarray(given)
        if classes is None:
            raise ValueError(
                f"Received labels for '{self._path}', which has several outputs. Expected one that "
                "names a class. Give inputs alone: then only answers are compared."
            )
        if given.shape == (*classes.shape, self._num_classes):
            given = given.argmax(-1) if self._num_classes > 1 else _column(given)
        elif given.shape == (*classes.shape, 1):
            given = _column(given)
        is_class = given.shape == classes.shape and np.isin(
            given, np.arange(max(2, self._num_classes))
        )
        if not np.all(is_class):
            raise ValueError(
                f"Received labels of shape {given.shape}, {given.min():g} to {given.max():g}, for "
                f"'{self._path}', which names classes of shape {classes.shape}, "
                f"{max(2, self._num_classes)} of them. Expected a class for each. Give inputs "
                "alone where labels are something else: then only answers are compared."
            )
        return given.astype(int)


def _column(values):
    return values[..., 0] if values.ndim > 1 else values

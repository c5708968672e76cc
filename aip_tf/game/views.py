"""The answers of two networks, made comparable: as logits, or as values on one scale."""

import math

import keras
import numpy as np
from keras import ops

from aip_tf import losses
from aip_tf.task.labels import answer_form
from aip_tf.task.outputs import (
    floating_outputs,
    num_units,
    output_kinds,
    output_names,
    symbolic_outputs,
)

# Answers that differ by less, as a share of their size, are equal: float32 has no more digits.
_LEAST_SPREAD = 1e-5


class Scale:
    """How large an output's values are: the middle of each unit, and one spread for all of them.

    Values have any unit of measure, grams or kilometres; seen on this scale they say the same. The
    units of an output share their spread, as its loss counts them alike.

    Args:
        units: entries of the output's last axis; None: open, they share their middle, too.
    """

    def __init__(self, units=None):
        middle, spread = np.full(units or 1, math.nan), math.nan
        self._is_open = units is None
        self.variables = [
            keras.Variable(value, trainable=False, dtype="float32", name=name)
            for name, value in (("middle", middle), ("spread", spread))
        ]

    def measure(self, answers):
        """`[middle, spread]` of a batch of the teacher's answers, `(batch, ...)`."""
        x = as_rows(ops.cast(answers, "float32"))
        axes = tuple(range(len(x.shape) - (not self._is_open)))
        middle = ops.reshape(ops.mean(x, axis=axes), (-1,))
        spread = ops.sqrt(ops.mean(ops.square(x - middle)))
        size = ops.sqrt(ops.mean(ops.square(x)))
        # Of one answer, or of many equal ones, the spread is 0: then their size tells the scale.
        spread = ops.where(spread > _LEAST_SPREAD * size, spread, size)
        return [middle, ops.where(spread > 0, spread, 1.0)]

    def assign(self, measured):
        """Keep what `measure` found."""
        for variable, value in zip(self.variables, measured, strict=True):
            variable.assign(value)

    def __call__(self, values):
        """Values `(batch, ..., units)` on the scale, float32."""
        middle, spread = (ops.convert_to_tensor(v) for v in self.variables)
        is_open = ops.isnan(spread)
        shifted = ops.cast(values, "float32") - ops.where(is_open, 0.0, middle)
        return shifted / ops.where(is_open, 1.0, spread)


class AnswerViews:
    """The outputs of two networks in float32: logits, whatever the last activation is, or values.

    `of_teacher` and `of_student` turn a `Reading` into a list with a view of every output, whose
    last axis has its classes or units; an output of one number a sample has one.

    Attributes:
        forms: what each output answers, `"classes"`, `"yes/no"` or `"values"`. A linear output
            alone does not say which of them; that is told by `tell`.
        num_units: entries of the last axis; None where it is open.
        ranks: number of axes, batch included.
    """

    def __init__(self, teacher, student, outputs=None, from_logits="auto"):
        self._indices = _output_indices(teacher, outputs)
        shapes = [symbolic_outputs(teacher)[i].shape for i in self._indices]
        self.num_units = [num_units(shape[1:]) for shape in shapes]
        self._teacher_kinds = self._kinds(teacher, from_logits)
        self._student_kinds = self._kinds(student, from_logits)
        self.ranks = [max(2, len(shape)) for shape in shapes]
        self.forms = list(map(answer_form, self._teacher_kinds, [s[1:] for s in shapes]))
        self._scales = {}

    def tell(self, forms, scales):
        """Hear what all of the model's outputs answer, see `Transfer.tell`."""
        self.forms = [forms[i] for i in self._indices]
        self._scales = dict(scales)

    def of_teacher(self, reading):
        return self._view(reading, self._teacher_kinds)

    def of_student(self, reading):
        return self._view(reading, self._student_kinds)

    def _kinds(self, model, from_logits):
        kinds = [output_kinds(model)[i] for i in self._indices]
        if from_logits == "auto":
            return kinds
        if from_logits:
            return ["logits"] * len(kinds)
        probabilities = ["sigmoid" if n == 1 else "softmax" for n in self.num_units]
        return [
            p if kind == "logits" else kind for p, kind in zip(probabilities, kinds, strict=True)
        ]

    def _view(self, reading, kinds):
        to_logits = {
            "softmax": losses.softmax_to_logits,
            "sigmoid": losses.sigmoid_to_logits,
            "logits": lambda x: ops.cast(x, "float32"),
            "shares": lambda x: ops.cast(x, "float32"),
        }
        return [
            self._scales.get(i, to_logits[kind])(as_rows(reading.outputs[i]))
            for i, kind in zip(self._indices, kinds, strict=True)
        ]


def as_rows(x):
    """Answers with an axis of units: `(batch,)`, one number a sample, becomes `(batch, 1)`."""
    return ops.expand_dims(x, axis=-1) if len(x.shape) == 1 else x


def _output_indices(model, outputs):
    names = output_names(model)
    if outputs is None:
        return floating_outputs(model)
    chosen = [outputs] if isinstance(outputs, str | int) else list(outputs)
    indices = [names.index(o) if o in names else o for o in chosen]
    wrong = [i for i in indices if not isinstance(i, int) or not 0 <= i < len(names)]
    if wrong or not indices:
        raise ValueError(
            f"Received outputs={outputs!r} for the model {model.name!r}. Expected some of the "
            f"names {names} or indices from 0 to {len(names) - 1}."
        )
    return indices

"""The answers of two networks, made comparable: logits, whatever the last activation is."""

from keras import ops

from aip_tf import losses
from aip_tf.task.outputs import output_kinds, output_names, symbolic_outputs


class LogitViews:
    """The outputs of two networks as float32 logits, whatever their last activation is.

    `of_teacher` and `of_student` turn a `Reading` into a list with the logits of every output.
    """

    def __init__(self, teacher, student, outputs=None, from_logits="auto"):
        self._indices = _output_indices(teacher, outputs)
        self._teacher_kinds = self._kinds(teacher, from_logits)
        self._student_kinds = self._kinds(student, from_logits)
        shapes = [x.shape for x in symbolic_outputs(teacher)]
        self.num_classes = [shapes[i][-1] for i in self._indices]
        self.ranks = [len(shapes[i]) for i in self._indices]
        self.are_binary = [
            kind == "sigmoid" or n == 1
            for kind, n in zip(self._teacher_kinds, self.num_classes, strict=True)
        ]

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
        return ["softmax" if kind == "logits" else kind for kind in kinds]

    def _view(self, reading, kinds):
        to_logits = {
            "softmax": losses.softmax_to_logits,
            "sigmoid": losses.sigmoid_to_logits,
            "logits": lambda x: ops.cast(x, "float32"),
        }
        outputs = [reading.outputs[i] for i in self._indices]
        return [to_logits[kind](x) for kind, x in zip(kinds, outputs, strict=True)]


def _output_indices(model, outputs):
    names = output_names(model)
    if outputs is None:
        return list(range(len(names)))
    chosen = [outputs] if isinstance(outputs, str | int) else list(outputs)
    indices = [names.index(o) if o in names else o for o in chosen]
    wrong = [i for i in indices if not isinstance(i, int) or not 0 <= i < len(names)]
    if wrong or not indices:
        raise ValueError(
            f"Received outputs={outputs!r} for the model {model.name!r}. Expected some of the "
            f"names {names} or indices from 0 to {len(names) - 1}."
        )
    return indices

"""Data without labels: what the teacher answers stands in for them."""

import keras
import tensorflow as tf

from aip_tf import _keras
from aip_tf.task.outputs import answer_forms, floating_outputs, output_kinds
from aip_tf.task.task import Task


def has_labels(dataset):
    """Whether the batches of a `tf.data.Dataset` are more than inputs alone."""
    spec = dataset.element_spec
    return isinstance(spec, tuple | list) and len(spec) > 1


def inputs_of(batch):
    """The inputs of a batch, with labels or without."""
    return batch[0] if isinstance(batch, tuple | list) else batch


class Answers:
    """A task that is known from the model alone: to answer as it does.

    Classes are told by the largest answer, yes/no answers by their sign, values are what they are,
    and so is what is no floating number, such as an argmax, of which nothing is learned.

    Args:
        model: a Functional or built Sequential `keras.Model`, the teacher.
        loss, metrics, truth: what tells classes, yes/no answers and values apart, see
            `answer_forms`.
    """

    def __init__(self, model, loss=None, metrics=None, truth=None):
        self._model = model
        known = zip(answer_forms(model, loss, metrics, truth), output_kinds(model), strict=True)
        self._floating = floating_outputs(model)
        self._kinds = [
            _kind(*each) if place in self._floating else "whole" for place, each in enumerate(known)
        ]

    def task(self, metric="agreement"):
        """The `Task`; its main metric, of this name, is the agreement with the teacher.

        Values do not agree or disagree: they have their mean absolute error, which says so.
        """
        losses = [_loss(kind) for kind in self._kinds]
        metrics = [[_agreement(kind, metric)] for kind in self._kinds]
        first = self._floating[0]
        main = metrics[first][0].name
        answers = _keras.output_specs(self._model, self._model.inputs)
        names = _keras.names_of_outputs(self._model, answers)
        if len(names) == 1:
            return Task(loss=losses[0], metrics=metrics[0], main_metric=main)
        losses, metrics = (keras.tree.pack_sequence_as(answers, x) for x in (losses, metrics))
        return Task(loss=losses, metrics=metrics, main_metric=f"{names[first]}_{main}")

    def added_to(self, dataset):
        """(inputs, answers) of a dataset of inputs, as the loss wants them."""

        def answer(*batch):
            inputs = inputs_of(batch)
            outputs = self._model(inputs, training=False)
            flat = zip(keras.tree.flatten(outputs), self._kinds, strict=True)
            labels = keras.tree.pack_sequence_as(outputs, [_label(*each) for each in flat])
            return inputs, keras.tree.lists_to_tuples(labels)  # tf.data stacks what is in a list

        return dataset.map(answer, num_parallel_calls=tf.data.AUTOTUNE)


def _kind(form, kind):
    """What an output is, and where it is logits whose sign tells yes from no `"sign"`."""
    if form == "values":
        return form
    return "sign" if (form, kind) == ("yes/no", "logits") else kind


def _label(y, kind):
    if kind in ("values", "whole"):
        return y
    if kind in ("sigmoid", "sign"):
        return tf.cast(y > (0.5 if kind == "sigmoid" else 0), tf.float32)
    return tf.argmax(y, axis=-1, output_type=tf.int32)


def _loss(kind):
    if kind == "whole":
        return None
    if kind == "values":
        return keras.losses.MeanSquaredError()
    if kind in ("sigmoid", "sign"):
        return keras.losses.BinaryCrossentropy(from_logits=kind == "sign")
    return keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "logits")


def _agreement(kind, name):
    """A metric: the share of equal answers, or of values their mean distance."""
    if kind == "values":
        return keras.metrics.MeanAbsoluteError()
    if kind == "whole":
        return keras.metrics.Accuracy(name=name)
    if kind in ("sigmoid", "sign"):
        threshold = 0.5 if kind == "sigmoid" else 0.0
        return keras.metrics.BinaryAccuracy(threshold=threshold, name=name)
    return keras.metrics.SparseCategoricalAccuracy(name=name)

"""What a runtime's answers are worth: how far from the Keras model's, and how often right."""

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.deploy import signature


class Judge:
    """Follows the answers to one batch after the other.

    Args:
        task: the `Task` of the model, read; None: nothing is known of labels.
        model: the model.
    """

    def __init__(self, task, model):
        self._task = task
        self._model, self._structure = model, _outputs(model)
        self._meter = None if task is None else _meter(task, model, self._structure)
        self._decide = _decisions(task, self._structure)
        self._absolute = self._relative = 0.0
        self._largest, self._differences = {}, {}
        self._same = self._places = 0
        self.num_samples = 0
        self.metrics = {}

    def see(self, batch, expected, answers):
        """Note the answers to a `Batch`; `expected` are the Keras model's, both by name."""
        self.num_samples += len(batch)
        for name, wanted in expected.items():
            found = answers.get(name)
            if found is None or found.shape != wanted.shape:  # else NumPy might broadcast
                self._differences[name] = np.inf
                continue
            difference = np.max(np.abs(found - wanted), initial=0.0)
            self._differences[name] = np.maximum(self._differences.get(name, 0.0), difference)
            largest = np.max(np.abs(wanted), initial=0.0)
            self._largest[name] = max(self._largest.get(name, 0.0), largest)
            if decide := self._decide[name]:
                same = decide(found) == decide(wanted)
                self._same, self._places = self._same + same.sum(), self._places + same.size
        if self._meter is not None and batch.truth and expected.keys() <= answers.keys():
            self._measure(batch, answers)

    def measure(self, call):
        """Add what the task measures on data of its own.

        Args:
            call: {name in the signature: array} to {name: array}.
        """

        def answer(inputs):
            inputs = keras.tree.map_structure(np.asarray, inputs)
            answers = self._structured(call(signature.feeds_from(self._model, inputs)))
            return keras.tree.map_structure(tf.convert_to_tensor, answers)

        self.metrics |= self._task.measure(answer)

    def _structured(self, answers):
        answers = signature.outputs_in_structure(self._structure, answers)
        return keras.tree.map_structure(lambda x: x.astype("float32"), answers)

    def _measure(self, batch, answers):
        labels, *weights = batch.truth
        answers = self._structured(answers)
        data = (answers, self._task.convert(labels), *weights)
        if not self.metrics:  # what Keras makes at its first batch would miss that batch
            _keras.build_metrics(self._meter, tf.data.Dataset.from_tensors(data).element_spec)
            self._meter.reset_metrics()
        logs = self._meter.test_step(data)
        self.metrics = {name: float(value) for name, value in logs.items()}

    @property
    def max_absolute_difference(self):
        """The largest difference of any output; NaN wins."""
        return float(np.max(list(self._differences.values()), initial=0.0))

    @property
    def max_relative_difference(self):
        """The same, each divided by the largest absolute value of its output."""
        parts = [d / max(self._largest.get(n, 0.0), 1e-30) for n, d in self._differences.items()]
        return float(np.max(parts, initial=0.0))

    @property
    def agreement(self):
        """Share of the decisions that are the Keras model's; None if none are made."""
        return float(self._same / self._places) if self._places else None


def _outputs(model):
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


def _meter(task, model, structure):
    """A model that answers what it is given, compiled for the task."""
    flat, found = keras.tree.flatten(structure), _keras.names_of_outputs(model, structure)
    # A key of a dictionary may be "c/1", a layer not; metrics then go by the keys anyway.
    names = [f"output_{i}" if "/" in name else name for i, name in enumerate(found)]
    inputs = [keras.Input(x.shape[1:], name=f"{n}_given") for x, n in zip(flat, names, strict=True)]
    layers = [keras.layers.Identity(name=name)(x) for x, name in zip(inputs, names, strict=True)]
    packed = [keras.tree.pack_sequence_as(structure, x) for x in (inputs, layers)]
    meter = _keras.ReplicaModel(keras.Model(*packed))
    task.compile(meter)
    return meter


def _decisions(task, structure):
    """{name in the signature: what an output decides, a function of its answers; None: nothing}."""
    flat = keras.tree.flatten(structure)
    if task is None:
        are_several = [len(x.shape) > 1 and (x.shape[-1] or 0) > 1 for x in flat]
        decisions = [_largest if several else None for several in are_several]
    else:
        decisions = [_decision(output) for output in task.outputs]
    numbers = signature.outputs_by_name(
        keras.tree.pack_sequence_as(structure, list(range(len(flat))))
    )
    return {name: decisions[number] for name, number in numbers.items()}


def _decision(output):
    """The class at each position, or of each unit whether it says yes."""
    if output.num_classes is None:
        return None
    if output.form == "classes":
        return _largest
    middle = 0.5 if output.kind == "sigmoid" else 0.0
    return lambda answers: answers > middle


def _largest(answers):
    return answers.argmax(-1)

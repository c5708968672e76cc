"""Measuring a detector on images with known objects, after training or after every epoch."""

import dataclasses

import keras
import tensorflow as tf

from aip_tf.detection.average_precision import MeanAveragePrecision
from aip_tf.detection.decoding import detect
from aip_tf.task import Task


def evaluate_detector(model, examples, anchors, *, method="area"):
    """Mean average precision of a model.

    Args:
        model: an SSD, or anything that maps images to the outputs `boxes` and `classes`.
        examples: batches `(images, {"boxes", "labels", "difficult"})`, as `ground_truth` makes
            them.
        anchors: (num_anchors, 4) from `default_boxes`.
        method: `"area"` (VOC 2010 and later) or `"eleven_points"` (VOC 2007).

    Returns:
        The filled `MeanAveragePrecision`: `.result()` is the mean in [0, 1], `.per_class()` its
        parts.

    Raises:
        ValueError: if there are no examples, or the anchors are not the model's.
    """
    return _measure(_finder(model, anchors), examples, method)


class DetectionEvaluation(keras.callbacks.Callback):
    """Adds `val_mean_average_precision` to the logs of `fit`.

    In `Recovery(callbacks=...)` the value enters the report of `prune` too. Put it before callbacks
    that monitor it. With an `AdversarialDistiller` the student is what is measured.

    Args:
        examples: see `evaluate_detector`; or a function that returns them, called when training
            starts.
        anchors, method: see `evaluate_detector`.
        frequency: measure after every so many epochs, at least 1; the last one may be left out.
    """

    def __init__(self, examples, anchors, *, method="area", frequency=1):
        super().__init__()
        if frequency < 1:
            raise ValueError(f"Received frequency={frequency!r}. Expected epochs, at least 1.")
        self.examples = examples
        self.anchors = anchors
        self.method = method
        self.frequency = frequency

    def on_train_begin(self, logs=None):
        if callable(self.examples):
            self.examples = self.examples()
        self._find = _finder(self.model, self.anchors)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.frequency or logs is None:
            return
        metric = _measure(self._find, self.examples, self.method)
        logs[f"val_{metric.name}"] = metric.result()


@dataclasses.dataclass(frozen=True)
class DetectionTask(Task):
    """A detector's task: average precision is what counts, before and after every cut.

    For `Recovery(task=...)`. `DetectionEvaluation` among the callbacks also shows it after every
    epoch.

    Attributes:
        examples: what average precision is measured on, see `evaluate_detector`; or a function
            that returns it, called whenever it is measured.
        anchors, method: see `evaluate_detector`.

    >>> DetectionTask(examples=[], anchors=[]).main_metric
    'mean_average_precision'
    """

    main_metric: str | None = "mean_average_precision"
    higher_is_better: bool | None = True
    examples: object = None
    anchors: object = None
    method: str = "area"

    def evaluate(self, model, data):
        """As `Task.evaluate`, and the mean average precision."""
        examples = self.examples() if callable(self.examples) else self.examples
        found = evaluate_detector(model, examples, self.anchors, method=self.method)
        return {**super().evaluate(model, data), found.name: found.result()}


def _finder(model, anchors):
    @tf.function
    def find(images):
        outputs = model(images, training=False)
        return outputs, detect(outputs, anchors)

    return find


def _measure(find, examples, method):
    metric = None
    for images, objects in examples:
        outputs, found = find(images)
        if metric is None:
            metric = MeanAveragePrecision(outputs["classes"].shape[-1] - 1, method)
        metric.update_state(objects, found)
    if metric is None:
        raise ValueError(
            "There is nothing to evaluate on. Received: a dataset without batches. Expected: at "
            "least one batch (images, objects)."
        )
    return metric

"""Measuring a detector on images with known objects, after training or after every epoch."""

import keras
import tensorflow as tf

from aip_tf.detection.average_precision import MeanAveragePrecision
from aip_tf.detection.decoding import detect


def evaluate_detector(model, examples, anchors, *, method="area", detect_objects=detect):
    """Mean average precision of a model.

    Args:
        model: an SSD, or anything that maps images to its outputs `boxes` and `classes`.
        examples: batches `(images, {"boxes", "labels", "difficult"})`, as `ground_truth` makes
            them.
        anchors: (num_anchors, 4) from `default_boxes`.
        method: `"area"` (VOC 2010 and later) or `"eleven_points"` (VOC 2007).
        detect_objects: `function(outputs, anchors) -> Detections`.

    Returns:
        The filled `MeanAveragePrecision`: `.result()` is the mean in [0, 1], `.per_class()` its
        parts.
    """
    find = _finder(model, anchors, detect_objects)
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


def _finder(model, anchors, detect_objects):
    @tf.function
    def find(images):
        outputs = model(images, training=False)
        return outputs, detect_objects(outputs, anchors)

    return find


class DetectionEvaluation(keras.callbacks.Callback):
    """Adds `val_mean_average_precision` to the logs of `fit`.

    Put it before callbacks that monitor this value. With an `AdversarialDistiller` the student is
    what is measured.

    Args:
        examples, anchors, method: see `evaluate_detector`.
        frequency: measure after every so many epochs, at least 1; the last one may be left out.
    """

    def __init__(self, examples, anchors, *, method="area", frequency=1):
        super().__init__()
        self.examples = examples
        self.anchors = anchors
        self.method = method
        self.frequency = frequency

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.frequency or logs is None:
            return
        metric = evaluate_detector(self.model, self.examples, self.anchors, method=self.method)
        logs[f"val_{metric.name}"] = metric.result()

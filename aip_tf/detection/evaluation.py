"""Measuring a detector on images with known objects, after training or after every epoch."""

import dataclasses

import keras
import tensorflow as tf

from aip_tf.detection.average_precision import MeanAveragePrecision
from aip_tf.detection.decoding import detect
from aip_tf.detection.pictures import illustrate
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

    Among the callbacks of `Recovery` or `train_teacher` the value is shown in the terminal, in
    TensorBoard and in the report. Put it before callbacks that monitor it. With an
    `AdversarialDistiller` the student is what is measured.

    Args:
        examples: see `evaluate_detector`; or a function that returns them, called when training
            starts.
        anchors, method: see `evaluate_detector`.
        training_examples: None, or the training images likewise: `mean_average_precision` on them
            is logged as well. Far above the other, it says that the images are known by heart.
        frequency: measure after every so many epochs, at least 1; the last one may be left out.
    """

    def __init__(self, examples, anchors, *, method="area", training_examples=None, frequency=1):
        super().__init__()
        if frequency < 1:
            raise ValueError(f"Received frequency={frequency!r}. Expected epochs, at least 1.")
        self.examples = examples
        self.training_examples = training_examples
        self.anchors = anchors
        self.method = method
        self.frequency = frequency

    def on_train_begin(self, logs=None):
        self.examples = _made(self.examples)
        self.training_examples = _made(self.training_examples)
        self._find = _finder(self.model, self.anchors)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.frequency or logs is None:
            return
        for prefix, examples in (("", self.training_examples), ("val_", self.examples)):
            if examples is not None:
                metric = _measure(self._find, examples, self.method)
                logs[f"{prefix}{metric.name}"] = metric.result()


@dataclasses.dataclass(frozen=True)
class DetectionTask(Task):
    """A detector's task: average precision is what counts, before and after every cut.

    For `Recovery(task=...)`. `DetectionEvaluation` among the callbacks also shows it after every
    epoch.

    Attributes:
        examples: what average precision is measured on, see `evaluate_detector`; or a function
            that returns it, called whenever it is measured.
        anchors, method: see `evaluate_detector`.
        training_examples: None, or the training images likewise: precision on them is measured
            too, as `training_mean_average_precision`.
        num_pictures: of so many of the first examples the report shows what is found.

    Raises:
        ValueError: without examples or anchors; when read, if they do not belong to the model.

    >>> DetectionTask(examples=[], anchors=[]).main_metric
    'mean_average_precision'
    """

    main_metric: str | None = "mean_average_precision"
    higher_is_better: bool | None = True
    examples: object = None
    anchors: object = None
    method: str = "area"
    training_examples: object = None
    num_pictures: int = 4

    def __post_init__(self):
        for name in ("examples", "anchors"):
            if getattr(self, name) is None:
                raise ValueError(
                    f"Received a DetectionTask without {name}. Expected what average precision is "
                    "measured with: examples from ground_truth, anchors from default_boxes."
                )

    def read(self, model, batch, opened=None):
        """As `Task.read`; anchors and examples are checked against the model, too."""
        task = super().read(model, batch, opened)
        received = [output.shape[0] for output in task.outputs]
        if received != [len(self.anchors)] * 2:
            raise ValueError(
                f"Received a model that answers for {received} anchors, and {len(self.anchors)} "
                "anchors. Expected as many: anchors=default_boxes(feature_sizes(input_size)), of "
                "the model's input size."
            )
        for examples in filter(None, map(_made, (self.examples, self.training_examples))):
            _check_size(next(iter(examples))[0], batch[0])
        return task

    def evaluate(self, model, data):
        """As `Task.evaluate`, and the mean average precision."""
        metrics = super().evaluate(model, data)
        return metrics | self._precision(_finder(model, self.anchors))

    def measure(self, answer):
        """The mean average precision of whatever answers as the model does."""

        def find(images):
            outputs = answer(images)
            return outputs, detect(outputs, self.anchors)

        return self._precision(find)

    def _precision(self, find):
        metrics = {}
        for prefix, examples in (("", self.examples), ("training_", self.training_examples)):
            if examples is not None:
                found = _measure(find, _made(examples), self.method)
                metrics[f"{prefix}{found.name}"] = found.result()
        return metrics

    def illustrate(self, model):
        """What the model finds on the first `num_pictures` examples."""
        if not self.num_pictures:
            return {}
        images, objects = next(iter(_made(self.examples)))
        images = images[: self.num_pictures]
        found = detect(model(images, training=False), self.anchors)
        return illustrate(images, objects, found)


def _check_size(images, inputs):
    if images.shape[1:] != inputs.shape[1:]:
        raise ValueError(
            f"Received examples of size {tuple(images.shape[1:])} to measure a model that takes "
            f"{tuple(inputs.shape[1:])}. Expected the same: ground_truth(data, input_size)."
        )


def _made(examples):
    """The examples that a function makes, or that are there."""
    return examples() if callable(examples) else examples


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

"""The MultiBox loss of SSD (Liu et al. 2016, arXiv 1512.02325, equations 1 to 3).

Its two halves need only their own output and targets, so each is a `keras.losses.Loss` for one
output of the model, and Keras, distillers and distribution strategies treat an SSD as any model
with two outputs. Both are divided by the number of matched anchors of the whole batch, over all
replicas: the loss of a batch is `sum(confidence + localization) / num_matched`, or 0 if none is.
"""

import keras
import tensorflow as tf
from keras import ops


def multibox_loss(negatives_per_positive=3.0, localization_weight=1.0):
    """The loss argument of `compile` for a model with the outputs `boxes` and `classes`.

    Args:
        negatives_per_positive: background anchors that count for each matched anchor, > 0.
        localization_weight: the paper's alpha, >= 0.

    Returns:
        `{"boxes": LocalizationLoss, "classes": ConfidenceLoss}`.

    >>> sorted(multibox_loss())
    ['boxes', 'classes']
    """
    return {
        "boxes": LocalizationLoss(localization_weight),
        "classes": ConfidenceLoss(negatives_per_positive),
    }


def compile_detector(model, optimizer="sgd", negatives_per_positive=3.0, localization_weight=1.0):
    """Compile a detector, in place, with the MultiBox loss and `MatchedAccuracy`; returns it.

    `train_teacher` and `prune` go on with the loss and metrics of a compiled model.

    >>> from aip_tf.detection import ssd_vgg16
    >>> compile_detector(ssd_vgg16(num_classes=2, input_size=64, width=0.0625)).compiled
    True
    """
    model.compile(
        optimizer=optimizer,
        loss=multibox_loss(negatives_per_positive, localization_weight),
        metrics={"classes": [MatchedAccuracy()]},
    )
    return model


@keras.saving.register_keras_serializable("aip_tf")
class LocalizationLoss(keras.losses.Loss):
    """Smooth L1 between predicted and encoded offsets, summed over matched anchors.

    `y_true`: (batch, num_anchors, 5), offsets and 1.0 where matched. `y_pred`: (batch,
    num_anchors, 4).

    >>> import numpy as np
    >>> target = np.array([[[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    >>> float(LocalizationLoss()(target, np.array([[[2.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])))
    1.5
    """

    def __init__(self, weight=1.0, name="localization_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if weight < 0:
            raise ValueError(
                f"A loss weight is 0 or more. Received: weight={weight}. Expected: for example 1.0."
            )
        self.weight = weight

    def call(self, y_true, y_pred):
        is_matched = y_true[..., 4]
        per_sample = ops.sum(smooth_l1(y_true[..., :4], y_pred) * is_matched, axis=-1)
        return self.weight * per_sample * _share_per_match(is_matched)

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}


@keras.saving.register_keras_serializable("aip_tf")
class ConfidenceLoss(keras.losses.Loss):
    """Cross entropy over matched anchors and the hardest of the others.

    In each image, `negatives_per_positive` times as many background anchors as matched ones count:
    those with the largest loss (section 2.2, hard negative mining). `y_true`: (batch, num_anchors)
    int, 0 = background. `y_pred`: (batch, num_anchors, num_classes + 1) logits.

    >>> import numpy as np
    >>> loss = ConfidenceLoss(negatives_per_positive=1)
    >>> float(loss(np.array([[1, 0, 0]]), np.zeros((1, 3, 2), "float32")) / np.log(2))
    2.0
    """

    def __init__(self, negatives_per_positive=3.0, name="confidence_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if negatives_per_positive <= 0:
            raise ValueError(
                "Hard negative mining keeps some negatives. Received: negatives_per_positive="
                f"{negatives_per_positive}. Expected: a number above 0, 3 in the paper."
            )
        self.negatives_per_positive = negatives_per_positive

    def call(self, y_true, y_pred):
        labels = ops.cast(y_true, "int32")
        cross_entropy = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        is_matched = ops.cast(labels > 0, cross_entropy.dtype)
        positive = ops.sum(cross_entropy * is_matched, axis=-1)
        negative = self._hardest(cross_entropy * (1.0 - is_matched), ops.sum(is_matched, axis=-1))
        return (positive + negative) * _share_per_match(is_matched)

    def _hardest(self, losses, num_positives):
        # Matched anchors enter as 0 and so sort to the bottom: they cannot be picked wrongly.
        num_anchors = losses.shape[-1]
        first = num_anchors - ops.round(self.negatives_per_positive * num_positives)
        rank = ops.cast(ops.arange(num_anchors), losses.dtype)
        return ops.sum(ops.where(rank >= first[:, None], ops.sort(losses, axis=-1), 0.0), axis=-1)

    def get_config(self):
        return {**super().get_config(), "negatives_per_positive": self.negatives_per_positive}


def smooth_l1(expected, received):
    """Sum over the last axis of d^2 / 2 where |d| < 1 and |d| - 1/2 elsewhere (Girshick 2015)."""
    distance = ops.abs(expected - received)
    smooth = ops.where(distance < 1.0, 0.5 * ops.square(distance), distance - 0.5)
    return ops.sum(smooth, axis=-1)


def _share_per_match(is_matched):
    """What turns Keras' mean over samples into a sum over samples per matched anchor."""
    num_samples = ops.cast(ops.shape(is_matched)[0], is_matched.dtype)
    num_matched = ops.sum(is_matched)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        total = tf.distribute.ReduceOp.SUM
        num_samples, num_matched = context.all_reduce(total, [num_samples, num_matched])
    return num_samples / ops.maximum(num_matched, 1.0)


@keras.saving.register_keras_serializable("aip_tf")
class MatchedAccuracy(keras.metrics.Mean):
    """Fraction of matched anchors whose class is right: a cheap stand-in for average precision.

    For the output `classes`; unlike mean average precision it is computed within `fit`.

    >>> metric = MatchedAccuracy()
    >>> metric.update_state([[2, 0]], [[[0.0, 0.0, 5.0], [9.0, 0.0, 0.0]]])
    >>> float(metric.result())
    1.0
    """

    def __init__(self, name="matched_accuracy", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = ops.cast(y_true, "int32")
        weight = ops.cast(labels > 0, "float32")
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        is_right = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), labels)
        return super().update_state(ops.cast(is_right, "float32"), weight)

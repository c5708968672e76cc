"""From the outputs of an SSD to objects: box arithmetic and non-maximum suppression per class."""

from typing import NamedTuple

import tensorflow as tf

from aip_tf.detection.anchors import decode_offsets


class Detections(NamedTuple):
    """Objects found in a batch of images, best first, padded to one length.

    boxes: float32 (batch, max_detections, 4), `[ymin, xmin, ymax, xmax]`, fractions of the image.
    scores: float32 (batch, max_detections), probabilities; 0 in the padding.
    labels: int32 (batch, max_detections), from 0 as in the data set; -1 in the padding.
    num_detections: int32 (batch,), how many entries are real.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    labels: tf.Tensor
    num_detections: tf.Tensor


def detect(
    outputs,
    anchors,
    *,
    score_threshold=0.01,
    iou_threshold=0.45,
    max_per_class=200,
    max_detections=200,
):
    """Objects in a batch: softmax, decoding, per-class suppression, the best of all classes.

    Defaults are the paper's (section 2.2 and 3: confidence 0.01, overlap 0.45, 200 per image).

    Args:
        outputs: `{"boxes": (batch, num_anchors, 4) offsets, "classes": (batch, num_anchors,
            num_classes + 1) logits}`, as the model returns them.
        anchors: (num_anchors, 4) from `default_boxes`.
        score_threshold: lowest probability of a detection, in [0, 1).
        iou_threshold: overlap above which the weaker of two boxes of one class is dropped.
        max_per_class: most detections of one class in one image.
        max_detections: most detections in one image.

    Returns:
        `Detections`.

    Raises:
        ValueError: if outputs and anchors do not belong together.

    >>> anchors = [[0.5, 0.5, 0.4, 0.4]]
    >>> outputs = {"boxes": tf.zeros((1, 1, 4)), "classes": tf.constant([[[0.0, 9.0]]])}
    >>> detect(outputs, anchors).labels[0, 0].numpy()
    np.int32(0)
    """
    anchors = tf.convert_to_tensor(anchors)
    _check_match(outputs, anchors)
    boxes = decode_offsets(outputs["boxes"], anchors)
    scores = tf.nn.softmax(outputs["classes"])[..., 1:]
    found = tf.image.combined_non_max_suppression(
        boxes[:, :, None, :],
        scores,
        max_output_size_per_class=max_per_class,
        max_total_size=max_detections,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        clip_boxes=True,
    )
    is_real = tf.range(max_detections)[None, :] < found.valid_detections[:, None]
    labels = tf.where(is_real, tf.cast(found.nmsed_classes, "int32"), -1)
    return Detections(found.nmsed_boxes, found.nmsed_scores, labels, found.valid_detections)


def _check_match(outputs, anchors):
    received = (outputs["boxes"].shape[1], outputs["classes"].shape[1])
    if received != (anchors.shape[0],) * 2:
        raise ValueError(
            "Outputs and anchors do not belong together. Received: "
            f"{received[0]} boxes, {received[1]} class vectors and {anchors.shape[0]} anchors. "
            "Expected: anchors=default_boxes(feature_sizes(input_size)) of the model's input size."
        )

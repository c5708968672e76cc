"""SSD: a detector that can be pruned like any network, with its data, loss and evaluation."""

from aip_tf.detection.anchors import (
    decode_offsets,
    default_boxes,
    encode,
    encode_offsets,
    feature_sizes,
    match,
)
from aip_tf.detection.average_precision import (
    MeanAveragePrecision,
    average_precision,
    precision_recall,
)
from aip_tf.detection.backbones import ssd, ssd_mobilenet, ssd_mobilenet_v2
from aip_tf.detection.blocks import multibox_heads
from aip_tf.detection.data import ground_truth, ssd_data
from aip_tf.detection.decoding import Detections, detect
from aip_tf.detection.evaluation import DetectionEvaluation, DetectionTask, evaluate_detector
from aip_tf.detection.loss import (
    ConfidenceLoss,
    LocalizationLoss,
    MatchedAccuracy,
    compile_detector,
    multibox_loss,
)
from aip_tf.detection.transfer import AdversarialDetectionTransfer, DetectionTransfer
from aip_tf.detection.vgg import copy_vgg16_weights, ssd300_vgg16, ssd_vgg16

__all__ = [
    "AdversarialDetectionTransfer",
    "ConfidenceLoss",
    "DetectionEvaluation",
    "DetectionTask",
    "DetectionTransfer",
    "Detections",
    "LocalizationLoss",
    "MatchedAccuracy",
    "MeanAveragePrecision",
    "average_precision",
    "compile_detector",
    "copy_vgg16_weights",
    "decode_offsets",
    "default_boxes",
    "detect",
    "encode",
    "encode_offsets",
    "evaluate_detector",
    "feature_sizes",
    "ground_truth",
    "match",
    "multibox_heads",
    "multibox_loss",
    "precision_recall",
    "ssd",
    "ssd300_vgg16",
    "ssd_data",
    "ssd_mobilenet",
    "ssd_mobilenet_v2",
    "ssd_vgg16",
]

"""Detectors, drawn data and helpers of the tests of detection."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from aip_tf import datasets, detection

DEVKIT = Path(__file__).parents[2] / "shared" / "data" / "VOCdevkit"
needs_voc = pytest.mark.skipif(not DEVKIT.is_dir(), reason=f"no real images at {DEVKIT}")

ANCHORS = detection.default_boxes(detection.feature_sizes(64))


def tiny_detector():
    """A detector of five convolutions with those `ANCHORS`: quick to trace."""
    keras.utils.set_random_seed(0)
    image = keras.Input((64, 64, 3), name="image")
    x, sources = image, []
    for k, stride in enumerate((4, 2, 1, 2, 2)):
        x = keras.layers.Conv2D(16, 3, stride, "same", name=f"conv{k}")(x)
        x = keras.layers.ReLU(name=f"relu{k}")(keras.layers.BatchNormalization(name=f"bn{k}")(x))
        sources.append(x)
    return keras.Model(image, detection.multibox_heads(sources[2:], num_classes=3))


def outputs_for(objects, anchors, num_classes, confidence=9.0):
    """What a perfect model would return for one image."""
    targets = detection.encode(*objects, anchors)
    logits = confidence * tf.one_hot(targets["classes"], num_classes + 1)
    return {"boxes": targets["boxes"][None, :, :4], "classes": logits[None]}


def drawn_examples(count=6):
    """Bright rectangles on dark images of different sizes, with their boxes; the last is empty."""
    rng = np.random.default_rng(0)
    images, objects = [], []
    for k in range(count):
        height, width = rng.integers(60, 90, 2)
        image = rng.uniform(0, 0.2, (height, width, 3)).astype("float32")
        boxes = (
            np.zeros((0, 4), "float32") if k == count - 1 else np.float32([[0.2, 0.3, 0.7, 0.8]])
        )
        for ymin, xmin, ymax, xmax in boxes:
            rows = slice(round(ymin * height), round(ymax * height))
            image[rows, round(xmin * width) : round(xmax * width)] = 1.0
        images.append(image)
        labels = np.full(len(boxes), k % 3, "int32")
        objects.append({"boxes": boxes, "labels": labels, "difficult": labels == 1})
    signature = (
        tf.TensorSpec((None, None, 3)),
        {
            "boxes": tf.TensorSpec((None, 4)),
            "labels": tf.TensorSpec((None,), tf.int32),
            "difficult": tf.TensorSpec((None,), tf.bool),
        },
    )
    examples = tf.data.Dataset.from_generator(
        lambda: zip(images, objects, strict=True), output_signature=signature
    )
    return examples.apply(tf.data.experimental.assert_cardinality(count))


def drawn_data():
    examples = drawn_examples()
    return datasets.Data(examples, examples, input_shape=(None, None, 3), num_classes=3)


def small_data():
    return detection.ssd_data(drawn_data(), input_size=64, batch_size=3, seed=5)

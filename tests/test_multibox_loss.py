"""The MultiBox loss against plain loops, and on two replicas."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from aip_tf import detection


def reference_loss(targets, outputs, ratio=3):
    """The MultiBox loss in plain loops."""
    localization = confidence = num_matched = 0.0
    for image in range(len(targets["classes"])):
        labels = targets["classes"][image]
        logits = outputs["classes"][image]
        entropy = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
        positive = labels > 0
        hardest = np.sort(entropy[~positive])[::-1][: ratio * positive.sum()]
        confidence += entropy[positive].sum() + hardest.sum()
        distance = np.abs(targets["boxes"][image, positive, :4] - outputs["boxes"][image, positive])
        localization += np.where(distance < 1, distance**2 / 2, distance - 0.5).sum()
        num_matched += positive.sum()
    return localization / num_matched, confidence / num_matched


def random_case(rng, batch=3, num_anchors=40, num_classes=4):
    labels = rng.integers(1, num_classes, (batch, num_anchors)) * (
        rng.random((batch, num_anchors)) < [[0.1], [0.6], [0.0]]
    )
    offsets = rng.normal(size=(batch, num_anchors, 4)) * (labels > 0)[..., None]
    matched = (labels > 0).astype("float32")[..., None]
    return (
        {"boxes": np.concatenate([offsets, matched], -1).astype("float32"), "classes": labels},
        {
            "boxes": rng.normal(size=(batch, num_anchors, 4)).astype("float32"),
            "classes": rng.normal(size=(batch, num_anchors, num_classes)).astype("float32"),
        },
    )


@pytest.mark.parametrize("seed", range(5))
def test_loss_equals_plain_loops(seed):
    """Among the images: few matched, so many that negatives run out, none matched."""
    targets, outputs = random_case(np.random.default_rng(seed))
    losses = detection.multibox_loss()
    found = [float(losses[key](targets[key], outputs[key])) for key in ("boxes", "classes")]
    np.testing.assert_allclose(found, reference_loss(targets, outputs), rtol=1e-5)


def test_loss_of_a_batch_without_objects_is_zero():
    targets, outputs = random_case(np.random.default_rng(0))
    losses = detection.multibox_loss()
    for key, loss in losses.items():
        assert float(loss(np.zeros_like(targets[key]), outputs[key])) == 0.0


def test_only_the_hardest_negatives_have_a_gradient():
    logits = tf.Variable([[[0.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 2.0]]])
    with tf.GradientTape() as tape:
        loss = detection.ConfidenceLoss(negatives_per_positive=2)(np.array([[1, 0, 0, 0]]), logits)
    moved = np.abs(tape.gradient(loss, logits)).sum(-1)[0] > 0
    assert moved.tolist() == [True, True, False, True]


def test_losses_survive_serialization():
    for loss in detection.multibox_loss(2.0, 0.5).values():
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == loss.get_config()


def test_matched_accuracy_ignores_background():
    metric = detection.MatchedAccuracy()
    metric.update_state([[1, 2, 0, 0]], [[[0, 5.0, 0], [0, 5.0, 0], [9.0, 0, 0], [0, 9.0, 0]]])
    assert float(metric.result()) == 0.5


def test_loss_is_the_same_on_two_replicas():
    """Losses and gradients on two logical devices equal those of one, though one has no objects."""
    script = """
        import keras, numpy as np, tensorflow as tf
        device = tf.config.LogicalDeviceConfiguration()
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [device] * 2)
        from aip_tf import detection
        from keras.layers import Dense, Flatten, Reshape

        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, (4, 12)) * [[1], [1], [0], [0]]
        offsets = np.concatenate([rng.normal(size=(4, 12, 4)), labels[..., None] > 0], -1)
        targets = {"boxes": offsets.astype("float32"), "classes": labels}
        images = rng.random((4, 6, 6, 2)).astype("float32")

        def train(strategy):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                image = keras.Input((6, 6, 2))
                flat = Flatten()(image)
                outputs = {
                    "boxes": Reshape((12, 4), name="boxes")(Dense(48)(flat)),
                    "classes": Reshape((12, 3), name="classes")(Dense(36)(flat)),
                }
                model = detection.compile_detector(keras.Model(image, outputs), "sgd")
                batches = tf.data.Dataset.from_tensor_slices((images, targets)).batch(4)
                model.fit(batches, epochs=3, verbose=0)
                return np.concatenate([w.ravel() for w in model.get_weights()])

        one = train(tf.distribute.get_strategy())
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        print("difference", np.abs(one - two).max())
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.split("difference")[1]) < 1e-5

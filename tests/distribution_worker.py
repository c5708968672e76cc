"""Trains a small game for 20 steps under one strategy and writes what came out of it.

    python distribution_worker.py STRATEGY RESULT [MODE ...]

Writes RESULT_MODE.npz for every mode: even (if none is given), uneven or die. With "uneven" the
replicas do not divide a batch, and the last one has a single sample; a network is pruned as well,
by its teacher's answers alone. With "die" worker 1 disappears.

Started by test_distribution.py, one process per strategy and worker.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

from aip_tf import Recovery, distribution, prune
from aip_tf.game import (
    AdversarialDistiller,
    AdversarialTransfer,
    AttentionTransfer,
    FeatureTransfer,
    OutputTransfer,
)

NUM_STEPS, BATCH_SIZE = 20, 16


def network(width, seed, normalized):
    """A small CNN whose result does not depend on how a batch is split.

    Smooth on purpose: where rounding pushes one ReLU over its kink, results jump by 1e-3.
    """
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((8, 8, 1))
    for i, strides in enumerate((1, 2)):
        x = keras.layers.Conv2D(
            width,
            3,
            strides,
            padding="same",
            use_bias=False,
            name=f"conv{i}",
            kernel_regularizer=keras.regularizers.L2(1e-3),
        )(x)
        if normalized:
            x = keras.layers.BatchNormalization(synchronized=True, name=f"bn{i}")(x)
        x = keras.layers.Activation("silu", name=f"act{i}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="out")(x))


def batches(mode):
    batch_size, size = (7, 22) if mode == "uneven" else (BATCH_SIZE, NUM_STEPS * BATCH_SIZE)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(size, 8, 8, 1)).astype("float32")
    labels = generator.integers(0, 4, len(images))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    return distribution.share_batches(data)


def discriminator():
    keras.utils.set_random_seed(2)
    layers = [keras.Input((4,)), keras.layers.Dense(32, "tanh"), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def build(mode):
    normalized = mode != "uneven"  # plain statistics of two halves are not those of the whole
    distiller = AdversarialDistiller(
        network(8, 0, normalized),
        network(6, 1, normalized),
        [
            OutputTransfer(weight=0.5),
            AttentionTransfer(),
            FeatureTransfer(["act0", "act1"], kept=dict.fromkeys(("act0", "act1"), range(6))),
            AdversarialTransfer(discriminator=discriminator()),
        ],
    )
    distiller.compile(
        keras.optimizers.SGD(0.3, momentum=0.9, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def pruned_without_labels(data):
    """Weights of a student that was cut and trained on images alone."""
    keras.utils.disable_interactive_logging()
    recovery = Recovery(
        epochs=1, optimizer=keras.optimizers.SGD(1.0), transfers=[OutputTransfer(weight=1.0)]
    )
    inputs = data.map(lambda images, labels: images)
    student, _ = prune(
        network(8, 0, False), inputs, schedule=0.3, criterion="l1", recovery=recovery
    )
    return student.get_weights()


class Die(keras.callbacks.Callback):
    """The process of worker 1 disappears in the middle of training."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 3 and not distribution.is_chief(self.model.distribute_strategy):
            os._exit(9)


def play(strategy, mode):
    """What came out of a game: arrays by name."""
    with strategy.scope():
        distiller = build(mode)
    start = distiller.student.get_weights()
    data = batches(mode)
    callbacks = [Die()] if mode == "die" else []
    epochs = 3 if mode == "uneven" else 1
    history = distiller.fit(
        data, validation_data=data, epochs=epochs, verbose=0, callbacks=callbacks
    ).history
    predictions = distiller.predict(data, verbose=0)
    values = {f"student{i}": w for i, w in enumerate(distiller.student.get_weights())}
    if mode == "uneven":
        with strategy.scope():
            weights = pruned_without_labels(data)
        values |= {f"student_without_labels{i}": w for i, w in enumerate(weights)}
    discriminator = distiller.discriminators[0].get_weights()
    values |= {f"discriminator{i}": w for i, w in enumerate(discriminator)}
    return values | {
        "logs": json.dumps({k: float(v[-1]) for k, v in history.items()}),
        "num_replicas": strategy.num_replicas_in_sync,
        "is_chief": distribution.is_chief(strategy),
        "num_predictions": len(predictions),
        "moved": min(
            np.abs(a - b).max() for a, b in zip(start, distiller.student.get_weights(), strict=True)
        ),
    }


def main(strategy_name, result, *modes):
    if strategy_name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
        )
    strategy = distribution.strategy_from(strategy_name)
    for mode in modes or ["even"]:
        np.savez(f"{result}_{mode}.npz", **play(strategy, mode))


if __name__ == "__main__":
    main(*sys.argv[1:])

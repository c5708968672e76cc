"""What `prune` hands to `fit`: losses, optimizers that restart, statistics measured anew."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import aip_tf
from aip_tf.recovery import decayed_optimizer, recalibrate


def classifier(units, activation=None):
    return keras.Sequential([keras.Input((4,)), layers.Dense(units, activation=activation)])


def test_the_task_takes_what_the_recovery_asks_for():
    model = classifier(3)
    model.compile(loss="mse", metrics=["mae"])
    batch = np.zeros((5, 4)), np.zeros((5, 3))
    task = aip_tf.Recovery().for_model(model, batch).task
    assert (task.loss, task.metrics) == ("mse", ["mae"])
    task = aip_tf.Recovery(loss="mae", metrics=["mse"]).for_model(model, batch).task
    assert (task.loss, task.metrics) == ("mae", ["mse"])


def test_the_learning_rate_falls_as_a_cosine_over_the_stretch():
    optimizer = decayed_optimizer(keras.optimizers.SGD(0.4), "cosine", steps=100)
    rates = [float(optimizer.learning_rate)]
    variable = keras.Variable(0.0)
    optimizer.build([variable])
    for _ in range(99):
        optimizer.apply([tf.constant(0.0)])
        rates.append(float(optimizer.learning_rate))
    expected = 0.2 * (1 + np.cos(np.pi * np.arange(100) / 100))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_an_optimizer_is_copied_and_keeps_its_own_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    source = keras.optimizers.Adam(schedule, beta_1=0.7, clipnorm=1.0)
    optimizer = decayed_optimizer(source, "cosine", steps=100)
    assert optimizer is not source
    assert (optimizer.beta_1, optimizer.clipnorm) == (0.7, 1.0)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_an_optimizer_with_a_schedule_is_saved_with_the_model(tmp_path):
    model = classifier(3)
    model.compile(decayed_optimizer("sgd", "cosine", 10), "mse")
    model.fit(np.zeros((4, 4)), np.zeros((4, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == float(model.optimizer.learning_rate)


def test_statistics_become_the_mean_over_batches():
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(momentum=0.99)])
    batches = np.random.default_rng(0).normal(2.0, 3.0, (4, 64, 3)).astype("float32")
    recalibrate(model, tf.data.Dataset.from_tensor_slices((batches, np.zeros(4))), 4)
    layer = model.layers[0]
    np.testing.assert_allclose(layer.moving_mean, batches.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, batches.var(1).mean(0), rtol=1e-4)
    assert layer.momentum == 0.99


def test_frozen_statistics_stay():
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])
    model.trainable = False
    data = tf.data.Dataset.from_tensors((np.ones((8, 3), "float32"), np.zeros(8)))
    recalibrate(model, data, 1)
    np.testing.assert_array_equal(model.layers[0].moving_mean, 0)


@pytest.mark.parametrize("bad", [{"epochs": 1}, {"epochs": 2.5}, {"recalibration_batches": -1}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=rf"Received {next(iter(bad))}="):
        aip_tf.Recovery(**bad)

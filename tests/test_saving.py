"""Law 6: what cannot be written or loaded is told before anything trains, and truly."""

import functools
import logging

import keras
import numpy as np
import pytest
from keras import layers, ops

import aip_tf
from aip_tf.saving import check_saving, save_model

BATCH = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
LABELS = np.array([0, 1, 2, 0])


def network(layer):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="first")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layer(x)))


@keras.saving.register_keras_serializable("test_saving")
class Renamed(layers.Layer):
    """Does not accept what its own `get_config` gives."""

    def get_config(self):
        return {"nobody_knows": 1}

    def call(self, x):
        return x


LEAK = functools.partial(ops.leaky_relu, negative_slope=0.3)


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise RuntimeError("trained")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Dense(4, activation=LEAK, name="odd"),
        lambda: layers.Dense(4, activation=eval("lambda x: ops.tanh(x) * x"), name="odd"),
        lambda: layers.TimeDistributed(layers.Dense(4, activation=LEAK, name="odd"), name="around"),
    ],
    ids=["partial", "lambda without source", "inside"],
)
def test_what_keras_cannot_write_is_named_before_anything_trains(layer, tmp_path):
    model = network(lambda x: layers.Flatten()(layer()(layers.Reshape((2, 4))(x))))
    recovery = aip_tf.Recovery(1, transfers=[], callbacks=[Never()])
    run = functools.partial(
        aip_tf.prune, model, (BATCH, LABELS), schedule=0.2, criterion="l1", recovery=recovery
    )
    for options in ({}, {"check_only": True}):
        with pytest.raises(ValueError, match=r"'odd' cannot be written .*run_dir"):
            run(run_dir=tmp_path / "run", **options)
    with pytest.raises(RuntimeError, match="trained"):
        run()
    with pytest.raises(ValueError, match="'odd' cannot be written"):
        save_model(tmp_path / "teacher.keras", model)
    assert not (tmp_path / "teacher.keras").exists()


def test_a_file_that_does_not_load_is_told_truly():
    with pytest.raises(ValueError) as raised:
        check_saving(network(Renamed(name="odd")), BATCH)
    message = str(raised.value)
    assert "cannot be loaded again" in message and "nobody_knows" in message
    assert "custom_objects" not in message and len(message) < 700


@keras.saving.register_keras_serializable("test_saving")
class Sampling(layers.Layer):
    """Draws in inference too, from a state that Keras' files do not hold."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seeds)


def anywhere(x):
    return x + keras.random.normal(ops.shape(x))


@pytest.mark.parametrize(
    "layer", [Sampling(), layers.Lambda(anywhere)], ids=["a generator of its own", "Keras' own"]
)
def test_a_random_layer_is_compared_from_the_same_state(layer, monkeypatch):
    monkeypatch.setitem(keras.saving.get_custom_objects(), "anywhere", anywhere)
    model = network(layer)
    model(BATCH)
    before = [np.array(v) for v in model.variables]
    check_saving(model, BATCH)
    assert all(map(np.array_equal, before, model.variables))


def mine(x):
    return ops.tanh(x) * x


class Mine(layers.Layer):
    def call(self, x):
        return ops.softmax(x)


@pytest.mark.parametrize("own", [Mine(), layers.Activation(mine), layers.Lambda(lambda x: x * 2)])
def test_what_is_the_users_own_needs_only_that(own, caplog):
    with caplog.at_level(logging.INFO, "aip_tf"):
        check_saving(network(own), BATCH)
    assert "loads with what is yours only" in caplog.text

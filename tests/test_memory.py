"""Pruning again and again in one process keeps no more than training again and again does."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import aip_tf
from aip_tf import pruner

rng = np.random.default_rng(0)
DATA = rng.random((8, 6, 6, 1), "float32"), np.arange(8) % 3


def network():
    """Swish has a gradient of its own, which TensorFlow enters in a table of the process."""
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, activation="swish", name="first")(inputs)
    x = layers.Conv2D(4, 3, name="second")(layers.BatchNormalization(name="normalization")(x))
    x = layers.GlobalAveragePooling2D()(layers.Activation("swish")(x))
    model = keras.Model(inputs, layers.Dense(3, name="answers")(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def prune(model):
    recovery = aip_tf.Recovery(epochs=2)
    schedule = aip_tf.schedules.one_shot(0.3)
    return aip_tf.prune(model, DATA, DATA, schedule=schedule, criterion="l1", recovery=recovery)


def living(kind):
    gc.collect()
    return [x for x in gc.get_objects() if isinstance(x, kind)]


@pytest.fixture(scope="module")
def teacher():
    """A network that was pruned once: what is made once for a process is there."""
    model = network()
    prune(model)
    return model


def test_nothing_of_a_prune_outlives_it(teacher, monkeypatch):
    made, run = [], pruner._Loop.run

    def watched(loop):
        student, report = run(loop)
        parts = [loop, loop.assignment, loop.graph, student, student.optimizer, loop.books]
        made.extend(map(weakref.ref, parts))
        return student, report

    monkeypatch.setattr(pruner._Loop, "run", watched)
    graphs, variables = len(living(tf.Graph)), len(living(keras.Variable))
    prune(teacher)
    assert len(living(tf.Graph)) == graphs
    assert len(living(keras.Variable)) == variables
    assert [ref() for ref in made] == [None] * 6


def test_a_fit_of_keras_keeps_a_graph():
    """The control: what is looked for above is seen where it is."""
    network().fit(*DATA, verbose=0)
    graphs = len(living(tf.Graph))
    network().fit(*DATA, verbose=0)
    assert len(living(tf.Graph)) > graphs

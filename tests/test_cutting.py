"""One cut: proved before it is refitted, measured anew after it, replayed elsewhere."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from aip_tf import cutting
from aip_tf.channels import ChannelGraph

IMAGES = np.random.default_rng(0).normal(2.0, 3.0, (64, 8, 8, 1)).astype("float32")
DATA = tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(64))).batch(16)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3)(inputs)  # Keras names these layers: differently in every process
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def masks_of(graph):
    groups = [g for g in graph.groups if g.prunable]
    return {g.name: np.arange(g.num_channels) % 3 > 0 for g in groups}


def test_a_plan_names_only_what_loses_channels(model):
    masks = cutting.plan_cut(ChannelGraph(model), 0.05, selection="channels", criterion="l1")
    assert masks
    assert not any(keep.all() for keep in masks.values())


def test_the_refit_comes_after_the_proof_and_before_the_statistics(model):
    seen = {}

    def refit(before, after, keep_masks, data):
        seen.update(before=before, masks=keep_masks, data=data)
        after.layers[1].kernel.assign(after.layers[1].kernel * 2)

    graph = ChannelGraph(model)
    masks = masks_of(graph)
    cut, record = cutting.apply_cut(graph, masks, IMAGES, data=DATA, refit=refit)
    smaller = cut.model
    assert seen == {"before": model, "masks": masks, "data": DATA}
    assert record.check_error <= 1e-5  # of the cut, not of the refit
    after = smaller.layers[1](IMAGES)
    np.testing.assert_allclose(
        smaller.layers[2].moving_mean, np.mean(after, (0, 1, 2)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("skipped", [{}, {"lstm": "no plain matrix product"}])
def test_what_a_refit_left_whole_is_not_measured_anew(model, skipped):
    graph = ChannelGraph(model)

    def refit(before, after, keep_masks, data):
        return types.SimpleNamespace(skipped=skipped)

    cut, _ = cutting.apply_cut(graph, masks_of(graph), IMAGES, data=DATA, refit=refit)
    is_as_it_was = not np.any(cut.model.layers[2].moving_mean)
    assert is_as_it_was == (not skipped)


def test_a_refit_that_leaves_no_numbers_is_refused(model):
    def refit(before, after, keep_masks, data):
        after.layers[-1].bias.assign([0.0, np.nan, 0.0])

    graph = ChannelGraph(model)
    with pytest.raises(ValueError, match=r"left 1 weights .* not finite, such as '.*bias'"):
        cutting.apply_cut(graph, masks_of(graph), IMAGES, data=DATA, refit=refit)


def test_a_cut_is_replayed_on_a_model_whose_layers_have_other_names(model):
    graph = ChannelGraph(model)
    smaller, record = cutting.apply_cut(graph, masks_of(graph), IMAGES)
    twice, second = cutting.apply_cut(smaller, masks_of(smaller), IMAGES)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3)(x)
    other = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    again = cutting.replay(ChannelGraph(other), [record.keep_masks, second.keep_masks]).model
    assert [w.shape for w in again.weights] == [w.shape for w in twice.model.weights]
    assert again.layers[1].name == other.layers[1].name != twice.model.layers[1].name


def test_what_is_infinite_in_the_network_is_not_laid_to_the_refit():
    class Masked(layers.Layer):
        def build(self, shape):
            ends = lambda shape, dtype: tf.constant([0.0, -np.inf, 0.0], dtype)  # noqa: E731
            self.hidden = self.add_weight(shape=(3,), initializer=ends, trainable=False)

        def call(self, x):
            return keras.ops.softmax(x + self.hidden)

    inputs = keras.Input((4,))
    x = layers.Dense(3)(layers.Dense(8, name="made")(inputs))
    graph = ChannelGraph(keras.Model(inputs, Masked()(x)))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(32))).batch(8)
    _, record = cutting.apply_cut(graph, {"made": np.arange(8) < 5}, x, data=data)
    assert record.check_error <= 1e-5


def test_a_sparse_batch_proves_a_cut():
    inputs = keras.Input((6,), sparse=True)
    x = layers.Dense(8, name="made")(inputs)
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(2)(x)))
    batch = tf.sparse.from_dense(np.eye(6, dtype="float32"))
    _, record = cutting.apply_cut(graph, {"made": np.arange(8) < 5}, batch)
    assert record.check_error <= 1e-5

"""Which activation functions leave channels free, and what is said of the others."""

import functools

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import aip_tf

FACTOR = tf.Variable(0.3, trainable=False)
COMPILED = tf.function(lambda x: tf.nn.relu(x) * 2.0)


class Snake:
    """An activation that is an object, and not hashable."""

    __hash__ = None

    def __call__(self, x):
        return x + ops.square(ops.sin(x))


ALONE = {
    "name": "relu",
    "tf.nn.relu": tf.nn.relu,
    "tf.nn.gelu": tf.nn.gelu,
    "tf.nn.swish": tf.nn.swish,
    "tf.sigmoid": tf.sigmoid,
    "tf.math.erf": tf.math.erf,
    "tf.identity": tf.identity,
    "ops.gelu": ops.gelu,
    "ops.square": ops.square,
    "mish": keras.activations.mish,
    "partial": functools.partial(tf.nn.leaky_relu, alpha=0.3),
    "lambda of keras": lambda x: ops.relu(x) - 0.1,
    "lambda of tensorflow": lambda x: tf.where(x > 0, x, tf.zeros_like(x)),
    "both in one": lambda x: tf.nn.relu(x) * ops.sigmoid(x),
    "constants of one entry": lambda x: x * tf.constant([2.0]) + FACTOR,
    "a tf.function inside": lambda x: COMPILED(x) + x,
    "shaped like the input": lambda x: x * tf.fill(tf.shape(x), 2.0),
    "object": Snake(),
    "layer": layers.LeakyReLU(),
}

MIXING = {
    "softmax": ("softmax", "Softmax"),
    "tf.nn.log_softmax": (tf.nn.log_softmax, "LogSoftmax"),
    "sort": (lambda x: ops.sort(x, -1), "mix"),
    "mean": (lambda x: x - ops.mean(x, -1, keepdims=True), "Mean"),
    "norm": (lambda x: tf.math.l2_normalize(x, -1), "Sum"),
    "running sum": (functools.partial(tf.cumsum, axis=-1), "Cumsum"),
    "reversed": (lambda x: ops.flip(x, -1), "ReverseV2"),
    "a constant for each channel": (lambda x: x + np.arange(6.0, dtype="float32"), "constants"),
    "the number of channels": (lambda x: x / x.shape[-1], "cannot be read"),
    "the number of channels, read later": (
        lambda x: x / tf.cast(tf.shape(x)[-1], x.dtype),
        "RealDiv with the sizes",
    ),
    "a mean in a tf.function": (tf.function(lambda x: x - tf.reduce_mean(x)), "Mean"),
    "softmax layer": (layers.Softmax(), "normalises over"),
    "layer that was never called": (layers.PReLU(), "do not exist yet"),
}


def convolutions(activation):
    image = keras.Input((5, 5, 3))
    x = layers.Conv2D(6, 3, activation=activation, name="first")(image)
    return keras.Model(image, layers.Conv2D(2, 3, name="second")(x))


def first_group(model):
    return next(g for g in aip_tf.find_channel_groups(model) if "first" in g.producers)


@pytest.mark.parametrize("activation", ALONE.values(), ids=ALONE)
def test_a_function_of_each_entry_leaves_channels_free(activation):
    group = first_group(convolutions(activation))
    assert group.prunable and group.num_channels == 6


@pytest.mark.parametrize("activation, word", MIXING.values(), ids=MIXING)
def test_a_function_that_mixes_channels_keeps_them_and_says_so(activation, word):
    group = first_group(convolutions(activation))
    assert not group.prunable
    assert group.reason.startswith("first") and word in group.reason


def test_the_reason_names_the_function():
    reason = first_group(convolutions(keras.activations.softmax)).reason
    assert reason == (
        "first (Conv2D) applies `softmax`, which may mix its channels: it computes Softmax"
    )


@pytest.mark.parametrize(
    "layer",
    [
        layers.Activation(tf.nn.gelu),
        layers.EinsumDense("abc,cd->abd", (None, 7), activation=ops.silu),
        layers.LSTM(7, activation=tf.nn.relu, recurrent_activation=tf.sigmoid),
    ],
    ids=lambda layer: layer.name,
)
def test_every_layer_with_an_activation_asks_the_same(layer):
    sequence = keras.Input((4, 3))
    x = layer(layers.Conv1D(6, 1, name="first")(sequence))
    model = keras.Model(sequence, layers.Dense(2)(x))
    assert all(g.prunable for g in aip_tf.find_channel_groups(model)[:-1])


def test_an_activation_layer_with_weights_is_cut_with_its_layer():
    model = convolutions(layers.PReLU(shared_axes=[1, 2]))
    rng = np.random.default_rng(0)
    batch = laws.random_batch(model, rng)
    model(batch)
    assert first_group(model).prunable
    assert not laws.check_cut(laws.randomize(model, rng, batch), batch, rng).problems


def test_a_normalization_as_activation_keeps_the_channels():
    model = convolutions(layers.LayerNormalization())
    model(np.zeros((1, 5, 5, 3), "float32"))
    assert "a layer that mixes its channels" in first_group(model).reason


def behind_a_layer(layer):
    image = keras.Input((5, 5, 3))
    x = layer(layers.Conv2D(6, 3, name="first")(image))
    return keras.Model(image, layers.Conv2D(2, 3, name="second")(x))


def test_a_layer_without_a_rule_is_looked_at():
    alone = layers.Lambda(lambda x: tf.nn.relu6(x), output_shape=lambda s: s)
    assert first_group(behind_a_layer(alone)).prunable
    mixing = layers.Lambda(lambda x: tf.nn.softmax(x), output_shape=lambda s: s)
    assert not first_group(behind_a_layer(mixing)).prunable


def test_looking_at_a_layer_leaves_nothing_behind():
    class Penalized(layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return tf.nn.relu(x)

        def compute_output_shape(self, shape):
            return shape

    model = behind_a_layer(Penalized(name="penalized"))
    assert first_group(model).prunable
    assert model.get_layer("penalized").losses == []


def test_a_subclass_that_changes_nothing_has_the_rule_of_its_base():
    class Same(layers.LayerNormalization):
        pass

    class Other(layers.LayerNormalization):
        def call(self, x):
            return 2 * super().call(x)

    assert first_group(behind_a_layer(Same())).prunable
    assert not first_group(behind_a_layer(Other())).prunable


def test_softmax_over_another_axis_than_that_of_the_channels():
    image = keras.Input((6, 5, 3))
    x = layers.Permute((3, 1, 2))(layers.Conv2D(6, 3, name="first")(image))
    x = layers.Permute((2, 3, 1))(layers.Activation("softmax")(x))
    assert first_group(keras.Model(image, layers.Conv2D(2, 3)(x))).prunable


def test_a_foreign_activation_is_cut_exactly():
    rng = np.random.default_rng(0)
    model = convolutions(tf.nn.gelu)
    batch = laws.random_batch(model, rng)
    assert not laws.check_cut(laws.randomize(model, rng, batch), batch, rng).problems

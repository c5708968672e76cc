"""Kinds of layers met in models that nobody here wrote: each cut is exact and comes back from its
file."""

import functools

import composites
import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import aip_tf


class MadeInBuild(layers.Layer):
    """Its parts are made in `build`, under names that begin with `_self_`."""

    def build(self, shape):
        self._self_attention_norm = layers.LayerNormalization()
        self.gain = self.add_weight(shape=(shape[-1],), name="gain")  # keeps the layer whole
        self.built = True

    def call(self, x):
        return self._self_attention_norm(x) * self.gain


class WholeAroundBlock(layers.Layer):
    """Stays whole by its variable; what is inside of it could be opened."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = composites.Block(4)

    def build(self, shape):
        self.gain = self.add_weight(shape=(4,), initializer="ones", name="gain")
        self.block(keras.KerasTensor(shape))

    def call(self, x):
        return self.block(x) * self.gain


class WithIdentity(layers.Layer):
    """An Identity with a policy object: Keras itself cannot write such a one down."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(6, 3, padding="same")
        self.rest = layers.Identity(dtype=self.dtype_policy)

    def call(self, x):
        return self.rest(self.conv(x))


class SizeLeftOpen(layers.Layer):
    """Its own inference of shapes leaves a size open, and TensorFlow keeps it closed to us."""

    def call(self, x):
        return tf.reverse(x, [1])

    def compute_output_shape(self, shape):
        return (shape[0], None, *shape[2:])


class Scores(layers.Layer):
    """Returns its scores as well, or None."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(6, 3, padding="same")

    def call(self, x, return_scores=False):
        y = self.conv(x)
        return y, (ops.max(y) if return_scores else None)


class WithNone(layers.Layer):
    """Calls a layer that returns None among its outputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Scores()

    def call(self, x):
        y, _ = self.inner(x)
        return ops.relu(y)


def cut(middle, shape=(6, 6, 3)):
    """A model around `middle` (a function of a tensor), its cut, and a batch."""
    image = keras.Input(shape)
    x = middle(layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image))
    x = layers.Conv2D(5, 1, activation="relu", name="last")(x)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    batch = laws.random_batch(model, rng, 5)
    laws.randomize(model, rng, batch)
    graph = aip_tf.ChannelGraph(model)
    masks = laws.random_masks(graph.groups, rng)
    assert "last" in masks
    smaller = aip_tf.prune_channels(graph, masks)
    expected = laws.run(aip_tf.mask_channels(graph, masks), batch)
    assert laws.relative_error(laws.run(smaller, batch), expected) <= laws.TOLERANCE
    uncut = laws.run(aip_tf.prune_channels(graph, {}), batch)
    assert laws.relative_error(uncut, laws.run(model, batch)) <= laws.TOLERANCE
    return smaller, batch


class Pass(layers.Layer):
    """Does nothing, like a DropPath of rate 0."""

    def call(self, x):
        return x


class PassTwice(layers.Layer):
    """Calls one layer that does nothing twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drop, self.convs = Pass(), [layers.Conv2D(4, 1), layers.Conv2D(4, 1)]

    def call(self, x):
        for conv in self.convs:
            x = x + self.drop(conv(x))
        return x


class DropPath(layers.Layer):
    """Random while training, nothing else: it has no variable but the state of its generator."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x, training=False):
        if not training:
            return x
        noise = keras.random.uniform((ops.shape(x)[0], 1, 1, 1), seed=self.seed)
        return x / 0.9 * ops.floor(0.9 + noise)


class OpenBatch(layers.Layer):
    """Reshapes by the batch size that `ops.shape` tells, with a -1 besides."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.widen = layers.Dense(6, name="dense")
        self.narrow = layers.Dense(4)

    def call(self, x):
        batch, height, width, depth = ops.shape(x)
        x = ops.reshape(x, (batch, -1, depth))
        x = ops.relu(self.widen(x))
        return self.narrow(ops.reshape(x, (batch, height, width, 6)))


def quick_gelu(x):
    return x * ops.sigmoid(1.702 * x)


class OwnActivation(layers.Layer):
    """An activation layer of a function that no file can name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(6, 3, padding="same")
        self.activation = layers.Activation(quick_gelu)

    def call(self, x):
        return self.activation(self.conv(x))


class IndexedTable(layers.Layer):
    """Rows of a table by integers that it keeps as a variable."""

    def build(self, shape):
        self.table = self.add_weight(shape=(5, shape[-1]), name="table")
        self.index = self.add_weight(
            shape=(36,), dtype="int32", trainable=False, name="index",
            initializer=lambda shape, dtype: np.arange(36) % 5,
        )  # fmt: skip

    def call(self, x):
        rows = ops.take(self.table, ops.reshape(self.index, (-1,)), axis=0)
        return x + ops.reshape(rows, (6, 6, -1))


class BuiltOnAnotherSize(layers.Layer):
    """Its part was built on a larger map: Keras minds that on symbols only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.part = keras.Sequential([layers.Conv2D(6, 3, padding="same"), layers.ReLU()])

    def build(self, shape):
        self.part.build((None, 9, 9, 4))
        self.built = True

    def call(self, x):
        return self.part(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 6)


def in_patches(x):
    """Four patches of every sample become samples."""
    x = layers.Concatenate(1)([x[:, 3:], x[:, :3]])
    x = layers.LayerNormalization()(ops.reshape(x, (-1, 9, 4)))
    return ops.reshape(x, (-1, 6, 6, 4))


MIDDLES = {
    "made in build": lambda x: MadeInBuild()(x),
    "whole around a block": lambda x: WholeAroundBlock()(x),
    "identity with a policy": lambda x: WithIdentity()(x),
    "a size left open": lambda x: SizeLeftOpen()(x),
    "a part that does nothing": lambda x: PassTwice()(x),
    "an activation of its own": lambda x: OwnActivation()(x),
    "None among the outputs": lambda x: WithNone()(x),
    "patches as samples": in_patches,
    "built on another size": lambda x: BuiltOnAnotherSize(name="built")(x),
    "a table by integers": lambda x: IndexedTable(name="table")(x),
}
OWN = {c.__name__: c for c in (MadeInBuild, WholeAroundBlock, SizeLeftOpen)}


@pytest.mark.parametrize("middle", MIDDLES.values(), ids=MIDDLES)
def test_a_foreign_layer_is_cut_around_and_reloads(middle, tmp_path):
    smaller, batch = cut(middle)
    smaller.save(tmp_path / "cut.keras")
    loaded = keras.saving.load_model(tmp_path / "cut.keras", custom_objects=OWN)
    assert laws.relative_error(laws.run(loaded, batch), laws.run(smaller, batch)) <= laws.TOLERANCE


def test_channels_pass_through_a_layer_that_is_random_in_training_only():
    smaller, _ = cut(lambda x: DropPath(name="drop")(x))
    assert smaller.get_layer("first").filters == 2
    assert isinstance(smaller.get_layer("drop"), DropPath)


def test_a_layer_that_reshapes_by_the_batch_size_is_opened():
    smaller, _ = cut(lambda x: OpenBatch(name="middle")(x))
    assert smaller.get_layer("middle").get_layer("dense").units == 3


@pytest.mark.parametrize(
    "activation",
    [functools.partial(ops.leaky_relu, negative_slope=0.3), eval("lambda x: ops.tanh(x) * x")],
    ids=["partial", "lambda without source"],
)
def test_a_function_that_keras_cannot_write_down_does_not_hinder_a_cut(activation):
    smaller, _ = cut(lambda x: layers.Conv2D(6, 3, activation=activation, name="own")(x))
    assert smaller.get_layer("own").activation is activation
    assert smaller.get_layer("own").filters == 3

"""Where two calls or two layers need the same weights: what cannot serve both stays whole."""

import sys

import keras
import laws
import numpy as np
import pytest
from keras import Input, Model, layers, ops

import aip_tf


def head(x):
    return layers.Dense(2, name="head")(layers.Flatten()(x))


def on_both_axes(shared):
    """A layer called on channels, then on the same tensor turned: they lie on its other axis."""
    i = Input((8, 8))
    turned = layers.Permute((2, 1))(shared(layers.Dense(8, name="made")(i)))
    return Model(i, head(shared(turned)))


def on_kept_ones(shared):
    """A layer called on channels, then on a tensor of which nothing can be cut."""
    inputs = Input((8, 8)), Input((8, 8))
    both = layers.Concatenate(axis=1)(inputs)[:, 4:12]
    found = [shared(layers.Dense(8, name="made")(inputs[0])), shared(both)]
    return Model(inputs, head(layers.Concatenate()(found)))


NORMALIZATIONS = {
    "batch": lambda: layers.BatchNormalization(),
    "layer": lambda: layers.LayerNormalization(),
    "rms": lambda: layers.RMSNormalization(),
    "group": lambda: layers.GroupNormalization(2),
    "given": lambda: layers.Normalization(mean=np.arange(8.0), variance=np.ones(8)),
    "prelu": lambda: layers.PReLU(shared_axes=[1]),
}
OTHERS = {
    "einsum": lambda: layers.EinsumDense("abc,cd->abd", output_shape=(8, 8)),
    "dense": lambda: layers.Dense(8),
}


def is_exact(model):
    batch = laws.random_batch(model, np.random.default_rng(0))
    laws.randomize(model, np.random.default_rng(1), batch)
    graph = aip_tf.ChannelGraph(model)
    masks = laws.random_masks(graph.groups, np.random.default_rng(2))
    cut, twin = (laws.run(m, batch) for m in (graph.prune(masks), graph.mask(masks)))
    return laws.relative_error(cut, twin) <= laws.TOLERANCE


@pytest.mark.parametrize("shared", (NORMALIZATIONS | OTHERS).values(), ids=NORMALIZATIONS | OTHERS)
@pytest.mark.parametrize("build", [on_both_axes, on_kept_ones])
def test_a_layer_whose_calls_have_no_edit_in_common_is_cut_for_both_or_not_at_all(build, shared):
    assert is_exact(build(shared()))


@pytest.mark.parametrize("shared", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_it_says_which_calls_differ(shared):
    groups = aip_tf.find_channel_groups(on_both_axes(shared()))
    (reason,) = {group.reason for group in groups if group.producers == ("made",)}
    assert "differ" in reason or "axis" in reason


GLOBAL = None


class Reader(layers.Layer):
    """Reads the kernel of another layer, which it owns as well if it is told so."""

    def __init__(self, other, is_owned, **kwargs):
        super().__init__(**kwargs)
        self.kept = other if is_owned else (lambda: other)

    def call(self, x):
        other = self.kept if isinstance(self.kept, layers.Layer) else self.kept()
        return x * ops.mean(ops.abs(other.kernel))


def reading_lambda(other):
    return layers.Lambda(lambda x: x * ops.mean(ops.abs(other.kernel)))


def activation_of_no_module(other):
    def scaled(x):
        return x * ops.sum(ops.abs(other.kernel))

    scaled.__module__ = None  # as of what `exec` runs
    return layers.Dense(4, activation=scaled)


READERS = {
    "a Lambda": reading_lambda,
    "a Lambda, by a global name": lambda _: layers.Lambda(lambda x: x * ops.mean(GLOBAL.kernel)),
    "an activation": activation_of_no_module,
    "a layer that owns it": lambda other: Reader(other, is_owned=True),
    "a layer that does not": lambda other: Reader(other, is_owned=False),
    "a layer that it calls by chance": lambda other: layers.Lambda(
        lambda x: x + ops.mean(other(x[:, :6] + keras.random.normal((6,))) * 0.0)
    ),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_what_a_layer_reads_of_another_stays_whole(reader, monkeypatch):
    i, made = Input((6,)), layers.Dense(8, name="made")
    monkeypatch.setattr(sys.modules[__name__], "GLOBAL", made)
    model = Model(i, layers.Dense(2)(reader(made)(layers.Dense(7)(layers.ReLU()(made(i))))))
    (group,) = [g for g in aip_tf.find_channel_groups(model) if "made" in g.producers]
    assert not group.prunable and "reads" in group.reason
    assert is_exact(model)


def test_an_embedding_that_also_turns_vectors_into_words_stays_whole():
    class Words(layers.Layer):
        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.embedding = embedding

        def call(self, x):
            return ops.matmul(x, ops.transpose(self.embedding.embeddings))

    i, embedding = Input((5,), dtype="int32"), layers.Embedding(11, 8, name="embedding")
    x = layers.Dense(8)(layers.Dense(6, name="inside")(embedding(i)))
    model = Model(i, Words(embedding)(x))
    prunable = {g.name for g in aip_tf.find_channel_groups(model) if g.prunable}
    assert prunable == {"inside"}
    assert is_exact(model)


@pytest.mark.parametrize("masks", [{}, {"made": np.arange(5) < 3}], ids=["whole", "cut"])
def test_an_activation_reads_the_copy_of_the_layer_that_it_closes_over(masks):
    i, other = Input((6,)), layers.Dense(8, name="other")
    scaled = layers.Dense(4, activation=lambda x: x * ops.mean(other.kernel))
    model = Model(i, scaled(layers.Dense(5, name="made")(other(i))))
    copy, batch = aip_tf.prune_channels(model, masks), np.ones((2, 6), "float32")
    before = copy(batch)
    other.kernel.assign(other.kernel * 2.0)
    assert np.array_equal(copy(batch), before)

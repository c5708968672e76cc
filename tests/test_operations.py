"""Operations of `keras.ops` that are met now and then: cut exactly, or kept with their reason."""

import keras
import laws
import numpy as np
import pytest
from keras import Input, Model, layers, ops

import aip_tf

POSITIONS = np.random.default_rng(3).normal(size=(36, 8)).astype("float32")


def as_rows(x, axes):
    """Doubled on the way, where every channel of every sample is a row."""
    turned = ops.transpose(x, axes)
    rows = 2.0 * ops.reshape(turned, (-1, 36))
    sizes = [-1 if size is None else size for size in turned.shape]
    return ops.transpose(ops.reshape(rows, sizes), np.argsort(axes).tolist())


CASES = {
    "glu": (lambda x: ops.glu(x), 4),
    "relu with bounds": (lambda x: keras.activations.relu(x, 0.1, 2.0, 0.1), 8),
    "sort along a spatial axis": (lambda x: ops.sort(x, 1), 8),
    "sort along channels": (lambda x: ops.sort(x, -1), "sorts these channels"),
    "normalize": (lambda x: ops.normalize(x, -1), 8),
    "normalize by another norm": (lambda x: ops.normalize(x, -1, order=3), "a norm of these"),
    "moments": (lambda x: x - ops.moments(x, [1, 2], keepdims=True)[0] * 0.5, 8),
    "nanmax": (lambda x: x - ops.nanmax(x, (1, 2), keepdims=True) * 0.5, 8),
    "rot90": (lambda x: ops.rot90(x, 1, (1, 2)), 8),
    "patches": (lambda x: ops.image.extract_patches(x, 2), 8),
    "slice": (lambda x: ops.slice(x, (0, 1, 1, 0), (13, 4, 4, 8)), 8),
    "slice of channels": (lambda x: ops.slice(x, (0, 1, 1, 2), (13, 4, 4, 4)), "selects some"),
    "hstack": (lambda x: ops.hstack([x, ops.relu(x)]), 8),
    "triangle of positions": (
        lambda x: ops.swapaxes(ops.tril(ops.swapaxes(x, 2, 3)), 2, 3),
        "by their index",
    ),
    "rows of a channel among samples": (lambda x: as_rows(x, (0, 3, 1, 2)), 8),
    "samples among rows of a channel": (lambda x: as_rows(x, (3, 0, 1, 2)), "puts samples behind"),
    "more positions than channels": (
        lambda x: ops.reshape(ops.reshape(x, (-1, 36, 8)) * POSITIONS, (-1, 6, 6, 8)),
        8,
    ),
    "split into samples": (lambda x: ops.concatenate(ops.split(x, 13, 0)[::-1], 0), 8),
    "two numbers per entry": (lambda x: ops.logaddexp2(x, 1.5), 8),
    "center crop": (layers.CenterCrop(4, 4), 8),
    "random flip": (layers.RandomFlip(), 8),
}


def around(function):
    image = Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 2, name="behind")(function(x)))
    return Model(image, layers.Dense(3, name="head")(x))


def check(model):
    rng = np.random.default_rng(0)
    batch = laws.random_batch(model, rng)
    verdict = laws.check_cut(laws.randomize(model, rng, batch), batch, rng)
    assert not verdict.problems


@pytest.mark.parametrize("function, expected", CASES.values(), ids=CASES)
def test_operation(function, expected):
    keras.utils.clear_session(free_memory=False)
    model = around(function)
    group = next(g for g in aip_tf.find_channel_groups(model) if "conv" in g.producers)
    if isinstance(expected, str):
        assert not group.prunable and expected in group.reason
    else:
        assert group.prunable and group.num_channels == expected
    check(model)


# --- attention --------------------------------------------------------------------------------


def tokens():
    sequence = Input((5, 4))
    return sequence, layers.Conv1D(8, 1, name="conv")(sequence)


def heads(x, **options):
    parts = [ops.reshape(layers.Dense(12, name=n)(x), (-1, 5, 4, 3)) for n in ("q", "k", "v")]
    return ops.reshape(ops.dot_product_attention(*parts, **options), (-1, 5, 12))


def one_head(x):
    parts = [ops.expand_dims(layers.Dense(6, name=n)(x), 2) for n in ("q", "k", "v")]
    return ops.squeeze(ops.dot_product_attention(*parts, scale=0.3), 2)


def several_axes():
    image = Input((3, 4, 2))
    x = layers.Conv2D(8, 1, name="conv")(image)
    layer = layers.MultiHeadAttention(4, 3, attention_axes=(2,), use_gate=True, name="it")
    x, scores = layer(x, x, return_attention_scores=True)
    return Model(image, [layers.Dense(2)(x), ops.sum(scores)])


def masked_by_a_tensor():
    i, x = tokens()
    mask = Input((5, 5), dtype="bool", name="mask")
    x = layers.MultiHeadAttention(4, 3, name="it")(x, x, attention_mask=mask, use_causal_mask=True)
    return Model([i, mask], layers.Dense(2)(x))


def masked_by_an_embedding():
    words = Input((5,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True, name="words")(words)
    x = layers.TimeDistributed(layers.LayerNormalization())(layers.LayerNormalization()(x))
    x = layers.MultiHeadAttention(4, 3, dropout=0.1, name="it")(x, x)
    return Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def masked_list():
    words = Input((5,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True, name="words")(words)
    return Model(words, layers.Dense(2)(layers.Attention()([x, x])))


def on_tokens(function):
    def build():
        i, x = tokens()
        return Model(i, layers.Dense(2)(function(x)))

    return build


ATTENTION = {
    "heads": (on_tokens(heads), "conv:8 q+k+v:4"),
    "a bias for each head": (on_tokens(lambda x: heads(x, bias=np.ones((1, 4, 5, 5)))), "conv:8"),
    "one head with a scale": (on_tokens(one_head), "conv:8 q+k:6 v:6"),
    "several axes": (several_axes, "conv:8 it:4 it:8"),
    "masked": (masked_by_a_tensor, "conv:8 it:4 it:8"),
    "masked by an embedding": (masked_by_an_embedding, "words:8 it:4 it:8"),
    "a masked list": (masked_list, "words:8"),
    "shared heads": (
        on_tokens(lambda x: layers.GroupQueryAttention(3, 6, 2, name="it")(x, x)),
        "conv+it:8 it:2",
    ),
    "einsum with an ellipsis": (
        on_tokens(
            lambda x: ops.einsum(
                "...td,...sd->...ts", layers.Dense(6, name="q")(x), layers.Dense(6, name="k")(x)
            )
        ),
        "conv:8 q+k:6",
    ),
    "additive": (
        on_tokens(lambda x: layers.AdditiveAttention()([layers.Dense(6, name="q")(x), x, q_of(x)])),
        "conv:8 k+q:6",
    ),
}


def q_of(x):
    return layers.Dense(6, name="k")(x)


@pytest.mark.parametrize("build, expected", ATTENTION.values(), ids=ATTENTION)
def test_attention(build, expected):
    keras.utils.clear_session(free_memory=False)
    model = build()
    found = laws.cuttable(aip_tf.find_channel_groups(model))
    written = ["+".join(sorted(g.producers)) + f":{g.num_channels}" for g in found]
    assert sorted(written) == sorted(
        "+".join(sorted(part.split(":")[0].split("+"))) + ":" + part.split(":")[1]
        for part in expected.split()
    )
    check(model)


def test_attention_costs_what_it_costs():
    projections = 5 * 8 * 12 * 3 + 5 * 12 * 8
    scores_and_values = 5 * 5 * 12 * 2
    model = on_tokens(lambda x: layers.MultiHeadAttention(4, 3)(x, x))()
    assert aip_tf.count_macs(model) == 5 * 4 * 8 + projections + scores_and_values + 5 * 8 * 2
    model = on_tokens(lambda x: ops.einsum("...c,cd->...d", x, np.ones((8, 3), "float32")))()
    assert aip_tf.count_macs(model) == 160 + 5 * 8 * 3 + 5 * 3 * 2
    model = on_tokens(heads)()
    assert aip_tf.count_macs(model) == 160 + 5 * 8 * 12 * 3 + scores_and_values + 5 * 12 * 2


def in_frames(x):
    """Rows of the map among the samples, for a while."""
    rows = ops.reshape(x, (x.shape[0] * 6, 6, 8))
    return ops.reshape(rows - ops.mean(rows, 1, keepdims=True), x.shape)


FIXED = {
    "the samples in front": (lambda x: ops.reshape(x, (x.shape[0], 36, 8)), 8),
    "more behind them": (in_frames, 8),
    "channels among the samples": (lambda x: ops.reshape(ops.reshape(x, (-1, 36)), x.shape), 8),
    "on two axes": (lambda x: ops.reshape(x, (2, -1, 6, 8)), "reshapes the batch axis"),
    "on another axis": (
        lambda x: ops.transpose(ops.tanh(ops.transpose(x, (1, 0, 2, 3))), (1, 0, 2, 3)),
        "puts a fixed number of samples on another axis",
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_number_of_samples_is_reshaped(name):
    function, expected = FIXED[name]
    image = Input(batch_shape=(4, 6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(image)
    model = Model(image, layers.Dense(3, name="head")(function(x)))
    groups = {g.name: g for g in aip_tf.find_channel_groups(model)}
    rng = np.random.default_rng(0)
    if isinstance(expected, str):
        assert expected in groups["conv"].reason
    else:
        masks = laws.random_masks(groups.values(), rng)
        assert "conv" in masks
        assert laws.masked_is_cut(model, masks, laws.random_batch(model, rng, 4))[0] <= 1e-5

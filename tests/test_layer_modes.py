"""Layers in another mode than the one their rule knows: LoRA, quantised, called with more."""

import keras
import laws
import numpy as np
import pytest
from keras import layers

import aip_tf
from aip_tf import channels


def network(layer, shape=(6, 5)):
    """`layer` between two others that can be cut, on a sequence."""
    sequence = keras.Input(shape)
    x = layers.Conv1D(8, 1, name="before")(sequence)
    x = layers.GlobalAveragePooling1D()(layer(x))
    return keras.Model(sequence, layers.Dense(3)(layers.Dense(8, name="behind")(x)))


def with_lora(layer):
    model = network(layer)
    layer.enable_lora(2)
    return model


def quantized(layer, mode):
    model = network(layer)
    layer.quantize(mode)
    return model


MODES = {
    "dense with LoRA": lambda: with_lora(layers.Dense(4, name="it")),
    "convolution with LoRA": lambda: with_lora(layers.Conv1D(4, 1, name="it")),
    "einsum with LoRA": lambda: with_lora(layers.EinsumDense("abc,cd->abd", (None, 4), name="it")),
    "int8": lambda: quantized(layers.Dense(4, name="it"), "int8"),
    "int4": lambda: quantized(layers.Dense(4, name="it"), "int4"),
    "float8": lambda: quantized(layers.Dense(4, name="it"), "float8"),
    "einsum int8": lambda: quantized(
        layers.EinsumDense("abc,cd->abd", (None, 4), name="it"), "int8"
    ),
}


@pytest.fixture(params=MODES.values(), ids=MODES)
def model(request):
    keras.utils.clear_session(free_memory=False)
    return request.param()


def test_what_a_rule_does_not_know_is_kept_whole_and_the_rest_is_cut(model):
    groups = aip_tf.find_channel_groups(model)
    assert [g.producers for g in groups if g.prunable] == [("behind",)]
    reasons = [g.reason for g in groups if {"it", "before"} & set(g.producers)]
    assert len(reasons) == 2
    assert all(r.startswith("it (") and "its channel rule does not know" in r for r in reasons)
    layer = model.get_layer("it")
    if getattr(layer, "lora_enabled", False):
        assert all("`kernel`" not in r and "LoRA" in r for r in reasons)
    else:
        assert all(f"is quantized to {layer.quantization_mode}" in r for r in reasons)
    rng = np.random.default_rng(0)
    masks = laws.random_masks(groups, rng)
    cut = aip_tf.prune_channels(model, masks)
    batch = laws.random_batch(model, rng)
    channels.check_cut(model, cut, masks, batch)
    assert cut.count_params() < model.count_params()


def test_an_embedding_with_lora_is_kept():
    tokens = keras.Input((6,), dtype="int32")
    embedding = layers.Embedding(9, 8, name="it")
    x = layers.GlobalAveragePooling1D()(embedding(tokens))
    model = keras.Model(tokens, layers.Dense(3)(x))
    embedding.enable_lora(2)
    assert "lora_embeddings_a" in aip_tf.find_channel_groups(model)[0].reason


def test_lora_is_merged_as_the_reason_says(tmp_path):
    model = with_lora(layers.Dense(4, name="it"))
    for variable in model.get_layer("it").trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    assert "`save_weights`, then `load_weights`" in aip_tf.find_channel_groups(model)[0].reason
    model.save_weights(tmp_path / "merged.weights.h5")
    plain = network(layers.Dense(4, name="it"))
    plain.load_weights(tmp_path / "merged.weights.h5")
    batch = np.random.default_rng(1).normal(size=(2, 6, 5)).astype("float32")
    np.testing.assert_allclose(plain(batch), model(batch), rtol=1e-4, atol=1e-5)
    assert all(g.prunable for g in aip_tf.find_channel_groups(plain)[:-1])


class Shift(layers.Layer):
    """Two variables, of which the rule below declares one."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")
        self.offset = self.add_weight(shape=(shape[-1],), name="offset")

    def call(self, x, scale=1.0):
        return x * self.gamma * scale + self.offset


def shift(call, x):
    call.weight(call.operation.gamma, 0, call.channels(x), "channelwise")
    return x


def test_a_variable_that_a_rule_forgot_keeps_the_layer_whole():
    aip_tf.register_channel_rule(Shift)(shift)
    reason = aip_tf.find_channel_groups(network(Shift(name="shift")))[0].reason
    assert reason == "shift (Shift) has `offset`, which its channel rule does not know"


def test_an_argument_that_a_rule_does_not_take_is_named():
    aip_tf.register_channel_rule(Shift)(shift)
    layer = Shift(name="shift")
    reason = aip_tf.find_channel_groups(network(lambda x: layer(x, scale=2.0)))[0].reason
    assert reason == "shift (Shift) is called with `scale`, which its rule ignores"


class Noise(layers.Layer):
    """Draws for every entry by itself; `always` at inference, too."""

    def __init__(self, always):
        super().__init__()
        self.always, self.generator = always, keras.random.SeedGenerator(0)

    def call(self, x, training=False):
        if not (training or self.always):
            return x
        return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)


@pytest.mark.parametrize("always", [True, False])
def test_what_draws_at_inference_keeps_its_channels(always):
    """Drawn for fewer channels it would be other noise, and no proof could tell why."""
    (group,) = (g for g in aip_tf.find_channel_groups(network(Noise(always))) if g.name == "before")
    assert group.prunable != always
    assert not always or "draws random numbers" in group.reason

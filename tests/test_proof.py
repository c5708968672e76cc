"""What proves a cut where rounding hides it: copies in float64, as long as they are the model."""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import aip_tf
from aip_tf import channels

NORMALIZATIONS = {
    "batch": layers.BatchNormalization,
    "layer": layers.LayerNormalization,
    "several axes": lambda: layers.LayerNormalization(axis=[1, 2], center=False),
    "no weights": lambda: layers.LayerNormalization(center=False, scale=False),
    "variance alone": lambda: layers.LayerNormalization(rms_scaling=True),
    "rms": layers.RMSNormalization,
    "groups": lambda: layers.GroupNormalization(2),
    "single channels": lambda: layers.GroupNormalization(-1),
    "unit": layers.UnitNormalization,
}
POLICIES = ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"]
BATCH = np.random.default_rng(0).normal(size=(4, 6, 5)).astype("float32")


def network(layer, policy="float32"):
    """A layer between two convolutions that can be cut, with random weights."""
    rng = np.random.default_rng(1)
    keras.config.set_dtype_policy(policy)
    try:
        x = sequence = keras.Input((6, 5))
        x = layers.Conv1D(8, 1, name="before")(x)
        x = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 1, name="behind")(layer()(x)))
        model = keras.Model(sequence, layers.Dense(3)(x))
    finally:
        keras.config.set_dtype_policy("float32")
    for variable in model.variables:
        if variable.name == "moving_variance":
            continue
        variable.assign(rng.normal(variable.name == "gamma", 0.4, variable.shape))
    return model


def halves(model):
    """Masks of a random half, and the complement, which is a wrong cut."""
    masks = laws.random_masks(channels.find_channel_groups(model), np.random.default_rng(2))
    return masks, {name: ~mask for name, mask in masks.items()}


@pytest.mark.parametrize("policy", POLICIES)
def test_cuts_of_normalizations_are_proved_in_every_precision(policy):
    for name, layer in NORMALIZATIONS.items():
        model = network(layer, policy)
        masks, wrong = halves(model)
        assert set(masks) >= {"before", "behind"}, name
        cut = aip_tf.prune_channels(model, masks)
        assert channels.check_cut(model, cut, masks, BATCH) <= 1e-5, name
        with pytest.raises(ValueError, match="not exact"):
            channels.check_cut(model, cut, wrong, BATCH)


def test_axes_counted_from_both_ends_are_kept_whole():
    """Keras sorts -1 in front of 1 when it makes gamma, and reads it in the other order."""
    model = network(lambda: layers.LayerNormalization(axis=[1, -1]))
    masks, _ = halves(model)
    assert "before" not in masks
    assert channels.check_cut(model, aip_tf.prune_channels(model, masks), masks, BATCH) <= 1e-5


def chaos():
    """Blows every difference up, as deep networks may; layer by layer it is exact all the same."""
    waves = [layers.Conv1D(8, 1, activation=ops.sin) for _ in range(8)]
    return keras.Sequential([layers.LayerNormalization(), *waves])


def test_rounding_that_grows_on_the_way_is_no_fault():
    model = network(chaos, "mixed_bfloat16")
    for layer in model.layers[2].layers[1:]:
        layer.kernel.assign(3 * layer.kernel)
    wide = channels.ChannelGraph(model).recast("float64").model
    outputs = [[np.asarray(m(BATCH), "float64")] for m in (model, wide)]
    assert laws.relative_error(*outputs) > 0.1
    masks, wrong = halves(model)
    cut = aip_tf.prune_channels(model, masks)
    assert channels.check_cut(model, cut, masks, BATCH) <= 1e-5
    with pytest.raises(ValueError, match="not exact"):
        channels.check_cut(model, cut, wrong, BATCH)


class Halved(layers.Layer):
    """Another function in float64."""

    def call(self, x):
        return tf.multiply(x, 1.0 if self.compute_dtype == "float64" else 0.5)


class Narrow(layers.Layer):
    """No function at all in float64."""

    def call(self, x):
        return tf.multiply(x, tf.constant(0.5, tf.bfloat16))


@pytest.mark.parametrize(
    ("layer", "why"), [(Halved, "first at 'odd'"), (Narrow, "cannot be computed")]
)
def test_a_copy_in_float64_that_is_not_the_model_decides_nothing(layer, why):
    model = network(lambda: layer(name="odd"), "mixed_bfloat16")
    masks = {"behind": np.arange(8) % 3 > 0}
    cut = aip_tf.prune_channels(model, masks)
    cut.layers[-1].bias.assign_add(np.full(3, 0.01))  # what looks like rounding
    with pytest.raises(ValueError, match=f"in doubt.*{why}"):
        channels.check_cut(model, cut, masks, BATCH)


def test_groups_of_the_same_producer_are_told_apart():
    """Heads and outputs of an attention have one producer; in float64 both must be cut."""
    keras.utils.set_random_seed(3)
    half = {"dtype": "mixed_float16"}
    sequence = keras.Input((6, 5))
    x = layers.LayerNormalization(**half)(layers.Dense(8, name="before")(sequence))
    x = layers.MultiHeadAttention(2, 4, name="heads", **half)(x, x)
    x = layers.LayerNormalization(**half)(x)
    x = layers.Dense(8, activation="tanh", **half)(x)
    x = layers.UnitNormalization(**half)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(sequence, layers.Dense(3)(x))
    masks, _ = halves(model)
    assert {"heads", "heads:2"} <= set(masks)
    cut = aip_tf.prune_channels(model, masks)
    masked = aip_tf.mask_channels(model, masks)
    assert laws.relative_error(laws.run(cut, BATCH), laws.run(masked, BATCH)) > 1e-5  # a doubt
    assert channels.check_cut(model, cut, masks, BATCH) <= 1e-5

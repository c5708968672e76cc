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


def test_every_output_is_held_to_its_own_size():
    """A wrong cut shows in probabilities, however large the numbers beside them are."""

    class Turned(layers.Layer):
        def call(self, x):
            return x[..., ::-1]

    aip_tf.register_channel_rule(Turned)(lambda call, x: x)
    x = keras.Input((4,))
    turned = Turned()(layers.Dense(8, name="made")(x))
    probability = layers.Dense(2, activation="sigmoid")(turned)
    model = keras.Model(x, {"p": probability, "box": layers.Rescaling(1e6)(layers.Dense(4)(x))})
    masks = {"made": np.arange(8) < 5}
    batch = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    with pytest.raises(ValueError, match="not exact"):
        channels.check_cut(model, aip_tf.prune_channels(model, masks), masks, batch)


def test_states_stay_as_they_are_while_a_cut_is_proved():
    x = keras.Input(batch_shape=(4, 6, 5))
    recurrent = layers.LSTM(8, stateful=True)
    model = keras.Model(x, layers.Dense(2)(layers.Dense(8, name="made")(recurrent(x))))
    model(BATCH)
    before = [np.array(state) for state in recurrent.states]
    masks = {"made": np.arange(8) < 5}
    cut = aip_tf.prune_channels(model, masks)
    for _ in range(2):
        assert channels.check_cut(model, cut, masks, BATCH) <= 1e-5
    assert all(map(np.array_equal, before, recurrent.states))


@pytest.mark.parametrize("batch", [None, [[1.0, 2.0]], "x"], ids=["None", "lists", "text"])
def test_what_is_no_batch_is_refused(batch):
    model = network(layers.LayerNormalization)
    with pytest.raises(ValueError, match="Expected arrays or tensors"):
        channels.check_cut(model, model, {}, batch)


def test_an_optional_input_need_not_be_given():
    class Sum(layers.Layer):
        def call(self, x, y=None):
            return x if y is None else x + y

        def compute_output_spec(self, x, y=None):
            return keras.KerasTensor(x.shape, x.dtype)

    x, y = keras.Input((4,)), keras.Input((4,), optional=True)
    hidden = layers.Dense(8, name="made")(Sum(name="sum")(x, y))
    model = keras.Model([x, y], layers.Dense(2)(hidden))
    masks = {"made": np.arange(8) < 5}
    for second in (None, np.ones((3, 4), "float32")):
        batch = [np.ones((3, 4), "float32"), second]
        assert channels.check_copy(model, aip_tf.prune_channels(model, {}), batch) <= 1e-5
        cut = aip_tf.prune_channels(model, masks)
        assert channels.check_cut(model, cut, masks, batch) <= 1e-5

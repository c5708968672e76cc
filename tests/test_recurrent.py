"""Recurrent and wrapped layers, their masks and states: cut exactly, or kept with a reason."""

import keras
import laws
import numpy as np
import pytest
from keras import Input, Model, layers

import aip_tf
from aip_tf import channels

CASES = {}


def case(groups, macs=None):
    """`groups` as in `graphs.py`, the wrapped layers' names aside; `macs` by hand."""

    def register(build):
        CASES[build.__name__] = (build, groups, macs)
        return build

    return register


def steps(units=5, length=4):
    """A sequence of 3 features, and one of `units` behind a convolution that can be cut."""
    sequence = Input((length, 3))
    return sequence, layers.Conv1D(units, 1, name="conv")(sequence)


def head(inputs, x):
    return Model(inputs, layers.Dense(2, name="head")(x))


# --- cells ------------------------------------------------------------------------------------


@case("conv:5 it:6", macs=4 * 3 * 5 + 4 * (5 + 6) * 24 + 12)
def rnn_over_a_cell():
    i, x = steps()
    return head(i, layers.RNN(layers.LSTMCell(6), name="it")(x))


@case("conv:5")
def rnn_whose_outputs_are_the_models():
    i, x = steps()
    return Model(i, layers.RNN(layers.SimpleRNNCell(6), name="it")(x))


@case("conv:5 it:6 it:4", macs=4 * 3 * 5 + 4 * ((5 + 6) * 24 + (6 + 4) * 12) + 8)
def rnn_over_a_stack():
    i, x = steps()
    cells = layers.StackedRNNCells([layers.LSTMCell(6), layers.GRUCell(4)])
    return head(i, layers.RNN(cells, name="it")(x))


@case("conv:5 it:6")
def functions_and_objects_that_are_registered_nowhere():
    class Halve(keras.regularizers.Regularizer):
        def __call__(self, x):
            return 0.5 * keras.ops.sum(x)

        def get_config(self):
            return {}

    i, x = steps()
    cell = layers.SimpleRNNCell(6, activation=lambda y: y * 0.5, kernel_regularizer=Halve())
    return head(i, layers.RNN(cell, name="it")(x))


@case("conv:5 it:6")
def backwards_without_bias():
    i, x = steps()
    return head(i, layers.GRU(6, go_backwards=True, use_bias=False, name="it")(x))


@case("conv:5")
def softmax_in_a_cell():
    i, x = steps()
    return head(i, layers.LSTM(6, recurrent_activation="softmax", name="it")(x))


# --- masks and states -------------------------------------------------------------------------


@case("words:7 first:6 second:5")
def masked_by_an_embedding():
    i = Input((4,), dtype="int32")
    x = layers.Embedding(9, 7, mask_zero=True, name="words")(i)
    x = layers.LSTM(6, return_sequences=True, name="first")(x)
    return head(i, layers.GRU(5, name="second")(x))


@case("it:6")
def masked_by_the_steps_themselves():
    i = Input((4, 3))
    return head(i, layers.LSTM(6, name="it")(layers.Masking()(i)))


@case("it:6")
def masked_by_channels():
    """Which steps are absent depends on every channel of `kept`."""
    i, x = steps()
    x = layers.Masking()(layers.Activation("relu")(x))
    return head(i, layers.LSTM(6, name="it")(x))


@case("conv:5 it:6")
def masked_by_a_tensor():
    i, x = steps()
    m = Input((4,), dtype="bool", name="mask")
    return head([i, m], layers.GRU(6, name="it")(x, mask=m))


@case("conv:5 first+second:6")
def states_handed_on():
    i, x = steps()
    _, h, c = layers.LSTM(6, return_state=True, name="first")(x)
    return head(i, layers.LSTM(6, name="second")(x, initial_state=[h, c]))


@case("conv:5 first+second:6 first+second:4")
def states_of_a_stack():
    def cells():
        return layers.StackedRNNCells([layers.LSTMCell(6), layers.GRUCell(4)])

    i, x = steps()
    first = layers.RNN(cells(), return_state=True, return_sequences=True, name="first")
    y, lstm, gru = first(x)
    return head(i, layers.RNN(cells(), name="second")(y, initial_state=[lstm, [gru]]))


@case("conv:5 it:6", macs=4 * 3 * 5 + 4 * (5 + 6) * 18 + 12)
def stateful():
    i = Input(batch_shape=(13, 4, 3))
    x = layers.Conv1D(5, 1, name="conv")(i)
    return head(i, layers.GRU(6, stateful=True, name="it")(x))


@case("words:7 nested:6 nested:5")
def a_mask_that_enters_a_model():
    inner = keras.Sequential([Input((4, 7)), layers.LSTM(6, return_sequences=True), layers.GRU(5)])
    inner.name = "nested"
    i = Input((4,), dtype="int32")
    return head(i, inner(layers.Embedding(9, 7, mask_zero=True, name="words")(i)))


@case("conv:5 nested:6")
def a_mask_that_is_handed_to_a_model():
    x = Input((4, 5))
    inner = Model(x, layers.LSTM(6)(x), name="nested")
    i, x = steps()
    mask = Input((4,), dtype="bool", name="mask")
    return head([i, mask], inner(x, mask=mask))


# --- wrappers ---------------------------------------------------------------------------------


def both_ways(mode, layer):
    i, x = steps()
    x = layers.Bidirectional(layer, merge_mode=mode, name="it")(x)
    return head(i, layers.Add()(x) if mode is None else x)


for _mode in ("concat", "sum", "mul", "ave", None):
    CASES[f"both_ways_{_mode}"] = (
        lambda mode=_mode: both_ways(mode, layers.LSTM(6)),
        "conv:5 it+it:6",
        60 + 2 * 4 * (5 + 6) * 24 + (24 if _mode == "concat" else 12),
    )


@case("words:7 it+it:6 it2+it2:5")
def both_ways_masked():
    i = Input((4,), dtype="int32")
    x = layers.Embedding(9, 7, mask_zero=True, name="words")(i)
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True), name="it")(x)
    return head(i, layers.Bidirectional(layers.SimpleRNN(5), name="it2")(x))


@case("conv:5 it+it+it2+it2:6")
def both_ways_with_states():
    i, x = steps()
    layer = layers.LSTM(6, return_sequences=True, return_state=True)
    y, *states = layers.Bidirectional(layer, name="it")(x)
    return head(i, layers.Bidirectional(layers.LSTM(6), name="it2")(y, initial_state=states))


@case("conv:5 it:4 it+it:6 it:4")
def both_ways_over_a_stack():
    i, x = steps()
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(6)])
    return head(i, layers.Bidirectional(layers.RNN(cells), name="it")(x))


@case("conv:5 it+it:6")
def both_ways_with_a_layer_of_its_own():
    i, x = steps()
    back = layers.LSTM(6, activation="relu", go_backwards=True)
    return head(i, layers.Bidirectional(layers.LSTM(6), backward_layer=back, name="it")(x))


@case("frames:5 it:6 last:4", macs=3 * (4 * 15 + 4 * (5 + 6) * 24) + 3 * (6 + 4) * 16 + 8)
def a_recurrent_layer_on_every_step():
    i = Input((3, 4, 3))
    x = layers.TimeDistributed(layers.Conv1D(5, 1), name="frames")(i)
    x = layers.TimeDistributed(layers.LSTM(6), name="it")(x)
    return head(i, layers.LSTM(4, name="last")(x))


@case("on:6 on:4 it:5", macs=3 * (4 * 6 * 18 + 6 * 4) + 3 * (4 + 5) * 20 + 10)
def a_model_on_every_step():
    i = Input((3, 4, 4, 2))
    x = Input((4, 4, 2))
    y = layers.LayerNormalization()(layers.Conv2D(6, 3, activation="relu")(x))
    inner = Model(x, layers.Dense(4)(layers.GlobalMaxPooling2D()(y)))
    x = layers.TimeDistributed(inner, name="on")(i)
    return head(i, layers.LSTM(5, name="it")(x))


@case("conv:5 last:4")
def a_normalization_on_every_step():
    i, x = steps()
    x = layers.TimeDistributed(layers.LayerNormalization())(x)
    return head(i, layers.GRU(4, name="last")(x))


@case("conv:5 it:6 it2:4", macs=60 + 4 * 30 + 4 * 24 + 8)
def spectral_normalization():
    i, x = steps()
    x = layers.SpectralNormalization(layers.Conv1D(6, 1), name="it")(x)
    x = layers.SpectralNormalization(layers.Dense(4), name="it2")(x)
    return head(i, layers.GlobalMaxPooling1D()(x))


@case("it:5 it2:4", macs=2 * (16 * 9 * (2 + 5) * 20) + 2 * (4 * 9 * (5 + 4) * 16) + 8)
def convolutional_lstm():
    i = Input((2, 4, 4, 2))
    x = layers.ConvLSTM2D(5, 3, padding="same", return_sequences=True, name="it")(i)
    x = layers.ConvLSTM2D(4, 3, name="it2")(x)
    return head(i, layers.GlobalAveragePooling2D()(x))


@case("it+it2:5")
def convolutional_lstm_with_states():
    i = Input((2, 4, 2))
    options = {"filters": 5, "kernel_size": 3, "padding": "same"}
    _, *states = layers.ConvLSTM1D(return_state=True, name="it", **options)(i)
    x = layers.ConvLSTM1D(name="it2", **options)(i, initial_state=states)
    return head(i, layers.Flatten()(x))


# --- the laws ---------------------------------------------------------------------------------


@pytest.fixture(params=CASES.values(), ids=CASES)
def built(request):
    keras.utils.clear_session(free_memory=False)
    build, groups, macs = request.param
    return build(), groups, macs


def written(group):
    return "+".join(p.split("/")[0] for p in group.producers) + f":{group.num_channels}"


def test_what_can_be_cut_is_what_was_written_by_hand(built):
    model, groups, _ = built
    found = aip_tf.find_channel_groups(model)
    assert sorted(map(written, laws.cuttable(found))) == sorted(groups.split())
    assert all(g.prunable or g.reason for g in found)


def test_the_laws_hold(built):
    model, _, _ = built
    rng = np.random.default_rng(1)
    batch = laws.random_batch(model, rng)
    assert not laws.check_cut(laws.randomize(model, rng, batch), batch, rng).problems
    expected = laws.run(model, batch)
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state()
    for same in (aip_tf.mask_channels(model, {}), aip_tf.prune_channels(model, {})):
        assert laws.relative_error(laws.run(same, batch), expected) <= laws.TOLERANCE


def test_costs_are_those_counted_by_hand(built):
    model, _, macs = built
    assert macs is None or aip_tf.count_macs(model) == macs


def test_states_of_a_layer_that_is_cut_start_from_zero():
    model = stateful()
    batch = np.random.default_rng(0).normal(size=(13, 4, 3)).astype("float32")
    model(batch)
    state = model.get_layer("it").states[0]
    before = state.numpy().copy()
    masks = laws.least_masks(aip_tf.find_channel_groups(model))
    cut = aip_tf.prune_channels(model, masks)
    assert cut.get_layer("it").states[0].shape == (13, 1)
    channels.check_cut(model, cut, masks, batch)
    np.testing.assert_array_equal(state.numpy(), before)


def reasons(model):
    return " ".join(g.reason for g in aip_tf.find_channel_groups(model))


def test_reasons():
    assert "masking (Masking) asks all of these channels" in reasons(masked_by_channels())
    assert "it (LSTM) applies `softmax`" in reasons(softmax_in_a_cell())


@pytest.mark.parametrize("criterion", ["l1", "taylor", "reconstruction"])
def test_criteria_see_what_is_inside_of_wrappers(criterion):
    model = a_model_on_every_step()
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    data = laws.random_batch(model, rng), rng.normal(size=(13, 2)).astype("float32")
    masks = aip_tf.select_channels(model, 0.3, criterion=criterion, data=data)
    assert any(not mask.all() for mask in masks.values())


def test_a_kept_layer_costs_what_it_costs():
    i, x = steps()
    model = head(i, layers.LSTM(6, activation="softmax")(x))
    assert aip_tf.count_macs(model) == 60 + 4 * (5 + 6) * 24 + 12


def test_a_cut_model_with_masks_loads_in_safe_mode(tmp_path):
    model = both_ways_masked()
    rng = np.random.default_rng(0)
    cut = aip_tf.prune_channels(model, laws.random_masks(aip_tf.find_channel_groups(model), rng))
    cut.save(tmp_path / "cut.keras")
    batch = laws.random_batch(model, rng)
    loaded = keras.saving.load_model(tmp_path / "cut.keras")
    assert laws.relative_error(laws.run(loaded, batch), laws.run(cut, batch)) <= laws.TOLERANCE

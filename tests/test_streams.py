"""What is added to a stream makes up for what the stream has lost."""

import keras
import numpy as np
import pytest
from keras import Input, Model, layers
from test_reconstruction import READERS, batch_for, tie_last_channel

from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.reconstruction import Study, refitting

EXACT = 1e-9
# Depthwise kernels of their own say something else each; names cannot be used twice.
KINDS = [
    k
    for k in READERS
    if k not in ("pointwise_behind_depthwise", "separable", "separable_1d", "two_readers_and_a_sum")
]
HALF = np.arange(8) % 2 == 0


def refitted(model, keep_masks, batch, ridge=EXACT):
    """The cut model, refitted on a batch."""
    smaller = prune_channels(model, keep_masks)
    Study(model, find_channel_groups(model), [batch], ridge).refit(smaller, keep_masks)
    return smaller


def refitted_apart(monkeypatch, *arguments):
    """The same, each layer for itself."""
    with monkeypatch.context() as patch:
        patch.setattr(refitting, "lost_in_sum", lambda *_: None)
        return refitted(*arguments)


def errors_with_and_without(monkeypatch, model, keep_masks, batch):
    """Squared errors of the outputs: as it is, and with each layer for itself."""
    together = refitted(model, keep_masks, batch)
    apart = refitted_apart(monkeypatch, model, keep_masks, batch)
    expected = np.asarray(model(batch))
    return [float(np.mean((m(batch) - expected) ** 2)) for m in (together, apart)]


def two_branches(kind):
    """Two layers that read equal channels, the last of which says nothing new; and their sum."""
    keras.utils.set_random_seed(4)
    shape, options, read = READERS[kind]
    inputs, producer = Input(shape), layers.Dense
    if "filters" in options:
        producer = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[len(shape) - 2]
        options = {"kernel_size": 1, **options}
    producers = [producer(**options, name=name) for name in ("first", "second")]
    model = Model(inputs, layers.Add()([read(x(inputs)) for x in producers]))
    tie_last_channel(producers[0], num_blocks=2 if kind == "grouped_convolution" else 1)
    producers[1].set_weights(producers[0].get_weights())
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_summand_makes_up_for_what_the_first_one_cannot(kind, monkeypatch):
    model = two_branches(kind)
    batch, groups = batch_for(model), find_channel_groups(model)
    readers = Study(model, groups, [batch], EXACT).readers.values()  # in the order of the network
    (first,), (last,) = (reader.owners for reader in readers)
    (count,) = {g.num_channels for g in groups if g.name == first}
    masks = {first: np.arange(count) < 1, last: np.arange(count) < count - 1}
    together, apart = errors_with_and_without(monkeypatch, model, masks, batch)
    is_linear = kind != "convolution_2d_with_activation"
    assert together < 1e-6 * apart if is_linear else together == apart


def test_it_is_least_squares():
    model = two_branches("dense")
    batch, channels = batch_for(model), np.arange(4)
    smaller = refitted(model, {"first": channels < 2, "second": channels > 1}, batch)
    first, last = (x._keras_history.operation for x in smaller.layers[-1].input)
    rest = Model(smaller.input, first.output)(batch)
    sees = np.concatenate([Model(smaller.input, last.input)(batch), np.ones((160, 1))], axis=1)
    lacks = np.asarray(model(batch) - rest)
    best = lacks - sees @ np.linalg.lstsq(sees, lacks, rcond=None)[0]
    found = np.mean((smaller(batch) - model(batch)) ** 2)
    assert found == pytest.approx(np.mean(best**2), rel=1e-3)


def block(x, between, name):
    """A residual block: what is added goes through `between`."""
    y = layers.Dense(8, activation="relu", name=f"{name}_inside")(x)
    return layers.Add(name=f"{name}_sum")([x, between(layers.Dense(6, name=f"{name}_reader")(y))])


def residual(between, depth=3):
    keras.utils.set_random_seed(5)
    x = inputs = Input((6,))
    for i in range(depth):
        x = block(x, between(), f"block{i}")
    return Model(inputs, x)


BETWEEN = {
    "nothing": lambda: lambda x: x,
    "dropout": lambda: layers.Dropout(0.5),
    "minus": lambda: layers.Rescaling(-0.3, offset=2.0),
    "normalization": layers.BatchNormalization,
    "several": lambda: lambda x: layers.Identity()(layers.BatchNormalization()(x)),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_blocks_correct_the_stream_that_they_add_to(between, monkeypatch):
    model = residual(BETWEEN[between])
    masks = {f"block{i}_inside": HALF for i in range(3)}
    together, apart = errors_with_and_without(monkeypatch, model, masks, batch_for(model, 400))
    assert together < 0.9 * apart


@pytest.mark.parametrize("between", [layers.ReLU, layers.LayerNormalization, layers.Softmax])
def test_behind_what_is_not_linear_each_layer_stays_for_itself(between, monkeypatch):
    model = residual(between)
    masks = {f"block{i}_inside": HALF for i in range(3)}
    together, apart = errors_with_and_without(monkeypatch, model, masks, batch_for(model))
    assert together == apart


def test_an_output_that_others_read_too_stays_as_it_was(monkeypatch):
    keras.utils.set_random_seed(6)
    inputs = Input((6,))
    x = block(inputs, lambda y: y, "first")
    hidden = layers.Dense(8, activation="relu", name="inside")(x)
    y = layers.Dense(6, name="reader")(hidden)
    model = Model(inputs, [layers.Add()([x, y]), y])
    batch, masks = batch_for(residual(lambda: lambda x: x)), {"first_inside": HALF, "inside": HALF}
    together, apart = (
        refitted(model, masks, batch),
        refitted_apart(monkeypatch, model, masks, batch),
    )
    np.testing.assert_array_equal(together(batch)[1], apart(batch)[1])


def test_a_stream_that_was_cut_too_is_corrected_where_it_is_left(monkeypatch):
    keras.utils.set_random_seed(7)
    inputs = Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for i in range(3):
        y = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name=f"inside{i}")(x))
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"reader{i}")(y)
        x = layers.Add()([x, layers.BatchNormalization()(y)])
    model = Model(inputs, layers.Conv2D(4, 1)(x))
    stream = next(g.name for g in find_channel_groups(model) if "reader0" in g.producers)
    masks = {stream: np.arange(8) < 7, **{f"inside{i}": HALF for i in range(3)}}
    together, apart = errors_with_and_without(monkeypatch, model, masks, batch_for(model))
    assert together < 0.97 * apart


def test_what_a_layer_puts_out_keeps_its_mean_and_spread_behind_others_that_lost_some():
    keras.utils.set_random_seed(8)
    x = inputs = Input((6, 6, 3))
    for i in range(3):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"inside{i}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"norm{i}")(x))
        x = layers.Conv2D(4, 1, name=f"reader{i}")(x)
    model, masks = Model(inputs, x), {f"inside{i}": HALF for i in range(3)}
    batch = batch_for(model, 60)
    smaller = refitted(model, masks, batch, ridge=1e-3)
    for i in range(1, 3):
        found, expected = (
            np.asarray(Model(m.input, m.get_layer(f"norm{i}").output)(batch))
            for m in (smaller, model)
        )
        for moment in (np.mean, np.std):
            wanted = moment(expected[..., HALF], (0, 1, 2))
            np.testing.assert_allclose(moment(found, (0, 1, 2)), wanted, rtol=1e-3, atol=1e-4)


def test_a_sum_keeps_its_mean_whatever_stands_in_the_other_branch():
    keras.utils.set_random_seed(9)
    x = inputs = Input((6,))
    for i in range(3):
        y = layers.Dense(8, activation="relu", name=f"inside{i}")(x)
        y = layers.BatchNormalization()(layers.Dense(6, use_bias=False)(y))
        shortcut = layers.BatchNormalization()(layers.Dense(6, use_bias=False)(x))
        x = layers.ReLU()(layers.Add(name=f"sum{i}")([shortcut, y]))
    model, masks = Model(inputs, x), {f"inside{i}": HALF for i in range(3)}
    batch = batch_for(model, 400)
    smaller = refitted(model, masks, batch, ridge=1e-3)
    for i in range(3):
        found, expected = (
            np.mean(Model(m.input, m.get_layer(f"sum{i}").output)(batch), 0)
            for m in (smaller, model)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

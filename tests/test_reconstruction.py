"""Reconstruction: the algebra against brute force, then the same law for every kind of reader."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import Input, Model, layers
from sklearn.datasets import load_digits

import aip_tf
from aip_tf import criteria
from aip_tf.channels import ChannelGraph, find_channel_groups, prune_channels
from aip_tf.cutting import apply_cut
from aip_tf.losses import output_loss
from aip_tf.reconstruction import (
    Change,
    Study,
    System,
    Trial,
    first_inputs,
    linear,
    removal_order,
    solving,
)
from aip_tf.reconstruction import study as study_module
from aip_tf.reconstruction.moments import CrossMoments
from aip_tf.reconstruction.moments import observe as observe_readers
from aip_tf.reconstruction.statistics import settle
from aip_tf.selection import Macs

EXACT = 1e-9  # a ridge so small that what is redundant costs nothing


# --- algebra -------------------------------------------------------------------------------------


def problem(seed=0, num_inputs=12, num_outputs=5, num_samples=400):
    """Correlated inputs, their covariance, and a kernel."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_samples, num_inputs)) @ rng.normal(size=(num_inputs, num_inputs))
    return x, x.T @ x / num_samples, rng.normal(size=(num_inputs, num_outputs))


def least_squares_error(x, kernel, keep):
    """What is left of the output when the kept inputs do their best: by numpy's own solver."""
    y = x @ kernel
    best = np.linalg.lstsq(x[:, keep], y, rcond=None)[0]
    return np.sum((y - x[:, keep] @ best) ** 2) / len(x)


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_of_a_channel_is_the_error_of_least_squares_without_it(seed):
    x, covariance, kernel = problem(seed)
    owner = np.arange(12) // 3
    costs = System(covariance, kernel, owner).costs(np.arange(4))
    expected = [least_squares_error(x, kernel, owner != c) for c in range(4)]
    np.testing.assert_allclose(costs, expected, rtol=1e-6)


def test_costs_add_up_to_the_error_without_all_that_went():
    x, covariance, kernel = problem()
    owner = np.array([0, 0, 1, 2, 2, 2, -1, 3, 3, -1, 4, 1])  # of unequal size; two inputs stay
    order, errors = removal_order([System(covariance, kernel, owner)], 5)
    assert sorted(order) == list(range(5))
    for count in range(1, 6):
        expected = least_squares_error(x, kernel, ~np.isin(owner, order[:count]))
        np.testing.assert_allclose(errors[:count].sum(), expected, rtol=1e-6)


def test_several_layers_that_read_a_channel_have_a_say_each():
    problems = [problem(seed) for seed in (1, 2)]
    owner = np.arange(12) // 2
    order, errors = removal_order([System(h, w, owner) for _, h, w in problems], 6)
    without = owner != order[0]
    expected = sum(least_squares_error(x, kernel, without) for x, _, kernel in problems)
    np.testing.assert_allclose(errors[0], expected, rtol=1e-6)
    others = [sum(least_squares_error(x, w, owner != c) for x, _, w in problems) for c in range(6)]
    assert min(others) == pytest.approx(expected)


def test_the_refit_is_least_squares():
    x, covariance, kernel = problem()
    keep = np.arange(12) % 3 > 0
    cross = covariance[keep]
    found = solving.refit(cross[:, keep], cross @ kernel, kernel[keep], 1e-12)
    best = np.linalg.lstsq(x[:, keep], x @ kernel, rcond=None)[0]
    np.testing.assert_allclose(found, best, rtol=1e-6)


def test_channels_of_wide_layers_leave_in_portions_and_none_is_lost():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 200))
    kernel = rng.normal(size=(200, 300))  # more outputs than inputs
    order, errors = removal_order([System(x.T @ x / 400, kernel, np.arange(200))], 200)
    assert sorted(order) == list(range(200))
    np.testing.assert_allclose(errors.sum(), np.sum((x @ kernel) ** 2) / 400, rtol=1e-6)


# --- every kind of reader ------------------------------------------------------------------------


READERS = {}


def reader(shape, **producer):
    """Register a function that reads the channels of a producer; `shape` is that of the input."""

    def register(build):
        READERS[build.__name__] = (shape, producer, build)
        return build

    return register


@reader((9,), units=4)
def dense(x):
    return layers.Dense(5)(x)


@reader((9, 3), filters=4)
def dense_on_sequences(x):
    return layers.Dense(5)(x)


@reader((9, 3), filters=4)
def convolution_1d_causal(x):
    return layers.Conv1D(5, 3, padding="causal", dilation_rate=2)(x)


@reader((7, 8, 3), filters=4)
def convolution_2d(x):
    return layers.Conv2D(5, 3)(x)


@reader((7, 8, 3), filters=4)
def convolution_2d_same(x):
    return layers.Conv2D(5, (3, 2), strides=2, padding="same")(x)


@reader((9, 8, 3), filters=4)
def convolution_2d_dilated(x):
    return layers.Conv2D(5, 3, dilation_rate=2, padding="same")(x)


@reader((7, 8, 3), filters=4)
def convolution_2d_with_activation(x):
    return layers.Conv2D(5, 3, activation="relu")(x)


@reader((7, 8, 3), filters=4)
def convolution_2d_without_bias(x):
    return layers.Conv2D(5, 3, use_bias=False)(x)


@reader((7, 8, 3), filters=4)
def convolution_2d_with_normalization(x):
    return layers.BatchNormalization()(layers.Conv2D(5, 3, use_bias=False)(x))


@reader((7, 8, 3), filters=8)
def grouped_convolution(x):
    return layers.Conv2D(6, 3, groups=2, padding="same")(x)


@reader((4, 5, 6, 2), filters=4)
def convolution_3d(x):
    return layers.Conv3D(5, 2, strides=(1, 2, 1))(x)


@reader((9, 3), filters=4)
def transposed_1d(x):
    return layers.Conv1DTranspose(5, 3, strides=2)(x)


@reader((5, 6, 3), filters=4)
def transposed_2d(x):
    return layers.Conv2DTranspose(5, 3, strides=2, padding="same")(x)


@reader((5, 6, 3), filters=4)
def transposed_2d_dilated(x):
    return layers.Conv2DTranspose(5, 3, dilation_rate=2)(x)  # on CPUs not in float64


@reader((3, 4, 3, 2), filters=4)
def transposed_3d(x):
    return layers.Conv3DTranspose(5, 2, strides=2)(x)


@reader((7, 8, 3), filters=4)
def separable(x):
    layer = layers.SeparableConv2D(5, 3, depth_multiplier=2)
    layer.build(x.shape)
    return with_like_kernels(layer)(x)


@reader((9, 3), filters=4)
def separable_1d(x):
    layer = layers.SeparableConv1D(5, 3, padding="same")
    layer.build(x.shape)
    return with_like_kernels(layer)(x)


def with_like_kernels(layer):
    """What is the same for all channels keeps a combination of channels a combination."""
    kernel = layer.weights[0]
    kernel.assign(np.repeat(np.asarray(kernel)[..., :1, :], kernel.shape[-2], axis=-2))
    return layer


@reader((7, 8, 3), filters=4)
def pointwise_behind_depthwise(x):
    layer = layers.DepthwiseConv2D(3, padding="same", use_bias=False)
    layer.build(x.shape)
    return layers.Conv2D(5, 1)(with_like_kernels(layer)(x))


@reader((4, 4, 3), filters=4)
def dense_behind_flatten(x):
    return layers.Dense(5)(layers.Flatten()(x))


@reader((9, 3), filters=4)
def einsum(x):
    return layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")(x)


@reader((5, 3), filters=4)
def einsum_over_two_axes(x):
    return layers.EinsumDense("abc,bcde->aed", (6, 2), bias_axes="ed")(x)


@reader((5, 3), filters=4)
def einsum_with_blocks(x):
    return layers.EinsumDense("abc,bcd->abd", (5, 6), bias_axes="bd")(x)


@reader((7, 8, 3), filters=4)
def two_readers_and_a_sum(x):
    y = layers.Conv2D(4, 3, padding="same", name="second")(x)
    z = layers.Conv2D(5, 3, padding="same")(x)
    return layers.Concatenate()([z, layers.Conv2D(4, 1, name="third")(y)])


@reader((3, 7, 8), filters=4, data_format="channels_first")
def channels_first(x):
    return layers.Conv2D(5, 3, padding="same", data_format="channels_first")(x)


def build(kind):
    """A model whose producer makes its last channels out of its first ones, and the keep mask."""
    keras.utils.set_random_seed(1)
    shape, options, read = READERS[kind]
    inputs = Input(shape)
    if "units" in options:
        producer = layers.Dense(**options, name="producer")
    else:
        rank = len(shape) - 1
        convolution = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[rank - 1]
        producer = convolution(kernel_size=1, name="producer", **options)
    model = Model(inputs, read(producer(inputs)))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "kernel" not in variable.path or variable.path.startswith("producer"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    tie_last_channel(producer, num_blocks=2 if kind == "grouped_convolution" else 1)
    (group,) = (g for g in find_channel_groups(model) if g.name == "producer")
    return model, {"producer": np.arange(group.num_channels) < group.num_channels - 1}


def tie_last_channel(producer, num_blocks):
    """Make the last channel of each block out of the two in front of it."""
    kernel, bias = (np.array(v) for v in producer.weights)
    size = kernel.shape[-1] // num_blocks
    for last in range(size - 1, kernel.shape[-1], size):
        kernel[..., last] = 2 * kernel[..., last - 1] - kernel[..., last - 2]
        bias[last] = 2 * bias[last - 1] - bias[last - 2]
    producer.set_weights([kernel, bias])


def batch_for(model, size=160):
    return np.random.default_rng(2).normal(size=(size, *model.input.shape[1:])).astype("float32")


@pytest.mark.parametrize("kind", READERS)
def test_a_channel_that_the_others_can_make_up_for_is_not_missed(kind):
    model, keep_masks = build(kind)
    batch = batch_for(model)
    smaller = prune_channels(model, keep_masks)
    expected, cut = model(batch), smaller(batch)
    study = Study(model, find_channel_groups(model), [batch], EXACT)
    record = study.refit(smaller, keep_masks)
    size = np.abs(expected).max()
    assert np.abs(cut - expected).max() > 1e-2 * size  # the cut alone does harm
    assert np.abs(smaller(batch) - expected).max() < 1e-4 * size
    assert record.layers and not record.skipped


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_an_output_sees_is_told_in_every_type(dtype):
    layer = layers.Conv1D(1, 3, strides=2, dtype=dtype)
    layer.build((None, 70_001, 1))
    seen = linear.linear_view(layer, "kernel", 1)._sources(np.empty((1, 70_001, 1)))
    np.testing.assert_array_equal(seen, 1 + np.add.outer(np.arange(0, 69_999, 2), np.arange(3)))


def test_a_layer_reads_in_its_own_type_whatever_it_is_given():
    model, _ = build("separable")
    layer = model.layers[-1]
    x = tf.ones((2, 7, 8, 4), "float64")
    view = linear.linear_view(layer, "pointwise_kernel", 2)
    assert view._middle(x).dtype == layer.compute_dtype == "float32"


# --- what a constant becomes ---------------------------------------------------------------------


def with_constant_channel(padding):
    """A convolution behind one whose last channel says the same everywhere."""
    inputs = Input((6, 6, 2))
    x = layers.Conv2D(3, 1, name="producer")(inputs)
    model = Model(inputs, layers.Conv2D(4, 3, padding=padding, name="reader")(x))
    kernel, _ = (np.array(v) for v in model.get_layer("producer").weights)
    kernel[..., -1] = 0
    model.get_layer("producer").set_weights([kernel, np.array([0.1, -0.3, 2.0])])
    return model, {"producer": np.array([True, True, False])}


def refitted(model, keep_masks, batch, ridge=EXACT):
    smaller = prune_channels(model, keep_masks)
    record = Study(model, find_channel_groups(model), [batch], ridge).refit(smaller, keep_masks)
    return smaller, record


def test_a_constant_channel_goes_into_the_bias():
    model, keep_masks = with_constant_channel("valid")
    batch = batch_for(model)
    smaller, _ = refitted(model, keep_masks, batch)
    np.testing.assert_allclose(smaller(batch), model(batch), atol=1e-4)


def test_behind_a_padding_a_constant_becomes_what_costs_least_border_included():
    model, keep_masks = with_constant_channel("same")
    batch = batch_for(model)
    smaller, _ = refitted(model, keep_masks, batch)
    kept = np.asarray(Model(smaller.input, smaller.get_layer("producer").output)(batch))
    padded = np.pad(kept, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    patches = patches.reshape(-1, 2 * 9)
    patches = np.concatenate([patches, np.ones((len(patches), 1))], axis=1)
    y = np.asarray(model(batch), np.float64).reshape(-1, 4)
    least = np.mean((y - patches @ np.linalg.lstsq(patches, y, rcond=None)[0]) ** 2)
    found = np.mean((y - np.asarray(smaller(batch)).reshape(-1, 4)) ** 2)
    assert least > 1e-3  # no bias is right in the middle and at the border
    assert found == pytest.approx(least, rel=1e-3)


# --- in order ------------------------------------------------------------------------------------


def stack(depth=3, width=8):
    keras.utils.set_random_seed(3)
    x = inputs = Input((6, 6, 3))
    for i in range(depth):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"norm{i}")(x))
    return Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def counted(runs, name):
    """An activation that notes its runs on values."""

    def relu(x):
        if isinstance(x, tf.Tensor) and hasattr(x, "numpy"):
            runs.append(name)
        return tf.nn.relu(x)

    return layers.Activation(relu, name=name)


def test_a_trial_computes_what_stands_behind_a_change_as_a_whole_run_would():
    runs, i = [], Input((6,))
    x = counted(runs, "first")(layers.Dense(8, name="one")(i))
    x = counted(runs, "second")(layers.Dense(8, name="two")(x))
    model = Model(i, layers.Dense(3)(layers.Add()([layers.Dense(8)(x), layers.Dense(8)(i)])))
    graph, batch = ChannelGraph(model), np.random.default_rng(0).normal(size=(5, 6))
    masks = [{name: np.arange(8) % 2 == 0} for name in ("one", "two")]
    trial = Trial(model, [batch[:3], batch[3:]])
    runs.clear()
    found = trial.divergences([Change(mask, []) for mask in masks])
    assert runs == 2 * ["first", "second", "first", "second", "second"]  # whole, "one", "two"
    expected = [output_loss(model(batch), graph.mask(mask)(batch), 4.0) for mask in masks]
    np.testing.assert_allclose(found, np.mean(expected, axis=1), rtol=1e-5)


def test_a_trial_with_other_weights_leaves_the_network_as_it_was():
    i = Input((6,))
    model = Model(i, layers.Dense(3, name="reads")(layers.Dense(8, name="one")(i)))
    study = Study(model, find_channel_groups(model), [np.eye(6, dtype="float32")], EXACT)
    kernel = np.zeros((8, 3))
    change = Change({}, [(study.readers["reads"], kernel, np.zeros((1, 3)))])
    trial = Trial(model, [np.ones((2, 6), "float32")])
    expected = output_loss(model(np.ones((2, 6))), np.zeros((2, 3), "float32"), 4.0)
    for _ in range(2):
        found = trial.divergences([change, Change({}, [])])
        np.testing.assert_allclose(found, [np.mean(expected), 0.0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("unit", "offset"), [(1e-5, 0.0), (1e3, 0.0), (1.0, 100.0)])
def test_what_values_are_measured_in_does_not_count(unit, offset):
    def divergences(unit, offset):
        keras.utils.set_random_seed(0)
        i = Input((6,))
        model = Model(i, layers.Dense(2, name="reads")(layers.Dense(8, name="one")(i)))
        kernel, bias = model.get_layer("reads").get_weights()
        model.get_layer("reads").set_weights([unit * kernel, unit * bias + offset])
        batch = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
        changes = [Change({"one": np.arange(8) >= n}, []) for n in (1, 4)]
        return Trial(model, [batch[:20], batch[20:]], forms=["values"]).divergences(changes)

    expected = divergences(1.0, 0.0)
    assert 1e-3 < expected[0] < expected[1]
    np.testing.assert_allclose(divergences(unit, offset), expected, rtol=1e-3)


def test_a_layer_learns_from_what_it_sees_behind_the_cut_not_from_what_it_saw():
    model = stack()
    batch = batch_for(model, 100)
    masks = {f"conv{i}": np.arange(8) % 2 == 0 for i in range(3)}
    study = Study(model, find_channel_groups(model), [batch], 1e-4)
    alone = prune_channels(model, masks)
    for path in study.readers_of(masks):
        study._refit_alone([path], alone, masks, study_module._Taken(study.groups, masks))
    together = prune_channels(model, masks)
    study.refit(together, masks)
    errors = [np.mean((m(batch) - model(batch)) ** 2) for m in (alone, together)]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-4])
def test_what_hardly_varies_next_to_its_mean_is_not_amplified(spread):
    keras.utils.set_random_seed(0)
    x = inputs = Input((6,))
    for i in range(3):
        x = layers.Dense(8, name=f"inside{i}")(x)
        x = layers.Dense(6, name=f"reader{i}")(x)
    model, masks = Model(inputs, x), {f"inside{i}": np.arange(8) < 5 for i in range(3)}
    for i in range(3):
        layer = model.get_layer(f"inside{i}")
        layer.set_weights([spread * layer.kernel.numpy(), np.linspace(1, 2, 8)])
    batch = batch_for(model)
    smaller = prune_channels(model, masks)
    Study(model, find_channel_groups(model), [batch], 1e-3).refit(smaller, masks)
    assert max(np.abs(w).max() for w in smaller.get_weights()) < 100
    np.testing.assert_allclose(smaller(batch), model(batch), atol=1e-2)


@pytest.mark.parametrize("gamma", [0.0, 1e-30, 1e-8])
def test_a_layer_that_nothing_passes_on_does_not_make_up_for_a_stream(gamma):
    keras.utils.set_random_seed(0)
    x = inputs = Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    for i in range(2):
        y = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"inside{i}")(x)
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"reader{i}")(y)
        y = layers.BatchNormalization(name=f"norm{i}")(y)
        x = layers.Add()([x, y])
    model, masks = Model(inputs, x), {f"inside{i}": np.arange(8) < 4 for i in range(2)}
    model.get_layer("norm1").gamma.assign(np.full(8, gamma))
    smaller, record = refitted(model, masks, batch_for(model, 100), ridge=1e-3)
    assert record.layers == ("reader0", "reader1")
    assert all(np.all(np.abs(w) < 100) for w in smaller.get_weights())  # NaN is not


def test_settled_statistics_are_true_and_change_nothing():
    model = stack()
    batch = batch_for(model, 100)
    before = np.asarray(model(batch))
    settle(model, [batch])
    np.testing.assert_allclose(model(batch), before, atol=1e-5)
    np.testing.assert_allclose(model(batch, training=True), before, atol=1e-3)


def test_settled_statistics_are_those_of_the_steps_that_training_sees():
    """Of padded sequences: with padding counted, the first epoch of a recovery spoilt a student."""
    steps = np.random.default_rng(0).normal(2.0, 1.0, (64, 10, 3)).astype("float32")
    steps[:, 4:] = 0.0
    stacked = [layers.Masking(), layers.Dense(6), layers.BatchNormalization()]
    model = keras.Sequential([Input((10, 3)), *stacked])
    settle(model, [steps])
    before = np.asarray(model(steps))
    np.testing.assert_allclose(model(steps, training=True)[:, :4], before[:, :4], atol=1e-3)


# --- the criterion -------------------------------------------------------------------------------


def test_scoring_in_a_new_process_draws_as_in_one_that_scored_before():
    """A run that is resumed finds no cache."""
    model = keras.Sequential([Input((6, 6, 2)), layers.Conv2D(4, 3), layers.Conv2D(2, 3)])
    images, states = np.ones((16, 6, 6, 2), "float32"), []
    linear._sources.cache_clear()
    for _ in range(2):
        random.seed(0)
        criteria.Reconstruction()(model, find_channel_groups(model), images)
        states.append(random.getstate())
    assert states[0] == states[1]


def test_which_images_are_drawn_hardly_moves_how_groups_compare():
    """A network that is sure of its answers, but for a few inputs; 1 as temperature gives 3.4."""
    keras.utils.set_random_seed(0)
    sure = keras.initializers.RandomNormal(stddev=5.0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, "relu", name="first"),
            layers.Dense(16, "relu", name="second"),
            layers.Dense(4, kernel_initializer=sure),
        ]
    )
    groups, ratios = find_channel_groups(model), []
    for draw in range(6):
        images = np.random.default_rng(draw).normal(size=(256, 6)).astype("float32")
        scores = criteria.Reconstruction()(model, groups, images)
        first, second = (np.sort(values)[:8].sum() for values in scores.values())
        ratios.append(first / second)
    assert max(ratios) / min(ratios) < 2


def test_weights_that_go_count_beside_what_is_measured():
    keras.utils.set_random_seed(0)
    sizes = {"first": 16, "second": 8}
    x = inputs = Input((6,))
    for name, n in sizes.items():
        x = layers.Dense(n, "relu", name=name)(x)
    model = Model(inputs, layers.Dense(4)(x))
    data = find_channel_groups(model), batch_for(model)
    measured, scores = (criteria.Reconstruction(capacity=c)(model, *data) for c in (0, 0.5))
    halves = sum(np.sort(values)[: len(values) // 2].sum() for values in measured.values())
    weights = {"first": 7 * 16 + 16 * 8, "second": 17 * 8 + 8 * 4}
    for name, n in sizes.items():
        added = np.sort(scores[name] - measured[name])  # in the order in which channels go
        expected = 0.5 * halves * weights[name] / model.count_params() / np.arange(n, 0, -1)
        np.testing.assert_allclose(added, expected, rtol=1e-3)
        assert (np.argsort(scores[name]) == np.argsort(measured[name])).all()


def test_inputs_may_come_by_name_whatever_their_order():
    image, extra = Input((8, 8, 3), name="image"), Input((4,), name="extra")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="conv")(image))
    x = layers.Concatenate()([x, layers.Dense(8, name="dense")(extra)])
    model = Model([image, extra], layers.Dense(3)(x))
    rng = np.random.default_rng(0)
    inputs = {"image": rng.random((32, 8, 8, 3)), "extra": rng.random((32, 4))}
    inputs = {name: x.astype("float32") for name, x in inputs.items()}
    more = inputs | {"nobody reads it": np.zeros((32, 1), "float32")}
    for data in ((list(inputs.values()),), (inputs,), (more,)):
        masks = aip_tf.select_channels(model, 0.5, criterion="reconstruction", data=data)
        criteria.Reconstruction().refit(model, prune_channels(model, masks), masks, data)
        assert set(masks) == {"conv", "dense"}


def test_a_model_without_weights_has_no_scores():
    inputs = Input((8, 8, 3))
    model = Model(inputs, layers.GlobalAveragePooling2D()(inputs))
    groups = find_channel_groups(model)
    assert criteria.Reconstruction()(model, groups, batch_for(model)) == {}


def test_a_channel_that_is_not_missed_is_the_first_to_go():
    model, _ = build("convolution_2d")
    model = Model(model.input, layers.GlobalAveragePooling2D()(model.output))
    groups = find_channel_groups(model)
    scores = criteria.Reconstruction(num_samples=64, ridge=1e-6)(model, groups, batch_for(model))
    scores = scores["producer"]
    assert scores.min() < 1e-2 * scores.max()


@pytest.mark.parametrize("place", ["inside", "reader"])
@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_a_layer_that_is_silent_costs_nothing(place, scale):
    keras.utils.set_random_seed(0)
    x = inputs = Input((6,))
    for name in ("first", "inside", "reader"):
        x = layers.Dense(8, activation="relu", name=name)(x)
    model = Model(inputs, x)
    model.get_layer(place).set_weights([scale * w for w in model.get_layer(place).get_weights()])
    scores = criteria.Reconstruction(capacity=0)(
        model, find_channel_groups(model), batch_for(model)
    )
    assert np.all(np.concatenate(list(scores.values())) == 0)


def test_a_dead_group_is_tried_twice_however_wide(monkeypatch):
    tried, divergences = [], Trial.divergences
    monkeypatch.setattr(
        Trial, "divergences", lambda self, some: tried.extend(some) or divergences(self, some)
    )
    inputs = Input((6,))
    x = layers.Dense(64, activation="relu", name="inside")(inputs)
    model = Model(inputs, layers.Dense(5, kernel_initializer="zeros", name="reader")(x))
    criteria.Reconstruction()(model, find_channel_groups(model), batch_for(model))
    assert [np.sum(~change.keep_masks["inside"]) for change in tried] == [32, 63]


def test_dead_channels_do_not_make_the_living_ones_free():
    def costs(num_dead):
        keras.utils.set_random_seed(0)
        rng, alive = np.random.default_rng(0), np.arange(8 + num_dead) < 8
        inputs = Input((6,))
        x = layers.Dense(len(alive), activation="relu", name="inside")(inputs)
        model = Model(inputs, layers.Dense(5, name="reader")(x))
        weights = [np.zeros((6, len(alive))), -np.ones(len(alive)), np.ones((len(alive), 5))]
        weights[0][:, alive], weights[1][alive] = rng.normal(size=(6, 8)), 0
        weights[2][alive] = rng.normal(size=(8, 5))
        model.set_weights([*weights, np.zeros(5)])
        criterion = criteria.Reconstruction(capacity=0, ridge=EXACT)
        return criterion(model, find_channel_groups(model), batch_for(model))["inside"], alive

    (expected, _), (found, alive) = costs(0), costs(24)
    assert found[~alive].max() < 1e-3 * found[alive].min()
    assert 0.3 < found[alive].sum() / expected.sum() < 3


def test_too_few_images_are_named_and_do_no_harm_to_others():
    keras.utils.set_random_seed(0)
    inputs = Input((40,))
    x = layers.Dense(300, activation="relu", name="wide")(inputs)
    model = Model(inputs, layers.Dense(5, name="reader")(x))
    keep_masks = {"wide": np.arange(300) < 200}
    smaller, record = refitted(model, keep_masks, batch_for(model, 12), ridge=1e-3)
    assert list(record.shrunk) == ["reader"] and "300 images" in record.shrunk["reader"]
    unseen = batch_for(model, 200)[12:]
    cut = prune_channels(model, keep_masks)
    errors = [np.mean((m(unseen) - model(unseen)) ** 2) for m in (cut, smaller)]
    assert errors[1] < errors[0]


def test_layers_that_cannot_be_refitted_are_named_and_left_alone():
    inputs = Input((9, 3))
    x = layers.Conv1D(6, 3, name="conv")(inputs)
    model = Model(inputs, layers.LSTM(4, name="memory")(x))
    smaller, record = refitted(model, {"conv": np.arange(6) < 4}, batch_for(model))
    assert record.layers == () and "LSTM" in record.skipped["memory"]
    expected = prune_channels(model, {"conv": np.arange(6) < 4}).get_weights()
    for value, other in zip(smaller.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_layer_that_tensorflow_does_not_run_on_its_own_is_named_and_left_alone(monkeypatch):
    def fail(*_):
        raise tf.errors.UnimplementedError(None, None, "no such kernel")

    monkeypatch.setattr(linear, "_sources", fail)
    inputs = Input((6, 6, 3))
    x = layers.Conv2D(4, 1, name="producer")(inputs)
    readers = [layers.Dense(3, name="reader")(x), layers.Conv2D(2, 3, name="odd")(x)]
    model = Model(inputs, readers)
    _, record = refitted(model, {"producer": np.arange(4) < 3}, batch_for(model))
    assert record.layers == ("reader",)
    assert record.skipped == {"odd": "what a Conv2D reads cannot be told"}


def test_a_layer_whose_weights_a_constraint_holds_is_not_refitted():
    x = inputs = Input((6,))
    x = layers.Dense(8, name="inside")(x)
    model = Model(inputs, layers.Dense(4, kernel_constraint="non_neg", name="reader")(x))
    _, record = refitted(model, {"inside": np.arange(8) < 4}, batch_for(model))
    assert record.layers == () and record.skipped == {"reader": "NonNeg holds its kernel"}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: criteria.Reconstruction(num_samples=4), "num_samples"),
        (lambda: criteria.Reconstruction(ridge=0), "ridge"),
        (lambda: criteria.Reconstruction(capacity=-1), "capacity"),
        (lambda: criteria.Reconstruction()(stack(), [], None), "received 0 inputs"),
        (lambda: criteria.Reconstruction()(stack(), [], np.zeros((5, 6, 6, 3))), "received 5"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_half_of_the_digits_network_gone_untrained():
    """Accuracy straight after a cut: far above that of a cut by size."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    keras.utils.set_random_seed(0)
    x = inputs = Input((8, 8, 1))
    for width in (16, 24):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    model = Model(inputs, layers.Dense(10, name="head")(x))
    features = np.asarray(Model(inputs, x)(images[:1200]))  # chance made them, the head is fitted
    squares = features.T @ features + 0.01 * np.eye(features.shape[1])
    kernel = np.linalg.solve(squares, features.T @ np.eye(10)[labels[:1200]])
    model.get_layer("head").set_weights([10 * kernel, np.zeros(10)])
    accuracies = {}
    for name in ("l1", "reconstruction"):
        criterion = criteria.get(name)
        selection = Macs(per_cost=name == "reconstruction")
        data = images[:400]  # no labels
        masks = aip_tf.select_channels(
            model, 0.5, criterion=criterion, selection=selection, data=data
        )
        smaller = prune_channels(model, masks)
        if name == "reconstruction":
            criterion.refit(model, smaller, masks, data)
        answers = np.argmax(smaller(images[1200:]), -1)
        accuracies[name] = np.mean(answers == labels[1200:])
    assert accuracies["reconstruction"] > accuracies["l1"] + 0.2, accuracies


class Block(layers.Layer):
    """Made of layers, so that it is opened."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.conv, self.norm = layers.Conv2D(width, 3, padding="same"), layers.BatchNormalization()

    def call(self, x, training=False):
        return keras.ops.relu(self.norm(self.conv(x), training=training))


class Subclassed(Model):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Block(6), Block(4), layers.Dense(3)

    def call(self, x, training=False):
        x = self.second(self.first(x, training=training), training=training)
        return self.head(keras.ops.mean(x, axis=(1, 2)))


@pytest.mark.parametrize("is_subclassed", [False, True])
def test_the_layers_of_an_opened_model_are_refitted_under_the_names_of_its_masks(is_subclassed):
    inputs = Input((6, 6, 2))
    x = layers.GlobalAveragePooling2D()(Block(4)(Block(6)(inputs)))
    model = Subclassed() if is_subclassed else Model(inputs, layers.Dense(3)(x))
    batch = np.random.default_rng(2).normal(size=(40, 6, 6, 2)).astype("float32")
    model(batch)
    graph = ChannelGraph(model)
    masks = {g.name: np.arange(g.num_channels) < 3 for g in graph.groups if g.prunable}
    records = []

    def refit(*arguments):
        records.append(criteria.Reconstruction(num_samples=40).refit(*arguments))

    apply_cut(graph, masks, batch, data=tf.data.Dataset.from_tensors((batch,)), refit=refit)
    assert len(records[0].layers) == len(masks) == 2


def test_of_large_inputs_fewer_are_looked_at_unless_a_number_is_given():
    small, large = np.zeros((1100, 2)), np.zeros((8, 2**22, 4), "int8")
    counts = [
        sum(map(len, first_inputs(data, number)))
        for data, number in ((small, None), (large, None), (large, 7), (small, 1050))
    ]
    assert counts == [1024, 4, 7, 1050]


@pytest.mark.parametrize("number", [None, 3])
def test_of_inputs_that_come_in_batches_of_one_size_whole_batches_are_looked_at(number):
    """Four would do of so large ones."""
    found = first_inputs(np.zeros((16, 2**22, 4), "int8"), number, 8)
    assert list(map(len, found)) == [8]


def test_of_large_inputs_fewer_are_tried():
    tried = []

    class Noted(criteria.Reconstruction):
        def _batches(self, model, data):
            seen, unseen = super()._batches(model, data)
            tried.append(sum(map(len, unseen)))
            return seen, unseen

    model = keras.Sequential([Input((None, None, 4)), layers.GlobalAveragePooling2D()])
    for size in (4, 512):
        Noted(num_samples=60)(model, [], np.zeros((60, size, size, 4), "int8"))
    assert tried == [15, 9]


def test_one_pass_sees_all_readers_that_memory_has_room_for(monkeypatch):
    passes = []

    def observe(*arguments):
        passes.append(arguments)
        return observe_readers(*arguments)

    monkeypatch.setattr(study_module, "observe", observe)
    model = aip_tf.zoo.cifar_resnet(8, num_classes=4, input_shape=(8, 8, 3))
    images = np.random.default_rng(0).random((16, 8, 8, 3), "float32")
    criteria.Reconstruction()(model, find_channel_groups(model), images)
    assert len(passes) == 1


@pytest.mark.parametrize("sizes", [[5], [300] * 7, [1500, 1, 999, 3]], ids=str)
def test_moments_are_those_of_all_samples_however_they_come(sizes):
    random, moments = np.random.default_rng(0), CrossMoments()
    for i, size in enumerate(sizes):
        moments.add_pair(random.normal(3, 1, (2, size, 4)), random.normal(size=(2, size, 3)))
        if i == 1:
            moments.covariance(0, True)  # what is asked on the way changes nothing
    random = np.random.default_rng(0)
    shapes = [(2, size, width) for size in sizes for width in (4, 3)]
    drawn = [random.normal(3 if shape[-1] == 4 else 0, 1, shape) for shape in shapes]
    x, y = (np.concatenate(drawn[i::2], axis=1) for i in (0, 1))
    for cell in range(2):
        np.testing.assert_allclose(moments.covariance(cell, True), np.cov(x[cell].T, bias=True))
        np.testing.assert_allclose(moments.cross(cell, False), x[cell].T @ y[cell] / x.shape[1])
        np.testing.assert_allclose(moments.variances(True)[cell], x[cell].var(axis=0))

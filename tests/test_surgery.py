"""What a cut leaves alone (laws 4 and 7), what it refuses (law 8), and what users may add."""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from graphs import conv, dense, head, image
from keras import Input, Model, Sequential, layers, ops

import aip_tf
from aip_tf.channels.members import variable_of


def half(model, seed=0):
    """Keep masks that remove about half of every group."""
    return laws.random_masks(aip_tf.find_channel_groups(model), np.random.default_rng(seed))


def ready(model, seed=0):
    """(model with random weights, batch)"""
    rng = np.random.default_rng(seed)
    batch = laws.random_batch(model, rng, 4)
    return laws.randomize(model, rng, batch), batch


def rich_model():
    """Nested, regularised, constrained, partly frozen, in two precisions, with named inputs."""
    t = Input((8, 8, 6), name="inside")
    block = Sequential(
        [
            layers.Conv2D(5, 3, kernel_regularizer="l2", bias_constraint="non_neg", name="a"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm"),
            layers.Conv2D(7, 1, dtype="mixed_bfloat16", name="b"),
        ],
        name="block",
    )
    block(t)
    block.get_layer("norm").trainable = False
    outer = Model(t, layers.ReLU(max_value=6.0, name="relu6")(block(t)), name="outer")
    i, v = image(name="picture"), Input((4,), name="vector")
    x = layers.Conv2D(
        6,
        3,
        padding="same",
        name="conv1",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.3),
        kernel_regularizer=keras.regularizers.L1(1e-3),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
        activity_regularizer="l2",
    )(i)
    x = layers.Dropout(0.25, seed=3, name="drop")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(outer(x))
    x = layers.Concatenate(name="join")([x, dense(v, 3, "fc", activation="relu")])
    model = Model({"picture": i, "vector": v}, {"classes": dense(x, 3, "head")}, name="rich")
    model.get_layer("fc").trainable = False
    return model


# --- laws 4 and 7 ------------------------------------------------------------------------------


def test_the_source_is_untouched():
    model, batch = ready(rich_model())
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), {"classes": "mse"})
    model.fit(batch, {"classes": np.ones((4, 3), "float32")}, verbose=0)
    before, config = laws.snapshot(model), model.get_config()
    outputs = laws.run(model, batch)
    masks = half(model)
    copies = {name: mask.copy() for name, mask in masks.items()}
    aip_tf.prune_channels(model, masks)
    laws.run(aip_tf.mask_channels(model, masks), batch)
    assert laws.snapshot(model) == before
    assert model.get_config() == config
    assert laws.relative_error(laws.run(model, batch), outputs) == 0
    assert all((masks[name] == copies[name]).all() for name in copies)
    model.fit(batch, {"classes": np.ones((4, 3), "float32")}, verbose=0)  # still compiled


def test_a_cut_shares_nothing_with_its_source():
    model, batch = ready(rich_model())
    outputs = laws.run(model, batch)
    cut = aip_tf.prune_channels(model, half(model))
    for variable in cut.weights:
        variable.assign(variable * 0 + 3)
    assert laws.relative_error(laws.run(model, batch), outputs) == 0


def test_names_flags_and_policies_survive():
    model, _ = ready(rich_model())
    cut = aip_tf.prune_channels(model, half(model))
    assert cut.name == model.name
    assert [x.name for x in cut.inputs] == [x.name for x in model.inputs]
    assert set(cut.input) == set(model.input) and set(cut.output) == set(model.output)
    assert cut.output_names == model.output_names
    pairs = list(zip(laws.all_layers(model), laws.all_layers(cut), strict=True))
    for a, b in pairs:
        assert (type(a), a.name, a.trainable) == (type(b), b.name, b.trainable)
        assert a.dtype_policy.name == b.dtype_policy.name
    paths = [(w.path, w.trainable, w.dtype) for w in model.weights]
    assert [(w.path, w.trainable, w.dtype) for w in cut.weights] == paths
    names = [w.path for w in model.trainable_weights]
    assert [w.path for w in cut.trainable_weights] == names


def test_configurations_survive_but_for_widths():
    model, _ = ready(rich_model())
    cut = aip_tf.prune_channels(model, half(model))
    for a, b in zip(laws.all_layers(model), laws.all_layers(cut), strict=True):
        if not isinstance(a, keras.Model):
            old, new = a.get_config(), b.get_config()
            changed = {key for key in old if old[key] != new[key]}
            assert changed <= {"filters", "units", "batch_shape"}, (a.name, changed)
    conv1 = cut.get_layer("conv1")
    assert float(conv1.kernel_regularizer.l1) == pytest.approx(1e-3)
    assert conv1.kernel_constraint.max_value == 2.0
    assert conv1.filters == 3
    assert type(conv1.activity_regularizer) is type(model.get_layer("conv1").activity_regularizer)


def test_unnamed_inputs_keep_their_names():
    i = Input((8, 8, 3))
    model = head(conv(i, 6, "conv1"), i)
    cut = aip_tf.prune_channels(model, half(model))
    assert [x.name for x in cut.layers] == [x.name for x in model.layers]


def test_a_frozen_model_stays_frozen():
    model, _ = ready(rich_model())
    model.trainable = False
    cut = aip_tf.prune_channels(model, half(model))
    assert not cut.trainable and not cut.trainable_weights
    assert [x.trainable for x in laws.all_layers(cut)] == [
        x.trainable for x in laws.all_layers(model)
    ]


def test_sequential_stays_sequential():
    model = Sequential([Input((8, 8, 3)), layers.Conv2D(6, 3, name="a"), layers.Flatten()])
    model.add(layers.Dense(2, name="head"))
    model, batch = ready(model)
    masks = half(model)
    cut = aip_tf.prune_channels(model, masks)
    assert type(cut) is Sequential
    assert [x.name for x in cut.layers] == [x.name for x in model.layers]
    assert laws.masked_is_cut(model, masks, batch)[0] <= laws.TOLERANCE


def test_a_functional_subclass_comes_back_as_a_plain_model():
    class Backbone(Model):
        def __init__(self, width):
            i = image()
            super().__init__(i, head(conv(i, width, "conv1"), i).output)
            self.width = width

    model, batch = ready(Backbone(8))
    masks = half(model)
    error, cut = laws.masked_is_cut(model, masks, batch)
    assert error <= laws.TOLERANCE
    assert type(cut) is type(small())


def test_a_cut_model_trains():
    model, batch = ready(rich_model())
    cut = aip_tf.prune_channels(model, half(model))
    cut.compile("sgd", {"classes": "mse"})
    history = cut.fit(batch, {"classes": np.zeros((4, 3), "float32")}, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_training_a_whole_copy_leaves_the_original_alone():
    model, batch = ready(rich_model())
    before = model.get_weights()
    copy = aip_tf.prune_channels(model, {})
    copy.compile(keras.optimizers.SGD(0.1, momentum=0.9), {"classes": "mse"})
    copy.fit(batch, {"classes": np.zeros((4, 3), "float32")}, epochs=2, verbose=0)
    changed = [(a != b).any() for a, b in zip(before, copy.get_weights(), strict=True)]
    assert any(changed)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_weight_is_initialised_at_random(monkeypatch):
    model, _ = ready(rich_model())
    masks = half(model)

    def draw(*args, **kwargs):
        raise RuntimeError("an initializer was called")

    for initializer in (keras.initializers.GlorotUniform, keras.initializers.RandomNormal):
        monkeypatch.setattr(initializer, "__call__", draw)
    cut = aip_tf.prune_channels(model, masks)
    assert 0 < cut.count_params() < model.count_params()


def test_the_default_policy_is_restored():
    model, _ = ready(rich_model())
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        cut = aip_tf.prune_channels(model, half(model))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert cut.get_layer("conv1").dtype_policy.name == "float32"


def test_legacy_h5_models_can_be_cut(tmp_path):
    i = image()
    model, batch = ready(head(layers.BatchNormalization()(conv(i, 6, "conv1")), i))
    model.save(tmp_path / "old.h5")
    loaded = keras.saving.load_model(tmp_path / "old.h5", compile=False)
    assert laws.masked_is_cut(loaded, half(loaded), batch)[0] <= laws.TOLERANCE


def test_rebuilt_weights_are_slices_of_the_old_ones():
    """Filled by counting: a wrong index is a wrong number."""
    i = image()
    model = head(conv(conv(i, 6, "conv1"), 4, "conv2"), i)
    for w in model.weights:
        w.assign(np.arange(np.prod(w.shape), dtype="float32").reshape(w.shape))
    keep1, keep2 = np.array([1, 0, 0, 1, 1, 0], bool), np.array([0, 1, 0, 1], bool)
    cut = aip_tf.prune_channels(model, {"conv1": keep1, "conv2": keep2})
    new, old = cut.get_layer("conv2"), model.get_layer("conv2")
    np.testing.assert_array_equal(new.kernel, old.kernel.numpy()[:, :, keep1][..., keep2])
    np.testing.assert_array_equal(new.bias, old.bias.numpy()[keep2])
    new, old = cut.get_layer("head"), model.get_layer("head")
    np.testing.assert_array_equal(new.kernel, old.kernel.numpy()[keep2])


# --- groups ------------------------------------------------------------------------------------


def test_members_say_where_channels_stand():
    i = image(2)
    x = layers.Flatten()(layers.BatchNormalization(name="norm")(conv(i, 4, "conv1")))
    groups = aip_tf.find_channel_groups(Model(i, dense(x, 3, "head")))
    group = next(g for g in groups if g.producers == ("conv1",))
    assert (group.num_channels, group.prunable, group.reason) == (4, True, "")
    assert group.consumers == ("head",)
    members = {(m.layer, m.variable): m for m in group.members}
    kernel = members["conv1", "kernel"]
    assert (kernel.axis, kernel.role) == (3, "producer")
    assert members["conv1", "bias"].role == "producer"
    assert {members["norm", n].role for n in ("gamma", "moving_mean")} == {"channelwise"}
    consumer = members["head", "kernel"]
    assert (consumer.axis, consumer.role) == (0, "consumer")
    np.testing.assert_array_equal(consumer.indices, np.arange(16))
    np.testing.assert_array_equal(consumer.channels, np.arange(16) % 4)


def test_group_names_are_unique_and_stable():
    i = image()
    a, b = ops.split(conv(i, 8, "conv1"), 2, axis=-1)
    model = head(layers.Concatenate()([conv(a, 5, "conv2"), conv(b, 6, "conv3")]), i)
    names = [g.name for g in aip_tf.find_channel_groups(model)]
    assert len(set(names)) == len(names)
    assert names == [g.name for g in aip_tf.find_channel_groups(model)]


def test_open_sizes_need_an_input_shape():
    i = Input((None, None, 3))
    model = head(conv(conv(i, 6, "conv1"), 4, "conv2"), i)
    groups = aip_tf.find_channel_groups(model, input_shape=(16, 16, 3))
    masks = laws.random_masks(groups, np.random.default_rng(0))
    cut = aip_tf.prune_channels(model, masks, input_shape=(16, 16, 3))
    assert cut.input_shape == (None, None, None, 3)
    batch = np.ones((1, 9, 11, 3), "float32")
    masked = aip_tf.mask_channels(model, masks, input_shape=(16, 16, 3))
    assert laws.relative_error(laws.run(cut, batch), laws.run(masked, batch)) <= laws.TOLERANCE


# --- law 8 -------------------------------------------------------------------------------------


def small():
    i = image()
    return head(conv(conv(i, 6, "conv1"), 4, "conv2"), i)


class Subclassed(Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3)

    def call(self, x):
        return self.conv(x)


KEEP = np.ones(6, bool)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"conv9": KEEP}, ["conv9", "conv1"]),
        ({"conv1": KEEP[:5]}, ["conv1", "5", "6"]),
        ({"conv1": ~KEEP}, ["conv1", "at least one"]),
        ({"conv1": KEEP.astype("float32")}, ["conv1", "bool", "float32"]),
        ({"conv1": KEEP[None]}, ["conv1", "(1, 6)", "(6,)"]),
        ({"head": np.array([True, False, True])}, ["head", "output"]),
    ],
)
@pytest.mark.parametrize("verb", ["prune_channels", "mask_channels"])
def test_masks_that_do_not_fit_are_refused(verb, masks, words):
    with pytest.raises(ValueError) as raised:
        getattr(aip_tf, verb)(small(), masks)
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Subclassed, ["subclassed", "called on data", "input_shape="]),
        (lambda: Sequential([layers.Conv2D(4, 3)]), ["Input"]),
        (lambda: head(conv(Input((None, None, 3)), 4, "c"), Input((8, 8, 3))), None),
        (lambda: "model.keras", ["str", "keras.Model"]),
    ],
    ids=["subclassed", "unbuilt", "disconnected", "path"],
)
def test_models_without_a_graph_are_refused(build, words):
    if words is None:
        with pytest.raises(ValueError):  # Keras refuses these itself
            build()
        return
    with pytest.raises(ValueError) as raised:
        aip_tf.find_channel_groups(build())
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("shape", [None, (None, 16, 3), (16, 16, 4), (16, 3)])
def test_open_or_wrong_sizes_are_refused(shape):
    i = Input((None, None, 3), name="picture")
    model = Model(i, layers.GlobalAveragePooling2D()(conv(i, 4, "conv1")))
    with pytest.raises(ValueError) as raised:
        aip_tf.find_channel_groups(model, input_shape=shape)
    assert "picture" in str(raised.value) and "input_shape" in str(raised.value)


def test_a_subclassed_model_inside_another_is_cut():
    i = image()
    model, batch = ready(head(conv(Subclassed()(conv(i, 6, "conv1")), 4, "conv2"), i))
    masks = half(model)
    assert "conv1" in masks and len(masks) == 3
    assert laws.masked_is_cut(model, masks, batch)[0] <= laws.TOLERANCE


def test_keeping_a_pinned_group_whole_is_allowed():
    model = small()
    assert aip_tf.prune_channels(model, {"head": np.ones(3, bool)}).count_params() == (
        model.count_params()
    )


# --- rules of users ----------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="aip_tf_tests")
class Scale(layers.Layer):
    """One factor for each channel, applied by a function that takes no symbolic tensor."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor", initializer="ones")

    def call(self, x):
        return tf.multiply(x, self.factor)


def test_users_can_teach_a_layer():
    def build():
        i = image()
        return head(conv(Scale(name="scale")(conv(i, 6, "conv1")), 4, "conv2"), i)

    before = {g.name: g for g in aip_tf.find_channel_groups(build())}
    assert not before["conv1"].prunable
    assert "register_channel_rule(Scale)" in before["conv1"].reason

    @aip_tf.register_channel_rule(Scale)
    def scale(call, x):
        call.weight(call.operation.factor, 0, call.channels(x), "channelwise")
        return x

    model, batch = ready(build())
    masks = half(model)
    assert set(masks) == {"conv1", "conv2"}
    error, cut = laws.masked_is_cut(model, masks, batch)
    assert error <= laws.TOLERANCE
    assert cut.get_layer("scale").factor.shape == (3,)


def test_a_rule_with_the_wrong_shape_is_refused():
    class Wrong(layers.Layer):
        def call(self, x):
            return x

    @aip_tf.register_channel_rule(Wrong)
    def wrong(call, x):
        return x[..., :1]

    i = image()
    with pytest.raises(ValueError, match="Wrong"):
        aip_tf.find_channel_groups(head(Wrong()(conv(i, 6, "conv1")), i))


def test_only_classes_can_have_rules():
    with pytest.raises(ValueError, match="class"):
        aip_tf.register_channel_rule("Conv2D")


# --- normalisation over kept channels, by hand -------------------------------------------------


def normalised(norm):
    i = image(5)
    model = head(conv(norm(conv(i, 8, "conv1", kernel=1)), 4, "conv2", kernel=1), i)
    return ready(model)


def by_hand(model, batch, keep, normalise):
    """numpy from end to end; `normalise(x, gamma, beta)` sees the kept channels only."""
    x = batch @ model.get_layer("conv1").kernel.numpy()[0, 0][:, keep]
    x = x + model.get_layer("conv1").bias.numpy()[keep]
    norm = model.layers[2]
    x = normalise(x, norm.gamma.numpy()[keep], norm.beta.numpy()[keep], norm.epsilon)
    x = x @ model.get_layer("conv2").kernel.numpy()[0, 0][keep] + model.get_layer("conv2").bias
    x = np.asarray(x).mean(axis=(1, 2))
    return [x @ model.get_layer("head").kernel.numpy() + model.get_layer("head").bias.numpy()]


def standardise(x, axes, epsilon):
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def layer_norm(x, gamma, beta, epsilon):
    return standardise(x, -1, epsilon) * gamma + beta


def group_norm(num_groups):
    def normalise(x, gamma, beta, epsilon):
        b, h, w, c = x.shape
        y = standardise(x.reshape(b, h, w, num_groups, c // num_groups), (1, 2, 4), epsilon)
        return y.reshape(x.shape) * gamma + beta

    return normalise


KEEP_ANY = np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)
KEEP_SLOTS = np.array([1, 0, 1, 1], bool)


@pytest.mark.parametrize(
    ("norm", "keep", "normalise"),
    [
        (layers.LayerNormalization(), KEEP_ANY, layer_norm),
        (layers.GroupNormalization(1), KEEP_ANY, group_norm(1)),
        (layers.GroupNormalization(2), KEEP_SLOTS, group_norm(2)),
        (layers.GroupNormalization(-1), KEEP_ANY, group_norm(4)),
        (layers.GroupNormalization(8), KEEP_ANY, group_norm(4)),
    ],
    ids=["layer", "one_group", "two_groups", "instance", "instance_by_count"],
)
def test_normalisation_by_an_independent_reference(norm, keep, normalise):
    model, batch = normalised(norm.__class__.from_config(norm.get_config()))
    cut = aip_tf.prune_channels(model, {"conv1": keep})
    everywhere = np.tile(keep, 8 // len(keep))
    expected = by_hand(model, batch.astype("float64"), everywhere, normalise)
    assert laws.relative_error(laws.run(cut, batch), expected) <= laws.TOLERANCE
    masked = aip_tf.mask_channels(model, {"conv1": keep})
    assert laws.relative_error(laws.run(masked, batch), expected) <= laws.TOLERANCE
    wrong = next(laws.wrong_masks({"conv1": keep}, "conv1", np.random.default_rng(0)))
    moved = laws.relative_error(laws.run(aip_tf.prune_channels(model, wrong), batch), expected)
    assert moved >= laws.SENSITIVITY


def test_large_variables_are_sliced_in_blocks_with_the_same_result():
    i = keras.Input((8,), name="image")
    x = layers.Dense(2100, activation="relu", name="first")(i)
    x = layers.Dense(2100, activation="relu", name="second")(x)
    model = keras.Model(i, layers.Dense(3)(x))
    masks = half(model)
    cut = aip_tf.prune_channels(model, masks)
    expected = model.get_layer("second").kernel.numpy()[np.ix_(masks["first"], masks["second"])]
    np.testing.assert_array_equal(cut.get_layer("second").kernel.numpy(), expected)


@pytest.mark.parametrize("outputs", [lambda y: [y], lambda y: (y,), lambda y: {"y": y}])
def test_an_output_that_stands_alone_is_the_twins_too(outputs):
    i = Input((5,))
    model = Model(i, outputs(layers.Dense(2)(layers.Dense(4, name="first")(i))))
    graph = aip_tf.ChannelGraph(model)
    masks = {"first": np.array([True, False, True, True])}
    batch = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    assert aip_tf.channels.check_cut(graph, graph.prune(masks), masks, batch) <= 1e-5


def test_a_cut_layer_converts_its_inputs_as_before():
    """`autocast` is in no configuration; 1e5 is infinite in half precision."""
    i = Input((4,))
    x = dense(i, 8, "made", dtype="mixed_float16", autocast=False)
    model = Model(i, dense(x, 2, "head", dtype="float32"))
    masks = {"made": np.arange(8) < 5}
    large = np.full((3, 4), 1e5, "float32")
    assert np.isfinite(aip_tf.mask_channels(model, masks)(large)).all()
    assert np.isfinite(aip_tf.prune_channels(model, masks)(large)).all()


def test_an_identity_keeps_its_regularizer_and_its_policies(tmp_path):
    i = Input((4,))
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    x = layers.Identity(activity_regularizer="l2", name="same")(dense(i, 8, "made"))
    model = Model(i, dense(layers.Identity(dtype=policies)(x), 2, "head"))
    cut = aip_tf.prune_channels(model, {"made": np.arange(8) < 5})
    cut(np.ones((2, 4)))
    assert len(cut.losses) == 1
    assert cut.get_layer("same").get_config() == model.get_layer("same").get_config()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (None, "Expected a dictionary"),
        ([np.ones(8, bool)], "Expected a dictionary"),
        ({"made": [[True], [True, False]]}, "Expected a bool array of shape"),
    ],
    ids=["None", "list", "ragged"],
)
def test_masks_of_another_form_are_refused(masks, message):
    model = Sequential([Input((4,)), layers.Dense(8, name="made"), layers.Dense(2)])
    with pytest.raises(ValueError, match=message):
        aip_tf.prune_channels(model, masks)


def test_a_size_that_a_layer_cannot_take_is_named():
    i = Input((None, None, 3))
    model = head(layers.Conv2D(8, 5, name="wide")(layers.MaxPooling2D(8)(i)), i)
    with pytest.raises(ValueError, match=r"'wide' cannot be called .* larger ones as `input_"):
        aip_tf.find_channel_groups(model, (32, 32, 3))


def test_bounds_for_each_channel_keep_them():
    i = Input((4,))
    x = ops.clip(dense(i, 8, "made"), np.zeros(8, "float32"), np.arange(8, dtype="float32"))
    (made, _) = aip_tf.find_channel_groups(Model(i, dense(x, 2, "head")))
    assert not made.prunable and "settings" in made.reason


@pytest.mark.parametrize("name", ["y", "query", "kernel"])
def test_weights_are_found_whatever_their_layer_is_called(name):
    """ "y/" ends "query/" and "key/"."""
    i = Input((5, 6))
    model = Model(i, layers.MultiHeadAttention(3, 4, name=name)(i, i))
    heads = aip_tf.find_channel_groups(model)[0]
    members = {(member.variable, member.axis) for member in heads.members}
    found = {(variable_of(model, member).path, member.axis) for member in heads.members}
    assert {"query/kernel", "key/kernel"} <= {variable for variable, _ in members}
    assert found == {(f"{name}/{variable}", axis) for variable, axis in members}

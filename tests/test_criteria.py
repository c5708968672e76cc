"""Criteria against formulas computed independently, on a small residual network."""

from types import SimpleNamespace

import graphs_more  # noqa: F401  (registers the second half)
import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from graphs import GRAPHS

from aip_tf import criteria
from aip_tf.channels import find_channel_groups

LAYERS = keras.layers


def member(layer, variable, axis, size, role, repeat=1):
    """Positions 0..size*repeat-1 on an axis; each channel owns `repeat` adjacent ones."""
    positions = np.arange(size * repeat)
    return SimpleNamespace(
        layer=layer,
        variable=variable,
        axis=axis,
        role=role,
        indices=positions,
        channels=positions // repeat,
    )


def group(name, num_channels, producers, members, prunable=True):
    return SimpleNamespace(
        name=name,
        num_channels=num_channels,
        producers=producers,
        members=members,
        prunable=prunable,
        residual=len(producers) > 1,
        reason="" if prunable else "output",
    )


def convolution(name, filters, bias=False, size=3):
    return LAYERS.Conv2D(filters, size, padding="same", use_bias=bias, name=name)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = LAYERS.BatchNormalization(name="stem_bn")(convolution("stem", 6)(inputs))
    skip = LAYERS.ReLU()(x)
    x = LAYERS.BatchNormalization(name="a_bn")(convolution("a", 5)(skip))
    x = LAYERS.ReLU()(x)
    x = LAYERS.BatchNormalization(name="b_bn")(convolution("b", 6, bias=True)(x))
    x = LAYERS.ReLU()(LAYERS.Add()([x, skip]))
    x = LAYERS.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, LAYERS.Dense(3, name="logits")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        noise = rng.uniform(0.2, 2.0, weight.shape)
        sign = 1 if weight.name == "moving_variance" else rng.choice([-1, 1], weight.shape)
        weight.assign(noise * sign * (0.1 if "kernel" in weight.name else 1.0))
    return model


@pytest.fixture(scope="module")
def groups():
    inner = [
        member("a", "kernel", 3, 5, "producer"),
        member("a_bn", "gamma", 0, 5, "channelwise"),
        member("a_bn", "beta", 0, 5, "channelwise"),
        member("b", "kernel", 2, 5, "consumer"),
    ]
    residual = [
        member("stem", "kernel", 3, 6, "producer"),
        member("stem_bn", "gamma", 0, 6, "channelwise"),
        member("a", "kernel", 2, 6, "consumer"),
        member("b", "kernel", 3, 6, "producer"),
        member("b", "bias", 0, 6, "producer"),
        member("b_bn", "gamma", 0, 6, "channelwise"),
        member("logits", "kernel", 0, 6, "consumer"),
    ]
    logits = [member("logits", "kernel", 1, 3, "producer")]
    return [
        group("stem", 6, ("stem", "b"), residual),
        group("a", 5, ("a",), inner),
        group("logits", 3, ("logits",), logits, prunable=False),
    ]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(40, 8, 8, 3)).astype("float32")
    return images, rng.integers(0, 3, 40)


def kernel(model, name):
    return model.get_layer(name).kernel.numpy()


def filter_norms(model, name, order=1):
    return np.sum(np.abs(kernel(model, name)) ** order, axis=(0, 1, 2)) ** (1 / order)


NAMES = ["bn_scale", "feature_magnitude", "fpgm", "l1", "l1_bn", "l2", "random"]
NAMES += ["reconstruction", "taylor"]


@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    def test_shapes_types_and_prunable_groups_only(self, name, model, groups, data):
        scores = criteria.get(name)(model, groups, data)
        assert set(scores) == {"stem", "a"}
        for group_ in groups[:2]:
            assert scores[group_.name].shape == (group_.num_channels,)
            assert scores[group_.name].dtype == np.float32
            assert np.isfinite(scores[group_.name]).all() and (scores[group_.name] >= 0).all()
            assert np.ptp(scores[group_.name]) > 1e-3 * scores[group_.name].max()

    def test_model_is_untouched(self, name, model, groups, data):
        before, layers = [w.numpy() for w in model.weights], [x.name for x in model.layers]
        criteria.get(name)(model, groups, data)
        assert [x.name for x in model.layers] == layers
        for old, new in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(old, new.numpy())

    def test_same_call_same_scores(self, name, model, groups, data):
        first, second = (criteria.get(name)(model, groups, data) for _ in range(2))
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


class TestWeights:
    @pytest.mark.parametrize("order", [1, 2])
    def test_norms(self, model, groups, order):
        scores = criteria.Magnitude(order, normalize="none")(model, groups)
        np.testing.assert_allclose(scores["a"], filter_norms(model, "a", order), rtol=1e-5)
        both = [filter_norms(model, name, order) for name in ("stem", "b")]
        np.testing.assert_allclose(scores["stem"], np.mean(both, axis=0), rtol=1e-5)

    @pytest.mark.parametrize(
        ("aggregate", "function"), [("mean", np.mean), ("max", np.max), ("sum", np.sum)]
    )
    def test_producers_are_normalised_then_aggregated(self, model, groups, aggregate, function):
        scores = criteria.Magnitude(normalize="max", aggregate=aggregate)(model, groups)
        both = [filter_norms(model, name) for name in ("stem", "b")]
        expected = function([norms / norms.max() for norms in both], axis=0)
        np.testing.assert_allclose(scores["stem"], expected, rtol=1e-5)

    @pytest.mark.parametrize("order", [1, 2])
    def test_norm_times_the_scale_of_the_batch_normalization_behind(self, model, groups, order):
        scores = criteria.ScaledMagnitude(order, normalize="none")(model, groups)

        def scaled(name):
            gamma = model.get_layer(f"{name}_bn").gamma.numpy()
            return filter_norms(model, name, order) * np.abs(gamma)

        np.testing.assert_allclose(scores["a"], scaled("a"), rtol=1e-5)
        expected = np.mean([scaled("stem"), scaled("b")], axis=0)
        np.testing.assert_allclose(scores["stem"], expected, rtol=1e-5)

    def test_producers_without_batch_normalization_have_scale_one(self):
        layers = [convolution("bare", 4), LAYERS.ReLU(), LAYERS.BatchNormalization()]
        behind = [convolution("b", 3), LAYERS.BatchNormalization(scale=False), LAYERS.Flatten()]
        net = keras.Sequential([keras.Input((8, 8, 3)), *layers, *behind, LAYERS.Dense(2)])
        found = find_channel_groups(net)
        plain, scaled = criteria.Magnitude()(net, found), criteria.ScaledMagnitude()(net, found)
        for name in ("bare", "b"):
            np.testing.assert_allclose(plain[name], scaled[name], rtol=1e-6)

    def test_scale_of_normalisations(self, model, groups):
        scores = criteria.NormalizationScale(normalize="none")(model, groups)
        gammas = [np.abs(model.get_layer(f"{n}_bn").gamma.numpy()) for n in ("stem", "b")]
        np.testing.assert_allclose(scores["stem"], np.mean(gammas, axis=0), rtol=1e-6)

    def test_no_scale_falls_back_to_weights(self, model, groups):
        bare = group("a", 5, ("a",), [member("a", "kernel", 3, 5, "producer")])
        scores = criteria.get("bn_scale")(model, [bare])["a"]
        np.testing.assert_allclose(scores, criteria.get("l1")(model, groups)["a"], rtol=1e-6)

    def test_geometric_median(self, model, groups):
        filters = kernel(model, "a").reshape(-1, 5).T
        expected = [sum(np.linalg.norm(w - v) for v in filters) for w in filters]
        scores = criteria.GeometricMedian(normalize="none")(model, groups)["a"]
        np.testing.assert_allclose(scores, expected, rtol=1e-4)

    def test_channels_that_own_several_positions(self):
        layers = [LAYERS.Dense(12, name="wide"), LAYERS.Reshape((4, 3)), LAYERS.Conv1D(2, 1)]
        model = keras.Sequential([keras.Input((2,)), *layers])
        weights = model.get_layer("wide").kernel.numpy()
        positions = np.arange(12)
        own = member("wide", "kernel", 1, 3, "producer", repeat=4)
        own.channels = positions % 3
        bias = member("wide", "bias", 0, 3, "producer", repeat=4)
        bias.channels = positions % 3
        group_ = group("wide", 3, ("wide",), [own, bias])
        expected = np.abs(weights).reshape(2, 4, 3).sum(axis=(0, 1))
        scores = criteria.Magnitude(normalize="none")(model, [group_])["wide"]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        rows = weights.reshape(2, 4, 3).transpose(2, 0, 1).reshape(3, -1)
        expected = [sum(np.linalg.norm(w - v) for v in rows) for w in rows]
        scores = criteria.GeometricMedian(normalize="none")(model, [group_])["wide"]
        np.testing.assert_allclose(scores, expected, rtol=1e-4)

    def test_random_depends_on_the_seed_and_the_name_alone(self, model, groups):
        first = criteria.Random(seed=1)(model, groups)
        again = criteria.Random(seed=1)(model, groups[::-1])
        other = criteria.Random(seed=2)(model, groups)
        np.testing.assert_array_equal(first["a"], again["a"])
        assert (first["a"] != other["a"]).any()


class TestFeatures:
    @pytest.mark.parametrize("absolute", ["after_mean", "before_mean"])
    def test_formula_of_the_paper(self, model, groups, data, absolute):
        outputs = [model.get_layer(name).output for name in ("stem", "a", "b")]
        features = [f.numpy() for f in keras.Model(model.inputs[0], outputs)(data[0])]

        def score(f):
            mean = np.abs(f.mean(0)) if absolute == "after_mean" else np.abs(f).mean(0)
            raw = mean.sum(axis=(0, 1))
            return raw / raw.max()

        stem, a, b = map(score, features)
        scores = criteria.FeatureMagnitude(absolute)(model, groups, data)
        np.testing.assert_allclose(scores["a"], a, rtol=1e-4)
        np.testing.assert_allclose(scores["stem"], (stem + b) / 2, rtol=1e-4)

    def test_batches_do_not_matter_datasets_do_as_well(self, model, groups, data):
        expected = criteria.get("feature_magnitude")(model, groups, data)["a"]
        for size in (7, 40):
            dataset = tf.data.Dataset.from_tensor_slices(data).batch(size)
            scores = criteria.get("feature_magnitude")(model, groups, dataset)["a"]
            np.testing.assert_allclose(scores, expected, rtol=1e-4)
        unlabelled = criteria.get("feature_magnitude")(model, groups, data[0])["a"]
        np.testing.assert_allclose(unlabelled, expected, rtol=1e-4)

    def test_looks_at_the_first_samples_only(self, model, groups, data):
        expected = criteria.get("feature_magnitude")(model, groups, data[0][:35])
        endless = tf.data.Dataset.from_tensor_slices(data).batch(10).repeat()
        scores = criteria.FeatureMagnitude(num_samples=35)(model, groups, endless)
        np.testing.assert_allclose(scores["a"], expected["a"], rtol=1e-4)

    def test_pixels_may_be_integers(self, model, groups):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), "uint8")
        expected = criteria.FeatureMagnitude()(model, groups, pixels.astype("float32"))
        scores = criteria.FeatureMagnitude()(model, groups, pixels)
        np.testing.assert_array_equal(scores["a"], expected["a"])

    def test_nested_models(self, data):
        inside = keras.Sequential([keras.Input((8, 8, 3)), convolution("conv", 4)], name="inside")
        inputs = keras.Input((8, 8, 3))
        outputs = LAYERS.GlobalAveragePooling2D()(inside(inputs))
        model = keras.Model(inputs, LAYERS.Dense(2)(outputs))
        own = group("c", 4, ("inside/conv",), [member("inside/conv", "kernel", 3, 4, "producer")])
        expected = np.abs(inside(data[0]).numpy().mean(0)).sum(axis=(0, 1))
        scores = criteria.FeatureMagnitude(normalize="none")(model, [own], data)["c"]
        np.testing.assert_allclose(scores / scores.max(), expected / expected.max(), rtol=1e-4)


class TestTaylor:
    def gated_losses(self, model, data, step):
        """Loss per batch with channel c of `a` times (1 + step), where `b` reads it."""
        weights = model.get_weights()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        batches = [(data[0][:32], data[1][:32]), (data[0][32:], data[1][32:])]
        losses = []
        for channel in range(5):
            gate = np.ones((5, 1))
            gate[channel] += step
            model.get_layer("b").kernel.assign(kernel(model, "b") * gate)
            losses.append([float(loss(y, model(x, training=False))) for x, y in batches])
            model.set_weights(weights)
        return np.array(losses)

    def test_is_the_derivative_of_a_gate_on_the_channel(self, model, groups, data):
        up, down = (self.gated_losses(model, data, step) for step in (0.05, -0.05))
        expected = np.abs((up - down) / 0.1) @ [32 / 40, 8 / 40]
        scores = criteria.Taylor()(model, groups, data)["a"]
        np.testing.assert_allclose(scores, expected, rtol=0.02, atol=2e-5)

    def test_labels_and_losses(self, model, groups, data):
        images, labels = data
        expected = criteria.Taylor()(model, groups, data)["a"]
        one_hot = np.eye(3, dtype="float32")[labels]
        sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        softmax = keras.Model(model.inputs[0], LAYERS.Softmax()(model.outputs[0]))
        for criterion, net, y in [
            (criteria.Taylor(), model, one_hot),
            (criteria.Taylor(loss=sparse), model, labels),
            (criteria.Taylor(), softmax, labels),
            (criteria.Taylor(), model, labels[:, None]),
        ]:
            np.testing.assert_allclose(
                criterion(net, groups, (images, y))["a"], expected, rtol=1e-3, atol=1e-6
            )

    def test_loss_of_a_compiled_model(self, model, groups, data):
        compiled = keras.models.clone_model(model)
        compiled.set_weights(model.get_weights())
        compiled.compile(loss="mse")
        targets = np.zeros((40, 3), "float32")
        expected = criteria.Taylor(loss="mse")(model, groups, (data[0], targets))["a"]
        scores = criteria.Taylor()(compiled, groups, (data[0], targets))["a"]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)

    def test_frozen_layers_are_scored(self, model, groups, data):
        expected = criteria.Taylor()(model, groups, data)["a"]
        model.trainable = False
        try:
            np.testing.assert_allclose(criteria.Taylor()(model, groups, data)["a"], expected)
        finally:
            model.trainable = True


class TestNormalizations:
    scores = np.array([3.0, 1.0, 2.0, 0.0])

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("none", [3, 1, 2, 0]),
            ("max", [1, 1 / 3, 2 / 3, 0]),
            ("mean", [2, 2 / 3, 4 / 3, 0]),
            ("lamp", [1, 1 / 14, 4 / 13, 0]),
        ],
    )
    def test_values(self, name, expected):
        combined = criteria.Criterion(normalize=name).combine(None, [self.scores])
        np.testing.assert_allclose(combined, expected, rtol=1e-6)

    @pytest.mark.parametrize("name", ["none", "max", "mean", "lamp"])
    def test_all_zero_stays_finite(self, name):
        assert np.isfinite(criteria.Criterion(normalize=name).combine(None, [np.zeros(4)])).all()


class TestForeignLayers:
    """What makes channels need not be a convolution that is called once."""

    def test_a_layer_that_is_called_on_two_sizes(self):
        image = keras.Input((8, 8, 3))
        conv = keras.layers.Conv2D(6, 3, padding="same", name="shared")
        maps = conv(image), conv(keras.layers.AveragePooling2D(2)(image))
        x = keras.layers.Add()([keras.layers.GlobalMaxPooling2D()(x) for x in maps])
        model = keras.Model(image, keras.layers.Dense(2)(x))
        pixels = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
        looks = [keras.Model(image, x)(pixels).numpy() for x in maps]
        expected = sum(np.abs(x.sum(axis=0)).sum(axis=(0, 1)) for x in looks)
        criterion = criteria.FeatureMagnitude(normalize="none")
        found = criterion(model, find_channel_groups(model), pixels)["shared"]
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_what_a_wrapper_holds_is_scored_by_its_weights(self):
        image = keras.Input((3, 8, 8, 3))
        x = keras.layers.TimeDistributed(keras.layers.Conv2D(6, 3), name="frames")(image)
        model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling3D()(x)))
        pixels = np.ones((2, 3, 8, 8, 3), "float32")
        groups = find_channel_groups(model)
        (found,) = criteria.FeatureMagnitude()(model, groups, pixels).values()
        (expected,) = criteria.Magnitude(normalize="max")(model, groups).values()
        np.testing.assert_allclose(found, expected)

    def test_gates_share_the_scale_of_their_channel(self):
        sequence = keras.Input((5, 3))
        x = keras.layers.LSTM(8, name="memory")(sequence)
        norm = keras.layers.BatchNormalization()
        model = keras.Model(sequence, keras.layers.Dense(2)(norm(x)))
        norm.gamma.assign(np.arange(1.0, 9.0))
        groups = find_channel_groups(model)
        plain, scaled = (
            kind(normalize="none")(model, groups)["memory"]
            for kind in (criteria.Magnitude, criteria.ScaledMagnitude)
        )
        np.testing.assert_allclose(scaled, plain * np.arange(1, 9), rtol=1e-5)


class TestErrors:
    @pytest.mark.parametrize("name", ["feature_magnitude", "taylor"])
    def test_data_criteria_need_data(self, name, model, groups):
        with pytest.raises(ValueError, match="received data=None"):
            criteria.get(name)(model, groups, None)
        empty = tf.data.Dataset.from_tensor_slices((np.zeros((0, 8, 8, 3)), np.zeros(0))).batch(2)
        with pytest.raises(ValueError, match="without a single batch"):
            criteria.get(name)(model, groups, empty)

    def test_taylor_needs_labels(self, model, groups, data):
        with pytest.raises(ValueError, match="needs labels"):
            criteria.get("taylor")(model, groups, data[0])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: criteria.Magnitude(order=3), "`order` is 3"),
            (lambda: criteria.Magnitude(normalize="sum"), "'lamp', 'max', 'mean', 'none'"),
            (lambda: criteria.Magnitude(aggregate="median"), "'max', 'mean', 'sum'"),
            (lambda: criteria.FeatureMagnitude("never"), "'after_mean', 'before_mean'"),
        ],
    )
    def test_bad_options(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_names(self):
        with pytest.raises(ValueError, match=", ".join(map(repr, NAMES))):
            criteria.get("l3")
        own = criteria.Magnitude(2)
        assert criteria.get(own) is own
        assert isinstance(criteria.get(criteria.Taylor), criteria.Taylor)
        assert criteria.get(filter_norms) is filter_norms


_KINDS = (
    "attention_block",
    "depthwise_multiplier",
    "dense_after_flatten_after_concat",
    "grouped",
    "gru_and_lstm_in_between",
    "nested_twice",
    "pixel_shuffle",
    "several_inputs",
    "shared_convolution",
    "split_into_branches",
    "transposed",
    "zero_padded_channels",
)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_criterion_scores_every_kind_of_network(kind):
    keras.utils.clear_session(free_memory=False)
    rng = np.random.default_rng(0)
    model = GRAPHS[kind].build()
    batch = laws.random_batch(model, rng)
    model, groups = laws.randomize(model, rng, batch), find_channel_groups(model)
    labels = np.zeros(len(keras.tree.flatten(batch)[0]))

    def loss(_, outputs):
        return sum(keras.ops.mean(keras.ops.square(x)) for x in keras.tree.flatten(outputs))

    for name in NAMES:
        criterion = criteria.Taylor(loss=loss) if name == "taylor" else criteria.get(name)
        scores = criterion(model, groups, (batch, labels))
        for group_ in groups:
            if group_.prunable:
                assert scores[group_.name].shape == (group_.num_channels,)
                assert np.isfinite(scores[group_.name]).all()
                assert scores[group_.name].max() > 0

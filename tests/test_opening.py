"""Composite layers and subclassed models are opened: exact, loadable without their classes."""

import functools

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from keras import Input, Model, layers, ops

import aip_tf
from aip_tf._keras.classes import Classes, of_classes
from aip_tf._keras.plain import Plain, call_leaf
from aip_tf.channels import ChannelGraph, check_copy, check_cut

IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")


class Block(layers.Layer):
    """Two convolutions, an activation between them."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv2D(width, 3, padding="same", name="first")
        self.second = layers.Conv2D(8, 3, padding="same", name="second")

    def call(self, x):
        return self.second(ops.relu(self.first(x)))


class ByName(Block):
    """The layers inside are given their tensors by name, and so is the block, see `MODELS`."""

    def call(self, maps):
        return self.second(inputs=layers.ReLU()(inputs=self.first(inputs=maps)))


class Nested(Block):
    """Composites in a list, under one name; a sum; a layer made by the call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(name="block") for _ in range(2)]

    def call(self, x, training=None):
        for block in self.blocks:
            x = x + block(x, training=training)
        return layers.multiply([super().call(x), layers.GlobalMaxPooling2D(keepdims=True)(x)])


class OwnVariables(layers.Layer):
    """Tables, a factor on the left, a number; and a counter that nobody reads."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]), name="table", initializer="normal")
        self.factor = self.add_weight(shape=(shape[-1],), name="factor", initializer="normal")
        self.rows = self.add_weight(shape=(9, shape[-1]), name="rows", initializer="normal")
        self.shift = self.add_weight(shape=(), name="shift", initializer="ones")
        self.counter = self.add_weight(shape=(), name="counter", trainable=False)

    def call(self, x):
        rows = ops.take(self.rows, np.arange(8), axis=0) + 2.0 * self.rows[8]
        return self.factor * (x + self.table + ops.reshape(rows, (8, 1, -1))) + self.shift


class OpenBatch(layers.Layer):
    """Reshapes by the batch size; gives back a None."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(8)

    def call(self, x):
        batch = ops.shape(x)[0]
        x = ops.reshape(x, (batch, 64, 8))
        return ops.reshape(self.dense(ops.gelu(x)), (batch, 8, 8, 8)), None


class Pair(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = OpenBatch()

    def call(self, x):
        return self.inner(x)[0]


class Causal(layers.Layer):
    """Attention under a mask that is made for the batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(4, 8)

    def call(self, x):
        batch = ops.shape(x)[0]
        steps = ops.reshape(x, (batch, 64, 8))
        mask = ops.broadcast_to(ops.tril(ops.ones((64, 64)))[None], (batch, 64, 64))
        return ops.reshape(self.attention(steps, steps, attention_mask=mask), (batch, 8, 8, 8))


class Tokens(layers.Layer):
    """Layers called on constants; a row of a table and zeros, repeated for every sample."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.position = layers.Embedding(65, 8, name="position")
        self.bias = keras.Sequential([layers.Dense(6, name="wide"), layers.Dense(8)], name="bias")

    def build(self, shape):
        self.token = self.add_weight(shape=(3, 8), name="token", initializer="normal")

    def call(self, x):
        batch = ops.shape(x)[0]
        token = ops.broadcast_to(ops.slice(self.token, (1, 0), (1, 8)), (batch, 1, 8))
        token = token + ops.zeros((batch, 1, 8))
        x = ops.concatenate([token, ops.reshape(x, (-1, 64, 8))], 1)
        x = x + self.position(ops.arange(65)) + self.bias(np.linspace(-1, 1, 130).reshape(65, 2))
        x = ops.concatenate([x, ops.zeros((batch, 7, 8))], 1)
        return ops.reshape(x, (-1, 9, 8, 8))


def holding(*parts):
    """A model: "free", the parts one behind the other, a head."""
    i = Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="free")(i)
    for part in parts:
        x = part(x)
    return Model(i, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


class Network(Model):
    """A subclassed model that owns a variable."""

    def __init__(self):
        super().__init__()
        self.stem = keras.Sequential([layers.Conv2D(8, 3, padding="same"), layers.ReLU()])
        self.block = Block()
        self.norm = layers.BatchNormalization()
        self.head = layers.Dense(3)
        self.scale = self.add_weight(shape=(8,), name="scale", initializer="ones")

    def call(self, x, training=None):
        x = self.norm(self.block(self.stem(x)), training=training)
        return self.head(ops.mean(x * self.scale, (1, 2)))


MODELS = {
    "block": (lambda: holding(Block()), {"free", "block/first", "block/second"}),
    "by name": (
        lambda: holding(lambda x: ByName(name="block")(maps=x)),
        {"free", "block/first", "block/second"},
    ),
    "nested": (lambda: holding(Nested(name="nested")), None),
    "one block twice": (lambda: holding(*[Block(name="block")] * 2), None),
    "own variables": (lambda: holding(OwnVariables()), None),
    "open batch, None": (lambda: holding(Pair()), None),
    "a mask for the batch": (lambda: holding(Causal()), None),
    "constants": (lambda: holding(Tokens(name="tokens")), {"free", "tokens/bias/wide"}),
    "subclassed model": (Network, None),
    "subclassed in another": (lambda: Model(i := Input((8, 8, 3)), Network()(i)), None),
}


@pytest.fixture(params=MODELS)
def opened(request):
    keras.utils.set_random_seed(0)
    build, names = MODELS[request.param]
    model = build()
    if isinstance(model, Network):
        model(IMAGES)
    return model, names


def half(graph):
    return {g.name: np.arange(g.num_channels) % 2 == 0 for g in graph.groups if g.prunable}


def test_what_is_inside_is_cut_exactly_and_loads_without_its_classes(opened, tmp_path):
    model, names = opened
    graph = ChannelGraph(model)
    masks = half(graph)
    assert names is None or set(masks) == {n.replace("block", model.layers[2].name) for n in names}
    assert check_copy(graph, graph.prune({}), IMAGES) <= 1e-6
    cut = graph.prune(masks)
    assert check_cut(graph, cut, masks, IMAGES) <= 1e-5
    assert cut.count_params() < 0.6 * model.count_params()
    cut.save(tmp_path / "cut.keras")
    with keras.saving.CustomObjectScope({}):
        again = keras.saving.load_model(tmp_path / "cut.keras")
    np.testing.assert_allclose(again(IMAGES), cut(IMAGES), atol=1e-6)


def test_the_model_is_untouched(opened):
    model, _ = opened
    inside = [model, *model._flatten_layers(include_self=False)]
    before = [(type(x), len(x._inbound_nodes), len(x._outbound_nodes)) for x in inside]
    weights = [w.numpy() for w in model.weights]
    aip_tf.prune_channels(model, {})
    assert [(type(x), len(x._inbound_nodes), len(x._outbound_nodes)) for x in inside] == before
    assert all(np.array_equal(w, v.numpy()) for w, v in zip(weights, model.weights, strict=True))


def test_names_are_the_same_at_every_trace():
    model = holding(Nested(name="nested"))
    assert half(ChannelGraph(model)).keys() == half(ChannelGraph(model)).keys()


def test_costs_count_what_is_inside():
    model = holding(Block())
    macs = 64 * 9 * (3 * 8 + 8 * 8 + 8 * 8) + 8 * 3
    assert aip_tf.count_macs(model) == macs
    assert "unknown" not in aip_tf.summary(model)


def test_a_model_that_was_never_called_needs_its_input_shape():
    with pytest.raises(ValueError, match="input_shape"):
        aip_tf.find_channel_groups(Network())
    assert any(g.prunable for g in aip_tf.find_channel_groups(Network(), (8, 8, 3)))


def test_selections_and_criteria_work_on_a_subclassed_model():
    model = Network()
    model(IMAGES)
    masks = aip_tf.select_channels(model, 0.5)
    cut = aip_tf.prune_channels(model, masks)
    assert aip_tf.count_macs(cut) <= 0.5 * aip_tf.count_macs(model)


def test_the_cut_of_a_composite_in_half_precision_is_proved():
    class Cast(Block):
        def build(self, shape):
            self.gain = self.add_weight(shape=(8,), name="gain", initializer="normal")

        def call(self, x):
            return ops.cast(ops.cast(super().call(x), "float32"), x.dtype) * self.gain

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(0)
    model = holding(Cast(name="cast"))
    keras.config.set_dtype_policy(before)
    masks = half(graph := ChannelGraph(model))
    assert check_cut(graph, graph.prune(masks), masks, IMAGES) <= 1e-5


def test_a_frozen_variable_is_frozen_in_the_file_too(tmp_path):
    model = holding(OwnVariables(name="own"))
    model.get_layer("own").table.trainable = False
    copy = aip_tf.prune_channels(model, {})
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    for found in (copy, loaded):
        frozen = [v.path for v in found.variables if not v.trainable]
        assert [path.split("/")[-2] for path in frozen] == ["table"]


# --- what a subclassed model takes and returns ----------------------------------------------------


class Returning(Model):
    """Returns `returned(logits, inputs)`."""

    def __init__(self, returned):
        super().__init__()
        self.inner, self.head = layers.Dense(8, name="inner"), layers.Dense(3)
        self.returned = returned

    def call(self, x):
        return self.returned(self.head(ops.relu(self.inner(x))), x)


@pytest.mark.parametrize(
    "returned",
    [
        lambda z, x: {"boxes": z, "anchors": ops.ones((2,)), "size": 7},
        lambda z, x: [z, (z * 2, {"input": x}), np.array([True, False])],
    ],
)
def test_outputs_keep_their_structure(returned):
    model, x = Returning(returned), np.ones((4, 5), "float32")
    expected = model(x)
    graph = ChannelGraph(model)
    copy = graph.prune({})
    keras.tree.assert_same_structure(copy(x), expected)
    assert check_copy(graph, copy, x) <= 1e-6
    masks = {"inner": np.arange(8) < 3}
    assert check_cut(graph, graph.prune(masks), masks, x) <= 1e-5


def test_a_variable_that_is_returned_is_no_constant():
    class WithTable(Returning):
        def __init__(self):
            super().__init__(lambda z, x: (z, self.table))
            self.table = self.add_weight(shape=(4,), name="table", initializer="ones")

    model, x = WithTable(), np.ones((4, 5), "float32")
    model(x)
    copy = aip_tf.prune_channels(model, {})
    assert check_copy(model, copy, x) <= 1e-6
    assert len(copy.trainable_variables) == len(model.trainable_variables)


def test_another_structure_of_outputs_is_another_model():
    model, x = Returning(lambda z, x: {"logits": z}), np.ones((4, 5), "float32")
    model(x)
    copy = aip_tf.prune_channels(model, {})
    other = Model(copy.inputs[0], {"scores": copy.outputs[0]})
    with pytest.raises(ValueError, match="does not compute"):
        check_copy(model, other, x)


@keras.saving.register_keras_serializable("tests")
class OnSymbols(keras.layers.Layer):
    """Does something else where there are no values yet."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(6)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x if isinstance(x, keras.KerasTensor) else x / 3)


def test_a_cut_of_what_was_opened_wrongly_is_refused():
    i = keras.Input((4,))
    model = keras.Model(i, keras.layers.Dense(2)(OnSymbols()(keras.layers.Dense(8)(i))))
    x = np.ones((3, 4), "float32")
    group = aip_tf.find_channel_groups(model)[0]
    masks = {group.name: np.arange(group.num_channels) % 2 == 0}
    with pytest.raises(ValueError, match="does not compute what the model does"):
        check_cut(model, aip_tf.prune_channels(model, masks), masks, x)


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (lambda z, x: {"logits": z, "extra": None}, "output 'extra' is None"),
        (lambda z, x: [z], "alone in a list"),
        (lambda z, x: (z, "text"), "output '1' is 'text'"),
    ],
)
def test_outputs_that_no_file_keeps_are_refused_by_name(returned, named):
    with pytest.raises(ValueError, match=named):
        ChannelGraph(Returning(returned), (5,))


class TwoArguments(Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(3), layers.Dense(3)

    def call(self, u, v=None):
        return self.first(u) if v is None else self.first(u) + self.second(v)


def test_a_second_argument_is_refused_by_name_unless_it_is_said_not_to_be_given():
    model = TwoArguments()
    model(np.ones((2, 5)), np.ones((2, 6)))
    with pytest.raises(ValueError, match="takes 'v'"):
        ChannelGraph(model)
    assert ChannelGraph(model, (5,)).input_shapes == [(5,)]


class TakesADict(Model):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(3)

    def call(self, inputs):
        return self.inner(inputs["x"]) * inputs["scale"]


@pytest.mark.parametrize("shape", [5, "x", {"x": (5,)}, (5,), [(5,), "x"], {"x": (5,), "scale": 1}])
def test_an_input_shape_in_another_form_is_one_sentence(shape):
    with pytest.raises(ValueError, match=r"Received.*input_shape.*Expected"):
        ChannelGraph(TakesADict(), shape)


def test_an_input_shape_of_a_functional_model_goes_by_names():
    model = Model(i := Input((None, 3), name="image"), layers.Dense(2)(i))
    assert ChannelGraph(model, {"image": [5, 3]}).input_shapes == [(5, 3)]
    assert ChannelGraph(model, {"image": (5, 3), "size": (2,)}).input_shapes == [(5, 3)]
    with pytest.raises(ValueError, match=r"Expected one shape.*image"):
        ChannelGraph(model, {"other": (5, 3)})


class Heads(layers.Layer):
    """Attention written out, with the batch size and the length read from the tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(8, name=name) for name in ("query", "key", "value")]
        self.out = layers.Dense(8, name="out")

    def call(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        query, key, value = (
            ops.transpose(ops.reshape(part(x), (batch, length, 2, 4)), (0, 2, 1, 3))
            for part in self.parts
        )
        weights = ops.softmax(ops.matmul(query, ops.swapaxes(key, 2, 3)))
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return x + self.out(ops.reshape(mixed, (batch, -1, 8)))


def test_what_is_inside_of_any_length_is_cut_for_any_length(tmp_path):
    i = Input((None, 4))
    x = Heads(name="heads")(layers.Dense(8, name="first")(i))
    graph = ChannelGraph(Model(i, layers.Dense(2)(ops.mean(x, 1))), (6, 4))
    masks = laws.random_masks(graph.groups, np.random.default_rng(0))
    cut = graph.prune(masks)
    cut.save(tmp_path / "cut.keras")
    again = keras.saving.load_model(tmp_path / "cut.keras")
    assert {"first", "heads/query", "heads/value"} <= masks.keys()
    for length in (6, 9):
        batch = np.random.default_rng(length).normal(size=(3, length, 4)).astype("float32")
        assert check_cut(graph, cut, masks, batch) <= 1e-5
        np.testing.assert_allclose(again(batch), cut(batch), atol=1e-6)


class ReadsLength(layers.Layer):
    """What it does depends on a length: where that is open, Python sees None."""

    def __init__(self, use, **kwargs):
        super().__init__(**kwargs)
        self.mix = layers.Dense(8, name="mix")
        self.use = use

    def call(self, x):
        return self.mix(x * self.use(x.shape[1]))


USES = {
    "a part of a table": lambda n: np.linspace(1, 2, 9, dtype="float32")[:n][-1],
    "a number in place of it": lambda n: (n or 1) / 6,
    "a branch": lambda n: 2.0 if n is None or n > 7 else 1.0,
    "positions": lambda n: ops.sum(ops.arange(0, n, 1, dtype="float32")),
}


@pytest.mark.parametrize("use", USES)
def test_an_open_size_that_passes_for_a_number_is_never_that_number(use):
    i = Input((None, 4))
    x = ReadsLength(USES[use], name="middle")(layers.Dense(8, name="first")(i))
    x = layers.Dense(6, activation="relu", name="behind")(x)
    graph = ChannelGraph(Model(i, layers.Dense(2)(x)), (6, 4))
    assert [g.name for g in laws.cuttable(graph.groups)] == ["behind"]
    assert any("depends on a size that is open" in g.reason for g in graph.groups)
    for length in (6, 9):
        batch = np.random.default_rng(length).normal(size=(3, length, 4)).astype("float32")
        assert laws.relative_error(graph.prune({})(batch), graph.model(batch)) <= 1e-6


class Attending(layers.Layer):
    """Layers in it ask for the mask of its input, which is made outside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.attention = layers.Dense(6, name="query"), layers.Attention()
        self.pool = layers.GlobalAveragePooling1D()

    def call(self, x):
        return self.pool(self.attention([self.query(x), x]))


def test_a_layer_that_uses_a_mask_from_outside_stays_whole():
    i = Input((5, 6))
    x = Attending(name="middle")(layers.Masking()(i))
    graph = ChannelGraph(Model(i, layers.Dense(2)(layers.Dense(4, name="behind")(x))))
    assert [g.name for g in laws.cuttable(graph.groups)] == ["behind"]
    batch = np.random.default_rng(0).normal(size=(3, 5, 6)) * (np.arange(5) < 3)[:, None]
    assert laws.relative_error(graph.prune({})(batch), graph.model(batch)) <= 1e-6


class ShiftsMask(layers.Layer):
    """On values the mask of its inner layer wins, on symbols its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6)

    def call(self, x):
        return self.inner(x)

    def compute_mask(self, inputs, previous_mask):
        return None if previous_mask is None else ops.roll(previous_mask, 1, axis=1)


class Auxiliary(layers.Layer):
    """A second output in training alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6)

    def call(self, x, training=None):
        x = self.inner(x)
        return (x, ops.mean(x) + 1.0) if training else (x, None)


class Around(keras.Model):
    def __init__(self, kind):
        super().__init__()
        self.first, self.middle, self.last = layers.Masking(), kind(name="middle"), layers.GRU(4)

    def call(self, x):
        x = self.middle(self.first(x))
        return self.last(x[0] if isinstance(x, tuple) else x)


@pytest.mark.parametrize(
    "kind, why",
    [(ShiftsMask, "computes a mask of its own"), (Auxiliary, "returns more than tensors")],
    ids=["mask", "none"],
)
def test_a_model_around_a_layer_that_says_too_little_from_outside_is_refused(kind, why):
    model = Around(kind)
    model(np.zeros((2, 5, 6), "float32"))
    with pytest.raises(ValueError, match=f"it calls 'middle', which .*{why}"):
        aip_tf.find_channel_groups(model)


def test_a_layer_that_cannot_be_called_again_is_named():
    class OwnTable(layers.Layer):
        def call(self, x):
            return x + np.ones((1, 12, 4), "float32")[:, : x.shape[1]]

    i = Input((None, 4))
    x = ReadsLength(lambda n: 1.0, name="middle")(OwnTable(name="table")(i))
    graph = ChannelGraph(Model(i, layers.Dense(2)(x)), (5, 4))
    with pytest.raises(ValueError, match="'middle' cannot be called again"):
        graph.prune({})


class Augmenting(keras.Model):
    """Its augmentation, which is on by default, is off where nobody says a mode."""

    def __init__(self):
        super().__init__()
        self.noise, self.dense = layers.RandomBrightness(0.9, (0, 1)), layers.Dense(6)

    def call(self, x, training=None):
        return self.dense(self.noise(x, training=training))


class InfersByDefault(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noise, self.dense = layers.RandomBrightness(0.9, (0, 1)), layers.Dense(6)

    def call(self, x, training=False):
        return self.dense(self.noise(x))


@pytest.mark.parametrize("kind", [Augmenting, InfersByDefault])
def test_what_is_off_where_nobody_says_a_mode_is_off_in_the_copy(kind, tmp_path):
    batch = np.random.default_rng(0).uniform(size=(3, 4, 4, 3)).astype("float32")
    model = kind()
    model(batch)
    if kind is InfersByDefault:
        i = Input((4, 4, 3))
        model = Model(i, layers.Dense(2)(model(i)))
    copy = aip_tf.prune_channels(model, {})
    copy.save(tmp_path / "copy.keras")
    for found in (copy, keras.saving.load_model(tmp_path / "copy.keras")):
        np.testing.assert_allclose(found(batch), model(batch), atol=1e-6)
        assert np.abs(found(batch, training=True) - model(batch)).max() > 1e-3


class Swish(layers.Layer):
    def call(self, x):
        return x * ops.sigmoid(x)


@pytest.mark.parametrize("activation", [Swish(), functools.partial(keras.activations.elu, alpha=2)])
def test_an_activation_without_a_name_inside_of_a_composite(activation):
    i = Input((4, 4, 3))
    x = Unnamed(activation, name="middle")(layers.Conv2D(4, 1, name="first")(i))
    graph = ChannelGraph(Model(i, layers.Dense(2)(x)))
    assert [g.name for g in laws.cuttable(graph.groups)] == ["first", "middle/dense"]
    batch = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype("float32")
    masks = laws.random_masks(graph.groups, np.random.default_rng(0))
    assert check_cut(graph, graph.prune(masks), masks, batch) <= 1e-5


class Unnamed(layers.Layer):
    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.activation = layers.Dense(6, name="dense"), layers.Activation(activation)

    def call(self, x):
        return self.activation(self.dense(x))


class GrowingList(layers.Layer):
    """Every layer reads all before it, from a list that grows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convs = [layers.Conv2D(4, 3, padding="same", name=f"conv{i}") for i in range(3)]
        self.join = layers.Concatenate(name="join")

    def call(self, x, training=None):
        found = [ops.relu(x) + x]
        for conv in self.convs:
            found.append(conv(self.join(found) if len(found) > 1 else found[0]))
        return self.join(found)


def test_a_list_that_grows_between_calls_is_read_as_it_was():
    model = holding(GrowingList(name="dense"))
    graph = ChannelGraph(model)
    masks = laws.random_masks(graph.groups, np.random.default_rng(0))
    assert len([name for name in masks if name.startswith("dense/")]) == 3
    assert check_copy(graph, graph.prune({}), IMAGES) <= 1e-6
    assert check_cut(graph, graph.prune(masks), masks, IMAGES) <= 1e-5


def test_a_plain_call_gives_what_a_call_by_keras_gives():
    """`Layer.__call__` is passed by where it does nothing but compute: a new Keras may do more."""
    flat, image = keras.KerasTensor((None, 8)), keras.KerasTensor((None, 8, 8, 8))
    by_image = [layers.Conv2D(4, 3), layers.DepthwiseConv2D(3), layers.BatchNormalization()]
    by_image += [layers.MaxPooling2D(), layers.GlobalAveragePooling2D(keepdims=True)]
    by_image += [layers.ZeroPadding2D(), layers.UpSampling2D(), layers.Conv2DTranspose(4, 3)]
    by_flat = [layers.Dense(4), layers.Dropout(0.5), layers.LayerNormalization(), layers.ReLU()]
    by_flat += [layers.Activation("gelu"), layers.Reshape((2, 4)), layers.Identity()]
    by_flat += [keras.Sequential([keras.Input(flat.shape[1:]), layers.Dense(4)])]
    calls = [(x, (image,)) for x in by_image] + [(x, (flat,)) for x in by_flat]
    calls += [(layers.Add(), ([flat, flat],)), (layers.Concatenate(), ([flat, flat],))]
    calls += [(layers.MultiHeadAttention(2, 4), (keras.KerasTensor((None, 5, 8)),) * 2)]
    for layer, args in calls:
        expected = layer(*args)
        before = len(layer._inbound_nodes)
        recorded = Classes().leaf(type(layer))
        with of_classes([(layer, type(layer), recorded)]):
            assert Plain().takes(layer, args, {}), layer
            found = call_leaf(layer, args, {"training": False})
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), layer
        assert len(layer._inbound_nodes) == before


# --- what stays whole, and why --------------------------------------------------------------------


class ByMode(Block):
    def call(self, x, training=None):
        return self.second(self.first(x)) if training else self.second(ops.relu(self.first(x)))


class ByIdentity(Block):
    def call(self, x, training=None):
        return super().call(x if training is True else ops.relu(x))


class CallsMoreInTraining(Block):
    def call(self, x, training=None):
        y = super().call(x)
        return self.second(y) if training else y


class FixedMode(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(x, training=True)


class TurnedMode(FixedMode):
    def call(self, x, training=None):
        return self.norm(x, training=not training)


class NoMode(FixedMode):
    def call(self, x):
        return self.norm(x, training=None)


class ReadsElsewhere(Block):
    def call(self, x):
        return ops.matmul(self.second(self.first(x)), ops.transpose(self.second.kernel[0, 0]))


class AddsLoss(Block):
    def call(self, x):
        y = super().call(x)
        self.add_loss(ops.mean(y))
        return y


class Noise(Block):
    def call(self, x):
        return super().call(x) + np.random.default_rng().normal()


class OfTensorFlow(Block):
    def call(self, x):
        return self.second(tf.nn.relu(self.first(x)))


class Regularized(Block):
    """Orthogonal rows are no matter of single entries."""

    def build(self, shape):
        kind = keras.regularizers.OrthogonalRegularizer()
        self.mixing = self.add_weight(shape=(8, 8), name="mixing", regularizer=kind)

    def call(self, x):
        return ops.matmul(super().call(x), self.mixing)


class MovingAverage(Block):
    def build(self, shape):
        self.mean = self.add_weight(shape=(8,), name="mean", trainable=False)

    def call(self, x, training=None):
        x = super().call(x)
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x, (0, 1, 2)))
        return x - self.mean


class OnColumns(Block):
    def build(self, shape):
        self.column = self.add_weight(shape=(8, 1), name="column")

    def call(self, x):
        return super().call(x * self.column[:, 0])


class OnBackbone(Model):
    """Calls a backbone in inference mode, as for transfer."""

    def __init__(self, *further):
        super().__init__()
        self.backbone = keras.Sequential(
            [layers.Conv2D(8, 3, name="conv"), layers.BatchNormalization(), *further]
        )
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(ops.mean(self.backbone(x, training=False), (1, 2)))


def test_a_frozen_backbone_that_is_called_in_inference_mode_is_opened():
    model = OnBackbone()
    model(IMAGES)
    with pytest.raises(ValueError, match="fixes `training` of"):
        ChannelGraph(model)
    model.backbone.trainable = False
    graph = ChannelGraph(model)
    copy = graph.prune({})
    assert check_copy(graph, copy, IMAGES) <= 1e-6
    np.testing.assert_array_equal(copy(IMAGES, training=True), copy(IMAGES, training=False))
    dropping = OnBackbone(layers.Dropout(0.5))
    dropping(IMAGES)
    dropping.backbone.trainable = False
    with pytest.raises(ValueError, match="fixes `training` of"):
        ChannelGraph(dropping)


def test_a_list_of_tensors_is_no_list_of_masks():
    i = Input((8, 8, 3))
    parts = [layers.Conv2D(8, 3, name=name)(i) for name in "ab"]
    x = layers.Lambda(lambda pair: ops.abs(pair[0] - pair[1]))(parts)
    model = Model(i, layers.Dense(2)(layers.Flatten()(x)))
    assert [g.prunable for g in aip_tf.find_channel_groups(model)] == [True, False]


WHOLE = {
    ByMode: "training",
    ByIdentity: "training",
    CallsMoreInTraining: "training",
    FixedMode: "fixes `training`",
    TurnedMode: "fixes `training`",
    NoMode: "fixes `training`",
    ReadsElsewhere: "reads the variable",
    AddsLoss: "adds a loss",
    Noise: "chance",
    OfTensorFlow: "symbolic tensors",
    Regularized: "OrthogonalRegularizer",
    MovingAverage: "assigns to the variable 'closed/mean'",
    OnColumns: "of shape (8, 1), and only its last axis",
}


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.__name__)
def test_a_layer_that_cannot_be_opened_stays_whole_and_its_neighbours_do_not(kind):
    model = holding(kind(name="closed"), Block(name="block"))
    groups = {g.name: g for g in aip_tf.find_channel_groups(model)}
    assert not groups["free"].prunable and WHOLE[kind] in groups["free"].reason
    assert groups["block/first"].prunable
    assert "closed" in aip_tf.summary(model).split("kept whole")[1]


def test_costs_of_a_closed_layer_are_seen_or_said_to_be_unknown():
    seen, unseen = holding(ByMode(name="closed")), holding(OfTensorFlow(name="closed"))
    assert aip_tf.count_macs(seen) == 64 * 9 * (3 * 8 + 8 * 8 + 8 * 8) + 8 * 3
    assert "an unknown number in closed" in aip_tf.summary(unseen)


def test_a_layer_called_with_other_arguments_stays_whole_and_its_cost_is_unknown():
    class Context(Block):
        def call(self, x, context=None):
            x = super().call(x)
            return x if context is None else x * ops.sigmoid(context)

    closed = Context(name="closed")
    model = holding(lambda x: closed(closed(x, context=x)))
    assert "calls differ" in aip_tf.find_channel_groups(model)[0].reason
    assert "an unknown number in closed" in aip_tf.summary(model)


def test_a_drop_path_lets_channels_pass():
    class DropPath(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, x, training=None):
            if not training:
                return x
            kept = keras.random.uniform((ops.shape(x)[0], 1, 1, 1), seed=self.seeds) < 0.9
            return ops.where(kept, x, 0.0) / 0.9

    assert aip_tf.find_channel_groups(holding(DropPath()))[0].prunable


def test_a_layer_with_a_tensor_of_no_entries():
    class Encoder(layers.Layer):
        def call(self, x):
            return x, ops.zeros((0, *x.shape[1:]))

    i = Input((8, 8, 3))
    x, _ = Encoder()(layers.Conv2D(8, 3, name="free")(i))
    model = Model(i, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert aip_tf.count_macs(model) == 36 * 9 * 3 * 8 + 16
    masks = {"free": np.arange(8) < 3}
    assert check_cut(model, aip_tf.prune_channels(model, masks), masks, IMAGES) <= 1e-5

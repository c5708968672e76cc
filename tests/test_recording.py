"""How often what a composite layer does is run to be opened, and for which batch sizes."""

import keras
import laws
import numpy as np
import pytest
from keras import Input, Model, layers, ops

from aip_tf import _keras
from aip_tf._keras import nodes
from aip_tf.channels import ChannelGraph, check_cut

NUM_WINDOWS = 4
SIGNS = np.array([1.0, -1.0, 1.0, -1.0], "float32").reshape(NUM_WINDOWS, 1, 1)
runs = []


class Counted(layers.Layer):
    """A reshape that names the batch size, and notes when it runs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def call(self, x):
        runs.append(self.name)
        return self.dense(ops.reshape(x, (ops.shape(x)[0], 2, 4)))


class Around(Counted):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Counted(name="inner")

    def call(self, x):
        return self.inner(super().call(x))


class Subclassed(Model):
    def __init__(self, middle):
        super().__init__()
        self.first, self.middle = layers.Dense(8, name="first"), middle

    def call(self, x):
        return ops.sum(self.middle(self.first(x)), 1)


class Windows(layers.Layer):
    """As Swin: samples are cut into windows, and a layer inside has to know of how many samples."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = InWindows(name="inner")

    def build(self, shape):
        self.inner.build((None, 3, shape[-1]))

    def compute_output_shape(self, shape):
        return shape[0], NUM_WINDOWS, 3, 4

    def call(self, x):
        windows = self.inner(ops.reshape(x, (-1, 3, x.shape[-1])))
        return ops.reshape(windows, (-1, NUM_WINDOWS, 3, 4))


class InWindows(Counted):
    def build(self, shape):
        self.dense.build(shape)

    def compute_output_shape(self, shape):
        return *shape[:-1], 4

    def call(self, x):
        split = ops.reshape(self.dense(x), (x.shape[0] // NUM_WINDOWS, NUM_WINDOWS, 3, 4))
        return ops.reshape(split * SIGNS, (-1, 3, 4))


@pytest.mark.parametrize("subclassed", [True, False])
def test_what_a_layer_does_is_run_in_both_modes_and_no_more(subclassed):
    model = Subclassed(Around(name="outer"))
    model(np.ones((3, 8), "float32"))
    if not subclassed:
        i = Input((8,))
        model = Model(i, model.middle(i))
    runs.clear()
    assert ChannelGraph(model).trace.opened
    assert sorted(runs) == ["inner"] * 2 + ["outer"] * 2


def test_a_layer_inside_that_has_to_know_the_batch_size_of_the_layer_around_it(tmp_path):
    i = Input((12, 3))
    x = Windows(name="windows")(layers.Dense(8, name="first")(i))
    model = Model(i, layers.Dense(2)(ops.mean(x, (1, 2))))
    graph = ChannelGraph(model)
    masks = laws.random_masks(graph.groups, np.random.default_rng(0))
    assert {"first", "windows/inner/dense"} <= masks.keys()
    cut = graph.prune(masks)
    cut.save(tmp_path / "cut.keras")
    again = keras.saving.load_model(tmp_path / "cut.keras")
    batch = np.random.default_rng(1).normal(size=(5, 12, 3)).astype("float32")
    assert check_cut(graph, cut, masks, batch) <= 1e-5
    np.testing.assert_allclose(again(batch), cut(batch), atol=1e-6)


class Repeats(Counted):
    """Adds numbers that are made for every sample."""

    def call(self, x):
        runs.append(self.name)
        return x + ops.broadcast_to(ops.arange(8.0), (ops.shape(x)[0], 8))


def test_what_needs_the_batch_size_is_asked_with_one_the_next_time():
    i = Input((8,))
    model = Model(i, Repeats(name="second")(Repeats(name="first")(i)))
    runs.clear()
    assert ChannelGraph(model).trace.opened == ["first", "second"]
    assert runs == ["first"] * 4 + ["second"] * 3


class Branches(layers.Layer):
    """A function of its own for an operation to call, as `choose` says."""

    def __init__(self, choose, **kwargs):
        super().__init__(**kwargs)
        self.one, self.other = layers.Dense(8, name="one"), layers.Dense(8, name="other")
        self.choose = choose

    def build(self, shape):
        self.one.build(shape)
        self.other.build(shape)
        self.table = self.add_weight(shape=(8,), name="table", initializer="normal")

    def call(self, x):
        return self.one(x) + self.choose(self, x)


@pytest.mark.parametrize(
    "choose",
    [
        lambda self, x: ops.cond(ops.sum(x) > 0, lambda: self.one(x), lambda: self.other(x)),
        lambda self, x: ops.cond(ops.sum(x) > 0, lambda: x, lambda: self.other(x)),
        lambda self, x: ops.cond(ops.sum(x) > 0, lambda: self.table, lambda: 2 * self.table),
        lambda self, x: ops.map(self.other.activation, x),
    ],
    ids=["layers", "input", "variable", "map"],
)
def test_what_runs_functions_of_its_own_stays_whole_with_the_reason(choose):
    i = Input((8,))
    model = Model(i, layers.Dense(2)(Branches(choose, name="branches")(layers.Dense(8)(i))))
    graph = ChannelGraph(model)
    assert graph.trace.opened == []
    assert any("in its call returns" in g.reason or "a function" in g.reason for g in graph.groups)
    assert "_keras_history" not in vars(model.get_layer("branches").table)
    batch = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    for x in (batch, batch + 9, batch - 9):
        assert laws.relative_error(laws.run(graph.prune({}), x), laws.run(model, x)) <= 1e-6


class Twofold(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2.0 * super().call(x, training=training, mask=mask)


class Tail(Model):
    """A Functional model that goes on in its own call."""

    def __init__(self):
        i = Input((8,))
        super().__init__(i, layers.Dense(6, activation="relu", name="inner")(i))
        self.tail = layers.Dense(2, name="tail")

    def call(self, x, training=None, mask=None):
        return self.tail(super().call(x, training=training, mask=mask))


class Positions(Model):
    """A part of a table is read by a slice."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = layers.Dense(6, name="inner"), layers.Dense(2)
        self.table = self.add_weight(shape=(9, 6), name="table", initializer="normal")

    def call(self, x):
        return self.head(ops.sum(self.inner(x) + self.table[: x.shape[1]], 1))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: Twofold([layers.Dense(6, name="inner"), layers.Dense(2)]), (8,)),
        (Tail, (8,)),
        (Positions, (4, 8)),
    ],
    ids=["sequential", "functional", "slice"],
)
def test_a_model_with_a_graph_and_a_call_of_its_own_is_what_it_calls(build, shape):
    model = build()
    batch = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    model(batch)
    graph = ChannelGraph(model)
    (name,) = (g.name for g in graph.groups if g.prunable)
    cut = graph.prune({name: np.arange(6) % 2 == 0})
    assert check_cut(graph, cut, {name: np.arange(6) % 2 == 0}, batch) <= 1e-5
    assert cut.count_params() < model.count_params()
    assert laws.relative_error(laws.run(graph.prune({}), batch), laws.run(model, batch)) <= 1e-6


class Doubling(layers.Dense):
    def __call__(self, x, **settings):
        return super().__call__(2.0 * x, **settings)


class Tripled(Model):
    def __call__(self, x, **settings):
        return 3.0 * super().__call__(x, **settings)


class OverDoubling(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = Doubling(6)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


def tripled():
    i = Input((6,))
    return Tripled(i, layers.Dense(6)(i))


@pytest.mark.parametrize(
    "build", [lambda: Doubling(6), OverDoubling, tripled], ids=["leaf", "composite", "model"]
)
def test_a_class_around_the_call_of_keras_stays_whole_and_what_it_is(build):
    i = Input((8,))
    inner = build()
    x = inner(layers.Dense(6, name="first")(i))
    model = Model(i, layers.Dense(2)(layers.Dense(6, name="last")(x)))
    graph = ChannelGraph(model)
    batch = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    assert laws.relative_error(laws.run(graph.prune({}), batch), laws.run(model, batch)) <= 1e-6
    first, last = (g for g in graph.groups if g.name in ("first", "last"))
    assert "`__call__` of its own" in first.reason
    assert last.prunable


class LookingOn(Model):
    """As keras-hub's tasks."""

    def __call__(self, *args, **settings):
        if isinstance(args[0], str):
            raise ValueError("words")
        return super().__call__(*args, **settings)


def test_a_class_that_only_looks_on_is_cut_like_any_other():
    i = Input((8,))
    model = LookingOn(i, layers.Dense(2)(layers.Dense(6, name="inner")(i)))
    graph = ChannelGraph(model)
    masks = {"inner": np.arange(6) % 2 == 0}
    batch = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    assert check_cut(graph, graph.prune(masks), masks, batch) <= 1e-5


def test_a_model_whose_class_is_around_the_call_of_keras_is_refused():
    i = Input((6,))
    with pytest.raises(ValueError, match="`__call__` of its own"):
        ChannelGraph(Tripled(i, layers.Dense(6)(layers.Dense(6)(i))))


def test_a_call_that_was_put_on_a_layer_and_stays_whole_uses_the_weights_of_the_copy():
    i = Input((8,))
    changed = layers.Dense(6, name="changed")
    model = Model(i, layers.Dense(2)(changed(i)))
    stock = changed.call
    changed.call = lambda x, training=None: stock(x) * (2.0 if training else 3.0)
    graph = ChannelGraph(model)
    batch = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    copy, expected = graph.prune({}), laws.run(model, batch)
    changed.kernel.assign(0 * changed.kernel)
    assert laws.relative_error(laws.run(copy, batch), expected) <= 1e-6


def test_a_call_that_was_put_on_one_layer_is_what_that_layer_does():
    i = Input((8,))
    changed = layers.Dense(6, name="changed")
    model = Model(i, layers.Dense(2)(changed(layers.Dense(6, name="first")(i))))
    stock = changed.call
    changed.call = lambda x, training=None: 3.0 * stock(x)
    graph = ChannelGraph(model)
    batch = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    masks = laws.random_masks(graph.groups, np.random.default_rng(0))
    copy = graph.prune({})
    assert check_cut(graph, graph.prune(masks), masks, batch) <= 1e-5
    expected = laws.run(model, batch)
    assert laws.relative_error(laws.run(copy, batch), expected) <= 1e-6
    changed.kernel.assign(0 * changed.kernel)  # nothing is shared with the copy
    assert laws.relative_error(laws.run(copy, batch), expected) <= 1e-6


def num_samples(x):
    """As code that knows no open batch size has it."""
    return x.shape[0] or 1


def turned(x):
    """Steps in front of samples."""
    return ops.transpose(x, (1, 0, 2))


def with_token(dense, x):
    token = ops.broadcast_to(ops.ones((1, 1, 4)), (num_samples(x), 1, 4))
    return dense(ops.concatenate([token, x], 1))


NUMBS = {  # what is done with a batch size that is taken for 1 while it is open: is it opened?
    "reshaped": (lambda dense, x: dense(ops.reshape(x, (num_samples(x), 8))), True),
    "repeated": (with_token, True),
    "as zeros": (lambda dense, x: dense(x + ops.zeros((num_samples(x), 2, 4))), True),
    "behind a layer": (
        lambda dense, x: (lambda y: ops.reshape(y, (num_samples(y), -1)))(dense(x)),
        True,
    ),
    "open or not": (lambda dense, x: dense(x if x.shape[0] is None else ops.copy(x)), True),
    "divided by": (lambda dense, x: dense(x / num_samples(x)), False),
    "divided by behind a layer": (
        lambda dense, x: (lambda y: y / num_samples(y))(dense(x)),
        False,
    ),
    "divided by behind a layer and a turn": (
        lambda dense, x: turned(
            (lambda y: y / (y.shape[1] or 1))(dense(turned(x))),
        ),
        False,
    ),
    "reshaped behind a layer and a turn": (
        lambda dense, x: turned(
            (lambda y: ops.reshape(y, (2, y.shape[1] or 1, 6)))(dense(turned(x)))
        ),
        True,
    ),
    "counted": (lambda dense, x: dense(ops.stack([x[i] for i in range(num_samples(x))])), False),
}


class Numb(Model):
    def __init__(self, function):
        super().__init__()
        self.first, self.middle = layers.Dense(4, name="first"), layers.Layer(name="middle")
        self.middle.dense = layers.Dense(6, name="dense")
        self.middle.call = lambda x: function(self.middle.dense, x)
        self.last = layers.Dense(3, name="last")

    def call(self, x):
        return self.last(self.middle(self.first(x)))


@pytest.mark.parametrize("name", NUMBS)
def test_an_open_batch_size_that_passes_for_a_number_is_never_that_number(name):
    function, is_opened = NUMBS[name]
    model, batch = Numb(function), np.random.default_rng(0).normal(size=(5, 2, 4))
    expected = laws.run(model, batch)
    graph = ChannelGraph(model)
    assert laws.relative_error(laws.run(graph.prune({}), batch), expected) <= 1e-6
    first = next(g for g in graph.groups if g.name == "first")
    assert first.prunable == is_opened
    assert is_opened or "depends on the batch size" in first.reason


class InFives(layers.Layer):
    """Takes samples five at a time."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6, name="dense")

    def build(self, shape):
        self.dense.build((None, 5, *shape[1:]))

    def call(self, x):
        return ops.reshape(self.dense(ops.reshape(x, (-1, 5, 4))), (-1, 6))


class AroundFives(Model):
    def __init__(self):
        super().__init__()
        self.first, self.inner = layers.Dense(4, name="first"), InFives(name="inner")

    def call(self, x):
        return ops.reshape(self.inner(ops.reshape(self.first(x), (-1, 4))), (-1, 5, 6))


def test_a_layer_that_takes_several_samples_at_a_time_is_opened():
    model, batch = AroundFives(), np.random.default_rng(0).normal(size=(3, 5, 4))
    expected = laws.run(model, batch)
    graph = ChannelGraph(model)
    assert "first" in [g.name for g in laws.cuttable(graph.groups)]
    assert laws.relative_error(laws.run(graph.prune({}), batch), expected) <= 1e-6


class InFours(Counted):
    """Takes samples for four where it is not told how many there are."""

    def call(self, x):
        return ops.reshape(self.dense(x), ((x.shape[0] or 4) // 4, 4, 4))


class AroundFours(Model):
    def __init__(self):
        super().__init__()
        self.first, self.inner = layers.Dense(4, name="first"), InFours(name="inner")

    def call(self, x):
        return self.inner(ops.reshape(self.first(x), (-1, 4)))


def test_a_number_in_place_of_the_samples_that_come_several_at_a_time_is_never_that_number():
    model, batch = AroundFours(), np.random.default_rng(0).normal(size=(3, 4, 4))
    expected = laws.run(model, batch)
    assert laws.relative_error(laws.run(ChannelGraph(model).prune({}), batch), expected) <= 1e-6


class Boxes(Counted):
    def call(self, x):
        return ops.reshape(self.dense(x), (ops.shape(x)[0], -1, 2))


class Levels(Model):
    """As a detector: one head for maps of several sizes."""

    def __init__(self):
        super().__init__()
        self.first, self.boxes = layers.Dense(6, name="first"), Boxes(name="boxes")

    def call(self, x):
        x = self.first(x)
        return ops.concatenate([self.boxes(x), self.boxes(x[:, ::2])], 1)


def test_a_head_for_maps_of_several_sizes_is_opened():
    model, batch = Levels(), np.random.default_rng(0).normal(size=(3, 4, 4))
    expected = laws.run(model, batch)
    graph = ChannelGraph(model)
    assert graph.trace.opened == ["boxes"]
    assert [g.name for g in laws.cuttable(graph.groups)] == ["first"]
    assert laws.relative_error(laws.run(graph.prune({}), batch), expected) <= 1e-6


class Remembering(layers.Layer):
    """As reversible normalization: takes away a mean, and at its next call gives it back."""

    def call(self, x, gives=False):
        if gives:
            return x + self.mean
        self.mean = ops.mean(x, axis=1, keepdims=True)
        return x - self.mean


class Reversible(Model):
    def __init__(self):
        super().__init__()
        self.inner, self.head = layers.Dense(8, name="inner"), layers.Dense(4)
        self.norm = Remembering(name="norm")

    def call(self, x):
        return self.norm(self.head(self.inner(self.norm(x))), gives=True)


def test_a_layer_that_keeps_a_tensor_from_one_call_to_the_next_stays_whole():
    model, batch = Reversible(), np.random.default_rng(0).normal(size=(3, 5, 4))
    expected = laws.run(model, batch)
    graph = ChannelGraph(model)
    assert [g.name for g in laws.cuttable(graph.groups)] == ["inner"]
    assert laws.relative_error(laws.run(graph.prune({}), batch), expected) <= 1e-6


class Narrow(layers.Layer):
    """As caching attention: its `compute_output_spec` is that of a class which takes less."""

    def call(self, x, cache=None):
        return x

    def compute_output_spec(self, x):
        return x


def test_sizes_that_keras_cannot_infer_are_those_of_a_run():
    x = keras.KerasTensor((None, None, 4))
    node = nodes.Call(Narrow(), (x,), {"cache": None}, keras.KerasTensor((None, None, 4)))
    assert _keras.output_shapes(node, [(1, 6, 4)]) == [(1, 6, 4)]


class Projecting(layers.Layer):
    """Attention whose projections leave the length open, as language models have it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query = layers.EinsumDense("bqm,muh->bquh", (None, 2, 4), name="query")
        self.out = layers.EinsumDense("bquh,uhm->bqm", (None, 4), name="out")

    def build(self, shape):
        self.query.build(shape)
        self.out.build((*shape[:2], 2, 4))

    def call(self, x):
        return self.out(self.query(x))


def test_layers_that_leave_a_length_open_are_opened():
    i = Input((3, 4))
    model = Model(i, Projecting(name="middle")(layers.Dense(4, name="first")(i)))
    graph = ChannelGraph(model)
    assert graph.trace.opened == ["middle"]

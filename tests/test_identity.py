"""The same run in another process is the same, and another one is another."""

import functools
import re
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from aip_tf import identity
from aip_tf.datasets.passes import counted


def network(width=4, lamb=None, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(width, activation="relu")(inputs)
    if lamb is not None:
        x = layers.Lambda(lamb)(x)
    x = layers.Concatenate()([x, inputs])
    return keras.Model(inputs, layers.Dense(2)(x))


def test_names_that_keras_numbers_make_no_difference():
    first, second = network(), network()
    assert first.layers[1].name != second.layers[1].name
    assert identity.of_model(first) == identity.of_model(second)


def test_architecture_and_weights_are_told_apart():
    model, wider, other = (identity.of_model(m) for m in (network(), network(5), network(seed=1)))
    assert model["architecture"] != wider["architecture"]
    assert model["architecture"] == other["architecture"]
    assert model["weights"] != other["weights"]


class Drawing(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


def test_how_far_random_generators_have_got_makes_no_difference():
    model = keras.Sequential([keras.Input((2,)), Drawing(), layers.Dense(3)])
    before = identity.of_model(model)
    model(np.ones((1, 2)))
    assert identity.of_model(model) == before


def test_a_lambda_is_known_by_what_it_does():
    double, again, triple = (
        network(lamb=lambda x: 2 * x),
        network(lamb=lambda x: 2 * x),
        network(lamb=lambda x: 3 * x),
    )
    assert identity.of_model(double) == identity.of_model(again)
    assert identity.of_model(double) != identity.of_model(triple)


def test_a_model_that_cannot_be_described_is_known_by_its_layers():
    class Opaque(layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            raise NotImplementedError

    inputs = keras.Input((6,))
    model = keras.Model(inputs, Opaque()(layers.Dense(2)(inputs)))
    assert identity.of_model(model)["architecture"]


def loss_a(y, y_pred):
    return keras.ops.mean(y - y_pred)


def other_loss_a():
    def loss_a(y, y_pred):
        return keras.ops.mean(y_pred - y)

    return loss_a


def scaled(factor):
    return lambda x: factor * x


def by_default(factor):
    def function(x, factor=factor):
        return factor * x

    return function


def of_a_module(source):
    """The function `f` of a module of one's own, as another process would import it."""
    module = types.ModuleType("own")
    exec(source, vars(module))
    return module.f


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return self.factor * x

    def __call__(self, x):
        return self.factor * x


class Shift(Scale):
    def __call__(self, x):
        return self.factor + x


def with_property(factor):
    class Own:
        @property
        def factor(self):
            return factor

    return Own


Shifted = type("Scale", (Shift,), {})


class Own(layers.Layer):
    """Without a `get_config` that would tell of the factor."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x


class Other(Own):
    def call(self, x):
        return self.factor + x


Changed = type("Own", (Other,), {})  # the same name, other code


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (lambda: Own(2.0), lambda: Own(2.0), lambda: Own(3.0)),
        (lambda: Own(2.0), lambda: Own(2.0), lambda: Changed(2.0)),
        *(
            tuple(functools.partial(layers.Activation, f) for f in functions)
            for functions in [
                (scaled(2), scaled(2), scaled(3)),
                (by_default(1), by_default(1), by_default(2)),
                (Scale(2), Scale(2), Scale(3)),
                (Scale(2).times, Scale(2).times, Scale(3).times),
            ]
        ),
    ],
)
def test_layers_are_known_by_their_code_and_by_what_they_hold(one, same, other):
    def model(layer):
        inputs = keras.Input((6,))
        return keras.Model(inputs, layer()(inputs))

    sums = [identity.of_model(model(x))["architecture"] for x in (one, same, other)]
    assert sums[0] == sums[1] != sums[2]


class Setting:
    def __init__(self, value, name="setting"):
        self.value, self.name, self.me = value, name, self


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (loss_a, loss_a, other_loss_a()),
        (scaled(2), scaled(2), scaled(3)),
        (by_default(2), by_default(2), by_default(3)),
        (Scale(2).times, Scale(2).times, Scale(3).times),
        (Scale(2), Scale(2), Shifted(2)),
        tuple(tf.function(by_default(n)) for n in (2, 2, 3)),
        tuple(tf.autograph.experimental.do_not_convert(scaled(n)) for n in (2, 2, 3)),
        tuple(with_property(n)() for n in (2, 2, 3)),
        *(
            tuple(map(of_a_module, sources))
            for sources in [
                (
                    "k = 2\ndef f(x): return k * x",
                    "\nk = 2\ndef f(x): return k * x",
                    "k = 3\ndef f(x): return k * x",
                ),
                (
                    "def g(x): return x\ndef f(x): return g(x)",
                    "def f(x): return g(x)\n\ndef g(x): return x",
                    "def g(x): return -x\ndef f(x): return g(x)",
                ),
            ]
        ),
        (functools.partial(loss_a, y=1), functools.partial(loss_a, y=1), loss_a),
        ({"b", "a", "c"}, {"c", "a", "b"}, {"a", "b"}),
        (np.float32(0.5), 0.5, 0.25),
        (np.arange(100), np.arange(100), np.arange(1, 101)),
        ((1, 2), [np.int64(1), 2], [2, 1]),
        (Setting({1: loss_a}), Setting({1: loss_a}), Setting({1: 2})),
        (keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)),
        (network(), network(), network(seed=1)),
        tuple(map(Slotted, (1, 1, 2))),
        tuple(map(tf.constant, (1.0, 1.0, 2.0))),
        tuple(map(tf.Variable, (1.0, 1.0, 2.0))),
        tuple(map(Path, ("a/b", "a/b", "a/c"))),
        tuple(map(re.compile, ("a+", "a+", "a*"))),
        (range(3), range(3), range(4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_are_the_same_or_not(one, same, other):
    assert identity.describe(one) == identity.describe(same)
    assert identity.describe(one) != identity.describe(other)


def pipeline(size=20, seed=3, augment=None, shift=0):
    images = np.arange(size, dtype="float32") + shift
    dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(size, seed=seed)
    return (dataset.map(augment) if augment else dataset).batch(4)


def test_data_are_told_apart():
    expected = counted(pipeline()).identity
    assert expected == counted(pipeline()).identity
    assert expected["batches"] != counted(pipeline(size=24)).identity["batches"]
    assert expected["first batch"] != counted(pipeline(shift=1)).identity["first batch"]


@pytest.mark.parametrize(
    "dataset",
    [
        lambda: pipeline(seed=None),
        lambda: pipeline(augment=lambda x: x + tf.random.uniform(())),
        lambda: pipeline(augment=lambda x: tf.numpy_function(lambda v: v, [x], tf.float32)),
        lambda: tf.data.Dataset.from_generator(
            lambda: iter([1.0]), output_signature=tf.TensorSpec((), tf.float32)
        ),
    ],
)
def test_data_drawn_without_a_seed_are_not_known_by_their_first_batch(dataset):
    tf.random.set_seed(None)
    assert counted(dataset()).identity["first batch"] == "drawn without a seed"


def test_the_look_at_the_first_batch_is_taken_once():
    passes = counted(pipeline())
    before = passes.identity
    list(passes.dataset)
    assert passes.identity is before
    assert passes.count == 2


def test_optimizers_are_known_by_all_that_they_were_told():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        """Without a configuration."""

        def __init__(self, rate):
            self.rate = rate

        def __call__(self, step):
            return self.rate

    def told(rate=0.1, spared=("bias", "gamma")):
        optimizer = keras.optimizers.SGD(Own(rate), weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_names=list(spared))
        return identity.describe(keras.optimizers.LossScaleOptimizer(optimizer))

    assert told() == told(spared=("gamma", "bias"))
    assert told() != told(0.2) and told() != told(spared=("bias",))


def test_a_dataset_is_known_by_what_it_yields():
    def made(size):
        return tf.data.Dataset.range(size).map(lambda x: x + 1).batch(2)

    assert identity.describe(made(4)) == identity.describe(made(4)) != identity.describe(made(8))

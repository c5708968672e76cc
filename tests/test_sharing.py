"""Layers shared by several nested models: plain Keras loads the file of the cut."""

import keras
import laws
import numpy as np
import pytest
from keras import layers

import aip_tf
from aip_tf import channels


class Behind(layers.Layer):
    """A layer of its own behind one that it is given."""

    def __init__(self, given, **kwargs):
        super().__init__(**kwargs)
        self.given, self.own = given, layers.Dense(6, name="own")

    def call(self, x):
        return self.own(self.given(x))


class Row(layers.Layer):
    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def functional(given, name):
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(6, name="own")(given(x)), name=name)


def two_composites(shared):
    return [Behind(shared, name="one"), layers.Dense(6, name="between"), Behind(shared, name="two")]


def several_levels(shared):
    inner = [Behind(shared, name="one"), Behind(shared, name="two")]
    return [Row(inner, name="row"), shared, Behind(shared, name="three")]


def composites_in_two(shared):
    inner = Behind(shared, name="inner")
    return [Behind(inner, name="one"), Behind(inner, name="two")]


def functionals(shared):
    return [functional(shared, "one"), functional(shared, "two"), keras.Sequential([shared])]


def one_called_twice(shared):
    one = Behind(shared, name="one")
    return [one, one]


CASES = {
    two_composites: {"shared", "one_own", "between", "two_own"},
    several_levels: {"shared", "row_one_own", "row_two_own", "three_own"},
    composites_in_two: {"inner", "one_own", "two_own"},
    functionals: {"shared", "one_own", "two_own"},
    one_called_twice: {"one"},
}


def in_functional(parts):
    x = inputs = keras.Input((6,))
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def in_sequential(parts):
    return keras.Sequential([keras.Input((6,)), *parts])


@pytest.mark.parametrize(
    ("build", "around"),
    [(build, in_functional) for build in CASES] + [(two_composites, in_sequential)],
)
def test_what_is_shared_stands_beside_those_that_share_it(build, around, tmp_path):
    shared = layers.Dense(6, activation="relu", name="shared")
    model = around([*build(shared), layers.Dense(3, name="head")])
    shared.trainable = False
    batch = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    masks = laws.random_masks(channels.find_channel_groups(model), np.random.default_rng(1))
    assert masks
    cut = aip_tf.prune_channels(model, masks)
    assert channels.check_cut(model, cut, masks, batch) <= 1e-5
    names = {layer.name for layer in cut.layers if not isinstance(layer, layers.InputLayer)}
    assert names == CASES[build] | {"head"}
    cut.save(tmp_path / "cut.keras")
    again = keras.saving.load_model(tmp_path / "cut.keras")
    assert laws.relative_error(laws.run(again, batch), laws.run(cut, batch)) == 0
    assert again.count_params() == cut.count_params()
    assert len(again.trainable_variables) == len(model.trainable_variables)


def test_a_cut_of_a_cut_knows_the_same_names():
    shared = layers.Dense(6, name="shared")
    model = in_functional([*two_composites(shared), layers.Dense(3, name="head")])
    copy = aip_tf.prune_channels(model, {})
    names = [[g.name for g in channels.find_channel_groups(m)] for m in (model, copy)]
    assert names[0] == names[1]


def test_what_is_shared_on_every_step(tmp_path):
    inside = in_functional(two_composites(layers.Dense(6, name="shared")))
    steps = keras.Input((4, 6))
    model = keras.Model(steps, layers.TimeDistributed(inside, name="steps")(steps))
    batch = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    masks = laws.random_masks(channels.find_channel_groups(model), np.random.default_rng(1))
    cut = aip_tf.prune_channels(model, masks)
    assert masks and channels.check_cut(model, cut, masks, batch) <= 1e-5
    cut.save(tmp_path / "cut.keras")
    again = keras.saving.load_model(tmp_path / "cut.keras")
    assert laws.relative_error(laws.run(again, batch), laws.run(cut, batch)) == 0

"""Ready-made rules: one line for a layer of one's own, and its channels can be cut."""

import keras
import laws
import numpy as np
import pytest
from keras import layers, ops

import aip_tf
from aip_tf.channels.rules import channelwise, elementwise, moves_nothing


@keras.saving.register_keras_serializable("test")
class Gate(layers.Layer):
    def call(self, x, gate):
        return x * ops.sigmoid(gate)


@keras.saving.register_keras_serializable("test")
class Positions(layers.Layer):
    """A table (positions, channels), and an argument that is the number of channels."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.table = self.add_weight(shape=(*shape[1:-1], self.width), name="table")
        self.extra = None

    def call(self, x):
        return x + self.table

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("test")
class ReflectionPadding(layers.Layer):
    def call(self, x):
        return ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")


@pytest.fixture(autouse=True)
def rules():
    aip_tf.register_channel_rule(Gate)(elementwise())
    aip_tf.register_channel_rule(Positions)(channelwise("table", "extra", arguments=("width",)))
    aip_tf.register_channel_rule(ReflectionPadding)(moves_nothing())


def network():
    image = keras.Input((5, 5, 3))
    x = layers.Conv2D(6, 3, name="conv")(ReflectionPadding()(image))
    x = ReflectionPadding()(Positions(6)(x))
    x = Gate()(layers.Conv2D(8, 3, name="value")(x), layers.Conv2D(8, 3, name="other")(x))
    return keras.Model(image, layers.Dense(2, name="head")(layers.Flatten()(x)))


def test_layers_of_ones_own_are_cut_exactly():
    rng = np.random.default_rng(0)
    model = network()
    batch = laws.random_batch(model, rng)
    verdict = laws.check_cut(laws.randomize(model, rng, batch), batch, rng)
    assert not verdict.problems
    groups = aip_tf.find_channel_groups(model)
    cuttable = [(g.producers, g.num_channels) for g in groups if g.prunable]
    assert cuttable == [(("conv",), 6), (("value", "other"), 8)]
    assert next(x for x in verdict.cut.layers if isinstance(x, Positions)).width == 3


def test_a_variable_that_is_not_named_keeps_the_layer_whole():
    aip_tf.register_channel_rule(Positions)(channelwise(arguments=("width",)))
    group = aip_tf.find_channel_groups(network())[0]
    assert (
        not group.prunable and "has `table`, which its channel rule does not know" in group.reason
    )


def test_a_name_that_is_no_attribute_is_refused():
    aip_tf.register_channel_rule(Positions)(channelwise("tabel"))
    with pytest.raises(ValueError, match=r"'tabel' as a variable of Positions.*Expected the name"):
        aip_tf.find_channel_groups(network())

"""Costs: against published figures, against TensorFlow's profiler, against recounting."""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
import zoo_models
from graphs import conv, dense, head, image
from keras import Input, Model, layers

import aip_tf
from aip_tf.cost import Cost

# Parameters and multiply-accumulates at 224 pixels and 1,000 classes. MobileNetV2: 300 M, Sandler
# et al. 2018 (arXiv 1801.04381, table 4). VGG-16: 15.5 G. ResNet-50: "3.8 x 10^9", He et al. 2015
# (arXiv 1512.03385), with the stride in the first 1x1 convolution. Parameters as in Keras' docs.
PUBLISHED = {
    "ResNet50": (25_636_712, 3.86e9),
    "VGG16": (138_357_544, 15.47e9),
    "MobileNetV2": (3_538_984, 300.8e6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    parameters, macs = PUBLISHED[name]
    with keras.device("cpu"):
        model = getattr(keras.applications, name)(weights=None)
    assert aip_tf.count_parameters(model) == parameters
    assert aip_tf.count_macs(model) == pytest.approx(macs, rel=2e-3)


def test_resnet18_is_torchvisions():
    model = aip_tf.zoo.resnet18()
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 11_689_512
    assert aip_tf.count_macs(model) == pytest.approx(1.814e9, rel=1e-3)


def test_macs_by_hand():
    i = Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="a")(i)  # 4 x 4 x 6 outputs
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)  # 4 x 4 x 12
    x = layers.Conv2D(8, 1, groups=4)(x)  # 4 x 4 x 8, 3 inputs each
    x = layers.Conv2DTranspose(5, 2, strides=2)(x)  # each of 4 x 4 pixels meets 2 x 2 kernels
    x = layers.SeparableConv2D(7, 3, padding="same")(x)  # 8 x 8
    model = Model(i, dense(layers.Flatten()(x), 10, "head"))
    expected = 16 * 6 * 27 + 16 * 12 * 9 + 16 * 8 * 3 + 16 * 8 * 5 * 4
    expected += 64 * 5 * 9 + 64 * 5 * 7 + 64 * 7 * 10
    assert aip_tf.count_macs(model) == expected


def test_a_layer_called_by_keyword_costs_what_it_costs():
    model, again = (by_keyword(names) for names in (True, False))
    assert aip_tf.count_macs(model) == aip_tf.count_macs(again) > 0
    groups = [[(g.name, g.prunable) for g in aip_tf.find_channel_groups(x)] for x in (model, again)]
    assert groups[0] == groups[1]


def by_keyword(names):
    """Layers of several kinds, the tensors of which are given by name or by place."""

    def call(layer, **given):
        return layer(**given) if names else layer(*given.values())

    i = image(8)
    x = call(layers.Conv2D(6, 3, padding="same", name="conv"), inputs=i)
    x = call(layers.SeparableConv2D(6, 3, padding="same", name="separable"), inputs=x)
    x = layers.Reshape((64, 6))(x)
    x = call(layers.MultiHeadAttention(2, 3, name="attention"), query=x, value=x)
    x = call(layers.LSTM(4, name="lstm"), sequences=x)
    x = call(layers.Dense(5, name="dense"), inputs=x)
    return Model(i, dense(x, 3, "head"))


def test_shared_layers_work_twice_but_weigh_once():
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    i = image(8)
    once = head(shared(i), i)
    twice = head(layers.Add()([shared(i), shared(layers.ReLU()(i))]), i)
    assert aip_tf.count_macs(twice) - aip_tf.count_macs(once) == 64 * 27 * 4
    assert aip_tf.count_parameters(twice) == aip_tf.count_parameters(once)


def profiled_macs(model):
    """Multiply-accumulates of convolutions and products as TensorFlow's profiler counts them.

    It counts a multiplication and an addition as two, and element-wise work, which we leave out.
    """
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2_as_graph,
    )

    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    _, graph_def = convert_variables_to_constants_v2_as_graph(function)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        metadata = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        options["output"] = "none"
        options["account_type_regexes"] = ["Conv2D", "DepthwiseConv2dNative", "MatMul"]
        profile = tf.compat.v1.profiler.profile(graph, run_meta=metadata, cmd="op", options=options)
    return profile.total_float_ops / 2


@pytest.mark.parametrize("name", ["MobileNet", pytest.param("ResNet50", marks=pytest.mark.slow)])
def test_the_profiler_agrees_within_one_percent(name):
    model = zoo_models.build(name, size=64)
    assert aip_tf.count_macs(model) == pytest.approx(profiled_macs(model), rel=0.01)


@pytest.mark.parametrize(
    "name", ["MobileNetV3Small", pytest.param("DenseNet121", marks=pytest.mark.slow)]
)
def test_formula_equals_recount_for_many_masks(name):
    model = zoo_models.build(name)
    costs, rng = Cost(model), np.random.default_rng(0)
    for amount in (0.2, 0.8):
        masks = laws.random_masks(costs.groups, rng, amount)
        again = Cost(aip_tf.prune_channels(model, masks))
        assert costs.macs(masks) == again.macs()
        assert costs.parameters(masks) == again.parameters()
        assert costs.peak_memory(masks) == again.peak_memory()
        assert costs.num_channels(masks) == again.num_channels()


def test_costs_fall_with_every_channel():
    i = image()
    model = head(conv(conv(i, 6, "conv1"), 4, "conv2"), i)
    costs = Cost(model)
    before = (np.inf,) * 3
    for num_kept in range(6, 0, -1):
        masks = {"conv1": np.arange(6) < num_kept}
        now = costs.macs(masks), costs.parameters(masks), costs.num_channels(masks)
        assert all(a < b for a, b in zip(now, before, strict=True))
        before = now


def test_peak_memory_by_hand():
    """Input 8x8x3, conv 8x8x6, conv 8x8x4, float32: the two convolutions' outputs at once."""
    i = image()
    x = conv(conv(i, 6, "conv1"), 4, "conv2")
    assert Cost(Model(i, x)).peak_memory() == 64 * (6 + 4) * 4
    skip = Model(i, layers.Concatenate()([i, x]))  # the input stays alive; the join is 7 channels
    assert Cost(skip).peak_memory() == 64 * max(3 + 6 + 4, 3 + 4 + 7) * 4


def test_costs_refuse_masks_that_do_not_fit():
    i = image()
    costs = Cost(head(conv(i, 6, "conv1"), i))
    with pytest.raises(ValueError, match="conv9"):
        costs.macs({"conv9": np.ones(6, bool)})
    with pytest.raises(ValueError, match="conv1"):
        costs.parameters({"conv1": np.ones(5, bool)})


def test_summary_has_macs_shares_and_the_milliseconds_that_were_measured():
    i = image()
    model = head(layers.ReLU(name="relu")(conv(i, 6, "conv1")), i)
    text = aip_tf.summary(model, milliseconds={"conv1": 3.0, "relu": 1.0})
    macs = Cost(model).layer_macs()["conv1"]
    share = f"{macs / aip_tf.count_macs(model):.1%}"
    lines = [line.split() for line in text.split("\n\n")[1].splitlines()]
    assert ["conv1", f"{macs:,}", share, "3", "75.0%"] in lines
    assert ["relu", "0", "0.0%", "1", "25.0%"] in lines
    assert "milliseconds" not in aip_tf.summary(model)
    for bad in ({"conv9": 1.0}, {"conv1": "fast"}, 3.0):
        with pytest.raises(ValueError, match="measure_layers"):
            aip_tf.summary(model, milliseconds=bad)


def test_summary_names_groups_and_reasons():
    i = image()
    text = aip_tf.summary(head(layers.Softmax()(conv(i, 6, "conv1")), i))
    assert "conv1" in text and "softmax" in text.lower() and "MACs" in text

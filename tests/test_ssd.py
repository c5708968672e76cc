"""The detectors: sizes, weights, files, and law 1 including what the heads read."""

import keras
import laws
import numpy as np
import pytest
from detectors import tiny_detector

from aip_tf import detection
from aip_tf.channels import find_channel_groups


@pytest.mark.parametrize("size", [33, 48, 64, 100, 128])
def test_model_and_anchors_agree_on_their_number(size):
    model = detection.ssd_vgg16(num_classes=2, input_size=size, width=1 / 64)
    num_anchors = len(detection.default_boxes(detection.feature_sizes(size)))
    assert model.output["boxes"].shape == (None, num_anchors, 4)
    assert model.output["classes"].shape == (None, num_anchors, 3)


def test_ssd300_has_the_published_size():
    model = detection.ssd300_vgg16(num_classes=20)
    assert model.count_params() == 26_285_486
    assert model.output["boxes"].shape == (None, 8732, 4)
    assert model.output["classes"].shape == (None, 8732, 21)


@pytest.fixture
def narrow_vgg16():
    """The layers of `keras.applications.VGG16` at 1/16 of the width."""
    layers = keras.layers
    vgg = keras.Sequential([keras.Input((14, 14, 3))])
    for block, (depth, filters) in enumerate(((2, 4), (2, 8), (3, 16), (3, 32), (3, 32)), start=1):
        for k in range(1, depth + 1):
            name = f"block{block}_conv{k}"
            vgg.add(layers.Conv2D(filters, 3, padding="same", name=name))
    for layer in (layers.MaxPooling2D(2), layers.Flatten()):
        vgg.add(layer)
    for name in ("fc1", "fc2"):
        vgg.add(layers.Dense(256, name=name))
    return vgg


def test_weights_of_vgg16_are_taken_over(narrow_vgg16, monkeypatch):
    monkeypatch.setattr(keras.applications, "VGG16", lambda weights: narrow_vgg16)
    model = detection.ssd_vgg16(1, input_size=64, width=1 / 16, weights="imagenet")

    def kernel(network, name):
        return network.get_layer(name).kernel.numpy()

    first = kernel(narrow_vgg16, "block1_conv1")
    np.testing.assert_array_equal(kernel(model, "block1_conv1"), first[:, :, ::-1])
    last = kernel(narrow_vgg16, "block5_conv3")
    np.testing.assert_array_equal(kernel(model, "block5_conv3"), last)
    fc1 = kernel(narrow_vgg16, "fc1").reshape(7, 7, 32, 256)
    np.testing.assert_array_equal(kernel(model, "fc6")[1, 2, :, 5], fc1[3, 6, :, 20])
    fc2 = kernel(narrow_vgg16, "fc2")
    np.testing.assert_array_equal(kernel(model, "fc7")[0, 0, 3, 4], fc2[12, 16])
    wider = detection.ssd_vgg16(num_classes=1, input_size=64, width=1 / 8)
    with pytest.raises(ValueError, match="do not fit layer 'block1_conv1'"):
        detection.copy_vgg16_weights(wider, narrow_vgg16)


def test_model_is_saved_and_loaded(tmp_path):
    model = tiny_detector()
    model.save(tmp_path / "ssd.keras")
    loaded = keras.models.load_model(tmp_path / "ssd.keras")
    image = np.random.default_rng(0).random((1, 64, 64, 3), "float32")
    for key, value in model(image).items():
        np.testing.assert_array_equal(loaded(image)[key], value)


def small_ssd():
    """SSD on two stages of another network; its heads read both, and an extra layer."""
    image = x = keras.Input((64, 64, 3))
    for k, stride in enumerate((4, 2, 2)):
        x = keras.layers.Conv2D(8, 3, stride, "same", name=f"conv{k}")(x)
        x = keras.layers.ReLU(name=f"relu{k}")(keras.layers.BatchNormalization(name=f"bn{k}")(x))
    classifier = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    return detection.ssd(keras.Model(image, classifier, name="mine"), num_classes=3, width=1 / 16)


@pytest.mark.parametrize(
    "build, num_cut",
    [
        (lambda: detection.ssd_vgg16(3, 64, 1 / 16), 17),
        (lambda: detection.ssd_vgg16(3, 64, 1 / 16, batch_norm=True), 17),
        (small_ssd, 5),
    ],
    ids=["vgg", "vgg_bn", "small"],
)
def test_a_cut_detector_equals_the_masked_one(build, num_cut):
    rng = np.random.default_rng(0)
    model = build()
    batch = rng.random((3, 64, 64, 3)).astype("float32")
    laws.randomize(model, rng, batch)
    masks = laws.random_masks(find_channel_groups(model), rng)
    assert len(masks) == num_cut, "every convolution of backbone and extra layers can be cut"
    error, cut = laws.masked_is_cut(model, masks, batch)
    assert error <= laws.TOLERANCE
    expected = laws.run(cut, batch)
    assert laws.any_control(model, masks, batch, expected, rng) >= laws.SENSITIVITY
    for layer in model.layers:
        if layer.name.startswith("head"):
            after = cut.get_layer(layer.name)
            assert after.output.shape == layer.output.shape
            is_reading = isinstance(layer, keras.layers.Conv2D)
            assert is_reading == (after.input.shape != layer.input.shape), "heads read what was cut"


def test_a_detector_keeps_the_features_of_its_backbone():
    model = detection.ssd_mobilenet(num_classes=2, input_size=64)
    sizes = detection.feature_sizes(64)
    read = [model.get_layer(f"head{k + 1}_boxes").input for k in range(len(sizes))]
    assert [x.shape[1] for x in read] == list(sizes)
    last = [model.get_layer(f"conv_pw_{k}_relu").output for k in (5, 11, 13)]
    assert all(x is y for x, y in zip(read, last, strict=False))
    assert "conv_preds" not in [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    "network, message",
    [
        (keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), "one square image"),
        (keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(2, 3)]), "first two"),
    ],
    ids=["vectors", "one_map"],
)
def test_a_network_without_the_maps_of_an_ssd_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        detection.ssd(network, num_classes=2)

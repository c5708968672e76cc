"""Every network of the zoo: published size, names, logits, weights of PyTorch."""

import keras
import numpy as np
import pytest
from keras import layers

from aip_tf import cost, zoo
from aip_tf.zoo.applications import normalise_for

# Trainable parameters, exactly, and MACs of convolutions and Dense layers; beside them what is
# published (millions; rounded there, and some count batch normalisation among the MACs).
PUBLISHED = {
    "densenet40": (1_059_298, 282_917_328, 1.06, 283),
    "googlenet": (6_166_250, 1_521_756_160, 6.17, 1530),
    "mobilenet_v2": (3_504_872, 300_774_272, 3.5, 300),
    "resnet110": (1_727_962, 252_887_680, 1.73, 253),
    "resnet18": (11_689_512, 1_814_073_344, 11.69, 1820),
    "resnet20": (269_722, 40_551_040, 0.27, 40.8),
    "resnet32": (464_154, 68_862_592, 0.46, 69),
    "resnet34": (21_797_672, 3_663_761_408, 21.80, 3670),
    "resnet44": (658_586, 97_174_144, 0.66, 97),
    "resnet50": (25_583_592, 3_857_973_248, 25.6, 3860),
    "resnet50_v1_5": (25_557_032, 4_089_184_256, 25.56, 4110),
    "resnet56": (853_018, 125_485_696, 0.85, 125.5),
    "vgg16": (14_728_266, 313_201_664, 14.73, 314),
    "vgg19": (20_086_692, 398_182_400, 20.09, 398),
}
SMALL = {"input_shape": (32, 32, 3), "num_classes": 10}


def num_trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.fixture(scope="module", params=sorted(PUBLISHED))
def network(request):
    return request.param, getattr(zoo, request.param)()


def test_parameters_and_macs_are_the_published_ones(network):
    name, model = network
    parameters, macs, published_parameters, published_macs = PUBLISHED[name]
    assert num_trainable(model) == parameters
    assert cost.count_macs(model) == macs
    assert parameters / 1e6 == pytest.approx(published_parameters, rel=0.02)
    assert macs / 1e6 == pytest.approx(published_macs, rel=0.01)


def test_the_table_is_complete():
    assert {*PUBLISHED, "digits_resnet"} == set(zoo.builder_names())
    assert all(getattr(zoo, name).__doc__ for name in zoo.__all__)


def test_networks_are_functional_named_and_made_of_stock_layers(network):
    name, model = network
    assert type(model).__name__ == "Functional"
    assert model.name.startswith(name.removesuffix("_v1_5").removesuffix("_v2")[:8])
    assert model.input.name == "image"
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    automatic = {layer.name for layer in model.layers} & {"conv2d", "dense", "add", "re_lu"}
    assert automatic == set()
    again = keras.Model.from_config(model.get_config())
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]


def test_outputs_are_logits(network):
    _, model = network
    last = model.layers[-1]
    assert isinstance(last, layers.Dense)
    assert last.activation is keras.activations.linear


def test_option_b_projects_and_option_a_has_no_parameters():
    option_a, option_b = (zoo.resnet20(shortcut=shortcut) for shortcut in "AB")
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert num_trainable(option_b) - num_trainable(option_a) == projections


def test_option_a_shortcut_passes_every_second_pixel_between_zero_channels():
    model = zoo.resnet20()
    first = model.get_layer("layer2_0_shortcut_subsample").input
    shortcut = keras.Model(first, model.get_layer("layer2_0_shortcut_channels_last").output)
    x = np.random.default_rng(0).random((2, 32, 32, 16), np.float32)
    expected = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (8, 8)))
    np.testing.assert_array_equal(shortcut(x), expected)


@pytest.mark.parametrize("depth", [20, 56])
def test_pytorch_state_dictionaries_give_the_logits_of_the_pretrained_models(shared_data, depth):
    file = shared_data / "models" / f"cifar10_resnet{depth}_akamaster"
    ours = zoo.cifar_resnet(depth, weights=f"{file}.npz")
    theirs = keras.saving.load_model(f"{file}.keras")
    x = np.random.default_rng(depth).random((8, 32, 32, 3), np.float32)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    random = zoo.cifar_resnet(depth)
    assert np.abs(np.asarray(random(x)) - np.asarray(theirs(x))).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "accuracy"), [(20, 0.9173), (56, 0.9339)])
def test_imported_weights_have_their_accuracy_on_all_test_images(shared_data, depth, accuracy):
    from aip_tf import datasets

    weights = shared_data / "models" / f"cifar10_resnet{depth}_akamaster.npz"
    model = zoo.cifar_resnet(depth, weights=weights)
    model.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
    data = datasets.cifar10(shared_data / "tensorflow_datasets", batch_size=250)
    assert model.evaluate(data.test, verbose=0)[1] == pytest.approx(accuracy, abs=1e-6)


def as_state_dict(model, rename):
    """A PyTorch state dictionary of random numbers that fits `model`; layouts as PyTorch's."""
    random = np.random.default_rng(1)
    state = {}
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
    names["moving_variance"] = "running_var"
    for layer in model.layers:
        for variable in layer.weights:
            shape = tuple(variable.shape)
            shape = {4: (*shape[:1:-1], *shape[:2]), 2: shape[::-1]}.get(len(shape), shape)
            name = f"{rename(layer.name)}.{names.get(variable.name, variable.name)}"
            state[name] = random.random(shape, np.float32)
    return state


def torchvision_name(name):
    """`layer1_0_downsample_0` -> `layer1.0.downsample.0`."""
    return name.replace("_", ".")


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_names_and_layouts(depth):
    model = zoo.imagenet_resnet(depth, **SMALL)
    state = as_state_dict(model, torchvision_name)
    for key in ("conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"):
        assert key in state
    state["bn1.num_batches_tracked"] = np.int64(7)
    zoo.load_state_dict(model, {f"module.{name}": value for name, value in state.items()})
    kernel = np.asarray(model.get_layer("layer2_0_conv2").kernel)
    np.testing.assert_array_equal(kernel[1, 2, 3, 4], state["layer2.0.conv2.weight"][4, 3, 1, 2])
    variance = model.get_layer("layer2_0_downsample_1").moving_variance
    np.testing.assert_array_equal(variance, state["layer2.0.downsample.1.running_var"])
    np.testing.assert_array_equal(model.get_layer("fc").kernel, state["fc.weight"].T)


def test_strided_convolutions_pad_as_pytorch_does():
    model = zoo.resnet18(**SMALL)
    image = model.get_layer("conv1_pad").input
    stem = keras.Model(image, model.get_layer("conv1").output)
    x = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    kernel = np.asarray(model.get_layer("conv1").kernel)
    window = x[0, :4, :4]  # what a 7x7 window around pixel (0, 0) sees of the image
    expected = np.einsum("hwi,hwio->o", window, kernel[3:, 3:])
    np.testing.assert_allclose(stem(x)[0, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_state_dictionary_that_does_not_fit_changes_nothing():
    model = zoo.resnet20()
    before = [np.asarray(value) for value in model.get_weights()]
    state = as_state_dict(model, torchvision_name)
    missing = {name: value for name, value in state.items() if name != "linear.bias"}
    with pytest.raises(ValueError, match="lacks \\['linear_bias'\\]"):
        zoo.load_state_dict(model, missing)
    with pytest.raises(ValueError, match="no use for \\['extra'\\]"):
        zoo.load_state_dict(model, {**state, "extra": np.zeros(1)})
    with pytest.raises(ValueError, match="must have shape"):
        zoo.load_state_dict(model, {**state, "linear.bias": np.zeros(11)})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_files_of_keras_round_trip(tmp_path):
    model = zoo.digits_resnet(width=4)
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    for name in ("w.weights.h5", "w.keras"):
        save = model.save if name.endswith(".keras") else model.save_weights
        save(tmp_path / name)
        again = zoo.digits_resnet(width=4, weights=tmp_path / name)
        np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_unhappy_weights(tmp_path):
    with pytest.raises(ValueError, match="existing file"):
        zoo.resnet20(weights=tmp_path / "none.npz")
    (tmp_path / "w.pth").touch()
    with pytest.raises(ValueError, match=r"\.pth becomes \.npz"):
        zoo.resnet20(weights=tmp_path / "w.pth")
    zoo.digits_resnet(width=4).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match="do not fit resnet20"):
        zoo.resnet20(weights=tmp_path / "w.weights.h5")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: zoo.cifar_resnet(21), "6n\\+2"),
        (lambda: zoo.resnet20(shortcut="C"), "'A'"),
        (lambda: zoo.imagenet_resnet(101), "18, 34 or 50"),
        (lambda: zoo.resnet20(input_shape=(32, 32, 1)), "channels-last"),
        (lambda: zoo.vgg16(num_classes=0), "num_classes"),
        (lambda: zoo.application("ResNet51"), "ResNet50"),
    ],
)
def test_unhappy_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def preprocess_inputs():
    """What `keras.applications` itself does to pixels, by the network's name."""
    v3 = keras.applications.mobilenet_v3.preprocess_input
    found = {"MobileNetV3Large": v3, "MobileNetV3Small": v3}
    for module in vars(keras.applications).values():
        if hasattr(module, "preprocess_input"):
            for name in vars(module):
                if name in zoo.application_names():
                    found[name] = module.preprocess_input
    return found


@pytest.mark.parametrize("name", zoo.application_names())
def test_applications_normalise_inside_as_keras_does_outside(name):
    image = layers.Input((4, 4, 3))
    inside = keras.Model(image, normalise_for(name, image))
    x = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    expected = preprocess_inputs()[name](x * 255)
    np.testing.assert_allclose(inside(x), expected, rtol=1e-4, atol=1e-3)


def test_an_application_takes_keras_own_weights_with_the_normalisation_inside(tmp_path):
    size = {"input_shape": (32, 32, 3), "classes": 10}
    outer = keras.applications.VGG16(weights=None, classifier_activation=None, **size)
    outer.save_weights(tmp_path / "w.weights.h5")
    inner = zoo.application("VGG16", weights=tmp_path / "w.weights.h5", **size)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    expected = np.asarray(outer(keras.applications.vgg16.preprocess_input(x * 255)))
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(inner(x), expected, atol=tolerance)
    assert inner.input.name == "image"


def test_missing_network_for_imagenet_weights_is_explained(monkeypatch):
    def no_network(**arguments):
        raise OSError("unreachable")

    monkeypatch.setattr(keras.applications, "MobileNet", no_network)
    with pytest.raises(ValueError, match="Connect to a network"):
        zoo.application("MobileNet", weights="imagenet")

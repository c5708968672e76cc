"""Networks of `keras.applications`, with the input normalisation their weights expect inside."""

import keras
from keras import layers, ops

from aip_tf.arguments import check
from aip_tf.failures import words
from aip_tf.zoo.layers import RGB_MEAN, RGB_VARIANCE, image_shape
from aip_tf.zoo.weights import load_weights

# How each family was trained; the others (EfficientNet, MobileNetV3, ConvNeXt) scale [0, 255]
# by themselves.
_NORMALISATIONS = {
    "signed": (
        "InceptionResNetV2",
        "InceptionV3",
        "MobileNet",
        "MobileNetV2",
        "NASNetLarge",
        "NASNetMobile",
        "ResNet101V2",
        "ResNet152V2",
        "ResNet50V2",
        "Xception",
    ),
    "bgr": ("ResNet101", "ResNet152", "ResNet50", "VGG16", "VGG19"),
    "rgb": ("DenseNet121", "DenseNet169", "DenseNet201"),
}
_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2L": 480,
    "EfficientNetV2M": 480,
    "EfficientNetV2S": 384,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}


def application(name, *, weights=None, input_shape=None, classifier_activation=None, **arguments):
    """Builds a network of `keras.applications` that takes RGB in `[0, 1]` and gives logits.

    Args:
        name: the builder's name, e.g. "MobileNetV2".
        weights: None, "imagenet" (downloaded by Keras), or a file as in `load_weights`; all are
            for the network as Keras trains it: what its `preprocess_input` does happens inside.
        input_shape: `(height, width, 3)`; by default the size the network was published for.
        classifier_activation: None for logits, or "softmax".
        **arguments: further arguments of the builder, e.g. `alpha=0.25, classes=10`.

    Raises:
        ValueError: if there is no such network or its weights cannot be had.

    >>> application("MobileNet", alpha=0.25, classes=10, input_shape=(32, 32, 3)).output_shape
    (None, 10)
    """
    builder = _builder(name)
    if input_shape is not None:
        check({"input_shape": image_shape(3)}, locals())
    image = layers.Input(input_shape or (_SIZES.get(name, 224),) * 2 + (3,), name="image")
    arguments = {
        **arguments,
        "input_tensor": normalise_for(name, image),
        "weights": "imagenet" if weights == "imagenet" else None,
    }
    if arguments.get("include_top", True):
        arguments["classifier_activation"] = classifier_activation
    try:
        model = builder(**arguments)
    except Exception as error:
        if weights != "imagenet":
            raise ValueError(
                f"keras.applications.{name} cannot be built for images of {image.shape[1:]}: "
                f"{words(error)} Expected the arguments that it takes, in its ranges."
            ) from error
        raise ValueError(
            f"keras.applications.{name} could not get its ImageNet weights: {error}\n"
            "Connect to a network, or give `weights` a file fetched elsewhere."
        ) from error
    # keras.applications makes a list of the input it is handed; one image is no list.
    model = keras.Model(image, model.output, name=model.name)
    return load_weights(model, None if weights == "imagenet" else weights)


def application_names():
    """The names `application` takes, sorted."""
    return sorted(name for name in dir(keras.applications) if name[0].isupper())


def normalise_for(name, image):
    """What `preprocess_input` of the network `name` does, for `image` in `[0, 1]`, as layers."""
    if name in _NORMALISATIONS["signed"]:
        return layers.Rescaling(2.0, offset=-1.0, name="normalise")(image)
    if name in _NORMALISATIONS["rgb"]:
        return layers.Normalization(mean=RGB_MEAN, variance=RGB_VARIANCE, name="normalise")(image)
    pixels = layers.Rescaling(255.0, name="to_pixels")(image)
    if name in _NORMALISATIONS["bgr"]:
        means = (103.939, 116.779, 123.68)
        flipped = ops.flip(pixels, axis=-1)
        return layers.Normalization(mean=means, variance=(1.0,) * 3, name="normalise")(flipped)
    return pixels


def _builder(name):
    if name not in application_names():
        raise ValueError(
            f"name must be a network of keras.applications, received {name!r}; "
            f"there are {', '.join(application_names())}."
        )
    return getattr(keras.applications, name)

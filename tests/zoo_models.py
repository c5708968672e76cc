"""The 40 architectures of `keras.applications` at the smallest inputs that exercise them."""

import inspect

import keras

ARCHITECTURES = sorted(
    name for name, value in vars(keras.applications).items() if inspect.isfunction(value)
)
FAMILIES = [  # one architecture of each
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
]
SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}


def build(name, size=None, classes=10):
    """The architecture with random weights, logits at the end; `size` pixels, or few."""
    size = size or SMALLEST.get(name, 64 if "NASNet" in name else 48)
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=classes, classifier_activation=None
    )

"""VGG with batch normalisation, for CIFAR (Simonyan & Zisserman 2015, arXiv 1409.1556)."""

import keras
from keras import layers

from aip_tf.zoo.layers import batch_norm, classifier, conv, normalised_input, relu
from aip_tf.zoo.weights import load_weights

# Convolutions in each of the five blocks.
_DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


def vgg16(num_classes=10, *, input_shape=(32, 32, 3), weights=None):
    """VGG-16 for CIFAR: 13 convolutions and one Dense layer. 14.73 M parameters, 313 M MACs.

    Args:
        num_classes: number of logits.
        input_shape: image shape, RGB in `[0, 1]`, at least 32x32.
        weights: None, or a file as in `load_weights`.

    Returns:
        A Functional model, input "image", output logits. Layers are named `block<i>_conv<j>`,
        `..._bn<j>`, `..._relu<j>`. Convolutions have biases, as in the networks whose size is
        published.

    >>> vgg16().output_shape
    (None, 10)
    """
    return _vgg(16, num_classes, input_shape, weights)


def vgg19(num_classes=100, *, input_shape=(32, 32, 3), weights=None):
    """VGG-19 for CIFAR: 16 convolutions and one Dense layer. 20.09 M parameters, 398 M MACs.

    Arguments and layer names are those of `vgg16`; the paper's VGG-19 is for CIFAR-100.
    """
    return _vgg(19, num_classes, input_shape, weights)


def _vgg(depth, num_classes, input_shape, weights):
    image, x = normalised_input(input_shape)
    for block, (width, count) in enumerate(zip(_WIDTHS, _DEPTHS[depth], strict=True), start=1):
        for index in range(1, count + 1):
            x = conv(x, width, 3, f"block{block}_conv{index}", use_bias=True)
            x = relu(batch_norm(x, f"block{block}_bn{index}"), f"block{block}_relu{index}")
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    outputs = classifier(x, num_classes, "classifier")
    return load_weights(keras.Model(image, outputs, name=f"vgg{depth}"), weights)

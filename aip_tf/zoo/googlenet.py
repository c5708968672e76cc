"""GoogLeNet for CIFAR (Szegedy et al. 2015, arXiv 1409.4842), with batch normalisation."""

import keras
from keras import layers

from aip_tf.zoo.layers import batch_norm, classifier, conv, max_pool, normalised_input, relu
from aip_tf.zoo.weights import load_weights

# Channels of a module: 1x1 | 3x3 reduced, 3x3 | 5x5 reduced, 5x5 | after pooling. The rows are
# table 1 of the paper; None halves the image.
_MODULES = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "pool3": None,
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "pool4": None,
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(num_classes=10, *, input_shape=(32, 32, 3), weights=None):
    """GoogLeNet for CIFAR: one 3x3 stem, nine inception modules. 6.17 M parameters, 1.53 G MACs.

    The 5x5 branch is two 3x3 convolutions, as in the variant that pruning papers use on CIFAR;
    every convolution has a bias and is followed by batch normalisation and ReLU.

    Args:
        num_classes: number of logits.
        input_shape: image shape, RGB in `[0, 1]`.
        weights: None, or a file as in `load_weights`.

    Returns:
        A Functional model, input "image", output logits. A module `inception_3a` ends in the
        Concatenate layer of that name; its branches are `inception_3a_1x1`, `_3x3`, `_5x5` and
        `_pool`.

    >>> googlenet().output_shape
    (None, 10)
    """
    image, x = normalised_input(input_shape)
    x = _conv_bn_relu(x, 192, 3, "stem")
    for name, channels in _MODULES.items():
        x = max_pool(x, name) if channels is None else _inception(x, channels, name)
    outputs = classifier(x, num_classes, "classifier")
    return load_weights(keras.Model(image, outputs, name="googlenet"), weights)


def _inception(x, channels, name):
    """Four branches, concatenated over channels."""
    single, reduced3, conv3, reduced5, conv5, pooled = channels
    branch1 = _conv_bn_relu(x, single, 1, f"{name}_1x1")
    branch3 = _conv_bn_relu(x, reduced3, 1, f"{name}_3x3_reduce")
    branch3 = _conv_bn_relu(branch3, conv3, 3, f"{name}_3x3")
    branch5 = _conv_bn_relu(x, reduced5, 1, f"{name}_5x5_reduce")
    branch5 = _conv_bn_relu(branch5, conv5, 3, f"{name}_5x5_first")
    branch5 = _conv_bn_relu(branch5, conv5, 3, f"{name}_5x5_second")
    pool = layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    pool = _conv_bn_relu(pool, pooled, 1, f"{name}_pool_project")
    return layers.Concatenate(name=name)([branch1, branch3, branch5, pool])


def _conv_bn_relu(x, filters, kernel_size, name):
    x = conv(x, filters, kernel_size, f"{name}_conv", use_bias=True)
    return relu(batch_norm(x, f"{name}_bn"), f"{name}_relu")

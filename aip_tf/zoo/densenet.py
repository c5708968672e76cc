"""DenseNet for CIFAR (Huang et al. 2017, arXiv 1608.06993)."""

import keras
from keras import layers

from aip_tf.arguments import check, integer
from aip_tf.zoo.layers import batch_norm, classifier, conv, normalised_input, relu
from aip_tf.zoo.weights import load_weights


def densenet40(num_classes=10, *, growth_rate=12, input_shape=(32, 32, 3), weights=None):
    """DenseNet-40: three dense blocks of 12 layers. 1.06 M parameters, 283 M MACs at growth 12.

    As pruning papers use it: no bottleneck, no compression, a stem of twice the growth rate.

    Args:
        num_classes: number of logits.
        growth_rate: channels that each layer adds.
        input_shape: image shape, RGB in `[0, 1]`.
        weights: None, or a file as in `load_weights`.

    Returns:
        A Functional model, input "image", output logits. Layers of block i are named
        `dense<i>_<j>_bn`, `_relu`, `_conv`, `_concat`.

    >>> densenet40(growth_rate=4).output_shape
    (None, 10)
    """
    growth_rate = check({"growth_rate": integer(1)}, locals())["growth_rate"]
    image, x = normalised_input(input_shape)
    x = conv(x, 2 * growth_rate, 3, "conv1")
    for block in (1, 2, 3):
        for index in range(12):
            name = f"dense{block}_{index}"
            y = _bn_relu_conv(x, growth_rate, 3, name)
            x = layers.Concatenate(name=f"{name}_concat")([x, y])
        if block < 3:
            x = _bn_relu_conv(x, x.shape[-1], 1, f"transition{block}")
            x = layers.AveragePooling2D(2, name=f"transition{block}_pool")(x)
    x = relu(batch_norm(x, "bn"), "relu")
    outputs = classifier(x, num_classes, "classifier")
    return load_weights(keras.Model(image, outputs, name="densenet40"), weights)


def _bn_relu_conv(x, filters, kernel_size, name):
    x = relu(batch_norm(x, f"{name}_bn"), f"{name}_relu")
    return conv(x, filters, kernel_size, f"{name}_conv")

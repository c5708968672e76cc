"""Residual networks: for CIFAR (6n+2 layers), for ImageNet, and a small one for digits.

Sources: He et al. 2016, arXiv 1512.03385, sections 4.1 and 4.2. Layer names are PyTorch's
parameter names with "_" for ".", so that state dictionaries of `akamaster/pytorch_resnet_cifar10`
and of torchvision load by name (`aip_tf.zoo.load_state_dict`).
"""

import keras
from keras import layers

from aip_tf.arguments import Kind, check, choice, integer
from aip_tf.zoo.applications import application
from aip_tf.zoo.layers import batch_norm, classifier, conv, max_pool, normalised_input, relu
from aip_tf.zoo.weights import load_weights

_CIFAR_KINDS = {
    "depth": Kind(
        lambda depth: integer(8).accepts(depth) and depth % 6 == 2,
        "an integer 6n+2, such as 20, 32, 44, 56 or 110",
    ),
    "shortcut": choice("A", "B"),
}


def resnet20(num_classes=10, *, shortcut="A", input_shape=(32, 32, 3), weights=None):
    """CIFAR ResNet-20; see `cifar_resnet`. 0.27 M parameters, 41 M MACs."""
    return cifar_resnet(20, num_classes, shortcut, input_shape, weights)


def resnet32(num_classes=10, *, shortcut="A", input_shape=(32, 32, 3), weights=None):
    """CIFAR ResNet-32; see `cifar_resnet`. 0.46 M parameters, 69 M MACs."""
    return cifar_resnet(32, num_classes, shortcut, input_shape, weights)


def resnet44(num_classes=10, *, shortcut="A", input_shape=(32, 32, 3), weights=None):
    """CIFAR ResNet-44; see `cifar_resnet`. 0.66 M parameters, 97 M MACs."""
    return cifar_resnet(44, num_classes, shortcut, input_shape, weights)


def resnet56(num_classes=10, *, shortcut="A", input_shape=(32, 32, 3), weights=None):
    """CIFAR ResNet-56; see `cifar_resnet`. 0.85 M parameters, 125 M MACs."""
    return cifar_resnet(56, num_classes, shortcut, input_shape, weights)


def resnet110(num_classes=10, *, shortcut="A", input_shape=(32, 32, 3), weights=None):
    """CIFAR ResNet-110; see `cifar_resnet`. 1.73 M parameters, 253 M MACs."""
    return cifar_resnet(110, num_classes, shortcut, input_shape, weights)


def cifar_resnet(depth, num_classes=10, shortcut="A", input_shape=(32, 32, 3), weights=None):
    """A CIFAR ResNet of `depth` = 6n+2 layers: three stages of n basic blocks, 16-32-64 channels.

    Args:
        depth: 20, 32, 44, 56, 110 or any other 6n+2.
        num_classes: number of logits.
        shortcut: where a block changes shape, "A" subsamples and pads with zero channels (no
            parameters; the paper's choice on CIFAR), "B" projects by a 1x1 convolution with BN.
        input_shape: image shape, pixels RGB in `[0, 1]`; normalisation by ImageNet's mean and
            deviation is the model's first layer.
        weights: None, or a file as in `load_weights`.

    Returns:
        A Functional model, input "image", output logits.

    >>> cifar_resnet(20).count_params()
    271098
    """
    check(_CIFAR_KINDS, locals())
    image, x = normalised_input(input_shape)
    x = relu(batch_norm(conv(x, 16, 3, "conv1"), "bn1"), "relu1")
    blocks = [(depth - 2) // 6] * 3
    x = _stages(x, (16, 32, 64), blocks, _basic_block, _SHORTCUTS[shortcut])
    outputs = classifier(x, num_classes, "linear")
    return load_weights(keras.Model(image, outputs, name=f"resnet{depth}"), weights)


def resnet18(num_classes=1000, *, input_shape=(224, 224, 3), weights=None):
    """ImageNet ResNet-18; see `imagenet_resnet`. 11.69 M parameters, 1.81 G MACs."""
    return imagenet_resnet(18, num_classes, input_shape, weights)


def resnet34(num_classes=1000, *, input_shape=(224, 224, 3), weights=None):
    """ImageNet ResNet-34; see `imagenet_resnet`. 21.80 M parameters, 3.66 G MACs."""
    return imagenet_resnet(34, num_classes, input_shape, weights)


def resnet50(num_classes=1000, *, input_shape=(224, 224, 3), weights=None):
    """ResNet-50 by `keras.applications`: a block's stride is in its first 1x1 convolution.

    25.58 M parameters (its convolutions have biases) and 3.86 G MACs. `resnet50_v1_5` is the
    later form with 25.56 M and 4.09 G, and takes torchvision's weights.

    Args:
        num_classes: number of logits.
        input_shape: image shape, RGB in `[0, 1]`.
        weights: None, "imagenet" or a file, as in `application`.
    """
    return application("ResNet50", weights=weights, input_shape=input_shape, classes=num_classes)


def resnet50_v1_5(num_classes=1000, *, input_shape=(224, 224, 3), weights=None):
    """ImageNet ResNet-50, stride in the 3x3; see `imagenet_resnet`. 25.56 M, 4.09 G MACs."""
    return imagenet_resnet(50, num_classes, input_shape, weights)


_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def imagenet_resnet(depth, num_classes=1000, input_shape=(224, 224, 3), weights=None):
    """An ImageNet ResNet: 7x7 stem, four stages of 64-128-256-512 channels, projections (B).

    Args:
        depth: 18 or 34 (basic blocks), or 50 (bottlenecks, four times as many channels out).
        num_classes: number of logits.
        input_shape: image shape, RGB in `[0, 1]`; normalisation by ImageNet's mean and deviation
            is the model's first layer.
        weights: None, or a file as in `load_weights`; `.npz` of torchvision's state dictionary.

    Returns:
        A Functional model, input "image", output logits.

    >>> imagenet_resnet(18, num_classes=10, input_shape=(64, 64, 3)).output_shape
    (None, 10)
    """
    check({"depth": choice(*_IMAGENET_BLOCKS)}, locals())
    image, x = normalised_input(input_shape)
    x = max_pool(relu(batch_norm(conv(x, 64, 7, "conv1", 2), "bn1"), "relu"), "maxpool")
    block = _bottleneck if depth == 50 else _basic_block
    widths = (64, 128, 256, 512)
    x = _stages(x, widths, _IMAGENET_BLOCKS[depth], block, _downsample)
    outputs = classifier(x, num_classes, "fc")
    name = "resnet50_v1_5" if depth == 50 else f"resnet{depth}"
    return load_weights(keras.Model(image, outputs, name=name), weights)


def digits_resnet(num_classes=10, *, width=32, input_shape=(8, 8, 1), weights=None):
    """A small ResNet for 8x8 grey images: stem, then one basic block at each of two sizes.

    Args:
        num_classes: number of logits.
        width: channels of the stem and the first stage; the second stage has twice as many.
        input_shape: image shape, one channel, pixels in `[0, 1]`.
        weights: None, or a file as in `load_weights`.

    Returns:
        A Functional model, input "image", output logits: 77,290 parameters, 2.1 M MACs.
        `train_teacher` takes it to 99.3-99.6% on the digits' test images in 40 epochs.
    """
    width = check({"width": integer(1)}, locals())["width"]
    # Mean and variance of the digits' pixels.
    image, x = normalised_input(input_shape, mean=(0.305,), variance=(0.141,))
    x = relu(batch_norm(conv(x, width, 3, "conv1"), "bn1"), "relu1")
    x = _stages(x, (width, 2 * width), (1, 1), _basic_block, _projection)
    outputs = classifier(x, num_classes, "linear")
    return load_weights(keras.Model(image, outputs, name="digits_resnet"), weights)


def _stages(x, widths, num_blocks, block, shortcut):
    """Stages of blocks; every stage but the first halves the image in its first block."""
    for stage, (width, count) in enumerate(zip(widths, num_blocks, strict=True), start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = block(x, width, strides, shortcut, f"layer{stage}_{index}")
    return x


def _basic_block(x, filters, strides, shortcut, name):
    """Two 3x3 convolutions beside a shortcut."""
    y = conv(x, filters, 3, f"{name}_conv1", strides)
    y = relu(batch_norm(y, f"{name}_bn1"), f"{name}_relu1")
    y = batch_norm(conv(y, filters, 3, f"{name}_conv2"), f"{name}_bn2")
    if strides > 1 or x.shape[-1] != filters:
        x = shortcut(x, filters, strides, name)
    return relu(layers.Add(name=f"{name}_add")([y, x]), f"{name}_relu2")


def _bottleneck(x, filters, strides, shortcut, name):
    """1x1 down to `filters`, 3x3, 1x1 up to four times as many, beside a shortcut."""
    y = relu(batch_norm(conv(x, filters, 1, f"{name}_conv1"), f"{name}_bn1"), f"{name}_relu1")
    y = conv(y, filters, 3, f"{name}_conv2", strides)
    y = relu(batch_norm(y, f"{name}_bn2"), f"{name}_relu2")
    y = batch_norm(conv(y, 4 * filters, 1, f"{name}_conv3"), f"{name}_bn3")
    if strides > 1 or x.shape[-1] != 4 * filters:
        x = shortcut(x, 4 * filters, strides, name)
    return relu(layers.Add(name=f"{name}_add")([y, x]), f"{name}_relu3")


def _zero_padding(x, filters, strides, block):
    """Option A: every `strides`-th pixel, and zero channels on both sides."""
    name = f"{block}_shortcut"
    missing = filters - x.shape[-1]
    x = layers.AveragePooling2D(1, strides, name=f"{name}_subsample")(x)
    # ZeroPadding2D pads axes 1 and 2, so the channels go there and back.
    x = layers.Permute((3, 1, 2), name=f"{name}_channels_first")(x)
    padding = ((missing // 2, missing - missing // 2), (0, 0))
    x = layers.ZeroPadding2D(padding, data_format="channels_last", name=f"{name}_pad")(x)
    return layers.Permute((2, 3, 1), name=f"{name}_channels_last")(x)


def _projection(x, filters, strides, block, name="shortcut"):
    """Option B: a 1x1 convolution and its normalisation, entries 0 and 1 of a Sequential."""
    x = conv(x, filters, 1, f"{block}_{name}_0", strides)
    return batch_norm(x, f"{block}_{name}_1")


def _downsample(x, filters, strides, block):
    """Option B under torchvision's name."""
    return _projection(x, filters, strides, block, "downsample")


_SHORTCUTS = {"A": _zero_padding, "B": _projection}

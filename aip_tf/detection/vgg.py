"""SSD with a VGG-16 backbone, from stock Keras layers (Liu et al. 2016, arXiv 1512.02325).

The model takes RGB images with values in [0, 1] (the mean is subtracted inside) and returns a
dictionary: `boxes`, offsets (batch, num_anchors, 4), and `classes`, logits (batch, num_anchors,
num_classes + 1) with the background at 0. The order of the anchors is that of `default_boxes`.
"""

import keras
import numpy as np
from keras import layers

from aip_tf.detection.anchors import feature_sizes, shrinks_by_stride
from aip_tf.detection.blocks import ConvolutionFactory, extra_block, multibox_heads

RGB_MEAN = (123.68, 116.779, 103.939)
"""ImageNet's mean on the scale 0 to 255, on which VGG-16 was trained."""

_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def ssd300_vgg16(num_classes=20, **kwargs):
    """The paper's SSD300: 8,732 anchors, 26.3 M parameters, 31.4 G MACs for 20 classes.

    See `ssd_vgg16` for the arguments.
    """
    return ssd_vgg16(num_classes, input_size=300, **kwargs)


def ssd_vgg16(
    num_classes=20, input_size=300, width=1.0, batch_norm=False, weights=None, name="ssd_vgg16"
):
    """SSD on VGG-16, whose fully connected layers have become convolutions.

    Layers of the backbone are named as in `keras.applications.VGG16` (`block1_conv1`, ...).

    Args:
        num_classes: number of object classes, without the background.
        input_size: side of the square images, pixels, at least 33. Smaller images have fewer maps.
        width: factor on the filters of every layer but the heads, > 0.
        batch_norm: whether convolutions of backbone and extra layers are followed by
            batch normalization (and then have no bias).
        weights: `None` (random), a path for `load_weights`, or "imagenet": the backbone starts from
            `keras.applications.VGG16` (a download of 553 MB, once), see `copy_vgg16_weights`.
        name: name of the model.

    Returns:
        `keras.Model` with the outputs `boxes` and `classes`.

    Raises:
        ValueError: if a size, width or count is out of range.

    >>> model = ssd_vgg16(num_classes=3, input_size=64, width=0.0625)
    >>> {key: value.shape for key, value in sorted(model.output.items())}
    {'boxes': (None, 336, 4), 'classes': (None, 336, 4)}
    """
    if num_classes < 1 or width <= 0:
        raise ValueError(
            "A detector has classes and channels. Received: "
            f"num_classes={num_classes}, width={width}. Expected: num_classes >= 1 and width > 0."
        )
    sizes = feature_sizes(input_size)
    image = keras.Input((input_size, input_size, 3), name="image")
    conv = ConvolutionFactory(width, batch_norm)
    sources = _sources(image, sizes, conv)
    model = keras.Model(image, multibox_heads(sources, num_classes), name=name)
    if weights == "imagenet":
        copy_vgg16_weights(model, keras.applications.VGG16(weights="imagenet"))
    elif weights is not None:
        model.load_weights(weights)
    return model


def _sources(image, sizes, conv):
    fine, coarse = _backbone(image, conv)
    sources = [_scaled_to_unit_length(fine), coarse]
    x = coarse
    for k, size in enumerate(sizes[1:-1]):
        x = extra_block(x, k, shrinks_by_stride(size), conv)
        sources.append(x)
    return sources


def _backbone(image, conv):
    offset = [-value for value in RGB_MEAN]
    x = layers.Rescaling(255.0, offset=offset, name="subtract_mean")(image)
    for block, (depth, filters) in enumerate(_BLOCKS, start=1):
        for k in range(1, depth + 1):
            x = conv(x, filters, 3, f"block{block}_conv{k}")
        if block == 4:
            fine = x
        window, stride = (3, 1) if block == 5 else (2, 2)
        x = layers.MaxPooling2D(window, stride, padding="same", name=f"block{block}_pool")(x)
    x = conv(x, 1024, 3, "fc6", dilation_rate=6)
    return fine, conv(x, 1024, 1, "fc7")


def _scaled_to_unit_length(x):
    """L2 over channels times a learnt scale that starts at 20 (section 3.1 of the paper)."""
    x = layers.UnitNormalization(name="block4_norm", dtype="float32")(x)
    start = keras.initializers.Constant(20.0)
    scale = layers.DepthwiseConv2D(
        1, use_bias=False, depthwise_initializer=start, name="block4_scale"
    )
    return scale(x)


def copy_vgg16_weights(model, vgg16):
    """Start an SSD from a VGG-16 trained on ImageNet; `model` is changed in place.

    Kernels of the first convolution are turned from BGR to RGB, and the fully connected layers
    become `fc6` and `fc7` by keeping every third row, column and every fourth unit (section 3.1:
    "subsample parameters from fc6 and fc7").

    Args:
        model: an unpruned `ssd_vgg16` with `width=1.0` and `batch_norm=False`.
        vgg16: for example `keras.applications.VGG16(weights="imagenet")`; with
            `include_top=False` only the blocks are copied.

    Returns:
        Names of the layers that were filled.

    Raises:
        ValueError: if a layer's shapes differ.
    """
    names = [
        f"block{block}_conv{k}"
        for block, (depth, _) in enumerate(_BLOCKS, start=1)
        for k in range(1, depth + 1)
    ]
    found = {layer.name: layer for layer in vgg16.layers}
    new = {name: found[name].get_weights() for name in names}
    first, *rest = new[names[0]]
    new[names[0]] = [first[:, :, ::-1], *rest]
    if "fc1" in found:
        new["fc6"], new["fc7"] = _subsampled(found["fc1"], found["fc2"], new[names[-1]])
    for name, values in new.items():
        _set_weights(model.get_layer(name), values)
    return list(new)


def _subsampled(fc1, fc2, last_convolution):
    channels = last_convolution[0].shape[-1]
    kernel, bias = fc1.get_weights()
    side = round((kernel.shape[0] // channels) ** 0.5)
    spatial = np.reshape(kernel, (side, side, channels, -1))[::3, ::3, :, ::4]
    kernel2, bias2 = fc2.get_weights()
    return [spatial, bias[::4]], [kernel2[::4, ::4][None, None], bias2[::4]]


def _set_weights(layer, values):
    expected = [tuple(variable.shape) for variable in layer.weights]
    received = [value.shape for value in values]
    if expected != received:
        raise ValueError(
            f"Weights do not fit layer {layer.name!r}. Received: {received}. Expected: {expected}. "
            "Use ssd_vgg16(width=1.0, batch_norm=False) that was not pruned."
        )
    layer.set_weights(values)

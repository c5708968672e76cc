"""SSD on the features of any image classifier: small detectors that train on a few photographs."""

import keras

from aip_tf import zoo
from aip_tf.detection.anchors import feature_sizes, shrinks_by_stride
from aip_tf.detection.blocks import ConvolutionFactory, extra_block, multibox_heads
from aip_tf.game import find_taps

_WIDTH = (
    0.25  # of SSD300's extra layers: 64 to 128 channels, as wide as a small network's last maps
)


def ssd(backbone, num_classes=20, width=_WIDTH, name=None):
    """SSD on a network of yours: its last tensor of each resolution, extra layers, heads.

    Maps are those of `feature_sizes` at the network's image size, an eighth of the image and finer
    steps down; those that the network does not have are made by extra layers with batch
    normalization. What classifies in the network is left out.

    Args:
        backbone: a Functional `keras.Model` on square images, such as one of `zoo` or
            `keras.applications`; the detector shares its layers and weights.
        num_classes: number of object classes, without the background.
        width: factor on the filters of the extra layers (256 and 512, then 128 and 256), > 0.
        name: name of the model; None: "ssd_" and the network's.

    Returns:
        `keras.Model` with the outputs `boxes` and `classes`, see `multibox_heads`; its anchors are
        `default_boxes(feature_sizes(input_size))`.

    Raises:
        ValueError: if the network does not take square images of a known size, or has not the
            first two maps.

    >>> from aip_tf import zoo
    >>> ssd(zoo.resnet18(10, input_shape=(96, 96, 3)), num_classes=3).output["boxes"].shape
    (None, 1170, 4)
    """
    size = _image_size(backbone)
    if num_classes < 1 or width <= 0:
        raise ValueError(
            "A detector has classes and channels. Received: "
            f"num_classes={num_classes}, width={width}. Expected: num_classes >= 1 and width > 0."
        )
    sizes = feature_sizes(size)
    sources = _features(backbone, sizes)
    conv = ConvolutionFactory(width, batch_norm=True)
    for k in range(len(sizes) - len(sources)):
        by_stride = shrinks_by_stride(sources[-1].shape[1])
        sources.append(extra_block(sources[-1], k, by_stride, conv))
    outputs = multibox_heads(sources, num_classes)
    return keras.Model(backbone.input, outputs, name=name or f"ssd_{backbone.name}")


def ssd_mobilenet(num_classes=20, input_size=192, alpha=0.25, weights=None):
    """SSD on MobileNet (Howard et al. 2017, arXiv 1704.04861): 1.08 M parameters, 103 M MACs.

    Args:
        num_classes: number of object classes, without the background.
        input_size: side of the square images, pixels, a multiple of 32.
        alpha: width of the MobileNet: 0.25, 0.5, 0.75 or 1.0.
        weights: of the MobileNet with its 1,000 classes: None (random), "imagenet" (a download by
            `keras.applications`, once) or a file, see `zoo.application`. A whole detector is
            loaded by `load_model`.

    Raises:
        ValueError: for an image size that does not fit, or weights that cannot be had.

    >>> ssd_mobilenet(num_classes=3, input_size=64).output["classes"].shape
    (None, 378, 4)
    """
    return _on_application("MobileNet", num_classes, input_size, alpha, weights)


def ssd_mobilenet_v2(num_classes=20, input_size=192, alpha=0.35, weights=None):
    """SSD on MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): 2.84 M parameters, 197 M MACs.

    See `ssd_mobilenet` for the arguments; `alpha` is 0.35, 0.5, 0.75 or more.
    """
    return _on_application("MobileNetV2", num_classes, input_size, alpha, weights)


def _on_application(name, num_classes, input_size, alpha, weights):
    shape = (input_size, input_size, 3)
    backbone = zoo.application(name, weights=weights, input_shape=shape, alpha=alpha)
    return ssd(backbone, num_classes, name=f"ssd_{name.lower()}")


def _image_size(backbone):
    shape = getattr(backbone, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise ValueError(
            f"Received a network that takes {shape}. Expected one square image of a known size, "
            "(batch, size, size, channels): build it with input_shape=(192, 192, 3), say."
        )
    return shape[1]


def _features(backbone, sizes):
    """The network's last tensors of the first of these sizes, at least two of them."""
    last = {}
    for path in find_taps(backbone):
        if "/" not in path:  # what is inside of a nested model is no tensor of this one
            x = backbone.get_layer(path).output
            last[x.shape[1]] = x
    found = [size for size in sizes if size in last]
    if len(found) < 2 or found != list(sizes[: len(found)]):
        raise ValueError(
            f"SSD detects on maps of {sizes} at {backbone.input_shape[1]} pixels. Received the "
            f"network {backbone.name!r} with maps of {tuple(last)}. Expected at least the first "
            "two: an image size that is a multiple of 32, and convolutions that pad."
        )
    return [last[size] for size in found]

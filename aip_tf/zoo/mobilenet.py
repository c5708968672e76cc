"""MobileNets: small networks of depthwise convolutions, by `keras.applications`."""

from aip_tf.arguments import check, number
from aip_tf.zoo.applications import application


def mobilenet_v2(num_classes=1000, *, alpha=1.0, input_shape=(224, 224, 3), weights=None):
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381). 3.50 M parameters, 301 M MACs.

    Args:
        num_classes: number of logits.
        alpha: width multiplier.
        input_shape: image shape, RGB in `[0, 1]`; scaling to `[-1, 1]` happens inside.
        weights: None, "imagenet" or a file, as in `application`.

    >>> mobilenet_v2(10, alpha=0.35, input_shape=(32, 32, 3)).output_shape
    (None, 10)
    """
    check({"alpha": number("a number > 0", above=0)}, locals())
    return application(
        "MobileNetV2", weights=weights, input_shape=input_shape, classes=num_classes, alpha=alpha
    )

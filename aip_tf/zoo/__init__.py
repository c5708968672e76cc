"""Networks of stock Keras layers: images in `[0, 1]` in, normalised inside, logits out.

Parameters are counted here as papers do, the trainable ones alone.
"""

from aip_tf.zoo.applications import application, application_names
from aip_tf.zoo.densenet import densenet40
from aip_tf.zoo.googlenet import googlenet
from aip_tf.zoo.mobilenet import mobilenet_v2
from aip_tf.zoo.resnet import (
    cifar_resnet,
    digits_resnet,
    imagenet_resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet50_v1_5,
    resnet56,
    resnet110,
)
from aip_tf.zoo.vgg import vgg16, vgg19
from aip_tf.zoo.weights import load_state_dict, load_weights

_HELPERS = [
    "application",
    "application_names",
    "builder_names",
    "cifar_resnet",
    "imagenet_resnet",
    "load_state_dict",
    "load_weights",
]
__all__ = [
    "application",
    "application_names",
    "builder_names",
    "cifar_resnet",
    "densenet40",
    "digits_resnet",
    "googlenet",
    "imagenet_resnet",
    "load_state_dict",
    "load_weights",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet50_v1_5",
    "resnet56",
    "resnet110",
    "vgg16",
    "vgg19",
]


def builder_names():
    """The zoo's networks, sorted by name: each is built by `getattr(zoo, name)()`.

    >>> "resnet56" in builder_names()
    True
    """
    return [name for name in __all__ if name not in _HELPERS]

"""Networks of stock Keras layers; images RGB in `[0, 1]` in, logits out."""

from aip_tf.zoo.applications import (
    application,
    application_names,
    mobilenet_v2,
    resnet50,
)
from aip_tf.zoo.resnet import (
    cifar_resnet,
    digits_resnet,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)
from aip_tf.zoo.weights import load_state_dict, load_weights

__all__ = [
    "application",
    "application_names",
    "builder_names",
    "cifar_resnet",
    "digits_resnet",
    "load_state_dict",
    "load_weights",
    "mobilenet_v2",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
]


def builder_names():
    """The zoo's own networks, by name: what `getattr(zoo, name)(weights=...)` builds."""
    helpers = {"application", "application_names", "builder_names", "cifar_resnet"}
    return sorted(set(__all__) - helpers - {"load_state_dict", "load_weights"})

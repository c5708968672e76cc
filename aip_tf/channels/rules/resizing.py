"""Windows over spatial axes: pooling, up-sampling, resizing."""

from keras import layers

from aip_tf.channels.identities import spread
from aip_tf.channels.rules.table import operations, register_channel_rule, stock_layers


def resized(call, x, first):
    """The channels of `x` on a map of another size, if they do not lie on the spatial axes."""
    axis = 1 if first else -1
    return spread(call.channels(x, axis), call.shape, axis)


_POOLING = [
    f"{kind}Pooling{rank}D"
    for kind in ("Average", "Max", "AdaptiveAverage", "AdaptiveMax")
    for rank in (1, 2, 3)
]

_SPATIAL = """
    CenterCrop RandomCrop RandomElasticTransform RandomFlip RandomPerspective RandomRotation
    RandomShear RandomTranslation RandomZoom
"""


@register_channel_rule(
    *stock_layers(*_POOLING),
    *stock_layers(*_SPATIAL.split()),
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Resizing,
    *operations(
        "AdaptiveAveragePool",
        "AdaptiveMaxPool",
        "AveragePool",
        "CropImages",
        "GaussianBlur",
        "MaxPool",
        "PadImages",
        "Resize",
    ),
)
def window(call, x):
    """Every channel by itself, on a map of another size."""
    return resized(call, x, call.operation.data_format == "channels_first")


@register_channel_rule(layers.UpSampling1D)
def upsampling_steps(call, x):
    """Steps repeated; the channels are last."""
    return resized(call, x, first=False)

"""Stock layers whose channels are kept whole: for each kind the reason, as `reason` shows it."""

from keras import layers

from aip_tf.channels.rules.table import keep_all, register_channel_rule, stock_layers

_WHY = {
    "turns values into categories": """
        CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup
        TextVectorization
    """,
    "takes its channels for colors": """
        AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization MixUp
        RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
        RandomErasing RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
        RandomPosterization RandomSaturation RandomSharpness Solarization
    """,
    "works on boxes": "MaxNumBoundingBoxes",
    "turns sound into frequencies": "MelSpectrogram STFTSpectrogram",
    "computes outside of Keras": "FlaxLayer JaxLayer TFSMLayer TorchModuleWrapper",
}


def _kept_whole(why):
    def rule(call, *args, **kwargs):
        return keep_all(call, f"{call.label} {why}")

    rule.__doc__ = f"The layer {why}."
    return rule


for _why, _names in _WHY.items():
    register_channel_rule(*stock_layers(*_names.split()))(_kept_whole(_why))


@register_channel_rule(layers.Masking)
def masking(call, x):
    """Whether a step is absent depends on all its entries along the last axis."""
    if call.settle(x) == x.ndim - 1:
        call.pin(x, f"{call.label} asks all of these channels which steps are absent")
    return x

"""What every SSD is made of: convolutions, extra blocks that shrink the map, and the heads."""

from keras import layers

from aip_tf.detection.anchors import boxes_per_cell

_EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256))


def multibox_heads(sources, num_classes):
    """Predictions on several feature maps, as one pair of outputs: for a backbone of your own.

    Args:
        sources: three or more tensors (batch, size, size, channels), finest first.
        num_classes: number of object classes, without the background.

    Returns:
        `{"boxes": (batch, num_anchors, 4), "classes": (batch, num_anchors, num_classes + 1)}`,
        float32, in the order of `default_boxes([source.shape[1] for source in sources])`.
    """
    counts = boxes_per_cell(len(sources))
    outputs = {}
    for output, depth in (("boxes", 4), ("classes", num_classes + 1)):
        flat = []
        for k, (source, count) in enumerate(zip(sources, counts, strict=True)):
            head = f"head{k + 1}_{output}"
            x = layers.Conv2D(count * depth, 3, padding="same", name=head)(source)
            flat.append(layers.Reshape((-1, depth), name=f"{head}_flat")(x))
        # float32 under every policy: losses, softmax and box arithmetic need the range.
        outputs[output] = layers.Concatenate(axis=1, name=output, dtype="float32")(flat)
    return outputs


class ConvolutionFactory:
    """Convolution, optional batch normalization, ReLU, with the width applied."""

    def __init__(self, width, batch_norm):
        self.width = width
        self.batch_norm = batch_norm

    def __call__(self, x, filters, kernel_size, name, **kwargs):
        filters = max(1, round(filters * self.width))
        kwargs = {"padding": "same", "use_bias": not self.batch_norm, **kwargs}
        x = layers.Conv2D(filters, kernel_size, name=name, **kwargs)(x)
        if self.batch_norm:
            x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)


def extra_block(x, index, by_stride, conv):
    """The next smaller map behind a backbone: a 1x1 convolution, then a 3x3 one (SSD, section 2.1).

    Args:
        x: the map before, (batch, size, size, channels).
        index: which block it is, from 0; the first is twice as wide as the others.
        by_stride: whether the 3x3 convolution halves the map, or takes two off its size.
        conv: a `ConvolutionFactory`.

    Returns:
        (batch, about size / 2 or size - 2, the same, wide channels).
    """
    narrow, wide = _EXTRAS[min(index, len(_EXTRAS) - 1)]
    block = f"extra{index + 1}"
    x = conv(x, narrow, 1, f"{block}_conv1")
    if not by_stride:
        return conv(x, wide, 3, f"{block}_conv2", padding="valid")
    # Padded on both sides, as Caffe does; "same" would pad an even map on one side only.
    x = layers.ZeroPadding2D(1, name=f"{block}_pad")(x)
    return conv(x, wide, 3, f"{block}_conv2", padding="valid", strides=2)

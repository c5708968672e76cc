"""The few layer pairs that all networks of the zoo are made of."""

from keras import initializers, layers

from aip_tf.arguments import Kind, check, integer

# Mean and variance of ImageNet's training images, for RGB in [0, 1].
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_VARIANCE = (0.229**2, 0.224**2, 0.225**2)


def normalised_input(input_shape, mean=RGB_MEAN, variance=RGB_VARIANCE):
    """An input named "image" for pixels in `[0, 1]`, and its normalised value."""
    check({"input_shape": image_shape(len(mean))}, locals())
    image = layers.Input(input_shape, name="image")
    return image, layers.Normalization(mean=mean, variance=variance, name="normalise")(image)


def image_shape(channels):
    """The kind of a shape of channels-last images; open sizes are None."""
    size = integer(1, or_none=True)

    def accepts(shape):
        is_triple = isinstance(shape, list | tuple) and len(shape) == 3
        return is_triple and shape[2] == channels and all(map(size.accepts, shape[:2]))

    return Kind(accepts, f"(height, width, {channels}), as this network takes channels-last images")


def conv(x, filters, kernel_size, name, strides=1, use_bias=False):
    """A convolution that pads as PyTorch does: the same number of zeros on both sides."""
    padding = "same"
    if strides > 1 and kernel_size > 1:
        # "same" pads only right and below at stride 2, and imported weights would be off by one.
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=initializers.HeNormal(),
        name=name,
    )(x)


def batch_norm(x, name):
    """Batch normalisation with PyTorch's epsilon and the momentum its 0.1 stands for."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def relu(x, name):
    """A ReLU layer."""
    return layers.ReLU(name=name)(x)


def max_pool(x, name):
    """3x3 maximum over stride 2, padded on both sides; for inputs that are never negative."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, 2, name=name)(x)


def classifier(x, num_classes, name):
    """Global average, then a Dense layer of logits named `name`."""
    num_classes = check({"num_classes": integer(1)}, locals())["num_classes"]
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return layers.Dense(num_classes, name=name)(x)

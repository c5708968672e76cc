"""Programs like keras.io's that classify or find things in images."""

import functools

import keras
from keras import layers, ops

from wild_models import EXAMPLES, called, floats, wild

example = functools.partial(wild, EXAMPLES)
IMAGE = (32, 32, 3)


@example()
def io_mnist_convnet():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(24, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )


@example()
def io_small_xception():
    """Image classification from scratch."""
    image = keras.Input((48, 48, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same")(layers.Rescaling(1 / 255)(image))
    x = before = layers.Activation("relu")(layers.BatchNormalization()(x))
    for width in (24, 32):
        for _ in range(2):
            x = layers.SeparableConv2D(width, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        before = layers.Conv2D(width, 1, strides=2, padding="same")(before)
        x = before = layers.add([x, before])
    x = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(40, 3, activation="relu")(x))
    return keras.Model(image, layers.Dense(1)(layers.Dropout(0.25)(x)))


class WeightStandardizedConv2D(layers.Conv2D):
    """Its kernel is normalised for each output channel before use."""

    def convolution_op(self, inputs, kernel):
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) / ops.sqrt(variance + 1e-10))


@example()
def io_big_transfer():
    image = keras.Input(IMAGE)
    x = WeightStandardizedConv2D(16, 3, padding="same")(image)
    for width, strides in ((24, 2), (32, 2)):
        y = layers.Activation("relu")(layers.GroupNormalization(4)(x))
        short = WeightStandardizedConv2D(width, 1, strides=strides)(y)
        y = WeightStandardizedConv2D(8, 1)(y)
        y = layers.Activation("relu")(layers.GroupNormalization(4)(y))
        y = WeightStandardizedConv2D(8, 3, strides=strides, padding="same")(y)
        y = layers.Activation("relu")(layers.GroupNormalization(4)(y))
        x = WeightStandardizedConv2D(width, 1)(y) + short
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu")(layers.GroupNormalization(4)(x)))
    return keras.Model(image, layers.Dense(10)(x))


class Involution(layers.Layer):
    """A kernel made for each pixel, shared by the channels of a group."""

    def __init__(self, channels, num_groups=2, size=3, ratio=2, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.num_groups, self.size = channels, num_groups, size
        self.generator = keras.Sequential(
            [
                layers.Conv2D(channels // ratio, 1),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(size * size * num_groups, 1),
            ]
        )

    def call(self, x):
        _, h, w, _ = x.shape
        area, each = self.size**2, self.channels // self.num_groups
        kernel = ops.reshape(self.generator(x), (-1, h, w, area, 1, self.num_groups))
        patches = ops.image.extract_patches(x, self.size, strides=1, padding="same")
        patches = ops.reshape(patches, (-1, h, w, area, each, self.num_groups))
        return ops.reshape(ops.sum(kernel * patches, axis=3), (-1, h, w, self.channels))


@example()
def io_involution():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.MaxPooling2D()(layers.ReLU()(Involution(8)(x)))
    x = layers.ReLU()(Involution(8)(x))
    x = layers.Dense(24, activation="relu")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10)(x))


def inverted_residual(x, expanded, width, strides=1):
    y = layers.Conv2D(expanded, 1, use_bias=False)(x)
    y = keras.activations.swish(layers.BatchNormalization()(y))
    if strides == 2:
        y = layers.ZeroPadding2D(((0, 1), (0, 1)))(y)
    y = layers.DepthwiseConv2D(
        3, strides=strides, padding="same" if strides == 1 else "valid", use_bias=False
    )(y)
    y = keras.activations.swish(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(width, 1, use_bias=False)(y))
    return layers.Add()([y, x]) if strides == 1 and x.shape[-1] == width else y


def mobilevit_block(x, width):
    local = layers.Conv2D(x.shape[-1], 3, padding="same", activation="swish")(x)
    local = layers.Conv2D(width, 1, activation="swish")(local)
    patches = layers.Reshape((4, local.shape[1] * local.shape[2] // 4, width))(local)
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(patches)
        patches = layers.Add()([layers.MultiHeadAttention(2, width // 2)(y, y), patches])
        y = layers.LayerNormalization(epsilon=1e-6)(patches)
        y = layers.Dense(width)(layers.Dense(2 * width, activation="swish")(y))
        patches = layers.Add()([y, patches])
    folded = layers.Reshape((*local.shape[1:3], width))(patches)
    folded = layers.Conv2D(x.shape[-1], 1, activation="swish")(folded)
    both = layers.Concatenate(axis=-1)([x, folded])
    return layers.Conv2D(width, 3, padding="same", activation="swish")(both)


@example()
def io_mobilevit():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="swish")(image)
    x = inverted_residual(x, 16, 12, strides=2)
    x = inverted_residual(x, 24, 12)
    x = mobilevit_block(x, 16)
    x = layers.Conv2D(32, 1, activation="swish")(x)
    return keras.Model(image, layers.Dense(5)(layers.GlobalAvgPool2D()(x)))


class FeaturePyramid(layers.Layer):
    """Three levels of features, each adding the coarser one."""

    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.lateral = [layers.Conv2D(width, 1) for _ in range(3)]
        self.smooth = [layers.Conv2D(width, 3, padding="same") for _ in range(3)]
        self.coarser = layers.Conv2D(width, 3, 2, "same")
        self.up = layers.UpSampling2D(2)

    def call(self, levels):
        fine, middle, coarse = (f(x) for f, x in zip(self.lateral, levels, strict=True))
        middle = middle + self.up(coarse)
        fine = fine + self.up(middle)
        found = [f(x) for f, x in zip(self.smooth, (fine, middle, coarse), strict=True)]
        return [*found, self.coarser(ops.relu(found[-1]))]


def detection_head(num_outputs, bias):
    head = keras.Sequential([keras.Input((None, None, 16))])
    for _ in range(2):
        head.add(layers.Conv2D(16, 3, padding="same"))
        head.add(layers.ReLU())
    head.add(layers.Conv2D(num_outputs, 3, padding="same", bias_initializer=bias))
    return head


class RetinaNetLike(keras.Model):
    """A subclassed detector around a Functional backbone; its heads serve every level."""

    def __init__(self, backbone, num_classes=4, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.backbone, self.pyramid = backbone, FeaturePyramid()
        prior = keras.initializers.Constant(-4.6)
        self.classes = detection_head(6 * num_classes, prior)
        self.boxes = detection_head(6 * 4, "zeros")

    def call(self, images, training=False):
        boxes, classes = [], []
        for feature in self.pyramid(self.backbone(images, training=training)):
            boxes.append(ops.reshape(self.boxes(feature), (ops.shape(images)[0], -1, 4)))
            scores = ops.reshape(
                self.classes(feature), (ops.shape(images)[0], -1, self.num_classes)
            )
            classes.append(scores)
        return ops.concatenate(
            [ops.concatenate(boxes, axis=1), ops.concatenate(classes, axis=1)], axis=-1
        )


def stages(image=(64, 64, 3)):
    inputs = keras.Input(image)
    x, found = inputs, []
    for width in (8, 12, 16, 24, 32):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        found.append(x)
    return keras.Model(inputs, found[2:])


@example()
def io_retinanet():
    return called(RetinaNetLike(stages()), floats(64, 64, 3))


@example()
def io_keypoints():
    """A backbone of keras.applications and separable convolutions on top."""
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(96, 96, 3), alpha=0.35
    )
    image = keras.Input((96, 96, 3))
    x = backbone(keras.applications.mobilenet_v2.preprocess_input(image))
    x = layers.Dropout(0.3)(x)
    x = layers.SeparableConv2D(24, kernel_size=2, strides=1, activation="relu")(x)
    return keras.Model(image, layers.SeparableConv2D(6, kernel_size=2, strides=1)(x))


class DistanceLayer(layers.Layer):
    """Squared distances anchor to positive, anchor to negative."""

    def call(self, anchor, positive, negative):
        near = ops.sum(ops.square(anchor - positive), -1)
        return near, ops.sum(ops.square(anchor - negative), -1)


@example()
def io_siamese():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(12, 3, strides=2, activation="relu")(image)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.BatchNormalization()(layers.Dense(24, activation="relu")(layers.Flatten()(x)))
    embedding = keras.Model(image, layers.Dense(8)(x), name="embedding")
    triple = [keras.Input(IMAGE, name=name) for name in ("anchor", "positive", "negative")]
    return keras.Model(triple, DistanceLayer()(*map(embedding, triple)))


@example()
def io_multiple_instances():
    """A bag of images: attention over what one shared network says of each."""
    bag = [keras.Input((16, 16)) for _ in range(3)]
    hidden, embed = layers.Dense(24, activation="relu"), layers.Dense(16, activation="relu")
    found = [embed(hidden(layers.Flatten()(x))) for x in bag]
    weights = BagAttention(8)(found)
    scaled = [layers.multiply([w, x]) for w, x in zip(weights, found, strict=True)]
    return keras.Model(bag, layers.Dense(2)(layers.concatenate(scaled)))


class BagAttention(layers.Layer):
    """Weights of instances that sum to one, from gated projections."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shapes):
        depth = shapes[0][1]
        self.v = self.add_weight(shape=(depth, self.width), name="v")
        self.u = self.add_weight(shape=(depth, self.width), name="u")
        self.w = self.add_weight(shape=(self.width, 1), name="w")

    def call(self, instances):
        scores = [self.score(x) for x in instances]
        weights = ops.softmax(ops.stack(scores), axis=0)
        return [weights[i] for i in range(len(scores))]

    def score(self, x):
        gated = ops.tanh(x @ self.v) * ops.sigmoid(x @ self.u)
        return gated @ self.w

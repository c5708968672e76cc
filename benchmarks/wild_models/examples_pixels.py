"""Programs like keras.io's that make images, masks, volumes or frames."""

import functools

import keras
from keras import layers, ops

from wild_models import EXAMPLES, called, floats, uniform, wild

example = functools.partial(wild, EXAMPLES)
IMAGE = (32, 32, 3)


@example()
def io_unet_xception():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(image)
    x = before = layers.Activation("relu")(layers.BatchNormalization()(x))
    for width in (12, 16):
        for _ in range(2):
            x = layers.SeparableConv2D(width, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = before = layers.add([x, layers.Conv2D(width, 1, strides=2, padding="same")(before)])
    for width in (16, 12, 8):
        for _ in range(2):
            x = layers.Conv2DTranspose(width, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        short = layers.Conv2D(width, 1, padding="same")(layers.UpSampling2D(2)(before))
        x = before = layers.add([x, short])
    return keras.Model(image, layers.Conv2D(3, 3, padding="same")(x))


def dilated(x, width=16, kernel=3, rate=1, use_bias=False):
    x = layers.Conv2D(width, kernel, dilation_rate=rate, padding="same", use_bias=use_bias)(x)
    return ops.nn.relu(layers.BatchNormalization()(x))


@example()
def io_deeplab():
    """DeepLabV3+ on a ResNet whose layers are looked up by name."""
    image = keras.Input((64, 64, 3))
    x = keras.applications.resnet.preprocess_input(image)
    resnet = keras.applications.ResNet50(weights=None, include_top=False, input_tensor=x)
    x = resnet.get_layer("conv4_block6_2_relu").output
    pooled = layers.AveragePooling2D(pool_size=(x.shape[-3], x.shape[-2]))(x)
    pooled = dilated(pooled, kernel=1, use_bias=True)
    pooled = layers.UpSampling2D((x.shape[-3], x.shape[-2]), interpolation="bilinear")(pooled)
    branches = [dilated(x, rate=rate, kernel=1 if rate == 1 else 3) for rate in (1, 6, 12)]
    x = dilated(layers.Concatenate(axis=-1)([pooled, *branches]), kernel=1)
    x = layers.UpSampling2D((4, 4), interpolation="bilinear")(x)
    low = dilated(resnet.get_layer("conv2_block3_2_relu").output, width=8, kernel=1)
    x = dilated(dilated(layers.Concatenate(axis=-1)([x, low])))
    x = layers.UpSampling2D((4, 4), interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(5, 1, padding="same")(x))


class DepthToSpace(layers.Layer):
    """Channels become pixels."""

    def __init__(self, block, **kwargs):
        super().__init__(**kwargs)
        self.block = block

    def call(self, x):
        _, height, width, depth = x.shape
        n, left = self.block, depth // self.block**2
        x = ops.reshape(x, (-1, height, width, n, n, left))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * n, width * n, left))


@example()
def io_super_resolution():
    image = keras.Input((16, 16, 1))
    options = {"activation": "relu", "kernel_initializer": "orthogonal", "padding": "same"}
    x = layers.Conv2D(24, 5, **options)(image)
    x = layers.Conv2D(24, 3, **options)(x)
    x = layers.Conv2D(12, 3, **options)(x)
    x = layers.Conv2D(9, 3, **options)(x)
    return keras.Model(image, DepthToSpace(3)(x))


@example()
def io_enhanced_super_resolution():
    """EDSR: residual blocks and pixel shuffles by a Lambda."""
    image = keras.Input((16, 16, 3))
    x = before = layers.Conv2D(16, 3, padding="same")(layers.Rescaling(1 / 255)(image))
    for _ in range(2):
        y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)])
    x = layers.Add()([layers.Conv2D(16, 3, padding="same")(x), before])
    x = DepthToSpace(2)(layers.Conv2D(64, 3, padding="same")(x))
    x = layers.Conv2D(3, 3, padding="same")(x)
    return keras.Model(image, layers.Rescaling(255)(x))


@example()
def io_autoencoder():
    image = keras.Input((28, 28, 1))
    x = image
    for _ in range(2):
        x = layers.Conv2D(16, 3, activation="relu", padding="same")(x)
        x = layers.MaxPooling2D(2, padding="same")(x)
    for _ in range(2):
        x = layers.Conv2DTranspose(16, 3, strides=2, activation="relu", padding="same")(x)
    return keras.Model(image, layers.Conv2D(1, 3, activation="sigmoid", padding="same")(x))


class Sampling(layers.Layer):
    """A random point around a mean."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs, training=False):
        mean, spread = inputs
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * spread) * noise


class VAE(keras.Model):
    """Two models in one, called in turn."""

    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, images):
        mean, spread, point = self.encoder(images)
        return self.decoder(point), mean, spread


@example()
def io_vae():
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(12, 3, activation="relu", strides=2, padding="same")(image)
    x = layers.Conv2D(16, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    mean, spread = layers.Dense(4, name="mean")(x), layers.Dense(4, name="spread")(x)
    encoder = keras.Model(image, [mean, spread, Sampling()([mean, spread])], name="encoder")
    point = keras.Input((4,))
    x = layers.Reshape((7, 7, 16))(layers.Dense(7 * 7 * 16, activation="relu")(point))
    x = layers.Conv2DTranspose(16, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(12, 3, activation="relu", strides=2, padding="same")(x)
    decoder = keras.Model(point, layers.Conv2DTranspose(1, 3, padding="same")(x), name="decoder")
    return called(VAE(encoder, decoder), floats(28, 28, 1))


def selective_fusion(branches):
    total = layers.Add()(branches)
    pooled = layers.Reshape((1, 1, -1))(layers.GlobalAveragePooling2D()(total))
    squeezed = layers.Conv2D(8, 1, activation="relu")(pooled)
    gates = [layers.Conv2D(total.shape[-1], 1, activation="softmax")(squeezed) for _ in branches]
    return layers.Add()([layers.Multiply()([x, g]) for x, g in zip(branches, gates, strict=True)])


def dual_attention(x):
    width = x.shape[-1]
    y = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(width, 3, padding="same")(y)
    mean = ops.mean(y, axis=-1, keepdims=True)
    peak = ops.max(y, axis=-1, keepdims=True)
    place = layers.Conv2D(1, 1, activation="sigmoid")(ops.concatenate([mean, peak], axis=-1))
    channel = layers.Reshape((1, 1, width))(layers.GlobalAveragePooling2D()(y))
    channel = layers.Conv2D(width // 4, 1, activation="relu")(channel)
    channel = layers.Conv2D(width, 1, activation="sigmoid")(channel)
    both = layers.Concatenate(axis=-1)([y * place, y * channel])
    return layers.Add()([x, layers.Conv2D(width, 1)(both)])


@example()
def io_mirnet():
    image = keras.Input(IMAGE)
    top = before = layers.Conv2D(16, 3, padding="same")(image)
    for _ in range(2):
        low = layers.Conv2D(24, 3, padding="same")(layers.MaxPooling2D()(top))
        low = layers.UpSampling2D(interpolation="bilinear")(dual_attention(low))
        low = layers.Conv2D(16, 1)(low)
        fused = selective_fusion([dual_attention(top), low])
        top = layers.Add()([top, layers.Conv2D(16, 3, padding="same")(fused)])
    x = layers.Add()([layers.Conv2D(16, 3, padding="same")(top), before])
    x = layers.Conv2D(3, 3, padding="same")(x)
    return keras.Model(image, layers.Add()([image, x]))


class ZeroDCE(keras.Model):
    """Low light: a network draws curves, the model applies them in turn."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        image = keras.Input(IMAGE)
        first = layers.Conv2D(12, 3, activation="relu", padding="same")(image)
        second = layers.Conv2D(12, 3, activation="relu", padding="same")(first)
        third = layers.Conv2D(12, 3, activation="relu", padding="same")(second)
        x = layers.Concatenate(axis=-1)([third, second])
        x = layers.Conv2D(12, 3, activation="relu", padding="same")(x)
        x = layers.Concatenate(axis=-1)([x, first])
        x = layers.Conv2D(24, 3, activation="tanh", padding="same")(x)
        self.curves = keras.Model(image, x)

    def call(self, images):
        x = images
        for curve in ops.split(self.curves(images), 8, axis=-1):
            x = x + curve * (ops.square(x) - x)
        return x


@example()
def io_zero_dce():
    return called(ZeroDCE(), uniform(*IMAGE))


@example()
def io_nerf():
    """A perceptron that reads its input again half way."""
    ray = keras.Input((12, 15))
    x = ray
    for i in range(6):
        x = layers.Dense(24, activation="relu")(x)
        if i == 3:
            x = layers.concatenate([x, ray], axis=-1)
    return keras.Model(ray, layers.Dense(4)(x))


class ReflectionPadding(layers.Layer):
    def __init__(self, padding=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.padding = tuple(padding)

    def call(self, x):
        width, height = self.padding
        return ops.pad(x, [[0, 0], [height, height], [width, width], [0, 0]], mode="reflect")


@example()
def io_cyclegan():
    """A generator: reflected borders, group normalisation, residual blocks."""

    def normed(x):
        return layers.GroupNormalization(groups=-1)(x)

    image = keras.Input(IMAGE)
    x = layers.Conv2D(8, 7, use_bias=False)(ReflectionPadding((3, 3))(image))
    x = layers.Activation("relu")(normed(x))
    for width in (12, 16):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(normed(x))
    for _ in range(2):
        y = layers.Conv2D(16, 3, use_bias=False)(ReflectionPadding()(x))
        y = layers.Activation("relu")(normed(y))
        y = normed(layers.Conv2D(16, 3, use_bias=False)(ReflectionPadding()(y)))
        x = layers.add([x, y])
    for width in (12, 8):
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(normed(x))
    x = layers.Conv2D(3, 7)(ReflectionPadding((3, 3))(x))
    return keras.Model(image, layers.Activation("tanh")(x))


def noise_embedding(x):
    frequencies = ops.exp(ops.linspace(0.0, 6.0, 4))
    angles = 2.0 * 3.14159 * frequencies * x
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=3)


def residual(x, width):
    short = x if x.shape[3] == width else layers.Conv2D(width, 1)(x)
    y = layers.BatchNormalization(center=False, scale=False)(x)
    y = layers.Conv2D(width, 3, padding="same", activation=keras.activations.swish)(y)
    return layers.Add()([layers.Conv2D(width, 3, padding="same")(y), short])


@example()
def io_denoising_diffusion():
    image, noise = keras.Input((16, 16, 3)), keras.Input((1, 1, 1))
    code = layers.Lambda(noise_embedding, output_shape=(1, 1, 8))(noise)
    code = layers.UpSampling2D(size=16, interpolation="nearest")(code)
    x = layers.Concatenate()([layers.Conv2D(8, 1)(image), code])
    skips = []
    for width in (8, 12):
        x = residual(x, width)
        skips.append(x)
        x = layers.AveragePooling2D(pool_size=2)(x)
    x = residual(x, 16)
    for width in (12, 8):
        x = layers.UpSampling2D(size=2, interpolation="bilinear")(x)
        x = residual(layers.Concatenate()([x, skips.pop()]), width)
    return keras.Model([image, noise], layers.Conv2D(3, 1, kernel_initializer="zeros")(x))


@example()
def io_ct_scan():
    volume = keras.Input((24, 24, 12, 1))
    x = volume
    for width in (8, 12):
        x = layers.Conv3D(width, 3, activation="relu")(x)
        x = layers.BatchNormalization()(layers.MaxPool3D(pool_size=2)(x))
    x = layers.Dense(24, activation="relu")(layers.GlobalAveragePooling3D()(x))
    return keras.Model(volume, layers.Dense(1)(layers.Dropout(0.3)(x)))


@example()
def io_next_frame():
    frames = keras.Input((5, 16, 16, 1))
    x = layers.ConvLSTM2D(8, 5, padding="same", return_sequences=True, activation="relu")(frames)
    x = layers.BatchNormalization()(x)
    x = layers.ConvLSTM2D(8, 3, padding="same", return_sequences=True, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ConvLSTM2D(8, 1, padding="same", return_sequences=True, activation="relu")(x)
    return keras.Model(frames, layers.Conv3D(1, 3, padding="same")(x))

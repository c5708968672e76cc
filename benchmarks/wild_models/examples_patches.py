"""Programs like keras.io's on patches of images: mixers and vision transformers."""

import functools

import keras
import numpy as np
from keras import layers, ops

from wild_models import EXAMPLES, called, floats, wild

example = functools.partial(wild, EXAMPLES)
IMAGE = (32, 32, 3)


class Patches(layers.Layer):
    """Square patches of an image, each a flat vector."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        patches = ops.image.extract_patches(images, self.size)
        batch, height, width, depth = ops.shape(patches)
        return ops.reshape(patches, (batch, height * width, depth))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


class PatchEncoder(layers.Layer):
    """A projection of patches, plus a learned vector for each place."""

    def __init__(self, num_patches, width, **kwargs):
        super().__init__(**kwargs)
        self.num_patches, self.width = num_patches, width
        self.projection = layers.Dense(width)
        self.position = layers.Embedding(num_patches, width)

    def call(self, patches):
        places = ops.expand_dims(ops.arange(self.num_patches), 0)
        return self.projection(patches) + self.position(places)

    def get_config(self):
        sizes = {"num_patches": self.num_patches, "width": self.width}
        return {**super().get_config(), **sizes}


def mlp(x, widths, rate=0.1):
    for width in widths:
        x = layers.Dropout(rate)(layers.Dense(width, activation=keras.activations.gelu)(x))
    return x


def augmentation():
    return keras.Sequential(
        [layers.Normalization(mean=0.1, variance=1.5), layers.RandomFlip("horizontal")],
        name="augmentation",
    )


@example()
def io_vision_transformer():
    image = keras.Input(IMAGE)
    x = PatchEncoder(16, 24)(Patches(8)(augmentation()(image)))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(4, 6, dropout=0.1)(y, y), x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([mlp(y, [48, 24]), x])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = mlp(layers.Dropout(0.5)(x), [64, 32], 0.5)
    return keras.Model(image, layers.Dense(10)(x))


class MixerLayer(layers.Layer):
    """Mixes the patches, then the channels."""

    def __init__(self, num_patches, width, **kwargs):
        super().__init__(**kwargs)
        self.over_patches = keras.Sequential(
            [layers.Dense(num_patches, activation="gelu"), layers.Dense(num_patches)]
        )
        self.over_channels = keras.Sequential(
            [layers.Dense(2 * width, activation="gelu"), layers.Dense(width), layers.Dropout(0.2)]
        )
        self.norm = layers.LayerNormalization(epsilon=1e-6)

    def call(self, x):
        mixed = self.over_patches(ops.transpose(self.norm(x), (0, 2, 1)))
        x = x + ops.transpose(mixed, (0, 2, 1))
        return x + self.over_channels(self.norm(x))


class FNetLayer(layers.Layer):
    """Mixes by the real part of a Fourier transform over patches and channels."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.ffn = keras.Sequential(
            [layers.Dense(2 * width, activation="gelu"), layers.Dense(width)]
        )
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, x):
        real, _ = ops.fft2((x, ops.zeros_like(x)))
        x = self.first(x + real)
        return self.second(x + self.ffn(x))


class GatedLayer(layers.Layer):
    """gMLP: one half of the channels gates the other, mixed over the patches."""

    def __init__(self, num_patches, width, **kwargs):
        super().__init__(**kwargs)
        self.inward = keras.Sequential([layers.Dense(2 * width, activation="gelu")])
        self.outward = layers.Dense(width)
        self.spatial = layers.Dense(num_patches, bias_initializer="ones")
        self.norm, self.gate_norm = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, x):
        u, v = ops.split(self.inward(self.norm(x)), 2, axis=-1)
        v = ops.transpose(self.gate_norm(v), (0, 2, 1))
        return x + self.outward(u * ops.transpose(self.spatial(v), (0, 2, 1)))


def mixed(blocks):
    image = keras.Input(IMAGE)
    x = layers.Dense(24)(Patches(8)(augmentation()(image)))
    x = layers.GlobalAveragePooling1D()(blocks(x))
    return keras.Model(image, layers.Dense(10)(layers.Dropout(0.2)(x)))


@example()
def io_mlp_mixer():
    return mixed(keras.Sequential([MixerLayer(16, 24) for _ in range(2)]))


@example()
def io_fnet():
    return mixed(keras.Sequential([FNetLayer(24) for _ in range(2)]))


@example()
def io_gmlp():
    return mixed(keras.Sequential([GatedLayer(16, 24) for _ in range(2)]))


def activated(x):
    return layers.BatchNormalization()(layers.Activation("gelu")(x))


@example()
def io_convmixer():
    image = keras.Input(IMAGE)
    x = activated(layers.Conv2D(24, 4, strides=4)(layers.Rescaling(1 / 255)(image)))
    for _ in range(3):
        y = activated(layers.DepthwiseConv2D(5, padding="same")(x))
        x = activated(layers.Conv2D(24, 1)(layers.Add()([y, x])))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAvgPool2D()(x)))


class CompactTokenizer(layers.Layer):
    """Convolutions and pooling in place of patches."""

    def __init__(self, widths, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = keras.Sequential()
        for width in widths:
            self.convolutions.add(
                layers.Conv2D(width, 3, padding="valid", use_bias=False, activation="relu")
            )
            self.convolutions.add(layers.ZeroPadding2D(1))
            self.convolutions.add(layers.MaxPooling2D(3, 2, "same"))

    def call(self, images):
        x = self.convolutions(images)
        shape = ops.shape(x)
        return ops.reshape(x, (-1, shape[1] * shape[2], shape[-1]))


class StochasticDepth(layers.Layer):
    """Drops a branch now and then, while training."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, x, training=False):
        if not training:
            return x
        keep = 1 - self.rate
        noise = keras.random.uniform((ops.shape(x)[0], 1, 1), seed=self.seed_generator)
        return x / keep * ops.floor(keep + noise)


class SequencePooling(layers.Layer):
    """A weighted mean of the tokens, the weights from the tokens."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.Dense(1)

    def call(self, x):
        weights = ops.softmax(self.attention(x), axis=1)
        pooled = ops.matmul(ops.transpose(weights, (0, 2, 1)), x)
        return ops.squeeze(pooled, -2)


@example()
def io_compact_convolutional_transformer():
    image = keras.Input(IMAGE)
    x = CompactTokenizer((16, 24))(image)
    for rate in (0.0, 0.1):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(4, 6)(y, y)
        x = layers.Add()([StochasticDepth(rate)(y), x])
        y = mlp(layers.LayerNormalization(epsilon=1e-5)(x), [48, 24])
        x = layers.Add()([StochasticDepth(rate)(y), x])
    x = SequencePooling()(layers.LayerNormalization(epsilon=1e-5)(x))
    return keras.Model(image, layers.Dense(10)(x))


class WindowAttention(layers.Layer):
    """Attention inside windows of tokens, with a learned bias for each relative place."""

    def __init__(self, width, window, num_heads, shift=0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.window, self.num_heads, self.shift = width, window, num_heads, shift
        self.qkv, self.out = layers.Dense(3 * width), layers.Dense(width)
        self.norm, self.norm2 = layers.LayerNormalization(), layers.LayerNormalization()
        self.ffn = keras.Sequential(
            [layers.Dense(4 * width, activation="gelu"), layers.Dense(width)]
        )

    def build(self, shape):
        self.table = self.add_weight(
            shape=((2 * self.window - 1) ** 2, self.num_heads), name="relative_bias"
        )
        places = np.stack(np.meshgrid(*[np.arange(self.window)] * 2, indexing="ij")).reshape(2, -1)
        relative = places[:, :, None] - places[:, None] + self.window - 1
        self.index = relative[0] * (2 * self.window - 1) + relative[1]
        super().build(shape)

    def attend(self, x):
        count, heads = self.window**2, self.num_heads
        qkv = ops.reshape(self.qkv(x), (-1, count, 3, heads, self.width // heads))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)))
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) * (self.width // heads) ** -0.5
        bias = ops.take(self.table, self.index, axis=0)
        scores = ops.softmax(scores + ops.transpose(bias, (2, 0, 1)))
        mixed = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, count, self.width)))

    def call(self, x):
        _, h, w, c = x.shape
        n = self.window
        y = ops.roll(self.norm(x), (-self.shift, -self.shift), axis=(1, 2))
        y = ops.reshape(y, (-1, h // n, n, w // n, n, c))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, n * n, c))
        y = ops.reshape(self.attend(y), (-1, h // n, w // n, n, n, c))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, h, w, c))
        x = x + ops.roll(y, (self.shift, self.shift), axis=(1, 2))
        return x + self.ffn(self.norm2(x))


class PatchMerging(layers.Layer):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.reduce = layers.Dense(2 * width, use_bias=False)

    def call(self, x):
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduce(ops.concatenate(corners, axis=-1))


@example()
def io_swin_transformer():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(16, 2, strides=2)(image)
    x = WindowAttention(16, 4, 2)(x)
    x = PatchMerging(16)(WindowAttention(16, 4, 2, shift=2)(x))
    x = WindowAttention(32, 4, 4)(x)
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


class ExternalAttention(layers.Layer):
    """Attention to two small memories that all samples share."""

    def __init__(self, width, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.width, self.num_heads = width, num_heads
        self.inward, self.outward = layers.Dense(width), layers.Dense(width)
        self.keys, self.values = layers.Dense(8), layers.Dense(width // num_heads)

    def call(self, x):
        shape = (-1, x.shape[1], self.num_heads, self.width // self.num_heads)
        y = ops.transpose(ops.reshape(self.inward(x), shape), (0, 2, 1, 3))
        scores = ops.softmax(self.keys(y), axis=2)
        scores = scores / (1e-9 + ops.sum(scores, axis=-1, keepdims=True))
        y = ops.transpose(self.values(scores), (0, 2, 1, 3))
        return self.outward(ops.reshape(y, (-1, x.shape[1], self.width)))


@example()
def io_external_attention():
    image = keras.Input(IMAGE)
    x = PatchEncoder(16, 24)(Patches(8)(image))
    for _ in range(2):
        x = layers.Add()([ExternalAttention(24, 4)(layers.LayerNormalization()(x)), x])
        x = layers.Add()([mlp(layers.LayerNormalization()(x), [48, 24]), x])
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


class ShiftBlock(layers.Layer):
    """A transformer's block whose attention is a shift of some channels by one pixel."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(epsilon=1e-5)
        self.ffn = keras.Sequential(
            [layers.Dense(3 * width, activation="gelu"), layers.Dense(width)]
        )

    def call(self, x):
        left, right, up, down, rest = ops.split(x, [2, 4, 6, 8], axis=-1)
        left = ops.pad(left[:, :, 1:], [[0, 0], [0, 0], [0, 1], [0, 0]])
        right = ops.pad(right[:, :, :-1], [[0, 0], [0, 0], [1, 0], [0, 0]])
        up = ops.pad(up[:, 1:], [[0, 0], [0, 1], [0, 0], [0, 0]])
        down = ops.pad(down[:, :-1], [[0, 0], [1, 0], [0, 0], [0, 0]])
        x = ops.concatenate([left, right, up, down, rest], axis=-1)
        return x + self.ffn(self.norm(x))


class ShiftViT(keras.Model):
    """A whole model of one's own class."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(16, 4, strides=4)
        self.stages = [[ShiftBlock(16), ShiftBlock(16)], [ShiftBlock(32)]]
        self.merge = layers.Conv2D(32, 2, strides=2, use_bias=False)
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(10)

    def call(self, images):
        x = self.stem(images)
        for block in self.stages[0]:
            x = block(x)
        x = self.merge(x)
        for block in self.stages[1]:
            x = block(x)
        return self.head(self.pool(x))


@example()
def io_shift_vit():
    return called(ShiftViT(), floats(*IMAGE))

"""Programs like keras.io's on points, tables, games; attention to latent arrays."""

import functools

import keras
from keras import layers, ops

from wild_models import EXAMPLES, called, floats, tokens, wild

example = functools.partial(wild, EXAMPLES)


def conv_bn(x, width):
    x = layers.BatchNormalization(momentum=0.0)(layers.Conv1D(width, 1, padding="valid")(x))
    return layers.Activation("relu")(x)


def dense_bn(x, width):
    x = layers.BatchNormalization(momentum=0.0)(layers.Dense(width)(x))
    return layers.Activation("relu")(x)


def transformed(x, features):
    """The points, turned by a matrix that a small network makes of them."""
    y = layers.GlobalMaxPooling1D()(conv_bn(conv_bn(x, 12), 16))
    y = dense_bn(y, 12)
    y = layers.Dense(features * features, kernel_initializer="zeros")(y)
    return layers.Dot(axes=(2, 1))([x, layers.Reshape((features, features))(y)])


@example()
def io_pointnet():
    points = keras.Input((40, 3))
    x = conv_bn(transformed(points, 3), 8)
    x = conv_bn(transformed(conv_bn(x, 8), 8), 16)
    x = layers.Dropout(0.3)(dense_bn(layers.GlobalMaxPooling1D()(x), 16))
    return keras.Model(points, layers.Dense(5)(x))


@example()
def io_pointnet_segmentation():
    points = keras.Input((40, 3))
    first = conv_bn(points, 12)
    second = conv_bn(first, 16)
    pooled = layers.MaxPool1D(pool_size=40)(conv_bn(second, 24))
    pooled = ops.tile(pooled, [1, 40, 1])
    x = layers.Concatenate()([first, second, pooled])
    return keras.Model(points, layers.Conv1D(4, 1)(conv_bn(x, 16)))


class Perceiver(keras.Model):
    """A small learned array attends to the patches, then to itself."""

    def __init__(self, width=24, num_latents=6, **kwargs):
        super().__init__(**kwargs)
        self.num_latents, self.width = num_latents, width
        self.patches = layers.Conv2D(width, 8, strides=8)
        self.flat = layers.Reshape((16, width))
        self.cross = layers.MultiHeadAttention(4, width // 4)
        self.inner = layers.MultiHeadAttention(4, width // 4)
        self.norms = [layers.LayerNormalization() for _ in range(3)]
        self.ffn = keras.Sequential([layers.Dense(48, activation="gelu"), layers.Dense(width)])
        self.pool, self.head = layers.GlobalAveragePooling1D(), layers.Dense(5)

    def build(self, shape):
        self.latents = self.add_weight(
            shape=(self.num_latents, self.width), initializer="random_normal", name="latents"
        )
        super().build(shape)

    def call(self, images):
        data = self.norms[0](self.flat(self.patches(images)))
        latents = ops.broadcast_to(
            self.latents, (ops.shape(images)[0], self.num_latents, self.width)
        )
        x = latents + self.cross(latents, data)
        y = self.norms[1](x)
        x = x + self.inner(y, y)
        x = x + self.ffn(self.norms[2](x))
        return self.head(self.pool(x))


@example()
def io_perceiver():
    return called(Perceiver(), floats(32, 32, 3))


class GatedResidual(layers.Layer):
    """Tabular data: a gate decides how much of a layer's output counts."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.elu, self.linear = layers.Dense(width, activation="elu"), layers.Dense(width)
        self.value, self.gate = layers.Dense(width), layers.Dense(width, activation="sigmoid")
        self.norm, self.project = layers.LayerNormalization(), layers.Dense(width)
        self.dropout = layers.Dropout(0.1)
        self.width = width

    def call(self, x):
        y = self.dropout(self.linear(self.elu(x)))
        if x.shape[-1] != self.width:
            x = self.project(x)
        return self.norm(x + self.value(y) * self.gate(y))


class VariableSelection(layers.Layer):
    """Weights of features, from all of them."""

    def __init__(self, num_features, width, **kwargs):
        super().__init__(**kwargs)
        self.each = [GatedResidual(width) for _ in range(num_features)]
        self.all = GatedResidual(width)
        self.softmax = layers.Dense(num_features, activation="softmax")

    def call(self, features):
        weights = self.softmax(self.all(ops.concatenate(features, axis=-1)))
        each = ops.stack([f(x) for f, x in zip(self.each, features, strict=True)], axis=1)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), each), axis=1)


@example()
def io_gated_residual_networks():
    numbers, kinds = keras.Input((3,)), keras.Input((2,), dtype="int32")
    features = [layers.Dense(16)(numbers[:, i : i + 1]) for i in range(3)]
    features += [layers.Embedding(9, 16)(kinds[:, i]) for i in range(2)]
    x = VariableSelection(5, 16)(features)
    return keras.Model([numbers, kinds], layers.Dense(1)(x))


@example()
def io_tab_transformer():
    kinds, numbers = keras.Input((4,), dtype="int32"), keras.Input((3,))
    columns = [layers.Embedding(9, 16)(kinds[:, i]) for i in range(4)]
    x = ops.stack(columns, axis=1)
    x = x + layers.Embedding(4, 16)(ops.arange(0, 4, 1))
    for _ in range(2):
        y = layers.MultiHeadAttention(4, 4, dropout=0.2)(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
        y = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
    x = layers.concatenate([layers.Flatten()(x), layers.LayerNormalization()(numbers)])
    for width in (32, 16):
        x = layers.Dense(width, activation=keras.activations.selu)(layers.BatchNormalization()(x))
    return keras.Model([kinds, numbers], layers.Dense(1)(x))


@example()
def io_wide_and_deep():
    wide, deep = keras.Input((6,)), keras.Input((8,))
    x, cross = deep, deep
    for width in (24, 16):
        x = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(width)(x))))
    for _ in range(2):
        cross = deep * layers.Dense(8)(cross) + cross
    merged = layers.concatenate([x, cross, layers.BatchNormalization()(wide)])
    return keras.Model([wide, deep], layers.Dense(2)(merged))


@example()
def io_deep_q_learning():
    frames = keras.Input((44, 44, 4))
    x = layers.Lambda(lambda x: x / 255.0, output_shape=(44, 44, 4))(frames)
    for width, kernel, strides in ((8, 8, 4), (12, 4, 2), (12, 3, 1)):
        x = layers.Conv2D(width, kernel, strides=strides, activation="relu")(x)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    return keras.Model(frames, layers.Dense(4, activation="linear")(x))


@example()
def io_actor_critic():
    state = keras.Input((6,))
    common = layers.Dense(32, activation="relu")(state)
    actor = layers.Dense(24, activation=keras.ops.silu)(common)
    return keras.Model(state, [layers.Dense(2)(actor), layers.Dense(1)(common)])


class Recommender(keras.Model):
    """Embeddings of users and films, their product, biases."""

    def __init__(self, width=12, **kwargs):
        super().__init__(**kwargs)
        self.user, self.film = layers.Embedding(20, width), layers.Embedding(20, width)
        self.user_bias, self.film_bias = layers.Embedding(20, 1), layers.Embedding(20, 1)

    def call(self, pairs):
        user, film = self.user(pairs[:, 0]), self.film(pairs[:, 1])
        bias = self.user_bias(pairs[:, 0]) + self.film_bias(pairs[:, 1])
        return ops.sum(user * film, axis=1, keepdims=True) + bias


@example()
def io_recommender():
    return called(Recommender(), tokens(2))

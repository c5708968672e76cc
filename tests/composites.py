"""Layers made of layers, and a model of one's own class, for `random_graphs.py`.

None is registered with Keras and none has a `get_config`: such are most layers that people write.
"""

import keras
from keras import layers, ops


class Block(layers.Layer):
    """Convolution, normalisation, activation; a residual where the widths agree."""

    def __init__(self, filters, activation=ops.relu, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()
        self.activation = activation

    def call(self, x, training=None):
        y = self.activation(self.norm(self.conv(x), training=training))
        return x + y if x.shape[-1] == y.shape[-1] else y


class Twice(layers.Layer):
    """One convolution that reads its own output."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.widen = layers.Conv2D(filters, 1)
        self.again = layers.Conv2D(filters, 3, padding="same", activation="sigmoid")

    def call(self, x):
        return self.again(self.again(self.widen(x)))


class Squeeze(layers.Layer):
    """A gate for each channel; its parts are made in `build`, for the width that comes."""

    def build(self, shape):
        self.narrow = layers.Dense(max(2, shape[-1] // 2), activation="relu")
        self.widen = layers.Dense(shape[-1], activation=keras.ops.sigmoid)
        self.built = True

    def call(self, x):
        gate = self.widen(self.narrow(ops.mean(x, axis=(1, 2))))
        return x * gate[:, None, None]


class Nest(layers.Layer):
    """Composites in composites, in a list and in a Sequential."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(filters), Block(filters, activation=ops.silu)]
        self.tail = keras.Sequential([layers.Conv2D(filters, 1), Squeeze(), layers.Dropout(0.2)])

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return x + self.tail(x, training=training)


class Branches(layers.Layer):
    """Two outputs of one stem."""

    def __init__(self, first, second, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.DepthwiseConv2D(3, padding="same")
        self.parts = {"first": layers.Dense(first), "second": layers.Dense(second)}

    def call(self, x):
        x = ops.silu(self.stem(x))
        return self.parts["first"](x), self.parts["second"](x)


class Join(layers.Layer):
    """Two inputs: what one says of the other's channels."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.left = layers.Conv2D(filters, 1, use_bias=False)
        self.right = layers.Conv2D(filters, 3, padding="same")

    def call(self, x, other, scale=1.0):
        return ops.tanh(self.left(x)) * self.right(other) * scale


class Scaled(layers.Layer):
    """A variable of its own beside a sublayer: such a layer stays whole."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same", activation="relu")
        self.scale = self.add_weight(shape=(filters,), initializer="ones", name="gain")

    def call(self, x):
        return self.conv(x) * self.scale


class Jitter(layers.Layer):
    """Another graph while training: such a layer stays whole."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same")
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        if training:
            x = x + keras.random.normal(ops.shape(x), seed=self.seed_generator)
        return ops.sigmoid(self.conv(x))


class Tokens(layers.Layer):
    """A transformer's block on pixels, between two reshapes that read the shape."""

    def __init__(self, width, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.inward = layers.Dense(width)
        self.attention = layers.MultiHeadAttention(num_heads, 3)
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.mlp = keras.Sequential(
            [layers.Dense(2 * width, activation="gelu"), layers.Dense(width)]
        )

    def call(self, x):
        x = self.inward(x)
        _, height, width, depth = x.shape
        tokens = ops.reshape(x, (-1, height * width, depth))
        y = self.norms[0](tokens)
        tokens = tokens + self.attention(y, y)
        tokens = tokens + self.mlp(self.norms[1](tokens))
        return ops.reshape(tokens, (-1, height, width, depth))


class Whole(keras.Model):
    """A subclassed model: a block, a Functional model, a head on its first output."""

    def __init__(self, body, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = body.input_shape[1:]
        self.stem = Block(self.image_shape[-1])
        self.body = body
        self.head = layers.Dense(2)

    def call(self, images, training=None):
        found = self.body(self.stem(images, training=training), training=training)
        first, *rest = found if isinstance(found, list | tuple) else [found]
        answer = self.head(ops.gelu(first))
        return [answer, *rest] if rest else answer

"""Small graphs that break structured pruners, each with its channel groups written out by hand.

`@graph("conv1:8 conv2+conv3:4")` says: the channels of `conv1` form one prunable group of 8, those
of `conv2` and `conv3` (they live and die together) one of 4, and nothing else can be cut. One
producer may head several groups (`conv1:4 conv1:4`: its channels meet different fates). Groups of
one channel cannot shrink and are not listed; depthwise convolutions (named `dw..`) invent no
channels and are not listed either; ` | ` separates answers that are equally right.
`graphs_more.py` holds the second half: graphs made of operations, and the sequence layers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import Input, Model, Sequential, layers, ops


@dataclass(frozen=True)
class Graph:
    """A builder and what it should give."""

    name: str
    build: Callable[[], keras.Model]
    groups: str  # the prunable groups
    pinned: tuple[str, ...]  # producers that must be kept whole, with a reason
    num_silent: int  # prunable groups that cannot move the output: nothing reads them
    reason: str  # a word that some pinned group's reason must contain
    tolerance: float  # of law 1; half precision is decided in float64, like all else


GRAPHS: dict[str, Graph] = {}


def graph(groups, *, pinned="head", num_silent=0, reason="", tolerance=1e-5):
    """Register a builder under its own name."""

    def register(build):
        name = build.__name__
        if name in GRAPHS:
            raise ValueError(f"two graphs are called {name}")
        GRAPHS[name] = Graph(
            name, build, groups, tuple(pinned.split()), num_silent, reason, tolerance
        )
        return build

    return register


def image(size=8, channels=3, name="image"):
    return Input((size, size, channels), name=name)


def conv(x, filters, name, kernel=3, **options):
    return layers.Conv2D(filters, kernel, padding="same", name=name, **options)(x)


def dense(x, units, name, **options):
    return layers.Dense(units, name=name, **options)(x)


def head(x, inputs):
    """Average over every axis but the last, then a classifier: the end of most graphs."""
    axes = tuple(range(1, len(x.shape) - 1))
    pooling = {
        (): lambda x: x,
        (1,): layers.GlobalAveragePooling1D(),
        (1, 2): layers.GlobalAveragePooling2D(),
        (1, 2, 3): layers.GlobalAveragePooling3D(),
    }
    return Model(inputs, layers.Dense(3, name="head")(pooling[axes](x)))


# --- chains ------------------------------------------------------------------------------------


@graph("conv1:8 conv2:6")
def chain():
    i = image()
    x = layers.BatchNormalization()(conv(i, 8, "conv1", use_bias=False))
    return head(conv(layers.ReLU()(x), 6, "conv2", strides=2), i)


@graph("conv1:8 conv2:6")
def normalised_then_sigmoid():
    """A zeroed producer is not a removed one: sigmoid(beta) is not zero."""
    i = image()
    x = layers.BatchNormalization()(conv(i, 8, "conv1"))
    return head(conv(layers.Activation("sigmoid")(x), 6, "conv2", activation="softplus"), i)


@graph("conv1:8 conv2:6")
def spatial_layers():
    i = image()
    x = layers.ZeroPadding2D(((1, 2), (0, 1)))(conv(i, 8, "conv1", activation="relu"))
    x = layers.Cropping2D(((0, 1), (1, 0)))(layers.AveragePooling2D(2, padding="same")(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.SpatialDropout2D(0.1)(x))
    x = layers.MaxPooling2D(3, 2)(layers.GaussianNoise(0.1)(layers.LeakyReLU()(x)))
    return head(conv(layers.Resizing(4, 4)(x), 6, "conv2"), i)


@graph("conv1:4 conv2:6 fc:5")
def conv_1d():
    i = Input((12, 3))
    x = layers.Conv1D(4, 3, padding="causal", activation="relu", name="conv1")(i)
    x = layers.MaxPooling1D(2)(layers.ZeroPadding1D(1)(x))
    x = layers.Conv1DTranspose(6, 3, strides=2, name="conv2")(layers.Cropping1D(1)(x))
    x = layers.UpSampling1D(2)(layers.AveragePooling1D(2)(x))
    return Model(i, dense(dense(layers.Flatten()(x), 5, "fc", activation="relu"), 3, "head"))


@graph("conv1:4 conv2:6")
def conv_3d():
    i = Input((4, 4, 4, 2))
    x = layers.Conv3D(4, 3, padding="same", activation="relu", name="conv1")(i)
    x = layers.BatchNormalization()(layers.MaxPooling3D(2)(layers.ZeroPadding3D(1)(x)))
    x = layers.Cropping3D(1)(layers.UpSampling3D(2)(x))
    return head(layers.Conv3DTranspose(6, 2, strides=2, name="conv2")(x), i)


@graph("conv1:4 up:6")
def transposed():
    i = image()
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(conv(i, 4, "conv1"))
    return head(layers.ELU()(x), i)


@graph("conv1:4 conv2:6")
def depthwise_multiplier():
    i = image()
    x = conv(i, 4, "conv1", activation="relu")
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")(x)
    return head(conv(layers.BatchNormalization()(x), 6, "conv2"), i)


@graph("conv1:4 conv2:6")
def depthwise_by_groups():
    i = image()
    x = conv(i, 4, "conv1", activation="relu")
    x = conv(x, 12, "dw1", groups=4, activation="relu")
    return head(conv(conv(x, 12, "dw2", groups=12), 6, "conv2"), i)


@graph("conv1:4 sep1:6 sep2:5")
def separable():
    i = image()
    x = conv(i, 4, "conv1")
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu", name="sep1")(x)
    x = layers.Reshape((-1, 6))(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, name="dw")(x)
    return head(layers.SeparableConv1D(5, 3, name="sep2")(x), i)


@graph("conv1:4 conv2:3")
def grouped():
    """Slots: a channel is the same place in both conv groups."""
    i = image()
    x = layers.BatchNormalization()(conv(conv(i, 8, "conv1"), 6, "conv2", groups=2))
    return head(layers.ReLU()(x), i)


@graph("conv1:8 conv2:6 conv3:5")
def batch_of_activations():
    i = image()
    x = layers.PReLU(shared_axes=[1, 2])(conv(i, 8, "conv1"))
    x = layers.PReLU()(conv(x, 6, "conv2"))
    x = layers.Softmax(axis=1)(ops.hard_swish(ops.gelu(x)))  # over the rows
    return head(conv(layers.Dropout(0.2)(x * 8.0), 5, "conv3", activation="mish"), i)


@graph("conv3:6", pinned="conv1 conv2 head", reason="softmax")
def softmax_over_channels():
    i = image()
    x = layers.Softmax()(conv(i, 8, "conv1"))
    x = conv(x, 5, "conv2", activation="softmax")
    return head(conv(x, 6, "conv3"), i)


# --- normalisation -----------------------------------------------------------------------------


@graph("conv1:8 conv2:6 conv3:4 conv4:6")
def normalisations():
    i = image()
    x = layers.LayerNormalization()(conv(i, 8, "conv1"))
    x = layers.RMSNormalization()(conv(x, 6, "conv2"))
    x = layers.UnitNormalization()(conv(x, 4, "conv3"))
    return head(layers.LayerNormalization(axis=[1, 2, 3])(conv(x, 6, "conv4")), i)


@graph("conv1:4 conv2:6 conv3:5 conv4:4")
def group_normalisations():
    i = image()
    x = layers.GroupNormalization(2)(conv(i, 8, "conv1"))  # slots: {j, j + 4}
    x = layers.GroupNormalization(-1)(conv(x, 6, "conv2", activation="relu"))
    x = layers.GroupNormalization(5)(conv(x, 5, "conv3", activation="relu"))
    return head(ops.relu(layers.GroupNormalization(1)(conv(x, 4, "conv4"))), i)


@graph("conv1:4 conv2:5")
def constants_per_channel():
    """Statistics and constants that are arguments, not weights, must be sliced too."""
    i = image()
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 0.5, 2.0])(i)
    x = conv(layers.Rescaling([0.5, 1.0, 2.0], [0.1, 0.2, 0.3])(x), 4, "conv1")
    x = layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 0.5, 2.0, 3.0])(x)
    x = layers.Rescaling([0.5, 1.0, 2.0, -1.0], [0.1, 0.2, 0.3, 0.4])(x)
    x = layers.Rescaling(0.5, offset=0.1)(x)
    return head(conv(ops.tanh(x), 5, "conv2"), i)


@graph("conv1:8 conv2:5")
def constants_in_the_graph():
    i = image()
    x = conv(i, 8, "conv1") * np.linspace(0.5, 2, 8, dtype="float32")
    x = ops.add(x, np.linspace(-1, 1, 8 * 64, dtype="float32").reshape(8, 8, 8))
    return head(conv(ops.relu(x + 0.5), 5, "conv2"), i)


# --- sums and joins ----------------------------------------------------------------------------


@graph("conv1+conv3:8 conv2:5")
def residual():
    i = image()
    x = conv(i, 8, "conv1", activation="relu")
    y = conv(conv(x, 5, "conv2", activation="relu"), 8, "conv3")
    return head(layers.ReLU()(layers.Add()([x, y])), i)


@graph("conv2:8", pinned="conv1 head")
def residual_with_the_input():
    i = image()
    return head(conv(layers.add([i, conv(i, 3, "conv1")]), 8, "conv2"), i)


@graph("conv1:8 conv2:6")
def concatenated_with_the_input():
    i = image()
    x = layers.concatenate([i, conv(i, 8, "conv1", activation="relu")])
    return head(conv(x, 6, "conv2"), i)


@graph("conv1+conv2+conv3+conv4+conv5:4 conv6:5")
def every_merge():
    i = image()
    a, b, c, d, e = (conv(i, 4, f"conv{n}") for n in range(1, 6))
    x = layers.Maximum()([a, layers.Minimum()([b, c])])
    x = layers.Subtract()([layers.Average()([x, d]), layers.Multiply()([x, e])])
    return head(conv(x, 5, "conv6"), i)


@graph("conv1:4 conv2:6 conv3:5 conv4:4")
def dense_block():
    i = image()
    x = conv(i, 4, "conv1")
    for name, filters in (("conv2", 6), ("conv3", 5)):
        y = conv(layers.ReLU()(layers.BatchNormalization()(x)), filters, name)
        x = layers.Concatenate()([x, y])
    return head(conv(x, 4, "conv4", kernel=1), i)


@graph("conv1:4 conv2:5 conv3:6 conv4:3")
def inception_block():
    i = image()
    x = conv(i, 4, "conv1")
    pooled = layers.MaxPooling2D(3, 1, padding="same")(x)
    x = layers.Concatenate()([conv(x, 5, "conv2"), conv(pooled, 6, "conv3"), pooled])
    return head(conv(x, 3, "conv4"), i)


@graph("conv1+conv2:4 conv3:6")
def concatenated_rows():
    """On a spatial axis the operands' channels must be the same ones."""
    i = image()
    x = layers.Concatenate(axis=1)([conv(i, 4, "conv1"), conv(i, 4, "conv2")])
    return head(conv(x, 6, "conv3"), i)


@graph("conv1+conv2:4 conv3:3")
def concatenated_into_conv_groups():
    i = image()
    x = layers.Concatenate()([conv(i, 4, "conv1"), conv(i, 4, "conv2")])
    return head(conv(x, 6, "conv3", groups=2), i)


@graph("conv1+conv2:2 conv2:2 conv3:3")
def concatenated_askew_into_conv_groups():
    """2 + 6 channels in two conv groups of 4: slots {a0,b2} {a1,b3} {b0,b4} {b1,b5}."""
    i = image()
    x = layers.Concatenate()([conv(i, 2, "conv1"), conv(i, 6, "conv2")])
    return head(conv(x, 6, "conv3", groups=2), i)


@graph("conv1:4 conv2:6 fc:7")
def dense_after_flatten_after_concat():
    i = image(4)
    x = layers.Concatenate()([conv(i, 4, "conv1"), conv(i, 6, "conv2")])
    x = layers.Flatten()(layers.MaxPooling2D(2)(ops.relu(x)))
    return Model(i, dense(dense(x, 7, "fc", activation="relu"), 3, "head"))


@graph("conv1:4 conv2:6 fc:7")
def dense_after_concat_after_flatten():
    i = image(4)
    parts = [
        layers.Flatten()(conv(i, 4, "conv1")),
        layers.Flatten()(conv(i, 6, "conv2", strides=2)),
    ]
    x = dense(layers.Concatenate()(parts), 7, "fc", activation="relu")
    return Model(i, dense(x, 3, "head"))


@graph("fc:6 up:5")
def decoder():
    """Dense(96) -> Reshape(4, 4, 6): 6 channels of 16 positions."""
    i = Input((7,))
    x = layers.Reshape((4, 4, 6))(dense(i, 96, "fc", activation="relu"))
    x = layers.Conv2DTranspose(5, 3, strides=2, activation="relu", name="up")(x)
    return Model(i, conv(x, 3, "head"))


@graph("enc1:4 enc2:6 up:5 dec:4", pinned="head")
def unet():
    i = image()
    e1 = conv(i, 4, "enc1", activation="relu")
    e2 = conv(layers.MaxPooling2D(2)(e1), 6, "enc2", activation="relu")
    u = layers.Conv2DTranspose(5, 2, strides=2, name="up")(e2)
    d = conv(layers.Concatenate()([u, e1]), 4, "dec", activation="relu")
    return Model(i, conv(d, 2, "head", kernel=1))


@graph("c1:4 c2:6 lateral1+lateral2:5", pinned="smooth1 smooth2")
def feature_pyramid():
    i = image()
    c1 = conv(i, 4, "c1", activation="relu")
    c2 = conv(c1, 6, "c2", strides=2, activation="relu")
    p2 = conv(c2, 5, "lateral2", kernel=1)
    p1 = layers.Add()([conv(c1, 5, "lateral1", kernel=1), layers.UpSampling2D(2)(p2)])
    return Model(i, {"p1": conv(p1, 4, "smooth1"), "p2": conv(p2, 4, "smooth2")})


@graph("conv1:6", pinned="head conv2")
def output_in_the_middle():
    i = image()
    x = conv(i, 6, "conv1", activation="relu")
    y = conv(x, 5, "conv2", activation="relu")
    classes = layers.Dense(3, name="head")(layers.GlobalMaxPooling2D()(y))
    return Model(i, [classes, y])


@graph("conv1+shift+scale:6 fc:5")
def several_inputs():
    """FiLM: a vector scales and shifts the channels of an image."""
    i, v = image(), Input((4,), name="vector")
    f = dense(v, 5, "fc", activation="relu")
    scale = layers.Reshape((1, 1, 6))(dense(f, 6, "scale"))
    shift = ops.expand_dims(ops.expand_dims(dense(f, 6, "shift"), 1), 1)
    return head(ops.relu(conv(i, 6, "conv1") * scale + shift), [i, v])


# --- gates -------------------------------------------------------------------------------------


@graph("conv1+se2:8 se1:4 conv2:5")
def squeeze_excite_dense():
    i = image()
    x = conv(i, 8, "conv1", activation="relu")
    s = dense(layers.GlobalAveragePooling2D()(x), 4, "se1", activation="silu")
    s = layers.Reshape((1, 1, 8))(dense(s, 8, "se2", activation="sigmoid"))
    return head(conv(layers.Multiply()([x, s]), 5, "conv2"), i)


@graph("conv1+se2:8 se1:4 conv2:5")
def squeeze_excite_conv():
    i = image()
    x = layers.BatchNormalization()(conv(i, 8, "conv1"))
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = conv(conv(s, 4, "se1", kernel=1, activation="silu"), 8, "se2", kernel=1)
    return head(conv(layers.multiply([layers.Activation("hard_sigmoid")(s), x]), 5, "conv2"), i)


@graph("conv1+se2:8 se1:4 conv2:5")
def squeeze_excite_ops():
    i = image()
    x = conv(i, 8, "conv1")
    s = dense(ops.mean(x, axis=(1, 2)), 4, "se1", activation="silu")
    s = ops.sigmoid(dense(s, 8, "se2"))[:, None, None, :]
    return head(conv(x * s, 5, "conv2"), i)


@graph("conv2:6")
def efficient_channel_attention():
    """A convolution slides over the channels: they collapse into one."""
    i = image()
    x = conv(i, 8, "conv1")
    s = layers.Reshape((8, 1))(layers.GlobalAveragePooling2D()(x))
    s = layers.Conv1D(1, 3, padding="same", activation="sigmoid", name="eca")(s)
    return head(conv(layers.Multiply()([x, layers.Reshape((1, 1, 8))(s)]), 6, "conv2"), i)


@graph("conv1:8 conv2:6")
def spatial_gate():
    """A gate of one channel that depends on all of them is a consumer like any other."""
    i = image()
    x = conv(i, 8, "conv1")
    return head(conv(x * conv(x, 1, "gate", activation="sigmoid"), 6, "conv2"), i)


@graph("conv2:6", pinned="conv1 head", reason="mean")
def channel_mean_gate():
    i = image()
    x = conv(i, 8, "conv1", activation="relu")
    gate = ops.sigmoid(ops.mean(x, axis=-1, keepdims=True))
    return head(conv(x * gate, 6, "conv2"), i)


@graph("conv1:4 conv2:5")
def gated_linear_unit():
    i = image()
    a, b = ops.split(conv(i, 8, "conv1"), 2, axis=-1)
    return head(conv(a * ops.sigmoid(b), 5, "conv2"), i)


@graph("conv1+gate+skip:6 conv2:5")
def highway():
    i = image()
    g = conv(i, 6, "gate", activation="sigmoid")
    x = conv(i, 6, "conv1", activation="relu") * g + (1 - g) * conv(i, 6, "skip")
    return head(conv(x, 5, "conv2"), i)


# --- models in models, shared layers -----------------------------------------------------------


@graph("stem1+stem2:4 shared:6 conv2:5")
def shared_convolution():
    i = image()
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    x = [shared(conv(i, 4, "stem1")), shared(conv(i, 4, "stem2"))]
    return head(conv(layers.Concatenate()(x), 5, "conv2"), i)


@graph("conv1+shared:6 conv2:5")
def recurrent_convolution():
    """A layer that reads its own output: its input and output channels are one set."""
    i = image()
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    return head(conv(shared(shared(conv(i, 6, "conv1"))), 5, "conv2"), i)


@graph("stem+block/b:6 block/a:5 conv2:4")
def shared_sub_model():
    i = image()
    block = Sequential(
        [
            layers.Conv2D(5, 3, padding="same", activation="relu", name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(6, 3, padding="same", name="b"),
        ],
        name="block",
    )
    x = conv(i, 6, "stem")
    x = layers.Add()([x, block(x)])
    return head(conv(layers.Add()([x, block(x)]), 4, "conv2"), i)


@graph("tower/conv:6 tower/embed:8")
def siamese():
    t = image(name="crop")
    x = layers.GlobalAveragePooling2D()(conv(t, 6, "conv", activation="relu"))
    tower = Model(t, dense(x, 8, "embed"), name="tower")
    left, right = image(name="left"), image(name="right")
    return head(ops.abs(tower(left) - tower(right)), [left, right])


@graph("conv1:6 outer/conv:5 outer/inner/conv:4 outer/inner/last:7")
def nested_twice():
    inner = Sequential([Input((8, 8, 5)), layers.Conv2D(4, 3, name="conv")], name="inner")
    inner.add(layers.BatchNormalization())
    inner.add(layers.Conv2D(7, 1, activation="relu", name="last"))
    t = image(channels=6)
    outer = Model(t, inner(conv(t, 5, "conv", activation="relu")), name="outer")
    i = image()
    return head(outer(conv(i, 6, "conv1")), i)


@graph("conv1:6 body/a:4 body/b:5 conv2:4")
def nested_several_outputs():
    t = image(channels=6)
    body = Model(t, [conv(t, 4, "a"), conv(t, 5, "b"), t], name="body")
    i = image()
    a, b, x = body(conv(i, 6, "conv1", activation="relu"))
    return head(conv(layers.Concatenate()([a, ops.relu(b), x]), 4, "conv2"), i)


@graph("conv1:6 conv2:5")
def plain_sequential():
    model = Sequential([Input((8, 8, 3)), layers.Conv2D(6, 3, activation="relu", name="conv1")])
    model.add(Sequential([layers.BatchNormalization(), layers.Activation("relu")], name="norm"))
    for layer in (
        layers.Conv2D(5, 3, name="conv2"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(3, name="head"),
    ):
        model.add(layer)
    return model

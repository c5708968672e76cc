"""The second half of `graphs.py`: `keras.ops`, sequence layers, things without a rule."""

import keras
import numpy as np
import tensorflow as tf
from graphs import conv, dense, graph, head, image
from keras import Input, Model, layers, ops

# --- data that moves ---------------------------------------------------------------------------


@graph("conv1:4 conv1:4 conv2:5 conv3:6")
def split_into_branches():
    """One producer, two groups: each half must keep at least one channel."""
    i = image()
    a, b = ops.split(conv(i, 8, "conv1", activation="relu"), 2, axis=-1)
    return head(layers.Concatenate()([conv(a, 5, "conv2"), conv(b, 6, "conv3")]), i)


@graph("conv1:2 conv1:3 conv1:3 conv2:5 conv3+conv4:6")
def split_at_indices():
    i = image()
    a, b, c = ops.split(conv(i, 8, "conv1", activation="relu"), [2, 5], axis=-1)
    x = layers.Concatenate()([conv(a, 5, "conv2"), b])
    return head(layers.Add()([conv(x, 6, "conv3"), conv(c, 6, "conv4")]), i)


@graph("conv1:4 conv1:4 conv2:5", num_silent=1)
def strided_slice():
    i = image()
    return head(conv(conv(i, 8, "conv1", activation="relu")[..., ::2], 5, "conv2"), i)


@graph("conv1:4 conv1:4 conv2+conv3:5")
def fixed_slice():
    """Channels 2 to 5 are read twice, the others once."""
    i = image()
    x = conv(i, 8, "conv1", activation="relu")
    return head(conv(x[:, 1:7, 1:7, 2:6], 5, "conv2") + conv(x, 5, "conv3")[:, 1:-1, 1:-1], i)


@graph("conv1:5 conv1:3 conv2:6", num_silent=1)
def backward_slice():
    i = image()
    return head(conv(conv(i, 8, "conv1")[..., 4::-1], 6, "conv2", activation="relu"), i)


@graph("conv1+conv2:4 conv2:4 conv3:5")
def zero_padded_channels():
    """A ResNet's option A shortcut; conv2 feeds what was padding as well."""
    i = image()
    x = conv(i, 4, "conv1", activation="relu")
    shortcut = ops.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [2, 2]])
    x = layers.Add()([shortcut, conv(x, 8, "conv2", strides=2)])
    return head(conv(ops.relu(x), 5, "conv3"), i)


@graph("conv1+conv2:4 conv2:4 conv3:5")
def zero_padded_by_permute():
    """The same with stock layers: the channels are padded as if they were rows."""
    i = image()
    x = conv(i, 4, "conv1", activation="relu")
    shortcut = layers.Permute((3, 1, 2))(layers.AveragePooling2D(2)(x))
    shortcut = layers.ZeroPadding2D(((2, 2), (0, 0)))(shortcut)
    x = layers.Add()([layers.Permute((2, 3, 1))(shortcut), conv(x, 8, "conv2", strides=2)])
    return head(conv(ops.relu(x), 5, "conv3"), i)


@graph("conv1:4 conv2:6")
def channel_shuffle():
    i = image()
    x = layers.Reshape((8, 8, 2, 4))(conv(i, 8, "conv1", activation="relu"))
    x = layers.Reshape((8, 8, 8))(layers.Permute((1, 2, 4, 3))(x))
    return head(conv(x, 6, "conv2"), i)


@graph("conv1:2 conv2:3")
def channel_shuffle_into_conv_groups():
    """Slots of the shuffle (4) and of the conv groups (4) leave two classes: even and odd."""
    i = image()
    x = layers.Reshape((8, 8, 2, 4))(conv(i, 8, "conv1", activation="relu"))
    x = layers.Reshape((8, 8, 8))(layers.Permute((1, 2, 4, 3))(x))
    return head(conv(x, 6, "conv2", groups=2), i)


@graph("conv1:5 conv2:6")
def pixel_shuffle():
    i = image(4)
    x = layers.Reshape((4, 4, 2, 2, 5))(conv(i, 20, "conv1", activation="relu"))
    x = layers.Reshape((8, 8, 5))(layers.Permute((1, 3, 2, 4, 5))(x))
    return head(conv(x, 6, "conv2"), i)


@graph("conv1:4 conv2:6")
def space_to_depth():
    i = image()
    x = ops.reshape(conv(i, 4, "conv1", activation="relu"), (-1, 4, 2, 4, 2, 4))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, 4, 16))
    return head(conv(x, 6, "conv2"), i)


@graph("conv1:2 conv2:5")
def reshape_askew():
    """(4, 4, 6) -> (12, 8): entry (r, c) is channel (8 r + c) mod 6; two kinds of columns."""
    i = image(4)
    x = layers.Reshape((12, 8))(conv(i, 6, "conv1", activation="relu"))
    return head(layers.Conv1D(5, 3, name="conv2")(x), i)


@graph("conv1:4 fc:5")
def flattened_then_split():
    """Sixteen entries cut in four and added: each part is the four channels at one pixel."""
    i = image(2)
    parts = ops.split(layers.Flatten()(conv(i, 4, "conv1", activation="relu")), 4, axis=-1)
    return Model(i, dense(dense(layers.Add()(parts), 5, "fc", activation="relu"), 3, "head"))


@graph("fc:5")
def shifted_sum():
    """x[1:9] + x[0:8] ties every channel to its neighbour: one class is left."""
    i = image(2)
    x = layers.Flatten()(conv(i, 4, "conv1"))
    return Model(i, dense(dense(x[:, 1:9] + x[:, :8], 5, "fc", activation="relu"), 3, "head"))


@graph("conv1+conv2:6 conv3:5")
def stacked_then_averaged():
    i = image()
    x = ops.stack([conv(i, 6, "conv1"), conv(i, 6, "conv2")], axis=-1)
    return head(conv(ops.mean(ops.relu(x), axis=-1), 5, "conv3"), i)


@graph("conv1:4 conv1:4 conv2:6", num_silent=1)
def taken_channels():
    i = image()
    x = ops.take(conv(i, 8, "conv1", activation="relu"), [3, 1, 0, 7], axis=-1)
    return head(conv(x, 6, "conv2"), i)


@graph("conv1:4 conv2:6")
def repeated_channels():
    """Channels 0 and 1 are read twice, 2 and 3 once; all in the same tensors, so one group."""
    i = image()
    x = ops.take(conv(i, 4, "conv1", activation="relu"), [0, 0, 1, 1, 2, 3], axis=-1)
    return head(conv(x, 6, "conv2"), i)


@graph("conv1:4 conv2:6")
def tiled_channels():
    i = image()
    x = ops.concatenate([ops.repeat(conv(i, 4, "conv1"), 2, axis=-1)], axis=-1)
    return head(conv(ops.relu(ops.tile(x, [1, 1, 1, 2])), 6, "conv2"), i)


@graph("conv1:6 conv2:5")
def expanded_and_squeezed():
    i = image()
    x = ops.expand_dims(conv(i, 6, "conv1", activation="relu"), axis=3)
    x = ops.moveaxis(ops.swapaxes(x, 3, 4), 3, 4)
    x = ops.squeeze(x, axis=3)
    return head(conv(ops.flip(x, axis=1), 5, "conv2"), i)


@graph("conv1:4 conv2:5")
def rolled_and_flipped_channels():
    i = image()
    x = ops.flip(ops.roll(conv(i, 4, "conv1", activation="relu"), 1, axis=-1), axis=-1)
    return head(conv(x, 5, "conv2"), i)


@graph("conv1:8 conv2:6")
def sum_over_channels():
    """A sum is a consumer: a removed channel adds nothing."""
    i = image()
    x = ops.sum(conv(i, 8, "conv1", activation="relu"), axis=-1, keepdims=True)
    return head(conv(x, 6, "conv2", activation="relu"), i)


@graph("conv2:6", pinned="conv1 head", reason="max")
def max_over_channels():
    i = image()
    x = ops.max(conv(i, 8, "conv1"), axis=-1, keepdims=True)
    return head(conv(x, 6, "conv2"), i)


@graph("conv1:6 conv2:5")
def reductions_over_space():
    i = image()
    x = conv(i, 6, "conv1")
    x = x - ops.mean(x, axis=(1, 2), keepdims=True)
    x = x / (ops.std(x, axis=(1, 2), keepdims=True) + 0.1)
    x = ops.concatenate([ops.max(x, axis=1), ops.min(x, axis=2), ops.sum(x, axis=1)], axis=-1)
    return head(layers.Conv1D(5, 3, name="conv2")(x), i)


@graph("conv1+conv2+fc:6 conv3:5")
def broadcasting():
    """(8, 1, 6) * (1, 8, 6) + (6): stretched along axes on which nothing varies."""
    i = image()
    rows = ops.mean(conv(i, 6, "conv1"), axis=2, keepdims=True)
    columns = ops.mean(conv(i, 6, "conv2"), axis=1, keepdims=True)
    bias = dense(layers.Flatten()(i), 6, "fc")
    return head(conv(ops.relu(rows * columns + bias[:, None, None]), 5, "conv3"), i)


# --- products ----------------------------------------------------------------------------------


@graph("q+k:4 v:6 conv2:5")
def attention_block():
    """A non-local block: q and k are contracted, so their channels pair up."""
    i = image(4)
    q, k, v = (
        layers.Reshape((16, n))(conv(i, n, s, kernel=1))
        for s, n in zip("qkv", (4, 4, 6), strict=True)
    )
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) * 0.5, axis=-1)
    x = layers.Reshape((4, 4, 6))(ops.matmul(scores, v))
    return head(conv(x, 5, "conv2", activation="relu"), i)


@graph("q+k:4 v:6 conv2:5")
def attention_block_of_dots():
    i = image(4)
    q, k, v = (
        layers.Reshape((16, n))(conv(i, n, s, kernel=1))
        for s, n in zip("qkv", (4, 4, 6), strict=True)
    )
    scores = layers.Softmax()(layers.Dot(axes=(2, 2))([q, k]))
    x = layers.Reshape((4, 4, 6))(layers.Dot(axes=(2, 1))([scores, v]))
    return head(conv(x, 5, "conv2", activation="relu"), i)


@graph("a+b:6")
def cosine_similarity():
    i = Input((7,))
    parts = [dense(i, 6, "a"), dense(i, 6, "b", activation="tanh")]
    return head(layers.Dot(axes=-1, normalize=True)(parts), i)


@graph("conv1+fc:6 conv2:5")
def einsum_gate():
    i = image()
    x = conv(i, 6, "conv1", activation="relu")
    weights = dense(layers.GlobalMaxPooling2D()(x), 6, "fc")
    x = ops.expand_dims(ops.einsum("bhwc,bc->bhw", x, weights), -1)
    return head(conv(x, 5, "conv2", activation="relu"), i)


@graph("conv2:5", pinned="conv1 head")
def gram_matrix():
    """Channels times channels: new channels that arise while another axis varies."""
    i = image(4)
    x = layers.Reshape((16, 6))(conv(i, 6, "conv1"))
    x = ops.matmul(ops.transpose(x, (0, 2, 1)), x)
    return head(layers.Conv1D(5, 1, activation="relu", name="conv2")(x), i)


@graph("a:6 fc:5 | b:4 fc:5")
def outer_product():
    """One of the two must stay, else the products are no rectangle."""
    i = Input((7,))
    x = ops.expand_dims(dense(i, 6, "a"), 2) * ops.expand_dims(dense(i, 4, "b"), 1)
    x = dense(layers.Flatten()(ops.tanh(x)), 5, "fc", activation="relu")
    return Model(i, dense(x, 3, "head"))


@graph("conv1+fc2:6 fc1:8")
def mlp_mixer():
    """A Dense layer over the pixels makes new entries while the channels vary: it stays whole."""
    i = image(4)
    x = layers.Reshape((16, 6))(conv(i, 6, "conv1"))
    y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    y = dense(dense(y, 12, "token1", activation="gelu"), 16, "token2")
    x = layers.Add()([x, layers.Permute((2, 1))(y)])
    y = dense(layers.LayerNormalization()(x), 8, "fc1", activation="gelu")
    return head(layers.Add()([x, dense(y, 6, "fc2")]), i)


@graph("conv1:6 project:5 merge:4")
def einsum_dense():
    i = image(4)
    x = layers.Reshape((16, 6))(conv(i, 6, "conv1", activation="relu"))
    x = layers.EinsumDense("abc,cd->abd", (16, 5), bias_axes="d", name="project")(x)
    x = layers.EinsumDense("abc,cd->abd", (None, 4), activation="relu", name="merge")(x)
    return head(x, i)


@graph("conv1:6 split:3 merge:5")
def einsum_dense_heads():
    """Kernel (6, 2, 3): new channels on two axes at once, the longer one is kept free."""
    i = image(4)
    x = layers.Reshape((16, 6))(conv(i, 6, "conv1", activation="relu"))
    x = layers.EinsumDense("btc,chk->bthk", (16, 2, 3), bias_axes="hk", name="split")(x)
    x = layers.EinsumDense("bthk,hkd->btd", (16, 5), name="merge")(ops.relu(x))
    return head(ops.relu(x), i)


# --- sequences ---------------------------------------------------------------------------------


@graph("conv1:4 lstm:5")
def lstm_on_a_feature_map():
    i = image()
    x = layers.Reshape((8, 32))(conv(i, 4, "conv1", activation="relu"))
    return Model(i, dense(layers.LSTM(5, name="lstm")(x), 3, "head"))


@graph("conv1:6 gru:5 lstm:4 conv2:5")
def gru_and_lstm_in_between():
    i = Input((12, 3))
    x = layers.Conv1D(6, 3, activation="relu", name="conv1")(i)
    x = layers.GRU(5, return_sequences=True, name="gru")(x)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    return head(layers.Conv1D(5, 3, activation="tanh", name="conv2")(x), i)


@graph("conv1+mha:8 mha:4 fc:6")
def multi_head_attention():
    """Whole heads (4) go; the output's channels belong to the residual sum (8)."""
    i = image(4)
    x = layers.Reshape((16, 8))(conv(i, 8, "conv1"))
    y = layers.MultiHeadAttention(4, 3, name="mha")(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    return head(dense(x, 6, "fc", activation="gelu"), i)


@graph("conv1:4 conv2:5 fc:6")
def time_distributed():
    i = Input((2, 6, 6, 3))
    x = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"), name="conv1")(i)
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    x = layers.TimeDistributed(layers.Conv2D(5, 3, activation="relu"), name="conv2")(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    return head(layers.TimeDistributed(layers.Dense(6, activation="relu"), name="fc")(x), i)


@graph("frames:4 video:5 fc:6")
def time_distributed_model():
    i = Input((2, 6, 6, 3))
    frame = layers.Conv2D(4, 3, activation="relu", name="conv1")
    x = layers.TimeDistributed(frame, name="frames")(i)
    t = Input((4, 4, 4))
    video = Model(t, layers.GlobalAveragePooling2D()(conv(t, 5, "conv", activation="relu")))
    x = layers.TimeDistributed(video, name="video")(x)
    return head(dense(x, 6, "fc", activation="relu"), i)


@graph("conv1:6 bi:4 fc:5 | fc:5")
def bidirectional():
    i = Input((12, 3))
    x = layers.Conv1D(6, 3, activation="relu", name="conv1")(i)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="bi")(x)
    return head(dense(x, 5, "fc", activation="relu"), i)


@graph("words:6 conv1:5")
def embedding():
    i = Input((9,), dtype="int32")
    x = layers.SpatialDropout1D(0.1)(layers.Embedding(10, 6, name="words")(i))
    return head(layers.Conv1D(5, 3, activation="relu", name="conv1")(x), i)


@graph("fc:6 conv1:5")
def repeat_vector():
    i = Input((4,))
    x = layers.RepeatVector(5)(dense(i, 6, "fc", activation="tanh"))
    return head(layers.Conv1D(5, 3, activation="relu", name="conv1")(x), i)


# --- other formats, and the unknown ------------------------------------------------------------


@graph("conv1:6 conv2+conv3:4 fc:5")
def channels_first():
    """No width equals a number of channels: Keras 3.15 would add biases along the wrong axis."""
    i = Input((3, 10, 10))
    first = {"data_format": "channels_first"}
    x = layers.BatchNormalization(axis=1)(conv(i, 6, "conv1", **first))
    x = layers.DepthwiseConv2D(3, padding="same", name="dw", **first)(ops.relu(x))
    a = conv(x, 4, "conv2", strides=2, **first)
    b = layers.MaxPooling2D(2, **first)(conv(x, 4, "conv3", **first))
    x = layers.Concatenate(axis=1)([a, layers.Add()([a, b])])
    x = layers.PReLU(shared_axes=[2, 3])(layers.UpSampling2D(2, **first)(x))
    x = dense(layers.Flatten(**first)(x), 5, "fc", activation="relu")
    return Model(i, dense(x, 3, "head"))


@graph("conv1:8 conv2:6")
def mixed_precision():
    i = image()
    x = conv(i, 8, "conv1", activation="relu", dtype="mixed_float16")
    x = layers.BatchNormalization(dtype="mixed_float16")(x)
    return head(conv(x, 6, "conv2", dtype="mixed_bfloat16"), i)


@keras.saving.register_keras_serializable("aip_tf_tests")
def _running_sum(x):
    """What cannot be called on symbols, and mixes channels."""
    return tf.cumsum(x, axis=-1)


@graph("conv2:6", pinned="conv1 head", reason="Lambda")
def unknown_lambda():
    i = image()
    x = layers.Lambda(_running_sum, name="mystery")(conv(i, 8, "conv1"))
    return head(conv(x, 6, "conv2"), i)


@graph("conv4:6", pinned="conv1 conv2 conv3 head", reason="Lambda")
def one_sum_links_a_chain_to_an_unknown():
    """In one sum the second convolution meets the first and, elsewhere, what is kept: all are."""
    i = image()
    x, y = conv(i, 4, "conv1"), conv(i, 4, "conv2")
    z = layers.Lambda(_running_sum, name="mystery")(conv(i, 4, "conv3"))
    total = layers.Add()([layers.Concatenate()([y, z]), layers.Concatenate()([x, y])])
    return head(conv(total, 6, "conv4"), i)


@keras.saving.register_keras_serializable(package="aip_tf_tests")
class Mystery(layers.Layer):
    """A layer with weights that no pruner knows, and that takes no symbolic tensor."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return tf.multiply(x, self.scale)


@graph("conv2:6 conv3:4", pinned="conv1 head", reason="Mystery")
def unknown_layer():
    i = image()
    x = layers.Concatenate()([Mystery()(conv(i, 8, "conv1")), conv(i, 6, "conv2")])
    return head(conv(ops.relu(x), 4, "conv3"), i)


# --- calls by keyword ----------------------------------------------------------------------------


@graph("conv1:8 conv2:5 conv3+conv4:6")
def calls_by_name():
    i = image()
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1")(inputs=i)
    x = layers.Conv2D(5, 3, padding="same", name="conv2")(inputs=x)
    x = layers.BatchNormalization(name="norm")(training=False, inputs=x)
    x = layers.ReLU()(inputs=x)
    twins = [layers.Conv2D(6, 3, padding="same", name=f"conv{n}")(inputs=x) for n in (3, 4)]
    x = layers.GlobalAveragePooling2D()(inputs=layers.Add()(inputs=twins))
    return Model(i, layers.Dense(3, name="head")(inputs=x))


# --- sizes and numbers that layers were given ----------------------------------------------------


@graph("made:8")
def einsum_given_the_size_of_channels_that_pass():
    i = Input((5, 6))
    x = layers.EinsumDense("btc,td->bdc", output_shape=(7, 8), name="einsum")(dense(i, 8, "made"))
    return Model(i, dense(layers.Flatten()(x), 2, "head"))


@graph("query+value+attention:8 attention:2")
def grouped_attention_of_two_tensors():
    """Keras wants query and value equally wide."""
    i = Input((5, 6))
    attention = layers.GroupQueryAttention(4, 4, 2, name="attention")
    x = attention(dense(i, 8, "query"), dense(i, 8, "value"))
    return Model(i, dense(layers.Flatten()(x), 2, "head"))


@graph("one:8", pinned="filled head", reason="settings")
def numbers_for_each_channel_as_settings():
    i = Input((6, 4))
    y = dense(i, 8, "filled")
    z = layers.Rescaling([0.5])(dense(i, 8, "one"))
    return head(layers.Concatenate()([y + ops.full_like(y, np.arange(8.0)), z]), i)

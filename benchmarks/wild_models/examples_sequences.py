"""Programs like keras.io's on series, words, sounds and videos."""

import functools

import keras
from keras import layers, ops

from wild_models import EXAMPLES, called, floats, ones, tokens, wild

example = functools.partial(wild, EXAMPLES)


@example()
def io_timeseries_transformer():
    series = keras.Input((24, 4))
    x = layers.Dense(8)(series)
    for _ in range(2):
        y = layers.MultiHeadAttention(key_dim=8, num_heads=4, dropout=0.1)(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(0.1)(y)) + x
        y = layers.Conv1D(filters=16, kernel_size=1, activation="relu")(x)
        y = layers.Conv1D(filters=x.shape[-1], kernel_size=1)(layers.Dropout(0.1)(y))
        x = layers.LayerNormalization(epsilon=1e-6)(y) + x
    x = layers.GlobalAveragePooling1D(data_format="channels_last")(x)
    x = layers.Dropout(0.4)(layers.Dense(24, activation="relu")(x))
    return keras.Model(series, layers.Dense(3)(x))


@example()
def io_timeseries_fcn():
    series = keras.Input((40, 1))
    x = series
    for _ in range(3):
        x = layers.Conv1D(16, 3, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(series, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@example()
def io_weather_lstm():
    series = keras.Input((20, 7))
    return keras.Model(series, layers.Dense(1)(layers.LSTM(24)(series)))


@example()
def io_anomaly_autoencoder():
    model = keras.Sequential([keras.Input((32, 1))])
    for width in (16, 8):
        model.add(layers.Conv1D(width, 7, padding="same", strides=2, activation="relu"))
        model.add(layers.Dropout(rate=0.2))
    for width in (8, 16):
        model.add(layers.Conv1DTranspose(width, 7, padding="same", strides=2, activation="relu"))
    model.add(layers.Conv1DTranspose(1, 7, padding="same"))
    return model


class WaveBlock(layers.Layer):
    """Gated dilated causal convolutions with two outputs: residual and skip."""

    def __init__(self, width, rate, **kwargs):
        super().__init__(**kwargs)
        options = {"dilation_rate": rate, "padding": "causal"}
        self.filter = layers.Conv1D(width, 2, activation="tanh", **options)
        self.gate = layers.Conv1D(width, 2, activation="sigmoid", **options)
        self.residual, self.skip = layers.Conv1D(width, 1), layers.Conv1D(width, 1)

    def call(self, x):
        y = self.filter(x) * self.gate(x)
        return x + self.residual(y), self.skip(y)


class WaveNet(keras.Model):
    def __init__(self, width=12, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv1D(width, 2, padding="causal")
        self.blocks = [WaveBlock(width, 2**i) for i in range(3)]
        self.head = keras.Sequential(
            [layers.ReLU(), layers.Conv1D(16, 1, activation="relu"), layers.Conv1D(5, 1)]
        )

    def call(self, x):
        x = self.first(x)
        total = 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.head(total)


@example()
def io_wavenet():
    return called(WaveNet(), floats(32, 1))


@example()
def io_speaker_recognition():
    """A residual network over frequencies."""
    sound = keras.Input((64, 1))
    x = sound
    for width, count in ((8, 2), (12, 2), (16, 3)):
        short = layers.Conv1D(width, 1, padding="same")(x)
        for _ in range(count - 1):
            x = layers.Activation("relu")(layers.Conv1D(width, 3, padding="same")(x))
        x = layers.Conv1D(width, 3, padding="same")(x)
        x = layers.MaxPool1D(pool_size=2, strides=2)(
            layers.Activation("relu")(layers.Add()([x, short]))
        )
    x = layers.Flatten()(layers.AveragePooling1D(pool_size=3, strides=3)(x))
    return keras.Model(sound, layers.Dense(4)(layers.Dense(24, activation="relu")(x)))


@example()
def io_captcha_ocr():
    """Convolutions, then bidirectional LSTMs along the width; without its CTC layer."""
    image = keras.Input((48, 16, 1), name="image")
    x = image
    for i, width in enumerate((8, 12)):
        x = layers.Conv2D(width, 3, activation="relu", padding="same", name=f"Conv{i}")(x)
        x = layers.MaxPooling2D((2, 2), name=f"pool{i}")(x)
    x = layers.Reshape((12, 4 * 12))(x)
    x = layers.Dropout(0.2)(layers.Dense(16, activation="relu")(x))
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True, dropout=0.25))(x)
    x = layers.Bidirectional(layers.LSTM(12, return_sequences=True, dropout=0.25))(x)
    return keras.Model(image, layers.Dense(11)(x))


@example()
def io_video_cnn_rnn():
    """Features of frames and a mask, recurrent on top."""
    features, mask = keras.Input((6, 16)), keras.Input((6,), dtype="bool")
    x = layers.GRU(16, return_sequences=True)(features, mask=mask)
    x = layers.Dropout(0.4)(layers.GRU(8)(x))
    x = layers.Dense(8, activation="relu")(x)
    seen = ones(6).astype(bool)
    seen[0, 4:] = False
    return keras.Model([features, mask], layers.Dense(5)(x)), [floats(6, 16), seen]


@example()
def io_video_frames():
    """TimeDistributed around a convolutional network, then a GRU."""
    frame = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(12, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    video = keras.Input((5, 16, 16, 3))
    x = layers.GRU(12)(layers.TimeDistributed(frame)(video))
    return keras.Model(video, layers.Dense(4)(x))


class TransformerEncoder(layers.Layer):
    """A block that hands on the mask of its input."""

    def __init__(self, width, inner, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.attention = layers.MultiHeadAttention(num_heads, width // num_heads, dropout=0.3)
        self.projection = keras.Sequential(
            [layers.Dense(inner, activation=keras.activations.gelu), layers.Dense(width)]
        )
        self.norm_1, self.norm_2 = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, x, mask=None):
        x = self.norm_1(x + self.attention(x, x, attention_mask=None))
        return self.norm_2(x + self.projection(x))


class PositionalEmbedding(layers.Layer):
    """A learned vector for each frame."""

    def __init__(self, length, width, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(length, width)
        self.length = length

    def call(self, x):
        return x + self.embedding(ops.arange(0, self.length, 1))


@example()
def io_video_transformer():
    video = keras.Input((6, 16))
    x = TransformerEncoder(16, 24, 4)(PositionalEmbedding(6, 16)(video))
    x = layers.Dropout(0.5)(layers.GlobalMaxPooling1D()(x))
    return keras.Model(video, layers.Dense(4)(x))


class TubeletEmbedding(layers.Layer):
    """Small boxes of a video as tokens."""

    def __init__(self, width, patch, **kwargs):
        super().__init__(**kwargs)
        self.projection = layers.Conv3D(width, patch, strides=patch)
        self.flatten = layers.Reshape((-1, width))

    def call(self, videos):
        return self.flatten(self.projection(videos))


@example()
def io_vivit():
    video = keras.Input((8, 16, 16, 1))
    x = TubeletEmbedding(16, (4, 4, 4))(video)
    x = x + layers.Embedding(32, 16)(ops.expand_dims(ops.arange(32), 0))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(4, 4, dropout=0.1)(y, y), x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        wide = keras.Sequential([layers.Dense(64, activation="gelu"), layers.Dense(16)])
        x = layers.Add()([wide(y), x])
    x = layers.GlobalAvgPool1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(video, layers.Dense(4)(x))


@example()
def io_bidirectional_lstm():
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 16, mask_zero=True)(words)
    x = layers.Bidirectional(layers.LSTM(12, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(12), merge_mode="sum")(x)
    batch = tokens(10)
    batch[1, 6:] = 0
    return keras.Model(words, layers.Dense(1)(x)), batch


@example()
def io_text_classification():
    words = keras.Input((16,), dtype="int32")
    x = layers.Dropout(0.5)(layers.Embedding(20, 16)(words))
    x = layers.Conv1D(24, 7, padding="valid", activation="relu", strides=2)(x)
    x = layers.Conv1D(24, 3, padding="valid", activation="relu")(x)
    x = layers.Dense(16, activation="relu")(layers.GlobalMaxPooling1D()(x))
    return keras.Model(words, layers.Dense(1)(layers.Dropout(0.5)(x)))


class TokenEmbedding(layers.Layer):
    """Words and places."""

    def __init__(self, length, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.words = layers.Embedding(vocabulary, width)
        self.places = layers.Embedding(length, width)

    def call(self, x):
        return self.words(x) + self.places(ops.arange(0, ops.shape(x)[-1], 1))


class TransformerBlock(layers.Layer):
    def __init__(self, width, num_heads, inner, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=width // num_heads)
        self.ffn = keras.Sequential([layers.Dense(inner, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drops = [layers.Dropout(rate) for _ in range(2)]

    def call(self, x):
        x = self.norms[0](x + self.drops[0](self.att(x, x)))
        return self.norms[1](x + self.drops[1](self.ffn(x)))


@example()
def io_text_transformer():
    words = keras.Input((12,), dtype="int32")
    x = TransformerBlock(16, 4, 64)(TokenEmbedding(12, 20, 16)(words))
    x = layers.Dense(12, activation="relu")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(words, layers.Dense(2)(layers.Dropout(0.1)(x)))


@example()
def io_miniature_gpt():
    """Causal attention by Keras' own flag."""
    words = keras.Input((12,), dtype="int32")
    x = TokenEmbedding(12, 20, 16)(words)
    for _ in range(2):
        y = layers.MultiHeadAttention(4, 4)(x, x, use_causal_mask=True)
        x = layers.LayerNormalization(epsilon=1e-6)(x + y)
        y = layers.Dense(16)(layers.Dense(64, activation="relu")(x))
        x = layers.LayerNormalization(epsilon=1e-6)(x + y)
    return keras.Model(words, layers.Dense(20)(x))


@example()
def io_sequence_to_sequence():
    """An LSTM starts in the states of another."""
    source, target = keras.Input((10, 8)), keras.Input((6, 8))
    _, h, c = layers.LSTM(16, return_state=True)(source)
    decoder = layers.LSTM(16, return_sequences=True, return_state=True)
    x, _, _ = decoder(target, initial_state=[h, c])
    return keras.Model([source, target], layers.Dense(8)(x))


class SpeechTransformer(keras.Model):
    """A subclassed model of two inputs: sound features and words so far."""

    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.sounds = keras.Sequential(
            [
                layers.Conv1D(width, 5, strides=2, padding="same", activation="relu")
                for _ in range(2)
            ]
        )
        self.encoders = [TransformerBlock(width, 4, 64), TransformerBlock(width, 4, 64)]
        self.words = TokenEmbedding(8, 20, width)
        self.cross = layers.MultiHeadAttention(4, width // 4)
        self.norm, self.head = layers.LayerNormalization(), layers.Dense(20)

    def call(self, inputs):
        sounds, words = inputs
        x = self.sounds(sounds)
        for encoder in self.encoders:
            x = encoder(x)
        y = self.words(words)
        return self.head(self.norm(y + self.cross(y, x)))


@example()
def io_speech_transformer():
    return called(SpeechTransformer(), (floats(24, 8), tokens(8)))

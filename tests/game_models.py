"""Small networks for the tests of the game."""

import keras
import numpy as np


def small_cnn(width=6, seed=0, last=None, shape=(8, 8, 1), num_classes=4, **options):
    """Two convolutions with normalisation, a pooling and a classifier; `relu0` and `relu1` tap."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input(shape)
    for i in range(2):
        x = keras.layers.Conv2D(
            width, 3, i + 1, padding="same", use_bias=False, name=f"conv{i}", **options
        )(x)
        x = keras.layers.BatchNormalization(name=f"bn{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(num_classes, activation=last, name="out")(x)
    return keras.Model(inputs, outputs)


def two_headed(width=6, seed=0):
    """A softmax over 4 classes and the logit of a yes/no answer."""
    trunk = small_cnn(width, seed)
    features = trunk.get_layer("pool").output
    classes = keras.layers.Dense(4, activation="softmax", name="kind")(features)
    return keras.Model(trunk.input, [classes, keras.layers.Dense(1, name="alive")(features)])


def small_data(num_samples=32, shape=(8, 8, 1), num_classes=4, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(num_samples, *shape)).astype("float32")
    return images, generator.integers(0, num_classes, num_samples)


def cross_entropy(from_logits=True):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)

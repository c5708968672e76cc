"""A copy is the model: what is alive travels, and lands where it was."""

import functools
import threading

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from keras import Input, Model, layers, ops

import aip_tf
from aip_tf.channels import check_copy, check_cut

HALF = np.arange(8) % 2 == 0
IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")


def behind(layer, *, cut_too=False):
    """A convolution "free" of 8 filters, a second one if `layer` is cut too, then `layer`."""
    i = Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="free")(i)
    x = layer(x if cut_too else layers.Conv2D(6, 3)(x))
    return Model(i, layers.Dense(3)(layers.Flatten()(x)))


def hard_sigmoid(x):
    """Keras 2's: another function under the name of one of Keras."""
    return ops.clip(0.2 * x + 0.5, 0, 1)


class Forgetful(layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def get_config(self):
        return super().get_config()

    def call(self, x):
        return tf.multiply(x, self.factor)  # closed to the tracer: the layer is copied as it is


class Bare(layers.Layer):
    def __init__(self):
        super().__init__()

    def call(self, x):
        return tf.nn.relu(x)


class Holder(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


class Penalty(keras.regularizers.Regularizer):
    def __init__(self, matrix=None):
        self.matrix = matrix

    def __call__(self, w):
        return ops.sum(ops.abs(w) if self.matrix is None else ops.abs(w) * self.matrix)

    def get_config(self):
        return {}


class Ones(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return ops.ones(shape, dtype)


LAYERS = {
    "gelu in the form of keras.ops": lambda: layers.Dense(4, activation=ops.gelu),
    "a function under a known name": lambda: layers.Activation(hard_sigmoid),
    "a lambda": lambda: layers.Activation(lambda x: ops.relu(x)),
    "Lambda": lambda: layers.Lambda(hard_sigmoid),
    "a forgetful configuration": lambda: Forgetful(3.0),
    "no keyword arguments": Bare,
    "no configuration": lambda: Holder(tf.nn.relu),
    "unregistered objects": lambda: layers.Conv2D(
        4, 3, kernel_regularizer=Penalty(), kernel_initializer=Ones(), activation=hard_sigmoid
    ),
    "a partial": lambda: layers.Conv2D(
        4, 3, activation=functools.partial(ops.leaky_relu, negative_slope=0.3)
    ),
    "a layer as activation": lambda: layers.Conv2D(4, 3, activation=layers.LeakyReLU(0.4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("cut_too", [False, True], ids=["whole", "reads the cut"])
def test_an_uncut_copy_is_the_model_and_a_cut_one_is_exact(name, cut_too):
    model = behind(LAYERS[name](), cut_too=cut_too)
    assert check_copy(model, aip_tf.prune_channels(model, {}), IMAGES) == 0
    cut = aip_tf.prune_channels(model, {"free": HALF})
    assert cut.get_layer("free").filters == 4
    assert check_cut(model, cut, {"free": HALF}, IMAGES) <= 1e-5


def test_a_resized_layer_keeps_its_objects():
    penalty = Penalty()
    layer = layers.Conv2D(
        8, 3, name="free", activation=ops.gelu, kernel_regularizer=penalty, bias_initializer=Ones()
    )
    i = Input((8, 8, 3))
    model = Model(i, layers.Dense(2)(layers.Flatten()(layer(i))))
    copy = aip_tf.prune_channels(model, {"free": HALF}).get_layer("free")
    assert copy.activation is layer.activation
    assert copy.kernel_regularizer is penalty and copy.kernel.regularizer is penalty
    assert copy.bias_initializer is layer.bias_initializer


@pytest.mark.parametrize("kind", ["initializer", "regularizer"])
def test_an_array_in_a_configuration_shrinks_with_its_variable(kind, tmp_path):
    table = np.random.default_rng(0).normal(size=(20, 8)).astype("float32")
    objects = {
        "initializer": {"embeddings_initializer": keras.initializers.Constant(table)},
        "regularizer": {"embeddings_regularizer": Penalty(table)},
    }
    i = Input((7,), dtype="int32")
    x = layers.Embedding(20, 8, name="table", **objects[kind])(i)
    model = Model(i, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))
    cut = aip_tf.prune_channels(model, {"table": HALF})
    if kind == "regularizer":
        kept = (table[:, HALF] * np.abs(cut.get_layer("table").embeddings.numpy())).sum()
        np.testing.assert_allclose(cut.losses[0], kept, rtol=1e-5)
    else:
        cut.save(tmp_path / "cut.keras")
        again = keras.saving.load_model(tmp_path / "cut.keras")
        ids = np.arange(14).reshape(2, 7)
        np.testing.assert_array_equal(again(ids), cut(ids))
        assert keras.models.clone_model(cut).count_params() == cut.count_params()


def test_flags_land_where_they_were_whatever_a_subclass_tracks():
    class Mine(Model):
        def __init__(self):
            i = Input((8, 8, 3))
            names = ("a", "b")
            first, second = (layers.Conv2D(8, 3, name=name) for name in names)
            self.head = layers.Dense(3, name="c")  # tracked before the graph is
            x = layers.GlobalAveragePooling2D()(second(first(i)))
            super().__init__(i, self.head(x))
            self.augment = layers.RandomFlip()  # used in train_step, not in the graph
            self.frozen = layers.Dense(2)

    model = Mine()
    model.get_layer("a").trainable = False
    copy = aip_tf.prune_channels(model, {"a": HALF})
    flags = {x.name: x.trainable for x in copy.layers if x.weights}
    assert flags == {"a": False, "b": True, "c": True}
    assert [w.path for w in copy.trainable_weights] == [
        "b/kernel",
        "b/bias",
        "c/kernel",
        "c/bias",
    ]
    assert not any(x.name == model.augment.name for x in copy.layers)


def test_private_attributes_and_shared_state_of_a_whole_layer_are_its_own():
    class Private(layers.Layer):
        def build(self, shape):
            self._self_attention_norm = layers.LayerNormalization()
            self._self_attention_norm.build(shape)
            self.twice = {"norms": [self._self_attention_norm]}
            self.read = lambda: self._self_attention_norm.gamma  # closes over the layer

        def call(self, x):
            return tf.nn.relu(self.twice["norms"][0](x)) * tf.reduce_mean(self.read())

    model = behind(Private())
    layer = next(x for x in model.layers if isinstance(x, Private))
    copy = aip_tf.prune_channels(model, {"free": HALF}).get_layer(layer.name)
    assert copy.twice["norms"][0] is copy._self_attention_norm is not layer._self_attention_norm
    assert copy.read() is copy._self_attention_norm.gamma
    assert len(copy.weights) == len(layer.weights) == 2


def test_copies_are_made_in_one_thread_while_another_builds_layers():
    model = behind(layers.Conv2D(64, 3), cut_too=True)
    built, done = [], threading.Event()

    def build():
        while not done.is_set():
            layer = layers.Dense(4, kernel_initializer="ones")
            layer.build((None, 3))
            built.append(float(ops.sum(layer.kernel)))

    thread = threading.Thread(target=build)
    thread.start()
    for _ in range(5):
        aip_tf.prune_channels(model, {"free": HALF})
    done.set()
    thread.join()
    assert set(built) == {12.0}


def test_the_first_layer_that_differs_is_named():
    model = behind(layers.Conv2D(4, 3, name="second"))
    copy = aip_tf.prune_channels(model, {})
    copy.get_layer("second").bias.assign(np.ones(4))
    with pytest.raises(ValueError, match="first at 'second'"):
        check_copy(model, copy, IMAGES)


# --- the gate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [layers.RandomRotation(0.2), layers.RandomContrast(0.3), layers.RandomBrightness(0.3)]
)
def test_augmentation_in_the_model_is_no_false_alarm(layer):
    i = Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(layers.Conv2D(8, 3, name="free")(layer(i)))
    model = Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    masks = {"free": HALF}
    assert check_cut(model, aip_tf.prune_channels(model, masks), masks, IMAGES) <= 1e-5
    twin = aip_tf.mask_channels(model, masks)
    first, second = (np.asarray(twin(IMAGES, training=False)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["numpy", "tensor", "layer"])
def test_a_constant_is_no_traced_tensor(kind):
    table = np.random.default_rng(0).normal(size=(1, 6, 8)).astype("float32")
    i = Input((6, 4))
    constants = {
        "numpy": lambda: table,
        "tensor": lambda: tf.constant(table),
        "layer": lambda: layers.Embedding(6, 8)(np.arange(6)[None]),
    }
    x = layers.Dense(8, name="free")(i) + constants[kind]()
    model = Model(i, layers.Dense(3)(layers.Flatten()(layers.Dense(5, activation="relu")(x))))
    steps = np.random.default_rng(1).normal(size=(4, 6, 4)).astype("float32")
    masks = {"free": HALF}
    assert check_cut(model, aip_tf.prune_channels(model, masks), masks, steps) <= 1e-5


def test_float64_decides_only_if_it_equals_the_model():
    """A layer that computes in its own float32 is not rescued by a recast that changes it."""

    class Coarse(layers.Layer):
        def call(self, x):
            return tf.cast(tf.cast(x * 1e4, tf.int32), x.dtype)

    model = behind(Coarse(), cut_too=True)
    cut = aip_tf.prune_channels(model, {"free": HALF})
    wrong = aip_tf.prune_channels(model, {"free": ~HALF})
    with pytest.raises(ValueError, match="not exact"):
        check_cut(model, wrong, {"free": HALF}, IMAGES)
    assert laws.relative_error([np.asarray(cut(IMAGES))], [np.asarray(cut(IMAGES))]) == 0


def test_pixels_are_cast_as_the_model_casts_them():
    model = behind(layers.Conv2D(4, 3), cut_too=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype("uint8")
    masks = {"free": HALF}
    assert check_cut(model, aip_tf.prune_channels(model, masks), masks, pixels) <= 1e-5


def test_a_copy_scales_its_loss_as_its_model_does():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    functional = keras.Model(model.inputs, model.outputs)
    keras.config.set_dtype_policy(with_policy)
    for x in (model, functional):
        copy = aip_tf.prune_channels(x, {})
        copy.compile("sgd", "mse")
        assert isinstance(copy.optimizer, keras.optimizers.LossScaleOptimizer)

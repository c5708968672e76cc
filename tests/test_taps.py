"""Where attention is read, and what kind of answer an output is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from game_models import small_cnn, two_headed
from keras import layers

from aip_tf import losses
from aip_tf.game import AdversarialDistiller, FeatureTransfer, Transfer, taps
from aip_tf.task import outputs


def nested():
    inner = small_cnn()
    backbone = keras.Model(inner.input, inner.get_layer("relu1").output, name="backbone")
    return keras.Sequential(
        [keras.Input((8, 8, 1)), backbone, layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )


def test_auto_taps_are_the_last_tensor_of_each_resolution():
    assert taps.find_taps(small_cnn()) == ("relu0", "relu1")


def test_auto_taps_look_into_nested_models():
    assert taps.find_taps(nested()) == ("backbone/relu0", "backbone/relu1")


def test_auto_taps_of_mobilenet_skip_padding_and_single_positions():
    model = keras.applications.MobileNet((64, 64, 3), alpha=0.25, weights=None, classes=5)
    paths = taps.find_taps(model)
    sizes = [shape[1] for shape in taps.tap_shapes(model, paths).values()]
    assert sizes == [32, 16, 8, 4, 2]
    assert paths[-1] == "conv_pw_13_relu"


def test_auto_taps_of_residual_networks_are_the_stage_ends():
    x = inputs = keras.Input((16, 16, 3))
    for stage, width in enumerate((4, 8, 8)):
        x = layers.Conv2D(width, 3, 1 if stage == 0 else 2, padding="same")(x)
        y = layers.Conv2D(width, 3, padding="same")(layers.ReLU()(x))
        x = layers.Add(name=f"end{stage}")([x, y])
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    assert taps.find_taps(model) == ("end0", "end1", "end2")


def test_auto_taps_with_open_sizes():
    x = inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, 2, name="half")(x)
    x = layers.Conv2D(4, 3, 2, name="quarter")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    assert taps.find_taps(model) == ("half", "quarter")


def test_sequences_have_positions_too():
    model = keras.Sequential(
        [keras.Input((12, 3)), layers.Conv1D(4, 3, name="a"), layers.Flatten(), layers.Dense(2)]
    )
    assert taps.find_taps(model) == ("a",)


def test_a_model_without_positions_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="without a tensor that has spatial positions"):
        taps.find_taps(model)


def test_unknown_taps_are_named():
    with pytest.raises(ValueError, match=r"\['nowhere'\]"):
        taps.tap_shapes(small_cnn(), ("relu0", "nowhere"))


def test_finding_taps_adds_nothing_to_the_model():
    model = small_cnn()
    taps.find_taps(model)
    taps.Reader(model, ("relu0",))(np.zeros((1, 8, 8, 1), "float32"), training=False)
    assert model.get_layer("relu0").output.shape == (None, 8, 8, 6)  # fails with a second node


@pytest.mark.parametrize("make", [small_cnn, nested])
@pytest.mark.parametrize("training", [False, True])
def test_reading_taps_is_the_models_own_forward_pass(make, training):
    model, twin = make(), make()
    paths = taps.find_taps(model)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    outputs, reading = taps.Reader(model, paths)(x, training=training)
    np.testing.assert_array_equal(outputs, twin(x, training=training))
    np.testing.assert_array_equal(reading.outputs[0], outputs)
    assert [reading.taps[p].shape[1] for p in paths] == [8, 4]
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # moving statistics as well


def test_reading_energies_changes_neither_outputs_nor_gradients():
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    paths = ("relu0", "relu1")

    def loss_and_gradients(**asked):
        model = small_cnn()
        with tf.GradientTape() as tape:
            outputs, reading = taps.Reader(model, **asked)(x, training=True)
            found = [reading.energies.get(p, losses.energy(reading.taps[p])) for p in paths]
            loss = sum(tf.reduce_sum(tf.square(t)) for t in [outputs, *found])
        return [loss, *tape.gradient(loss, model.trainable_variables)]

    plain = loss_and_gradients(taps=paths)
    for a, b in zip(loss_and_gradients(taps=paths, energies=paths), plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_energies_come_before_the_next_layer_and_their_gradients_after_its_own():
    model = small_cnn()
    reader = taps.Reader(model, energies=("relu0", "relu1"))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            outputs, reading = reader(x, training=True)
            loss = tf.reduce_sum(outputs) + sum(map(tf.reduce_sum, reading.energies.values()))
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec((2, 8, 8, 1))).graph
    waiting = [op for op in graph.get_operations() if op.type == "Identity"]
    pairs = [(cause, op) for op in waiting for cause in op.control_inputs if cause.outputs]
    shapes = [[tuple(op.outputs[0].shape) for op in pair] for pair in pairs]
    for tensor in [(2, 8, 8, 6), (2, 4, 4, 6)]:
        assert [tensor[:-1], tensor] in shapes  # forwards
        assert [tensor, tensor] in shapes  # backwards


def test_comparing_tensors_where_they_are_made_changes_neither_losses_nor_gradients():
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    teacher = small_cnn(seed=1)

    def compared(where_made):
        student = small_cnn(seed=2)
        transfer = FeatureTransfer().bind(teacher, student)
        _, theirs = taps.Reader(teacher, tuple(transfer.taps))(x, training=False)
        asked = {p: (p, f) for p, f in transfer.comparisons(theirs).items()}
        with tf.GradientTape() as tape:
            outputs, reading = taps.Reader(student, tuple(transfer.taps))(
                x, training=True, comparisons={transfer.name: asked} if where_made else {}
            )
            assert bool(reading.compared) == where_made
            loss = transfer.loss(theirs, reading)
            total = loss + tf.reduce_sum(tf.square(outputs))
        return [loss, *tape.gradient(total, student.trainable_variables)]

    for a, b in zip(compared(True), compared(False), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


class Loudness(Transfer):
    """How much louder a student is than its teacher, asked where only energies are read."""

    energies = ("relu0",)

    def comparisons(self, teacher):
        theirs = teacher.energies["relu0"]
        return {"relu0": lambda x: keras.ops.mean(losses.energy(x) - theirs, axis=(1, 2))}

    def loss(self, teacher, student):
        return keras.ops.mean(student.compared["transfer"]["relu0"])


def test_a_transfer_of_ones_own_may_ask_where_energies_are_read():
    networks = small_cnn(seed=1), small_cnn(seed=2)
    distiller = AdversarialDistiller(*networks, [Loudness()])
    distiller.compile(keras.optimizers.SGD(0.0))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    found = distiller.train_on_batch(x, return_dict=True)["transfer_loss"]
    theirs, own = (
        taps.Reader(m, energies=("relu0",))(x, training=is_student)[1].energies["relu0"]
        for is_student, m in enumerate(networks)
    )
    assert found == pytest.approx(float(np.mean(own - theirs)), rel=1e-4)


def test_reading_energies_keeps_the_mask_of_a_sequence():
    x = inputs = keras.Input((5,))
    x = layers.Embedding(7, 3, mask_zero=True)(x)
    x = layers.Activation("tanh", name="tap")(x)
    model = keras.Model(inputs, layers.LSTM(2)(x))
    data = np.array([[1, 2, 3, 0, 0]])
    outputs, _ = taps.Reader(model, energies=("tap",))(data, training=False)
    np.testing.assert_allclose(outputs, model(data), rtol=1e-6)


def test_reading_takes_inputs_in_the_models_own_structure():
    inputs = {"a": keras.Input((4, 4, 1)), "b": keras.Input((4, 4, 1))}
    x = layers.Conv2D(3, 3, name="conv")(layers.Concatenate()(list(inputs.values())))
    model = keras.Model(inputs, {"answer": layers.Flatten()(x)})
    data = {"b": np.ones((2, 4, 4, 1), "float32"), "a": np.zeros((2, 4, 4, 1), "float32")}
    outputs, reading = taps.Reader(model, ("conv",))(data, training=False)
    np.testing.assert_array_equal(outputs["answer"], model(data)["answer"])
    assert reading.taps["conv"].shape == (2, 2, 2, 3)


def _ends_in(end):
    x = inputs = keras.Input((6,))
    return keras.Model(inputs, end(layers.Dense(4, name="logits")(x)))


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("logits", lambda x: x),
        ("logits", lambda x: layers.ReLU()(x)),
        ("softmax", lambda x: layers.Softmax()(x)),
        ("softmax", lambda x: layers.Activation("softmax")(x)),
        ("softmax", lambda x: layers.Dense(3, activation="softmax")(x)),
        ("softmax", lambda x: keras.ops.softmax(x)),
        ("softmax", lambda x: layers.Activation("linear")(layers.Softmax()(x))),
        ("softmax", lambda x: layers.Reshape((2, 2))(layers.Softmax()(x))),
        ("sigmoid", lambda x: layers.Dense(3, activation="sigmoid")(x)),
        ("sigmoid", lambda x: keras.ops.sigmoid(x)),
        ("logits", lambda x: layers.Dense(3)(layers.Softmax()(x))),
        ("softmax", lambda x: layers.Softmax(axis=2)(layers.Reshape((2, 2))(x))),
        ("shares", lambda x: layers.Softmax(axis=1)(layers.Reshape((2, 2))(x))),
        ("shares", lambda x: keras.ops.softmax(layers.Reshape((2, 2))(x), axis=-2)),
        (
            "shares",
            lambda x: layers.Reshape((4,))(layers.Softmax((1, 2))(layers.Reshape((2, 2))(x))),
        ),
    ],
)
def test_output_kinds(kind, end):
    assert outputs.output_kinds(_ends_in(end)) == [kind]


def test_output_kinds_through_nested_models_and_for_several_outputs():
    assert outputs.output_kinds(two_headed()) == ["softmax", "logits"]
    inner = _ends_in(lambda x: layers.Softmax()(x))
    assert outputs.output_kinds(keras.Sequential([keras.Input((6,)), inner])) == ["softmax"]


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="Functional or built Sequential"):
        outputs.output_names(Own())

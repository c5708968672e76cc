"""AdversarialDistiller: the step is what it says, and Keras' own machinery works around it."""

from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from game_models import cross_entropy, small_cnn, small_data, two_headed

import aip_tf
from aip_tf import _keras
from aip_tf.game import (
    AdversarialDistiller,
    AdversarialTransfer,
    AttentionTransfer,
    OutputTransfer,
    Transfer,
    build_discriminator,
)
from aip_tf.game.taps import Reading
from aip_tf.recovery import recalibrate
from aip_tf.training import trained_variables

IMAGES, LABELS = small_data()
ALL_LOGS = {
    "loss", "accuracy", "total_loss", "supervised_loss", "output_loss", "attention_loss",
    "adversarial_loss", "discriminator_loss", "discriminator_accuracy",
}  # fmt: skip


def sgd(**settings):
    return keras.optimizers.SGD(0.05, momentum=0.9, **settings)


def game(transfers=None, student=None, optimizer=None, supervised_weight=None, **settings):
    distiller = AdversarialDistiller(
        small_cnn(8, seed=7), student or small_cnn(seed=1), transfers, supervised_weight
    )
    settings = {"loss": cross_entropy(), "metrics": ["accuracy"]} | settings
    distiller.compile(optimizer or sgd(), **settings)
    return distiller


def assert_same_weights(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


# --- what a step does -------------------------------------------------------------------------


class Count(keras.layers.Layer):
    """Counts how often the graph runs through it, by mode."""

    def build(self, shape):
        self.counts = self.add_weight(shape=(2,), dtype="int32", initializer="zeros",
                                      trainable=False, name="counts")  # fmt: skip

    def call(self, x, training=False):
        self.counts.assign_add([0, 1] if training else [1, 0])
        return x


def counted(width, seed):
    model = small_cnn(width, seed)
    return keras.Model(model.input, Count(name="count")(model.output))


def test_every_network_is_asked_exactly_once_per_step():
    keras.utils.set_random_seed(0)
    judge = keras.Sequential([keras.Input((4,)), Count(name="count"), keras.layers.Dense(1)])
    teacher, student = counted(8, 0), counted(6, 1)
    distiller = AdversarialDistiller(
        teacher,
        student,
        [OutputTransfer(), AttentionTransfer(weight=1), AdversarialTransfer(discriminator=judge)],
    )
    distiller.compile(sgd(), cross_entropy())
    distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    inference, training = [0, 4], [4, 0]
    np.testing.assert_array_equal(teacher.get_layer("count").counts, inference[::-1])
    np.testing.assert_array_equal(student.get_layer("count").counts, training[::-1])
    np.testing.assert_array_equal(judge.get_layer("count").counts, training[::-1])


def test_the_game_moves_student_statistics_as_plain_training_does():
    plain = small_cnn(seed=1)
    plain.compile(keras.optimizers.SGD(0.0), cross_entropy())
    plain.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    distiller = game(optimizer=keras.optimizers.SGD(0.0))
    distiller.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    assert_same_weights(plain, distiller.student)


def test_the_game_trains_student_and_discriminator_and_leaves_the_teacher_alone():
    distiller = game()
    teacher, student = distiller.teacher, distiller.student
    twin = keras.models.clone_model(teacher)
    twin.set_weights(teacher.get_weights())
    before = student.get_weights(), distiller.discriminators[0].get_weights()
    history = distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0).history
    assert_same_weights(teacher, twin)
    assert teacher.trainable
    assert all(layer.trainable for layer in teacher.layers)
    for old, model in zip(before, (student, distiller.discriminators[0]), strict=True):
        assert all((a != b).any() for a, b in zip(old, model.get_weights(), strict=True))
    assert set(history) == ALL_LOGS


def test_the_log_has_the_students_own_loss_and_the_weighted_sum_of_the_terms():
    student = small_cnn(seed=1, kernel_regularizer=keras.regularizers.L2(0.1))
    transfers = [
        OutputTransfer(weight=0.7),
        AttentionTransfer(weight=0.4),
        AdversarialTransfer(2.0),
    ]
    distiller = game(transfers, student, keras.optimizers.SGD(0.0), supervised_weight=0.3)
    penalty = float(sum(student.losses))
    logs = distiller.train_on_batch(IMAGES, LABELS, return_dict=True)
    expected = (
        0.3 * logs["supervised_loss"]
        + 0.7 * logs["output_loss"]
        + 0.4 * logs["attention_loss"]
        + 2.0 * logs["adversarial_loss"]
        + penalty
    )
    assert penalty > 0.1
    assert logs["total_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["supervised_loss"] + penalty, rel=1e-5)


@pytest.mark.parametrize(
    "weights",
    [{"class_weight": {0: 2.0, 1: 0.5}}, {"sample_weight": np.linspace(0.5, 1.5, len(IMAGES))}],
)
def test_without_transfers_training_is_the_students_own_fit(weights):
    """Regulariser, clipping, weight decay, EMA, class or sample weights, two epochs: all equal."""

    def run(wrap):
        student = small_cnn(seed=1, kernel_regularizer=keras.regularizers.L2(1e-2))
        model = AdversarialDistiller(small_cnn(8), student, []) if wrap else student
        optimizer = sgd(weight_decay=1e-2, global_clipnorm=0.5, use_ema=True)
        model.compile(optimizer, cross_entropy(), weighted_metrics=["accuracy"])
        keras.utils.set_random_seed(3)
        options = {"batch_size": 8, "epochs": 2, "verbose": 0, "validation_split": 0.25}
        return student, model.fit(IMAGES, LABELS, **options, **weights).history

    (plain, plain_history), (student, history) = run(False), run(True)
    assert_same_weights(plain, student)
    assert history == plain_history


def test_evaluate_and_predict_speak_of_the_student_alone():
    distiller = game()
    student = distiller.student
    student.compile(loss=cross_entropy(), metrics=["accuracy"])
    expected = student.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert distiller.evaluate(IMAGES, LABELS, verbose=0, return_dict=True) == expected
    assert distiller.evaluate(IMAGES, LABELS, verbose=0) == list(expected.values())[::-1] or (
        distiller.evaluate(IMAGES, LABELS, verbose=0) == list(expected.values())
    )
    np.testing.assert_array_equal(
        distiller.predict(IMAGES, verbose=0), student.predict(IMAGES, verbose=0)
    )
    np.testing.assert_array_equal(distiller(IMAGES), student(IMAGES))


def test_a_transfer_of_ones_own_needs_only_a_loss():
    class Matching(Transfer):
        def loss(self, teacher, student):
            return tf.reduce_mean(tf.square(teacher.outputs[0] - student.outputs[0]))

    distiller = game([Matching(weight=3.0, name="matching")], supervised_weight=0.0)
    logs = distiller.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs["total_loss"] == pytest.approx(3.0 * logs["matching_loss"], rel=1e-6)


def test_the_transfers_alone_can_teach():
    distiller = game([OutputTransfer(weight=1.0)], loss=None, metrics=None)
    losses = distiller.fit(IMAGES, epochs=6, batch_size=8, verbose=0).history["output_loss"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "transfers", [[AttentionTransfer(weight=5.0)], [OutputTransfer(weight=0.9)]]
)
def test_labels_of_classes_count_as_they_are(transfers):
    logs = game(transfers).train_on_batch(IMAGES, LABELS, return_dict=True)
    (transfer,) = transfers
    others = transfer.weight * logs[f"{transfer.name}_loss"]
    assert logs["total_loss"] == pytest.approx(logs["supervised_loss"] + others, rel=1e-5)


# --- a discriminator that wins ------------------------------------------------------------------


def test_a_discriminator_that_wins_outright_does_not_destroy_the_student():
    """Measured: loss 0.89 without a discriminator, 0.90 with one, 10.4 with one and no guard."""
    images, _ = small_data(256, seed=3)
    labels = (images[:, :4].mean((1, 2, 3)) > 0) + 2 * (images[:, 4:].mean((1, 2, 3)) > 0)
    teacher = small_cnn(12, seed=7)
    teacher.compile(keras.optimizers.Adam(1e-2), cross_entropy())
    teacher.fit(images, labels, epochs=15, verbose=0)

    def train(transfers):
        distiller = AdversarialDistiller(teacher, small_cnn(seed=1), transfers)
        distiller.compile(sgd(), cross_entropy())
        return distiller.fit(images, labels, epochs=8, verbose=0, shuffle=False).history

    judge = keras.optimizers.Adam(3e-3, beta_1=0.5)
    alone = train([])["loss"][-1]
    guarded = train([AdversarialTransfer(optimizer=judge)])
    exposed = train([AdversarialTransfer(optimizer=judge, max_pull=None)])
    assert max(guarded["discriminator_accuracy"]) > 0.95  # it does win
    assert guarded["supervised_loss"][-1] < alone + 0.1
    assert exposed["supervised_loss"][-1] > alone + 1.0


# --- Keras' machinery ---------------------------------------------------------------------------


@pytest.mark.parametrize("max_pull", [None, 1.0])
def test_one_step_of_the_student_raises_the_verdict_of_a_discriminator_that_stays(max_pull):
    judge, still = build_discriminator(4), keras.optimizers.SGD(0.0)
    transfer = AdversarialTransfer(discriminator=judge, optimizer=still, max_pull=max_pull)
    step = keras.optimizers.SGD(0.01)
    distiller = game([transfer], optimizer=step, supervised_weight=0.0)

    def verdict():
        return float(keras.ops.mean(judge(distiller.student(IMAGES, training=True))))

    before = verdict()
    distiller.train_on_batch(IMAGES, LABELS)
    assert verdict() > before


def test_from_its_saved_state_it_trains_on_identically(tmp_path):
    distiller = game()
    distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    distiller.save_state(tmp_path / "game.weights.h5")
    loaded = game(student=small_cnn(seed=99))
    loaded.load_state(tmp_path / "game.weights.h5")
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    expected = distiller.fit(IMAGES, LABELS, **options).history
    assert loaded.fit(IMAGES, LABELS, **options).history == expected
    assert_same_weights(loaded.student, distiller.student)
    assert_same_weights(loaded.discriminators[0], distiller.discriminators[0])


def test_the_state_leaves_the_teacher_out_and_names_what_does_not_fit(tmp_path):
    distiller = game()
    distiller.save_state(tmp_path / "game.weights.h5")
    with h5py.File(tmp_path / "game.weights.h5") as file:
        found = []
        file.visit(found.append)
    assert not [name for name in found if "teacher" in name]
    for part in ("optimizer", "discriminators", "discriminator_optimizers", "layers"):
        assert [name for name in found if name.startswith(part)]
    other = game(student=small_cnn(5, seed=99))
    with pytest.raises(ValueError, match=r"does not fit.*Expected that of the same model"):
        other.load_state(tmp_path / "game.weights.h5")


def test_what_is_saved_or_restored_is_the_plain_student(tmp_path):
    distiller = game()
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path)
    distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0, callbacks=checkpoint)
    saved = keras.saving.load_model(path)
    assert isinstance(saved, type(distiller.student))
    assert_same_weights(saved, distiller.student)
    assert len(distiller.get_weights()) == len(distiller.student.get_weights())
    distiller.save_weights(tmp_path / "student.weights.h5")
    saved.load_weights(tmp_path / "student.weights.h5")


def test_what_callbacks_see_and_write_is_the_student():
    distiller = game()
    teacher, student = distiller.teacher, distiller.student
    before = [v.numpy() for v in teacher.variables]
    lists = "variables weights trainable_variables trainable_weights losses layers inputs outputs"
    for name in [*lists.split(), "non_trainable_variables", "non_trainable_weights"]:
        assert list(map(id, getattr(distiller, name))) == list(map(id, getattr(student, name)))
    assert distiller.input is student.input and distiller.output is student.output
    assert (distiller.input_shape, distiller.output_shape) == ((None, 8, 8, 1), (None, 4))
    assert distiller.count_params() == student.count_params()
    assert distiller.to_json() == student.to_json()
    assert distiller.get_config() == student.get_config()

    clip = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: [v.assign(0 * v) for v in distiller.weights]
    )
    distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0, callbacks=clip)
    assert not any(np.any(v) for v in student.get_weights())
    assert len(distiller.metrics_variables) > len(ALL_LOGS)
    distiller.trainable = False
    assert teacher.trainable and not student.trainable and not distiller.trainable
    assert all(map(np.array_equal, before, teacher.variables))


def test_several_outputs():
    distiller = AdversarialDistiller(two_headed(8, 7), two_headed(6, 1))
    distiller.compile(
        sgd(),
        {"kind": cross_entropy(False), "alive": keras.losses.BinaryCrossentropy(True)},
        metrics={"kind": ["accuracy"]},
    )
    labels = {"kind": LABELS, "alive": (LABELS > 1).astype("float32")[:, None]}
    history = distiller.fit(IMAGES, labels, batch_size=8, verbose=0).history
    assert np.isfinite([v[-1] for v in history.values()]).all()
    assert {"kind_loss", "alive_loss", "kind_accuracy", "discriminator_loss"} <= set(history)
    assert distiller.discriminators[0].input_shape == (None, 5)


def test_steps_per_execution_changes_nothing():
    options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    one, four = game(), game(steps_per_execution=4)
    expected = one.fit(IMAGES, LABELS, **options).history
    history = four.fit(IMAGES, LABELS, **options).history
    assert set(history) == set(expected)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-4), name


@pytest.mark.parametrize("steps", [2, "auto"])
def test_several_steps_at_once_are_refused_on_several_replicas(steps, monkeypatch):
    model = _keras.ReplicaModel(small_cnn())
    pair = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(_keras.ReplicaModel, "distribute_strategy", pair)
    with pytest.raises(ValueError, match=f"steps_per_execution={steps!r} under a strategy of 2"):
        model.compile(sgd(), cross_entropy(), steps_per_execution=steps)


def test_mixed_precision_scales_the_loss():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        teacher, student = small_cnn(8, seed=7), small_cnn(seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    distiller = AdversarialDistiller(teacher, student)
    distiller.compile(sgd(), cross_entropy())
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    distiller.fit(IMAGES, LABELS, batch_size=8, epochs=3, verbose=0)
    assert int(distiller.optimizer.iterations) > 0
    assert distiller.discriminators[0].dtype_policy.name == "float32"
    full = game(optimizer=sgd()).train_on_batch(IMAGES, LABELS, return_dict=True)
    mixed = AdversarialDistiller(teacher, student)
    mixed.student.set_weights(small_cnn(seed=1).get_weights())
    mixed.compile(sgd(), cross_entropy())
    logs = mixed.train_on_batch(IMAGES, LABELS, return_dict=True)
    for name in ("supervised_loss", "output_loss", "attention_loss"):
        assert logs[name] == pytest.approx(full[name], rel=0.02), name


def test_xla_compiles_the_step_on_one_device():
    plain, compiled = game(), game(jit_compile=True)
    assert not plain.jit_compile
    assert compiled.jit_compile
    expected = plain.train_on_batch(IMAGES, LABELS, return_dict=True)
    logs = compiled.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs == pytest.approx(expected, rel=1e-3)


def test_xla_is_refused_under_a_strategy():
    distiller = AdversarialDistiller(small_cnn(8), small_cnn(seed=1), [])
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ValueError, match="jit_compile=True under OneDeviceStrategy"),
    ):
        distiller.compile(sgd(), cross_entropy(), jit_compile=True)


def test_the_teacher_may_be_nested_and_the_input_a_dataset_with_a_short_last_batch():
    def nested(width, seed):
        inner = small_cnn(width, seed)
        backbone = keras.Model(inner.input, inner.get_layer("relu1").output, name="backbone")
        layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
        return keras.Sequential([keras.Input((8, 8, 1)), backbone, *layers])

    distiller = AdversarialDistiller(nested(8, 7), nested(6, 1))
    distiller.compile(sgd(), cross_entropy(), metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(9)
    history = distiller.fit(data, verbose=0).history
    assert set(history) == ALL_LOGS
    assert np.isfinite([v[-1] for v in history.values()]).all()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (lambda: small_cnn(seed=1, num_classes=5), r"outputs \[\(4,\)\] and a student"),
        (lambda: small_cnn(seed=1, shape=(16, 16, 1)), r"inputs \[\(8, 8, 1\)\] and a student"),
        (lambda: "student", "as student. Expected a built keras.Model"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "as student. Expected a built"),
    ],
)
def test_students_that_do_not_fit_are_refused(student, message):
    with pytest.raises(ValueError, match=message):
        AdversarialDistiller(small_cnn(), student(), [])


def test_a_student_that_is_its_own_teacher_is_refused():
    model = small_cnn()
    with pytest.raises(ValueError, match="share"):
        AdversarialDistiller(model, model, [])


def test_transfers_need_different_names():
    with pytest.raises(ValueError, match=r"\['output', 'output'\]"):
        AdversarialDistiller(small_cnn(), small_cnn(seed=1), [OutputTransfer(), OutputTransfer()])


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_supervised_weight_must_not_be_negative(weight):
    with pytest.raises(ValueError, match="Received supervised_weight"):
        AdversarialDistiller(small_cnn(), small_cnn(seed=1), [], weight)


def test_two_players_with_one_optimizer_are_refused():
    optimizer = sgd()
    with pytest.raises(ValueError, match="one optimizer"):
        game([AdversarialTransfer(optimizer=optimizer)], optimizer=optimizer)


def test_a_frozen_student_is_refused():
    student = small_cnn(seed=1)
    student.trainable = False
    with pytest.raises(ValueError, match="without trainable weights"):
        game([], student)


def test_weights_that_are_no_longer_numbers_end_the_epoch():
    """The last update comes behind the last loss: nobody would see it."""
    student = small_cnn(seed=1)
    distiller = game([], student)
    spoil = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: student.layers[-1].bias.assign([np.nan] * 4)
    )
    with pytest.raises(ValueError, match="after training step 1, first in 'out/bias'"):
        distiller.fit(IMAGES, LABELS, batch_size=32, callbacks=[spoil], verbose=0)


def test_data_that_fails_midway_is_named_by_its_batch():
    labels = LABELS.copy()
    labels[20] = 100
    data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(8)
    data = data.map(lambda x, y: (_checked(x, y), y))
    with pytest.raises(ValueError, match=r"failed at batch 3 of the epoch: .*x.png is broken"):
        game([]).fit(data, verbose=0)


def test_a_label_that_no_output_has_is_named_by_its_batch():
    labels = LABELS.copy()
    labels[20] = 100
    with pytest.raises(ValueError, match=r"Received batch 3 of the epoch.*label value of 100"):
        game([]).fit(IMAGES, labels, batch_size=8, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"batch 3 of the validation data.*label value of 100"):
        game([]).evaluate(IMAGES, labels, batch_size=8, verbose=0)


def test_an_empty_batch_is_named():
    batches = [(IMAGES[:8], LABELS[:8]), (IMAGES[:0], LABELS[:0])]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=(
            tf.TensorSpec((None, *IMAGES.shape[1:]), IMAGES.dtype),
            tf.TensorSpec((None, *LABELS.shape[1:]), LABELS.dtype),
        ),
    )
    with pytest.raises(ValueError, match=r"Received batch 2 of the epoch.*at least one sample"):
        game([]).fit(data, verbose=0)


def _checked(x, y):
    largest = tf.reduce_max(tf.cast(y, tf.int32))
    with tf.control_dependencies([tf.debugging.assert_less(largest, 100, "x.png is broken")]):
        return tf.identity(x)


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_nan_in_a_batch_stops_the_run_and_is_named(steps_per_execution):
    images = IMAGES.copy()
    images[17, 0, 0, 0] = np.nan
    distiller = game([], steps_per_execution=steps_per_execution)
    last = 3 if steps_per_execution == 1 else 4
    with pytest.raises(ValueError, match=f"inputs at training step {last} hold NaN"):
        distiller.fit(images, LABELS, batch_size=8, shuffle=False, verbose=0)


def test_a_loss_that_explodes_is_named_by_its_terms():
    class Explosion(Transfer):
        def loss(self, teacher, student):
            return tf.reduce_mean(student.outputs[0]) / 0.0

    distiller = game([Explosion(name="explosion")])
    with pytest.raises(ValueError, match=r"no finite .*loss, explosion_loss; the inputs are"):
        distiller.fit(IMAGES, LABELS, verbose=0)


def test_the_last_good_checkpoint_stays(tmp_path):
    def batches():
        yield IMAGES[:8], LABELS[:8]
        yield IMAGES[:8], LABELS[:8]
        yield IMAGES[:8] * np.nan, LABELS[:8]

    path = tmp_path / "last.weights.h5"
    distiller = game([])
    callback = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    with pytest.raises(ValueError, match="no finite loss"):
        distiller.fit(batches(), epochs=3, steps_per_epoch=1, callbacks=[callback], verbose=0)
    distiller.load_weights(path)
    assert all(np.isfinite(w).all() for w in distiller.student.get_weights())


# --- weights that find themselves -----------------------------------------------------------------


def pull_of(distiller, transfers):
    """Norm of the gradient of some terms with respect to the student's weights."""
    with tf.GradientTape() as tape:
        _, student = distiller._read.student(IMAGES[:32], training=False)
        _, teacher = distiller._read.teacher(IMAGES[:32], training=False)
        loss = sum(distiller._weight_of(t) * t.loss(teacher, student) for t in transfers)
    return float(tf.linalg.global_norm(tape.gradient(loss, distiller.student.trainable_variables)))


def test_each_term_inside_pulls_as_hard_as_the_answers():
    distiller = game([OutputTransfer(weight=0.3), AttentionTransfer()])
    distiller.balance(IMAGES)
    answers, attention = distiller.transfers
    assert pull_of(distiller, [attention]) == pytest.approx(pull_of(distiller, [answers]), rel=1e-3)


def test_a_weight_is_found_once_and_kept_in_the_state(tmp_path):
    one, other = (game([OutputTransfer(), AttentionTransfer()]) for _ in range(2))
    one.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    found = float(one.pulls["attention"])
    one.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    assert float(one.pulls["attention"]) == found > 0
    one.save_state(tmp_path / "state.weights.h5")
    other.load_state(tmp_path / "state.weights.h5")
    assert float(other.pulls["attention"]) == found


def test_a_student_that_is_its_teacher_is_not_pulled():
    teacher = small_cnn(seed=0)
    twin = AdversarialDistiller(teacher, aip_tf.prune_channels(teacher, {}))
    assert set(twin.balance(IMAGES).values()) == {AttentionTransfer.usual_weight}


def values_game(student_loss, teacher_loss=None, transfer=None, metrics=None, forms=None):
    teacher = small_cnn(8, seed=7, num_classes=2)
    if teacher_loss:
        teacher.compile("sgd", teacher_loss)
    distiller = AdversarialDistiller(
        teacher, small_cnn(seed=1, num_classes=2), [transfer or OutputTransfer()], forms=forms
    )
    distiller.compile(keras.optimizers.SGD(1e-6), student_loss, metrics=metrics)
    return distiller


@pytest.mark.parametrize(
    "student_loss, teacher_loss, transfer, form",
    [
        ("mse", None, None, "values"),
        ({"out": keras.losses.Huber()}, None, None, "values"),
        (None, "mae", None, "values"),
        (None, None, None, "classes"),
        (cross_entropy(), "mse", None, "classes"),
        ("crossentropy", "mse", None, "classes"),
        ("mse", None, AdversarialTransfer(), "values"),
        ("mse", None, OutputTransfer(from_logits=True), "classes"),
        (keras.losses.BinaryCrossentropy(from_logits=True), None, None, "yes/no"),
        (None, {"out": keras.losses.BinaryFocalCrossentropy(from_logits=True)}, None, "yes/no"),
        (keras.losses.BinaryCrossentropy(True), None, AdversarialTransfer(), "yes/no"),
    ],
)
def test_the_loss_tells_what_linear_outputs_answer(student_loss, teacher_loss, transfer, form):
    distiller = values_game(student_loss, teacher_loss, transfer)
    assert distiller.transfers[0]._views.forms == [form]


def own_loss(y, y_pred):
    return keras.ops.mean(keras.ops.abs(y - y_pred), -1)


@pytest.mark.parametrize(
    "told, form",
    [
        ({}, "values"),
        ({"metrics": ["mae"]}, "values"),
        ({"metrics": [keras.metrics.SparseCategoricalAccuracy()]}, "classes"),
        ({"forms": ["yes/no"]}, "yes/no"),
        ({"forms": ("classes",)}, "classes"),
    ],
)
def test_logits_of_a_loss_of_ones_own_are_values_unless_something_says_otherwise(told, form):
    assert values_game(own_loss, **told).transfers[0]._views.forms == [form]


@pytest.mark.parametrize("forms", [["values", "values"], ["logits"], "values", []])
def test_unknown_forms_are_refused(forms):
    with pytest.raises(ValueError, match=r"Received forms=.* with 1 outputs\. Expected one"):
        values_game("mse", forms=forms)


def test_the_scale_of_values_is_found_once_and_kept_in_the_state(tmp_path):
    one, other = values_game(None, "mse"), values_game(None, "mse")
    one.fit(IMAGES, batch_size=8, verbose=0)
    (scale,), (another,) = one.scales.values(), other.scales.values()
    middle, spread = scale.measure(one.teacher(IMAGES))
    one.fit(IMAGES[5:], batch_size=9, verbose=0)
    np.testing.assert_allclose(scale.variables[0], middle, rtol=1e-5)
    one.save_state(tmp_path / "state.weights.h5")
    other.load_state(tmp_path / "state.weights.h5")
    assert float(another.variables[1]) == pytest.approx(float(spread), rel=1e-5)


def test_a_snapshot_holds_what_was_found_on_the_first_batch():
    distiller = values_game("mse")
    distiller.fit(IMAGES, np.ones((len(IMAGES), 2)), batch_size=8, verbose=0)
    kept = {id(variable) for variable in trained_variables(distiller)}
    (scale,) = distiller.scales.values()
    found = (*scale.variables, *distiller.pulls.values(), distiller.labels_weight)
    assert kept >= {id(v) for v in found}
    assert all(np.isfinite(v.numpy()).all() for v in found)


@pytest.mark.parametrize("batch", [1, 24])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_labels_of_values_count_the_same_in_any_unit(loss, batch):
    labels = np.linspace(3.0, 5.0, 2 * batch, dtype="float32").reshape(batch, 2)

    def lost(unit):
        distiller = values_game(loss)
        for model in (distiller.teacher, distiller.student):
            head = model.layers[-1]
            head.set_weights([unit * w for w in head.get_weights()])
        found = distiller.balance(IMAGES[:batch], unit * labels)["supervised"]
        loss_of = keras.losses.get(loss)
        answers = distiller.student(IMAGES[:batch])
        return found * float(keras.ops.mean(loss_of(unit * labels, answers)))

    assert lost(1000.0) == pytest.approx(lost(1.0), rel=1e-3)


def test_answers_that_never_change_lose_one_by_the_labels_of_values():
    distiller = values_game("mse")
    labels = np.random.default_rng(0).normal(7.0, 2.0, (len(IMAGES), 2)).astype("float32")
    mean = keras.ops.mean(distiller.teacher(IMAGES), 0)
    found = distiller.balance(IMAGES, labels)["supervised"]
    assert found * float(np.mean((labels - mean) ** 2)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("unit", [0.01, 100.0])
@pytest.mark.parametrize("alive_first", [False, True])
def test_labels_of_classes_beside_values_weigh_one_unless_the_values_would_drown_them(
    unit, alive_first
):
    """As much as the values let them: what their mean answer loses counts once at most."""
    distiller = AdversarialDistiller(two_headed(seed=1), two_headed(seed=2), [OutputTransfer()])
    losses = {"kind": cross_entropy(False), "alive": "mse"}
    distiller.compile(sgd(), dict(reversed(losses.items())) if alive_first else losses)
    alive = unit * np.linspace(-1.0, 1.0, len(IMAGES), dtype="float32")[:, None]
    mean = keras.ops.mean(distiller.teacher(IMAGES)[1])
    expected = min(1.0, 1.0 / float(np.mean((alive - mean) ** 2)))
    found = distiller.balance(IMAGES, [LABELS, alive])["supervised"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_class_whose_loss_overflows_leaves_the_labels_of_values_their_weight():
    distiller = AdversarialDistiller(two_headed(seed=1), two_headed(seed=2), [OutputTransfer()])
    distiller.compile(sgd(), {"kind": lambda y, _: y + np.inf, "alive": "mse"})
    alive = np.linspace(-100.0, 100.0, len(IMAGES), dtype="float32")[:, None]
    assert 0 < distiller.balance(IMAGES, [LABELS, alive])["supervised"] < 1e-3


def by_hand(x):
    """A sigmoid or a softmax that nobody recognises."""
    powers = keras.ops.exp(x)
    return powers / (1 + powers if x.shape[-1] == 1 else keras.ops.sum(powers, -1, keepdims=True))


@pytest.mark.parametrize(("num_classes", "last"), [(1, "sigmoid"), (4, "softmax")])
def test_probabilities_by_a_function_of_ones_own_are_turned_into_logits(num_classes, last):
    networks = [small_cnn(seed=seed, num_classes=num_classes) for seed in (1, 2)]

    def loss(layer, from_logits):
        pair = [keras.Model(m.input, layer(m.output)) for m in networks]
        readings = [Reading([m(IMAGES)]) for m in pair]
        return float(OutputTransfer(from_logits=from_logits).bind(*pair).loss(*readings))

    expected = loss(keras.layers.Activation(last), "auto")
    assert expected > 1e-5
    assert loss(keras.layers.Lambda(by_hand), False) == pytest.approx(expected, rel=1e-3)


def test_half_precision_finds_the_weights_that_single_precision_finds():
    def found(policy):
        keras.config.set_dtype_policy(policy)
        try:
            networks = [small_cnn(8, seed=seed, shape=(160, 160, 1)) for seed in (1, 2)]
        finally:
            keras.config.set_dtype_policy("float32")
        distiller = AdversarialDistiller(*networks)
        distiller.compile(sgd(), cross_entropy())
        return distiller.balance(small_data(32, (160, 160, 1))[0])

    expected = found("float32")
    assert set(expected) == {"feature", "attention"}
    assert found("mixed_float16") == pytest.approx(expected, rel=5e-3)


def test_each_output_is_compared_as_its_own_loss_says():
    distiller = AdversarialDistiller(two_headed(seed=1), two_headed(seed=2), [OutputTransfer()])
    distiller.compile(sgd(), {"kind": cross_entropy(False), "alive": "mse"})
    assert distiller.transfers[0]._views.forms == ["classes", "values"]
    assert list(distiller.scales) == [1]


def test_auto_needs_answers_to_be_as_strong_as():
    with pytest.raises(ValueError, match="OutputTransfer beside it, or a number"):
        game([AttentionTransfer()])
    with pytest.raises(ValueError, match="OutputTransfer beside it, or a number"):
        aip_tf.Recovery(transfers=[AttentionTransfer()])
    with pytest.raises(ValueError, match="Expected a number >= 0;"):
        OutputTransfer(weight="auto")


def test_by_default_only_what_the_networks_can_compare_is_compared():
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    smaller = aip_tf.prune_channels(flat, {})
    names = [t.name for t in AdversarialDistiller(flat, smaller).transfers]
    assert names == ["output", "adversarial"]


def test_a_class_beside_a_mask_is_pruned_without_the_discriminator_unless_it_is_asked_for(caplog):
    caplog.set_level("INFO", logger="aip_tf")
    trunk = small_cnn()
    mask = keras.layers.Conv2D(1, 1, activation="sigmoid")(trunk.get_layer("relu1").output)
    model = keras.Model(trunk.input, [trunk.output, mask])
    aip_tf.prune(model, (IMAGES,), recovery=aip_tf.Recovery(epochs=1))
    assert "The adversarial transfer is left out. Received outputs with [2, 4] axes" in caplog.text
    asked = aip_tf.Recovery(transfers=[AdversarialTransfer()])
    with pytest.raises(ValueError, match=r"\[2, 4\] axes .* outputs="):
        aip_tf.prune(model, (IMAGES,), recovery=asked, check_only=True)


def test_a_discriminator_needs_to_know_how_many_units_it_sees():
    inputs = keras.Input((None, 4))
    x = keras.layers.Conv1D(4, 1)(inputs)
    model = keras.Model(inputs, keras.ops.mean(x, axis=-1))
    with pytest.raises(ValueError, match=r"Received outputs with \[None\] units"):
        AdversarialTransfer().check(model, model)


# --- layers that draw random numbers -----------------------------------------------------------


class Depth(keras.layers.Layer):
    """Stochastic depth of somebody's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x, training=False):
        if not training:
            return x
        shape = (keras.ops.shape(x)[0], 1, 1, 1)
        return x * keras.ops.cast(keras.random.uniform(shape, seed=self.generator) > 0.5, x.dtype)


RANDOM = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "augmentation": lambda: keras.layers.RandomTranslation(0.3, 0.3),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
    "inside": lambda: keras.Sequential([keras.layers.SpatialDropout2D(0.5)]),
    "of somebody's own": lambda: Depth(),
}


@pytest.mark.parametrize("transfer", [OutputTransfer, AttentionTransfer])
@pytest.mark.parametrize("layer", RANDOM.values(), ids=RANDOM)
def test_a_student_is_compared_without_its_random_layers(layer, transfer):
    """A map of a turned image is not that of the image: the student is its teacher here."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(layer()(image))
    x = keras.layers.Conv2D(4, 3)(layer()(x))
    x = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    teacher = keras.Model(image, x)
    student = aip_tf.prune_channels(teacher, {})
    distiller = AdversarialDistiller(teacher, student, [transfer(weight=1.0)])
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.train_on_batch(IMAGES, return_dict=True)
    assert logs["total_loss"] == pytest.approx(0.0, abs=1e-6)


def test_statistics_are_measured_without_random_layers():
    image = keras.Input((8, 8, 1))
    noisy = keras.Model(image, keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(image)))
    recalibrate(noisy, tf.data.Dataset.from_tensors((IMAGES, LABELS)), 1)
    np.testing.assert_allclose(noisy.layers[-1].moving_variance, IMAGES.var((0, 1, 2)), rtol=1e-4)

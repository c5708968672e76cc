"""The loop: cuts and recoveries in turn, proved, recorded, resumable."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import aip_tf
from aip_tf import files, selection
from aip_tf.channels import check_cut
from aip_tf.game import AdversarialTransfer, FeatureTransfer
from aip_tf.recovery import recalibrate
from aip_tf.training import trained_variables

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")
EPOCHS, SCHEDULE = 4, 0.6  # cuts before the first epoch and after it


def network():
    """A residual CNN so small that an epoch takes no time."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(12, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization()(x)
    y = layers.Conv2D(12, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.Conv2D(12, 3, padding="same", name="outer")(y)
    x = layers.ReLU(name="sum")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x), name="tiny")


def data():
    """Images whose class is their brightness."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    images = rng.normal(size=(96, 8, 8, 1)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def prune(run_dir=None, **changes):
    options = {"schedule": SCHEDULE, "recovery": aip_tf.Recovery(epochs=EPOCHS), **changes}
    return aip_tf.prune(network(), data(), data(), run_dir=run_dir, **options)


@pytest.fixture(scope="module", autouse=True)
def eager():
    """Steps without a graph: of a small network and few batches, the graph is the slow part."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run: its folder, student and report."""
    folder = tmp_path_factory.mktemp("run")
    return folder, *prune(folder)


def test_two_arguments_are_enough():
    images, labels = data()
    model = network()
    student, report = aip_tf.prune(model, (images[:32], labels[:32]), recovery=aip_tf.Recovery(2))
    assert report.student.macs <= 0.5 * report.teacher.macs
    assert student.count_params() == report.student.parameters < model.count_params()


def test_every_round_meets_its_budget_and_what_is_gone_stays_gone(finished):
    _, student, report = finished
    assert len(report.rounds) == 2
    widths = [{g.name: g.kept for g in r.groups} for r in report.rounds]
    for record in report.rounds:
        assert record.macs <= (1 - record.amount) * report.teacher.macs
        assert record.check_error <= 1e-5
    assert all(widths[1][name] <= kept for name, kept in widths[0].items())
    assert aip_tf.count_macs(student) == report.rounds[-1].macs
    assert [logs["epoch"] for logs in report.history] == list(range(EPOCHS))


def test_the_teacher_is_untouched():
    model = network()
    optimizer = keras.optimizers.SGD()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.get_layer("inner").trainable = False
    before = [w.numpy() for w in model.weights]
    aip_tf.prune(model, data(), recovery=aip_tf.Recovery(epochs=2))
    assert all(np.array_equal(a, w.numpy()) for a, w in zip(before, model.weights, strict=True))
    assert model.optimizer is optimizer and model.loss is loss
    assert not model.get_layer("inner").trainable and model.get_layer("outer").trainable


def test_a_complete_run_is_read_back(finished):
    folder, student, report = finished
    again, report_again = prune(folder)
    assert report_again == report
    images = data()[0]
    np.testing.assert_array_equal(again(images), student(images))


class Killed(BaseException):
    """As sudden as a signal: no handler of the library may catch it."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return prune(tmp_path_factory.mktemp("run"), recovery=quick())


def quick():
    return aip_tf.Recovery(epochs=EPOCHS, transfers=[], recalibration_batches=1)


@pytest.mark.parametrize("writes", [3, 5, 8, 13])
def test_a_run_killed_at_any_write_ends_as_if_it_had_not_been(
    writes, tmp_path, monkeypatch, uninterrupted
):
    count = 0

    def replace(source, target):
        nonlocal count
        count += 1
        if count == writes:
            raise Killed
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(Killed):
        prune(tmp_path, recovery=quick())
    monkeypatch.setattr(files.os, "replace", rename)
    student, report = prune(tmp_path, recovery=quick())
    expected_student, expected = uninterrupted
    for ours, theirs in zip(student.weights, expected_student.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert report.history == expected.history
    assert report.student == expected.student
    assert [r.metrics_before for r in report.rounds] == [r.metrics_before for r in expected.rounds]
    assert not list(tmp_path.rglob(".aip_tf_unfinished_*"))


def test_a_resumed_run_goes_on_with_the_trained_weights(tmp_path):
    """All players after a resume are those of the last checkpoint, not freshly made ones."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                seen.append([v.numpy() for v in trained_variables(self.model)])
                raise Killed

    seen = []
    for _ in range(2):
        recovery = aip_tf.Recovery(epochs=EPOCHS, callbacks=(Stop(),))
        with pytest.raises(Killed):
            prune(tmp_path, recovery=recovery)
    assert len(seen[0]) > 40
    for before, after in zip(*seen, strict=True):
        np.testing.assert_array_equal(before, after)


def test_moving_statistics_are_those_of_the_final_weights():
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(32)
    recovery = aip_tf.Recovery(epochs=2, transfers=[])  # 6 steps: momentum 0.99 hardly moves
    student, _ = aip_tf.prune(network(), dataset, recovery=recovery)
    found = [np.array(v) for v in student.non_trainable_variables]
    recalibrate(student, dataset, 20)
    for before, after in zip(found, student.non_trainable_variables, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-5)


def test_another_runs_folder_is_refused(finished):
    with pytest.raises(ValueError, match=r"cuts \[\[-1, .* there, .* now.*drops 4 epochs"):
        prune(finished[0], schedule=0.3)


def test_an_unreachable_target_is_known_before_training(monkeypatch):
    monkeypatch.setattr(aip_tf.AdversarialDistiller, "fit", None)
    with pytest.raises(ValueError, match="reachable minimum"):
        prune(schedule=0.95, selection=selection.Macs(max_sparsity=0.2))


def test_a_transfer_that_no_cut_student_fits_is_known_before_training(monkeypatch):
    recovery = aip_tf.Recovery(epochs=EPOCHS, transfers=[AdversarialTransfer(features="sum")])
    monkeypatch.setattr(aip_tf.AdversarialDistiller, "fit", None)
    with pytest.raises(ValueError, match=r"Expected equal widths"):
        prune(recovery=recovery)


def test_features_are_learned_where_nothing_is_cut():
    def distance(weight):
        recovery = aip_tf.Recovery(2, transfers=[FeatureTransfer(["sum"], weight)])
        inner = selection.Channels(scope="inner")
        _, report = prune(schedule=0.3, recovery=recovery, selection=inner)
        return report.history[-1]["feature_loss"]

    assert distance(weight=5.0) < 0.8 * distance(weight=0.0)


def test_a_wrong_cut_stops_the_run():
    model = network()
    keep = np.arange(12) > 5
    wrong = aip_tf.prune_channels(model, {"inner": ~keep})
    with pytest.raises(ValueError, match=r"not exact.*differs"):
        check_cut(model, wrong, {"inner": keep}, data()[0][:4])


def test_a_right_cut_passes_in_half_precision_too():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    keep = {"inner": np.arange(12) > 5}
    assert check_cut(model, aip_tf.prune_channels(model, keep), keep, data()[0][:4]) <= 1e-5


def test_open_sizes_are_those_of_the_data():
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))
    student, report = aip_tf.prune(model, data(), recovery=aip_tf.Recovery(epochs=2))
    assert report.teacher.macs == 6 * 6 * 9 * 8 + 8 * 3
    assert student.input_shape == (None, None, None, 1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1, 2, 3], "Received train_data of type list"),
        ("endless", "infinite length"),
    ],
)
def test_unusable_data_is_refused(bad, message):
    if bad == "endless":
        import tensorflow as tf

        bad = tf.data.Dataset.from_tensors(data()).repeat()
    with pytest.raises(ValueError, match=message):
        aip_tf.prune(network(), bad)


def test_no_epochs_are_a_cut_and_statistics_without_training(monkeypatch, tmp_path):
    monkeypatch.setattr(aip_tf.AdversarialDistiller, "fit", None)
    recovery = aip_tf.Recovery(epochs=0)
    student, report = aip_tf.prune(network(), data(), recovery=recovery, run_dir=tmp_path)
    assert len(report.rounds) == 1 and report.history == ()
    assert aip_tf.count_macs(student) <= 0.5 * report.teacher.macs
    again, _ = aip_tf.prune(network(), data(), recovery=recovery, run_dir=tmp_path)
    for one, other in zip(student.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("criterion", ["reconstruction", "taylor", "l1"])
def test_a_network_that_takes_batches_of_one_size_is_pruned(criterion, size):
    inputs = keras.Input(batch_shape=(size, 6, 4))
    model = keras.Model(inputs, layers.Dense(2)(layers.LSTM(8, stateful=True)(inputs)))
    rng = np.random.default_rng(0)
    sequences, labels = rng.random((64, 6, 4), "float32"), rng.integers(0, 2, 64)
    train = tf.data.Dataset.from_tensor_slices((sequences, labels)).batch(size)
    recovery = aip_tf.Recovery(epochs=1)
    student, _ = aip_tf.prune(model, train, recovery=recovery, criterion=criterion, schedule=0.3)
    assert student.layers[1].units < 8


@pytest.mark.parametrize(("batches", "num_samples"), [(1, None), (2, 16)])
def test_too_few_batches_of_one_size_are_refused(batches, num_samples):
    inputs = keras.Input(batch_shape=(32, 4))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(8)(inputs)))
    train = tf.data.Dataset.from_tensors((np.ones((32, 4), "float32"), np.zeros(32)))
    criterion = aip_tf.criteria.Reconstruction(num_samples=num_samples)
    with pytest.raises(ValueError, match=r"32 inputs .* batches of 32\. Expected at least 64"):
        aip_tf.prune(model, train.repeat(batches), criterion=criterion)

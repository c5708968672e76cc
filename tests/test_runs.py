"""A run keeps its word: one identity, one owner, one set of books; see docs/runs.md."""

import gc
import json
import logging
import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import aip_tf
from aip_tf import experiment, files, interruption, run_state
from aip_tf.game import OutputTransfer

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")
EPOCHS = 3
CUTS = {0: 0.3, 1: 0.5}


def schedule(step):
    return step in CUTS, CUTS.get(step, 0)


def network(seed=0, **lamb):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for function in lamb.values():
        x = layers.Lambda(function)(x)
    x = layers.Conv2D(8, 3, activation="relu")(layers.Dropout(0.1)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def images(shift=0.0):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 32)
    pixels = rng.normal(size=(32, 8, 8, 1)) + labels[:, None, None, None] + shift
    return pixels.astype("float32"), labels


def compiled(model):
    """The model, with other metrics than it is given without."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["sparse_categorical_accuracy"])
    return model


class Count(keras.callbacks.Callback):
    """Counts the epochs that were trained, in all runs."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)


def prune(run_dir=None, *, model=None, data=None, overwrite=False, **changes):
    changes = dict(changes)
    options = {"schedule": changes.pop("schedule", schedule)}
    for name in ("selection", "criterion"):
        if name in changes:
            options[name] = changes.pop(name)
    settings = {"epochs": EPOCHS, "transfers": [], "recalibration_batches": 1, **changes}
    return aip_tf.prune(
        network() if model is None else model,
        data or images(),
        images(),
        recovery=aip_tf.Recovery(**settings),
        run_dir=run_dir,
        overwrite=overwrite,
        **options,
    )


@pytest.fixture(scope="module", autouse=True)
def eager():
    """Steps without a graph: of a small network and few batches, the graph is the slow part."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A complete run: its folder, student and report."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    return folder, *prune(folder)


@pytest.fixture
def copy_of_run(complete, tmp_path):
    return shutil.copytree(complete[0], tmp_path / "copy")


def assert_equal_weights(ours, theirs):
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(a, b)


# --- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": network(seed=1)}, "model: weights"),
        ({"data": images(shift=1.0)}, "training data: first batch"),
        ({"criterion": "l2"}, "criterion"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"metrics": ["mse"], "loss": "mse"}, "loss"),
        ({"model": compiled(network())}, "task: metrics"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_run_is_refused_by_name(complete, change, word):
    if word == "loss":
        change = {"metrics": ["sparse_top_k_categorical_accuracy"]}
        word = "metrics"
    with pytest.raises(ValueError, match=rf"(?s){word}.*there.*now.*drops 3 epochs of training"):
        prune(complete[0], **change)


def test_the_order_of_a_set_and_numpys_numbers_make_no_other_run(complete, caplog):
    counter = Count()
    prune(complete[0], callbacks=(counter,), recalibration_batches=np.int64(1))
    assert counter.epochs == []


def test_a_command_that_fails_before_it_trains_claims_nothing(tmp_path):
    with pytest.raises(ValueError, match="reachable minimum"):
        prune(tmp_path / "run", schedule=0.97, selection=aip_tf.selection.Macs(max_sparsity=0.2))
    assert not (tmp_path / "run" / "state.json").exists()


def test_overwriting_keeps_the_rounds_before_the_change(copy_of_run, caplog):
    counter = Count()

    def other(step):
        return step in CUTS, {0: 0.3, 1: 0.6}.get(step, 0)

    with caplog.at_level(logging.WARNING, "aip_tf"):
        _, report = prune(copy_of_run, schedule=other, callbacks=(counter,), overwrite=True)
    assert counter.epochs == [2]  # the first two epochs lie before the cut that changed
    assert "1 epochs of it are dropped" in caplog.text
    straight, _ = prune(schedule=other)
    assert [cut.amount for cut in report.rounds] == [0.3, 0.6]
    assert_equal_weights(prune(copy_of_run, schedule=other)[0], straight)


def test_a_change_that_loses_nothing_needs_no_permission(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prune(tmp_path, callbacks=(Stop(),))
    counter = Count()
    prune(tmp_path, schedule=lambda step: (step in CUTS, 0.3 + 0.3 * step), callbacks=(counter,))
    assert counter.epochs == [2]


# --- files ----------------------------------------------------------------------------------------


def test_nobodys_model_is_written_to(complete):
    model = network()
    before = model.get_weights()
    counter = Count()
    student, _ = prune(complete[0], model=model, callbacks=(counter,))
    assert counter.epochs == []
    assert all(map(np.array_equal, before, model.get_weights()))
    assert_equal_weights(student, complete[1])


def test_a_snapshot_has_no_teacher_and_two_of_them_stay(complete):
    folder, student, _ = complete
    state = json.loads((folder / "state.json").read_text())
    rolling = [s["file"] for s in state["snapshots"] if not s["stays"]]
    assert len(rolling) == 2
    assert {p.name for p in (folder / "checkpoint").iterdir()} == {n.split("/")[1] for n in rolling}
    for snapshot in state["snapshots"]:
        assert files.is_whole(folder / snapshot["file"], snapshot["sha256"])
    with np.load(folder / "round_02" / "snapshot.npz") as found:
        shapes = [found[n].shape for n in sorted(found.files) if n.startswith("variable")]
    assert shapes == [tuple(v.shape) for v in student.variables]


def test_a_damaged_snapshot_is_named_and_the_one_before_it_is_used(copy_of_run, complete, caplog):
    damaged = copy_of_run / "round_02" / "snapshot.npz"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    for name in ("report.json", "report.html"):
        (copy_of_run / name).unlink()
    with caplog.at_level(logging.WARNING, "aip_tf"):
        student, report = prune(copy_of_run)
    assert f"'{damaged}' is damaged" in caplog.text
    assert_equal_weights(student, complete[1])
    assert report.student == complete[2].student
    assert (copy_of_run / "report.html").is_file()


def test_folders_in_place_of_its_files_are_named(copy_of_run, tmp_path):
    student = copy_of_run / "student.keras"
    student.unlink()
    student.mkdir()
    with pytest.raises(ValueError, match=r"'\S+student.keras', which cannot be written: a folder"):
        prune(copy_of_run)
    (tmp_path / "other/checkpoint/000009.npz").mkdir(parents=True)  # in nobody's way
    prune(tmp_path / "other", epochs=0, schedule=0.3)


def test_a_state_that_cannot_be_read_is_named(copy_of_run):
    (copy_of_run / "state.json").write_text('{"version": 2')
    with pytest.raises(ValueError, match=r"state\.json cannot be read.*student\.keras"):
        prune(copy_of_run)


def test_home_is_meant_and_a_second_process_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    lock = tmp_path / "run" / "lock"
    lock.parent.mkdir()
    owner = {"host": "there", "pid": 7, "started": "yesterday"}
    lock.write_text(json.dumps(owner))

    def taken(*_):
        raise BlockingIOError

    monkeypatch.setattr(files.fcntl, "flock", taken)
    with pytest.raises(ValueError, match=r"process 7 on there, since yesterday"):
        prune("~/run")


def test_a_full_disk_is_a_paragraph_and_the_same_call_goes_on(tmp_path, monkeypatch, complete):
    rename, count = os.replace, 0

    def full(*paths):
        nonlocal count
        count += 1
        if count == 7:
            raise OSError(28, "No space left on device")
        rename(*paths)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(ValueError, match=r"disk is full.*the same command goes on"):
        prune(tmp_path)
    monkeypatch.setattr(files.os, "replace", rename)
    assert_equal_weights(prune(tmp_path)[0], complete[1])


def test_a_teacher_with_a_lambda_runs_again(tmp_path):
    def scaled():
        return network(lamb=lambda x: 2.0 * x)

    first, _ = prune(tmp_path, model=scaled(), epochs=2, schedule=0.3)
    again, _ = prune(tmp_path, model=scaled(), epochs=2, schedule=0.3)
    assert_equal_weights(first, again)


def test_runs_that_are_over_keep_no_variables():
    def alive():
        gc.collect()
        return sum(isinstance(x, keras.Variable) for x in gc.get_objects())

    counts = []
    for _ in range(3):
        held = prune(epochs=2, schedule=0.3)
        counts.append(alive() - len(held[0].variables))
    assert counts[1] == counts[2]


# --- interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 1])
def test_a_signal_in_the_middle_of_an_epoch_loses_nothing(batch, tmp_path, in_batches):
    straight, expected = in_batches
    with pytest.raises(KeyboardInterrupt), interruption.noted(lambda sentence: None):
        prune_in_batches(tmp_path, callbacks=(Interrupt(batch),))
    student, report = prune_in_batches(tmp_path)
    assert_equal_weights(student, straight)
    assert report.history == expected.history
    assert report.student == expected.student


class Interrupt(keras.callbacks.Callback):
    """Sends SIGTERM after a batch of the epoch 2."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, index, logs=None):
        if self.epoch == 2 and index == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


@keras.saving.register_keras_serializable("test_runs")
class Sampling(layers.Layer):
    """Draws in inference too, from a state that Keras' files do not hold."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


def drawing():
    model = network()
    return keras.Model(model.input, layers.Dense(3)(Sampling()(model.output)))


def prune_drawing(run_dir, model, **options):
    return prune_in_batches(run_dir, model=model, transfers=[OutputTransfer()], **options)


def test_a_network_that_draws_is_delivered_and_its_run_known_again(tmp_path):
    teacher = drawing()
    before = [np.array(v) for v in teacher.variables]
    student, _ = prune_drawing(tmp_path, teacher)
    aip_tf.trade_off(teacher, images(), (0.3,), runs=0)
    assert all(map(np.array_equal, before, teacher.variables))  # law 4, seeds too
    teacher(images()[0])
    count = Count()
    again, _ = prune_drawing(tmp_path, teacher, callbacks=(count,))
    assert not count.epochs
    assert_equal_weights(again, student)


@pytest.mark.parametrize("batch", [0, 1])
def test_a_network_that_draws_goes_on_with_the_same_draws(batch, tmp_path):
    straight, expected = prune_drawing(tmp_path / "straight", drawing())
    with pytest.raises(KeyboardInterrupt), interruption.noted(lambda sentence: None):
        prune_drawing(tmp_path / "run", drawing(), callbacks=(Interrupt(batch),))
    student, report = prune_drawing(tmp_path / "run", drawing())
    assert_equal_weights(student, straight)
    assert report.history == expected.history


def prune_in_batches(run_dir=None, **options):
    """Two shuffled batches an epoch, and averaged weights."""
    keras.utils.set_random_seed(0)
    data = tf.data.Dataset.from_tensor_slices(images()).shuffle(32, seed=1).batch(16)
    optimizer = keras.optimizers.Adam(1e-3, use_ema=True)
    return prune(run_dir, data=data, optimizer=optimizer, **options)


@pytest.fixture(scope="module")
def in_batches():
    return prune_in_batches()


# --- the report is of the student returned --------------------------------------------------------


def restoring():
    return keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=1, min_delta=10.0, restore_best_weights=True
    )


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"callbacks": (restoring(),), "epochs": 12, "schedule": None}, [0, 2]),
        ({"optimizer": keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.9)}, [0, 1]),
        ({"keep": "best", "optimizer": keras.optimizers.SGD(1.0)}, [0, 1]),
    ],
    ids=["EarlyStopping", "averaged weights", "best"],
)
def test_the_report_speaks_of_the_student_returned(options, epochs, tmp_path):
    if options.get("schedule", 0) is None:
        options = {**options, "schedule": lambda step: (step in (0, 5), 0.3 + step / 20)}
    student, report = prune(tmp_path, **options)
    found = student.evaluate(*images(), verbose=0, return_dict=True, batch_size=32)
    assert report.student.metrics == pytest.approx(found, rel=1e-5)
    assert report.rounds[-1].metrics_after == report.student.metrics
    saved = keras.saving.load_model(tmp_path / "student.keras")
    assert_equal_weights(saved, student)
    assert saved.compiled
    found = saved.evaluate(*images(), verbose=0, return_dict=True, batch_size=32)
    assert report.student.metrics == pytest.approx(found, rel=1e-5)
    assert [record.epoch for record in report.rounds] == epochs
    ran = [logs["epoch"] for logs in report.history]
    assert ran == list(range(len(ran)))


def test_best_is_the_best_epoch_of_the_last_stretch():
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 50.0])
    _, report = prune(
        epochs=4, keep="best", optimizer=keras.optimizers.SGD(rate), recalibration_batches=0
    )
    last = [logs["val_accuracy"] for logs in report.history[2:]]
    assert report.student.metrics["accuracy"] == max(last)


class Writes(keras.callbacks.Callback):
    """Adds what is no number to the logs of an epoch, and perhaps spoils the student."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def on_epoch_end(self, epoch, logs=None):
        logs |= {"classes": [1, 2], "when": "now", "none": None, "mine": np.float32(2)}
        kernel = self.model.student.trainable_variables[0]
        kernel.assign(kernel * self.factor)


def test_what_callbacks_add_to_the_logs_is_no_obstacle():
    _, report = prune(callbacks=[Writes(1.0)], epochs=1, schedule=0.3)
    assert report.history[0]["mine"] == 2 and "when" not in report.history[0]


def test_weights_that_a_callback_spoils_are_no_snapshot(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinity in 1 weights"):
        prune(tmp_path, callbacks=[Writes(np.nan)], epochs=1, schedule=0.3)
    assert not list(tmp_path.glob("checkpoint/000002.npz"))
    prune(tmp_path, epochs=1, schedule=0.3)


def test_best_needs_validation_data():
    with pytest.raises(ValueError, match=r"keep='best' without validation data"):
        aip_tf.prune(network(), images(), recovery=aip_tf.Recovery(2, keep="best"))


def test_the_report_says_what_ran(complete):
    run = complete[2].run
    assert run["loss"]["class"] == "SparseCategoricalCrossentropy"
    assert (run["classes"], run["main metric"], run["transfers"]) == ([3], "accuracy", [])
    assert run["data"]["training data"]["batches"] == 1
    assert run["versions"]["keras"] == keras.__version__
    assert run["date"].startswith("20")
    assert "SparseCategoricalCrossentropy" in complete[2].render()
    _, report = prune(transfers=None, epochs=2, schedule=0.3)
    names = [transfer["class"] for transfer in report.run["transfers"]]
    assert names == [
        "OutputTransfer",
        "FeatureTransfer",
        "AttentionTransfer",
        "AdversarialTransfer",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(identity="x"),
        lambda state: state.update(snapshots={}),
        lambda state: state["snapshots"].append(3),
        lambda state: state["snapshots"][-1].pop("sha256"),
        lambda state: state["snapshots"][-1].update(epoch="3"),
        lambda state: state["snapshots"][-1].update(file="../other/snapshot.npz"),
    ],
    ids=range(6),
)
def test_a_state_that_says_something_else_is_named(copy_of_run, change):
    path = copy_of_run / "state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"state\.json cannot be read: it is damaged"):
        run_state.RunState(copy_of_run, {})


def test_numbers_of_an_edited_report_are_not_believed(complete, copy_of_run):
    path = copy_of_run / "report.json"
    edited = json.loads(path.read_text().replace('"accuracy": 0.', '"accuracy": 1.'))
    artefact = {"format": "tflite", "path": "model.tflite", "num_bytes": 7}
    path.write_text(json.dumps({**edited, "artefacts": {"a": "b"}, "deliveries": [artefact]}))
    _, report = prune(copy_of_run)
    written = aip_tf.PruningReport.from_json(path.read_text())
    for name in ("student", "rounds", "artefacts", "deliveries"):
        expected = getattr(complete[2], name)
        assert getattr(report, name) == getattr(written, name) == expected


def test_a_student_that_its_file_does_not_give_back_is_noticed(tmp_path):
    @keras.saving.register_keras_serializable("test_runs")
    class Forgetful(layers.Layer):
        def __init__(self, factor=1.0, **options):
            super().__init__(**options)
            self.factor = factor

        def get_config(self):
            return {"name": self.name}

        def call(self, x):
            return self.factor * x

    student = network()
    outputs = Forgetful(3.0)(student.output)
    student = keras.Model(student.input, outputs)
    from aip_tf.saving import save_student

    batch = images()[0], images()[1]
    recovery = aip_tf.Recovery().for_model(student, batch)
    with pytest.raises(ValueError, match=r"another one after saving.*forgets an argument"):
        save_student(tmp_path / "student.keras", student, images()[0], recovery)


# --- a whole experiment ---------------------------------------------------------------------------


class Parts:
    """The functions of an experiment; counts how often each does its work."""

    def __init__(self, seed=0):
        self.seed, self.calls = seed, []

    def get_config(self):
        return {}  # the functions of this object are known by their code, not by what it counts

    def data(self):
        return aip_tf.datasets.from_arrays(images(), images(), batch_size=16)

    def teacher(self, data):
        self.calls.append("teacher")
        return network(self.seed)

    def prune(self, model, train_data, validation_data, run_dir, overwrite):
        recovery = aip_tf.Recovery(2, transfers=[])
        options = {"recovery": recovery, "run_dir": run_dir, "overwrite": overwrite}
        return aip_tf.prune(model, train_data, validation_data, schedule=0.3, **options)

    def export(self, model, directory, check_data):
        self.calls.append("export")
        (directory / "model.txt").parent.mkdir(exist_ok=True)
        (directory / "model.txt").write_text("exported")
        return type("Exported", (), {"paths": {"text": directory / "model.txt"}})

    def run(self, folder, **options):
        return experiment.run(
            self.teacher, self.data, self.prune, self.export, run_dir=folder, **options
        )


def test_an_experiment_does_no_stage_twice_and_writes_the_report_last(tmp_path):
    parts = Parts()
    outcome = parts.run(tmp_path, configuration="a = 1\n")
    assert parts.calls == ["teacher", "export"]
    written = aip_tf.PruningReport.from_json((tmp_path / "report.json").read_text())
    assert written == outcome.report
    assert written.artefacts["text"] == str(tmp_path / "export" / "model.txt")
    assert (written.run["seed"], written.run["configuration"]) == (0, "a = 1\n")
    assert (tmp_path / "operative_config.gin").read_text() == "a = 1\n"

    again = parts.run(tmp_path, configuration="a = 1\n")
    assert parts.calls == ["teacher", "export"]
    assert again.report == outcome.report
    shutil.rmtree(tmp_path / "export")
    parts.run(tmp_path, configuration="a = 1\n")
    assert parts.calls == ["teacher", "export", "export"]


def test_a_deleted_teacher_is_made_again_and_another_one_refused(tmp_path):
    Parts().run(tmp_path)
    (tmp_path / "teacher.keras").unlink()
    parts = Parts()
    parts.run(tmp_path)
    assert parts.calls == ["teacher"]
    (tmp_path / "teacher.keras").unlink()
    with pytest.raises(ValueError, match="model: weights"):
        Parts(seed=1).run(tmp_path)
    parts = Parts(seed=1)
    parts.run(tmp_path, overwrite=True)
    assert parts.calls == ["export"]


@pytest.mark.parametrize("name", ["student.keras", "report.html", "report.json"])
def test_a_folder_of_the_users_own_is_refused_and_left_as_it_is(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name} but no state.json"):
        prune(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "checkpoint").exists()

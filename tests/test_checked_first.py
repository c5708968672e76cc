"""What cannot work is found before the teacher is trained, and by a dry run."""

import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from game_models import small_cnn, small_data

import aip_tf
from aip_tf import config, datasets, experiment, files
from aip_tf.game import AttentionTransfer

ODD = (5, b"runs/a", "", "runs/\0", "~nobody_of_that_name/a")


class TrainedError(Exception):
    pass


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise TrainedError


def teacher(model, data, checkpoint_dir, check, check_only=False):
    options = {"checkpoint_dir": checkpoint_dir, "check": check, "check_only": check_only}
    return aip_tf.train_teacher(model, data, 1, callbacks=[Never()], **options)


def data(shape=(8, 8, 1), num_classes=4, **options):
    arrays = small_data(16, shape, num_classes)
    return datasets.from_arrays(arrays, arrays, batch_size=8, **options)


RECOVERY = aip_tf.Recovery(2, transfers=[AttentionTransfer(["nowhere"], 1.0)])


@pytest.mark.parametrize(
    ("network", "images", "settings", "message"),
    [
        ({}, {}, {"selection": "mac"}, "'mac'"),
        ({}, {}, {"criterion": "l3"}, "'l3'"),
        ({}, {}, {"schedule": 0.9999}, "0.9999|reach"),
        ({}, {}, {"recovery": RECOVERY}, "taps .*nowhere"),
        ({}, {"shape": (8, 8, 3)}, {}, "1 channels instead of 3"),
        ({}, {"shape": (9, 9, 1)}, {}, "resize the images to 8x8"),
        ({"num_classes": 3}, {}, {}, "labels from 0 to 3"),
        ({"num_classes": 4}, {"class_names": list("abcde")}, {}, "5 classes .*4 logits"),
        ({"num_classes": 1, "last": "sigmoid"}, {}, {}, "labels from 0 to 3|no loss"),
    ],
)
def test_a_mistake_costs_no_training(network, images, settings, message, tmp_path):
    model = small_cnn(**network)
    train = functools.partial(teacher, model)
    prune = functools.partial(aip_tf.prune, **settings)
    made = functools.partial(data, **images)
    with pytest.raises(ValueError, match=message):
        experiment.run(train, made, prune, run_dir=tmp_path)
    with pytest.raises(ValueError, match=message):
        experiment.plan(lambda: model, made, prune)
    with pytest.raises(ValueError, match=message):
        experiment.plan(train, made, prune, run_dir=tmp_path)


def test_too_few_inputs_for_a_late_cut_cost_no_training():
    few = small_data(7, (8, 8, 1), 4)
    settings = {"schedule": lambda epoch: (epoch == 1, 0.5), "recovery": aip_tf.Recovery(4)}
    with pytest.raises(ValueError, match="'reconstruction' received 7 inputs"):
        aip_tf.prune(small_cnn(), few, **settings, check_only=True)
    aip_tf.prune(small_cnn(), few, **settings, criterion="l1", check_only=True)


def test_a_frozen_model_is_cut_but_not_trained():
    model, arrays = small_cnn(), small_data(16, (8, 8, 1), 4)
    model.trainable = False
    told = rf"{model.name!r}, none of whose weights is trainable, and epochs=2.*`model\.trainable"
    with pytest.raises(ValueError, match=told):
        aip_tf.prune(model, arrays, recovery=aip_tf.Recovery(2), check_only=True)
    student, _ = aip_tf.prune(model, arrays, recovery=aip_tf.Recovery(0))
    assert student.count_params() < model.count_params()
    model.trainable = True
    for layer in model.layers[:-1]:
        layer.trainable = False
    aip_tf.prune(model, arrays, recovery=aip_tf.Recovery(2), check_only=True)


@pytest.mark.parametrize("prune", [aip_tf.prune, None])
def test_files_of_the_user_in_the_way_of_an_export_cost_no_training(prune, tmp_path):
    mine = tmp_path / "export" / "model.tflite"
    mine.parent.mkdir()
    mine.write_text("mine")
    train = functools.partial(teacher, small_cnn())
    for network in (train, small_cnn):
        with pytest.raises(ValueError, match=r"model\.tflite, and no card"):
            experiment.plan(network, data, prune, aip_tf.export_model, run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"model\.tflite, and no card"):
        experiment.run(train, data, prune, aip_tf.export_model, run_dir=tmp_path)
    assert mine.read_text() == "mine" and len(list(mine.parent.iterdir())) == 1
    mine.rename(mine.with_name("other.tflite"))
    with pytest.raises(TrainedError):
        experiment.run(train, data, prune, aip_tf.export_model, run_dir=tmp_path)


def test_a_teacher_that_no_run_wrote_is_not_replaced(tmp_path):
    mine = tmp_path / "teacher.keras"
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"teacher\.keras, but no run was ever"):
        experiment.plan(small_cnn, data, aip_tf.prune, run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"teacher\.keras, but no run was ever"):
        experiment.run(small_cnn, data, aip_tf.prune, run_dir=tmp_path)
    assert mine.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with files.Lock(tmp_path):
        assert files.was_owned(tmp_path)


def test_an_export_to_sizes_that_the_network_has_not_costs_no_training(tmp_path):
    train = functools.partial(teacher, small_cnn())
    export = functools.partial(aip_tf.export_model, input_shapes=[(9, 9, 1)])
    with pytest.raises(ValueError, match="Correct input_shapes"):
        experiment.run(train, data, aip_tf.prune, export, run_dir=tmp_path)
    opaque = keras.Model()  # what it will be made of is not known yet
    assert aip_tf.export_model(opaque, tmp_path / "export", check_only=True) is None


def test_eight_bits_without_any_data_leave_nothing_behind(tmp_path):
    export = functools.partial(aip_tf.export_model, formats=["tflite_int8"])
    for run in (experiment.run, experiment.plan):
        with pytest.raises(ValueError, match=r"without samples.*calibration_data"):
            run(small_cnn, None, None, export, run_dir=tmp_path / "run")
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("run", "lock")]


def test_where_all_is_well_training_starts(tmp_path):
    train = functools.partial(teacher, small_cnn())
    with pytest.raises(TrainedError):
        experiment.run(train, data, aip_tf.prune, run_dir=tmp_path)
    named = functools.partial(data, class_names=list("abcd"))
    for anything in (small_cnn, train):
        prune = functools.partial(aip_tf.prune, schedule=0.25)
        plan = experiment.plan(anything, named, prune, run_dir=tmp_path / "plan")
        assert "4 classes (a: 4, b: 5, c: 4, d: 3)" in plan and "25.00% removed" in plan
        assert "channel group" in plan and not (tmp_path / "plan").exists()


def made_by_training(data):
    raise TrainedError


def test_what_only_training_makes_and_what_is_not_here_is_said():
    plan = experiment.plan(made_by_training, data, aip_tf.prune)
    assert "Network: known when it is trained." in plan and "50.00% removed" in plan
    absent = functools.partial(datasets.image_folder, "absent")
    plan = experiment.plan(functools.partial(teacher, small_cnn()), absent, aip_tf.prune)
    assert "not available" in plan and "channel group" in plan
    with pytest.raises(ValueError, match="batch_size"):
        experiment.plan(small_cnn, functools.partial(absent, batch_size=0), aip_tf.prune)


@pytest.mark.parametrize("wrong", ["file", "file/below", "a" * 300, *ODD])
def test_a_folder_that_cannot_be_is_refused_at_once(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    arrays, model = small_data(8), small_cnn()
    both = SimpleNamespace(train=arrays, test=arrays)
    for refuses in (
        lambda: aip_tf.prune(model, arrays, run_dir=wrong, check_only=True),
        lambda: aip_tf.train_teacher(model, both, 1, checkpoint_dir=wrong),
        lambda: experiment.plan(small_cnn, data, aip_tf.prune, run_dir=wrong),
        lambda: experiment.run(small_cnn, data, aip_tf.prune, run_dir=wrong),
    ):
        with pytest.raises(ValueError, match=r"(?s)Received the path .*(: |Expected)"):
            refuses()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "tpu"}, "strategy='tpu'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"strategy": "multi_worker"}, "TF_CONFIG"),
    ],
)
def test_a_run_that_cannot_start_says_so(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.run(teacher, data, aip_tf.prune, run_dir=tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        experiment.plan(teacher, data, aip_tf.prune, **settings)
    assert list(tmp_path.iterdir()) == []


RUN_FILE = "include 'gin/base.gin'\nrun.teacher = @digits_resnet\nrun.data = @digits\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prune.selection = 'mac'", "'mac'"),
        ("prune.criterion = 'l3'", "'l3'"),
        ("prune.recovery = @Recovery()\nRecovery.optimizer = 'sdg'", "optimizer='sdg'"),
        ("run.strategy = 'tpu'", "strategy='tpu'"),
        ("run.seed = -1", "seed=-1"),
        ("run.export = @export_model\nexport_model.formats = ['tf']", r"formats=\['tf'\]"),
    ],
)
def test_a_run_file_that_cannot_work_is_not_read_to_the_end(line, message, tmp_path):
    (tmp_path / "run.gin").write_text(RUN_FILE + line + "\n")
    with pytest.raises(config.ConfigError, match=message):
        config.load([str(tmp_path / "run.gin")])


TRAINED = "run.teacher = @train_teacher\ntrain_teacher.model = @digits_resnet()\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("digits.batch_size = 0", "batch_size"),
        ("digits.batch_size = -4", "batch_size"),
        (TRAINED + "train_teacher.epochs = 0", "epochs=0"),
        (TRAINED + "train_teacher.optimizer = 'foo'", "optimizer='foo'"),
        (TRAINED + "train_teacher.decay = 'bar'", "'bar'"),
        (TRAINED + "digits_resnet.width = 0", "digits_resnet: Received width=0"),
        (TRAINED + "digits_resnet.num_classes = 4", "labels from 0 to 9"),
        ("run.data = @digits_resnet", "Expected datasets.Data"),
    ],
)
def test_a_dry_run_refuses_what_the_run_does(line, message, tmp_path):
    (tmp_path / "run.gin").write_text(RUN_FILE + line + "\n")
    config.load([str(tmp_path / "run.gin")])
    with pytest.raises(ValueError, match=message) as planned:
        config.describe(tmp_path / "runs")
    with pytest.raises(ValueError, match=message) as run:
        config.run(tmp_path / "runs")
    assert str(planned.value) == str(run.value) and "bug" not in str(run.value)


def test_a_teacher_that_learnt_nothing_is_doubted_in_one_line(caplog):
    images, labels = small_data(16)
    labels = np.where(np.arange(16) < 15, 0, labels)
    model = small_cnn()
    model.get_layer("out").bias.assign([-9.0, 9.0, 0.0, 0.0])  # always class 1: never right
    recovery = aip_tf.Recovery(2, transfers=[])
    arrays = images, labels
    aip_tf.prune(model, arrays, arrays, schedule=lambda e: (e == 0, 0.2), recovery=recovery)
    doubts = [r.getMessage() for r in caplog.records if "chance" in r.getMessage()]
    assert len(doubts) == 1 and "The teacher's accuracy is 0.0" in doubts[0]

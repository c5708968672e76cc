"""What cannot work is found before the teacher is trained, and by a dry run."""

import functools

import keras
import numpy as np
import pytest
from game_models import small_cnn, small_data

import aip_tf
from aip_tf import config, datasets, experiment
from aip_tf.game import AttentionTransfer


class TrainedError(Exception):
    pass


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise TrainedError


def teacher(model, data, checkpoint_dir, check):
    return aip_tf.train_teacher(
        model, data, 1, checkpoint_dir=checkpoint_dir, check=check, callbacks=[Never()]
    )


def data(shape=(8, 8, 1), num_classes=4, **options):
    arrays = small_data(16, shape, num_classes)
    return datasets.from_arrays(arrays, arrays, batch_size=8, **options)


RECOVERY = aip_tf.Recovery(2, transfers=[AttentionTransfer(["nowhere"])])


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
        experiment.plan(model, made, **settings)


def test_where_all_is_well_training_starts(tmp_path):
    train = functools.partial(teacher, small_cnn())
    with pytest.raises(TrainedError):
        experiment.run(train, data, aip_tf.prune, run_dir=tmp_path)
    assert "4 classes (a: 4, b: 5, c: 4, d: 3)" in experiment.plan(
        small_cnn(), functools.partial(data, class_names=list("abcd"))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "tpu"}, "strategy='tpu'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
    ],
)
def test_a_run_that_cannot_start_says_so(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.run(teacher, data, aip_tf.prune, run_dir=tmp_path, **settings)
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

"""Typing errors: each is one sentence that names what was given, before anything trains."""

import math

import keras
import numpy as np
import pytest

import aip_tf
from aip_tf import schedules, task

NAN, INF = math.nan, math.inf


def is_one_paragraph(message):
    """What was received and what is expected; no bug of ours, no colors, no page of numbers."""
    assert "Received" in message or "received" in message or "expected" in message, message
    assert "Expected" in message or "expected" in message or "must be" in message, message
    assert "bug" not in message and "\x1b" not in message and len(message) < 700, message


class Quiet(keras.callbacks.Callback):
    pass


RECOVERY = [
    {"epochs": 0},
    {"epochs": 2.0},
    {"epochs": "2"},
    {"epochs": True},
    {"epochs": None},
    {"epochs": NAN},
    {"optimizer": "sdg"},
    {"optimizer": 3},
    {"optimizer": None},
    {"optimizer": keras.optimizers.SGD},
    {"optimizer": keras.optimizers.SGD(INF)},
    {"optimizer": keras.optimizers.SGD(-0.1)},
    {"optimizer": "Optimizer"},
    {"decay": "cos"},
    {"decay": 0.1},
    {"decay": None},
    {"decay": lambda: 1.0},
    {"decay": lambda progress: "x"},
    {"decay": lambda progress: -1.0},
    {"loss": "foo"},
    {"loss": 3},
    {"loss": ["mse", 3]},
    {"loss": {"out": "foo"}},
    {"metrics": "accuracy"},
    {"metrics": ["acc?"]},
    {"metrics": [3]},
    {"metrics": {"out": ["accuracy", 3]}},
    {"transfers": "x"},
    {"transfers": ["x"]},
    {"transfers": [aip_tf.transfers.OutputTransfer]},
    {"transfers": 3},
    {"supervised_weight": "x"},
    {"supervised_weight": -1},
    {"supervised_weight": NAN},
    {"supervised_weight": INF},
    {"callbacks": 3},
    {"callbacks": [3]},
    {"callbacks": "x"},
    {"callbacks": [Quiet]},
    {"class_weight": [1, 2, 3]},
    {"class_weight": {0: "x"}},
    {"class_weight": {"a": 1}},
    {"class_weight": {0: -1.0}},
    {"class_weight": {0: NAN}},
    {"class_weight": {0.5: 1.0}},
    {"keep": "first"},
    {"keep": None},
    {"task": "x"},
    {"task": task.Task},
    {"recalibration_batches": "x"},
    {"recalibration_batches": None},
    {"recalibration_batches": 1.5},
    {"recalibration_batches": -1},
    {"steps_per_epoch": 0},
    {"steps_per_epoch": "x"},
    {"validation_steps": 1.0},
]


@pytest.mark.parametrize("slip", RECOVERY, ids=str)
def test_a_recovery_refuses_what_it_cannot_use(slip):
    with pytest.raises(ValueError) as caught:
        aip_tf.Recovery(**slip)
    is_one_paragraph(str(caught.value))


@pytest.mark.parametrize(
    "right",
    [
        {"epochs": np.int64(3)},
        {"supervised_weight": np.float32(0.5)},
        {"supervised_weight": 0},
        {"class_weight": {np.int64(0): np.float32(2)}},
        {"recalibration_batches": np.int32(0)},
        {"loss": [None, keras.losses.MeanSquaredError()]},
        {"loss": {"class_name": "MeanSquaredError", "config": {}}},
        {"loss": "crossentropy", "metrics": ["acc"]},
        {"metrics": {"out": ["accuracy", keras.metrics.AUC]}},
        {"decay": lambda progress: np.float32(1.0)},
        {"optimizer": "adam"},
        {"callbacks": None},
    ],
    ids=str,
)
def test_what_keras_and_numpy_mean_by_it_works(right):
    aip_tf.Recovery(**right)


def test_one_callback_needs_no_list():
    callback = Quiet()
    assert aip_tf.Recovery(callbacks=callback).callbacks == (callback,)
    assert type(aip_tf.Recovery(epochs=np.int64(3)).epochs) is int


@pytest.mark.parametrize(
    "schedule",
    [
        *(1.5, 0, 1, "x", None, NAN, True, -0.1, [0.5]),
        lambda step: 0.3,
        lambda step, other: (True, 0.3),
        lambda step: (True, 2),
        lambda step: (True, "x"),
        lambda step: 1 / 0,
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_asked_is_refused(schedule):
    with pytest.raises(ValueError) as caught:
        schedules.list_cuts(schedule, 4)
    is_one_paragraph(str(caught.value))


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.PolynomialDecay(0.1, "x", 0, 2),
        lambda: schedules.PolynomialDecay(0.1, 0.5, 0, 2, frequency=0),
        lambda: schedules.PolynomialDecay(0.1, 0.5, "a", 2),
        lambda: schedules.PolynomialDecay(0.1, 1.5, 0, 2),
        lambda: schedules.PolynomialDecay(0.1, 0.5, 0, 2, power=NAN),
        lambda: schedules.one_shot("x"),
        lambda: schedules.one_shot(0.5, 1.5),
        lambda: schedules.step_decay(3),
        lambda: schedules.step_decay(("a",)),
        lambda: schedules.step_decay(factor="x"),
    ],
)
def test_the_parts_of_a_schedule_refuse_it_too(make):
    with pytest.raises(ValueError) as caught:
        make()
    is_one_paragraph(str(caught.value))


def test_numbers_of_numpy_make_cuts():
    cuts = schedules.list_cuts(np.float32(0.5), np.int64(4))
    assert [cut.epoch for cut in cuts] == [0, 1] and cuts[-1].amount == 0.5

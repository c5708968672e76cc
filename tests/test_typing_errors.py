"""Typing errors: each is one sentence that names what was given, before anything trains."""

import math
import random
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from game_models import small_cnn, small_data, two_headed

import aip_tf
from aip_tf import criteria, datasets, schedules, selection, task, transfers, zoo
from aip_tf.datasets.adapt import as_dataset

NAN, INF = math.nan, math.inf


def is_one_paragraph(message):
    """What was received and what is expected; no bug of ours, no colors, no page of numbers."""
    assert "Received" in message or "received" in message or "expected" in message, message
    assert "Expected" in message or "expected" in message or "must be" in message, message
    assert "bug" not in message and "\x1b" not in message and len(message) < 700, message


class Quiet(keras.callbacks.Callback):
    pass


RECOVERY = [
    {"epochs": -1},
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


@pytest.mark.parametrize("slip", RECOVERY)
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
)
def test_what_keras_and_numpy_mean_by_it_works(right):
    recovery, ((name, value),) = aip_tf.Recovery(**right), list(right.items())[:1]
    assert getattr(recovery, name) == (() if value is None else value)


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
    cuts = schedules.list_cuts(np.float32(0.75), np.int64(4))
    assert [cut.epoch for cut in cuts] == [-1, 0] and cuts[-1].amount == 0.75


X, Y = small_data(12, (8, 8, 1), 4)
HOT = np.eye(4)[Y]
HOLED = np.where(np.arange(12)[:, None, None, None] == 3, np.nan, X)
BATCHES = tf.data.Dataset.from_tensor_slices(X).batch(4)

DATA = [
    ((X[:, :4], Y), "resize the images to 8x8|reshape"),
    ((np.repeat(X, 3, -1), Y), "1 channels instead of 3"),
    ((X[..., 0], Y), "add the missing axis"),
    ((X.astype(str), Y), "type str|type string"),
    ((X.astype("complex64"), Y), "type complex64"),
    ((HOLED, Y), "NaN or infinity"),
    ((X, Y + 9), "labels from 9 to"),
    ((X, Y - 1), "labels from -1 to"),
    ((X, Y + 0.5), "labels from 0.5 to"),
    ((X, Y.astype(str)), "labels of type str"),
    ((X, np.where(np.arange(12) == 11, 4, Y)), "labels from 0 to 4"),
    ((X, np.stack([Y, Y], 1)), "labels of shape"),
    ((X, np.eye(5)[Y]), "labels of shape"),
    ((X, Y[:-1]), "unequal length"),
    ((X, None), "labels"),
    (BATCHES, "without labels"),
    (tf.data.Dataset.from_tensor_slices((X, Y)), r"dataset.batch\(32\)"),
    (tf.data.Dataset.from_tensors((X, Y[:-1])), "parts have 12, 11 samples"),
    (tf.data.Dataset.from_tensors((X[:0], Y[:0])), "and at least one"),
    (X, "as one tuple"),
]


def of_each(model, data):
    """The data as training, validation, a teacher's training and test data, one after the other."""
    recovery = aip_tf.Recovery(2, transfers=[])
    both = SimpleNamespace(train=(X, Y), test=data)
    yield lambda: aip_tf.prune(model, data, recovery=recovery, check_only=True)
    yield lambda: aip_tf.prune(model, (X, Y), data, recovery=recovery, check_only=True)
    yield lambda: aip_tf.train_teacher(model, SimpleNamespace(train=data, test=(X, Y)), 1)
    yield lambda: aip_tf.train_teacher(model, both, 1)


@pytest.mark.parametrize(("data", "message"), DATA)
def test_all_data_are_looked_at_before_anything_trains(data, message):
    for number, refuses in enumerate(of_each(small_cnn(), data)):
        with pytest.raises(ValueError, match=message) as caught:
            refuses()
        is_one_paragraph(str(caught.value))
        role = ("train", "validation", "train", "test")[number]
        assert role in str(caught.value) or number in (0, 2)


def test_labels_of_several_outputs_are_all_there_and_numbers():
    for labels in ({"kind": Y}, {"kind": Y, "alive": Y.astype(str)}, [Y], {"kind": Y, "a": Y}):
        with pytest.raises(ValueError) as caught:
            aip_tf.prune(two_headed(), (X, labels), recovery=aip_tf.Recovery(2), check_only=True)
        is_one_paragraph(str(caught.value))


def test_what_costs_an_accuracy_is_said(caplog):
    recovery = aip_tf.Recovery(2, transfers=[], class_weight={4: 1.0})
    with pytest.raises(ValueError, match="class_weight for the class 4"):
        aip_tf.prune(small_cnn(), (X, Y), recovery=recovery, check_only=True)
    aip_tf.prune(small_cnn(num_classes=7), (X, Y), check_only=True)
    assert "tells 7 classes apart; the data have 4" in caplog.text
    model = small_cnn()
    model.get_layer("out").bias.assign([0, np.nan, 0, 0])
    for refuses in of_each(model, (X, Y)):
        with pytest.raises(ValueError, match=r"NaN or infinity in 1 of its weights.*out/bias"):
            refuses()


def test_a_batch_that_cannot_be_had_is_named():
    class Items(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {}["nothing"]

    def failing():
        yield 1 / 0

    for data in (Items(), failing()):
        with pytest.raises(ValueError, match=r"Items\[0\]: KeyError|ZeroDivisionError") as caught:
            as_dataset(data, 1)
        is_one_paragraph(str(caught.value))
    lists = X.tolist(), Y.tolist()
    assert next(iter(as_dataset(lists)))[0].shape == X.shape
    with pytest.raises(ValueError) as caught:
        as_dataset(([[1.0] * 500, [1.0]], [0, 1]))
    is_one_paragraph(str(caught.value))


@pytest.mark.parametrize(
    "make",
    [
        lambda: zoo.digits_resnet(width=0),
        lambda: zoo.digits_resnet(width="x"),
        lambda: zoo.digits_resnet(width=4.5),
        lambda: zoo.digits_resnet(num_classes=0),
        lambda: zoo.digits_resnet(num_classes=True),
        lambda: zoo.digits_resnet(input_shape=8),
        lambda: zoo.digits_resnet(input_shape=(8, 8, 3)),
        lambda: zoo.digits_resnet(input_shape=(8, "8", 1)),
        lambda: zoo.cifar_resnet(None),
        lambda: zoo.cifar_resnet(21),
        lambda: zoo.cifar_resnet(20, shortcut="C"),
        lambda: zoo.imagenet_resnet(20),
        lambda: zoo.densenet40(growth_rate=-1),
        lambda: zoo.mobilenet_v2(10, alpha=0, input_shape=(32, 32, 3)),
        lambda: zoo.mobilenet_v2("x", input_shape=(32, 32, 3)),
        lambda: zoo.mobilenet_v2(input_shape=(32, 32)),
        lambda: datasets.digits(batch_size=0),
        lambda: datasets.digits(batch_size="x"),
        lambda: datasets.digits(batch_size=NAN),
    ],
)
def test_networks_and_data_refuse_sizes_that_cannot_be(make):
    with pytest.raises(ValueError) as caught:
        make()
    is_one_paragraph(str(caught.value))


def test_sizes_of_numpy_are_sizes():
    assert zoo.digits_resnet(np.int64(3), width=np.int32(2)).output_shape == (None, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: transfers.OutputTransfer(temperature="x"),
        lambda: transfers.OutputTransfer(weight="x"),
        lambda: transfers.OutputTransfer(weight=INF),
        lambda: transfers.OutputTransfer(from_logits="x"),
        lambda: transfers.AttentionTransfer(taps=3),
        lambda: transfers.AttentionTransfer(taps=[3]),
        lambda: transfers.AttentionTransfer(taps={"a": 3}),
        lambda: transfers.AdversarialTransfer(max_pull="x"),
        lambda: transfers.AdversarialTransfer(discriminator=3),
        lambda: transfers.AdversarialTransfer(optimizer="foo"),
        lambda: transfers.AdversarialTransfer(optimizer="deserialize"),
        lambda: selection.Macs(ignore=3),
        lambda: selection.Macs(ignore=["("]),
        lambda: selection.Macs(max_sparsity={"(": 0.5}),
        lambda: selection.Macs(max_sparsity=NAN),
        lambda: selection.Macs(per_cost="x"),
        lambda: selection.Macs(round_to=1.0),
        lambda: selection.get(lambda scores: scores),
        lambda: criteria.get(lambda model: model),
        lambda: task.Task(main_metric=3),
        lambda: task.Task(higher_is_better="x"),
        lambda: aip_tf.load_model("resnet20", foo=3),
        lambda: aip_tf.load_model("resnet20", weights=3),
        lambda: aip_tf.load_model(""),
        lambda: datasets.from_arrays(5, 5),
        lambda: datasets.from_arrays((X, Y), (X,)),
        lambda: datasets.from_arrays((X, Y), (X, Y), class_names=3),
        lambda: datasets.from_arrays((X, Y), (X, Y), class_names="abcd"),
        lambda: datasets.from_arrays((X, Y), (X, Y), augment=3),
        lambda: datasets.from_arrays((X, Y), (X, Y), seed="x"),
        lambda: datasets.from_arrays((X, Y.astype(str)), (X, Y)),
        lambda: datasets.from_arrays((X.astype(str), Y), (X, Y)),
        lambda: datasets.digits(seed=-1),
        lambda: datasets.digits(augment="x"),
        lambda: datasets.augment.pad_crop(-1),
        lambda: datasets.augment.pad_crop_flip("x"),
        lambda: datasets.augment.affine(NAN, scale=0.1, shift=1),
        lambda: datasets.augment.affine(10, scale=-0.1, shift=1),
        lambda: datasets.augment.color_jitter(2),
        lambda: datasets.image_folder(5),
        lambda: datasets.image_folder("/", validation_fraction="x"),
        lambda: datasets.image_folder("/", input_shape=5),
        lambda: datasets.image_folder("/", input_shape=(0, 8, 3)),
        lambda: datasets.image_folder("/", views=3),
        lambda: datasets.Views(crop_fraction="x"),
        lambda: datasets.Views(value_range=3),
        lambda: datasets.Views(color_jitter=None),
        lambda: datasets.voc(train=3),
    ],
)
def test_every_part_refuses_what_it_cannot_use(make):
    with pytest.raises(ValueError) as caught:
        make()
    is_one_paragraph(str(caught.value))


WISHES = [
    {"loss": lambda truth: 0.0},
    {"metrics": [lambda truth: 0.0]},
    {"metrics": {"nowhere": ["accuracy"]}},
    {"metrics": [["accuracy"], ["accuracy"]]},
    {"loss": {"nowhere": "mse"}},
    {"task": task.Task(main_metric="foo")},
    {"task": task.Task(loss_weights={"nowhere": 1.0})},
    {"transfers": [transfers.AdversarialTransfer(outputs=[7])]},
    {"transfers": [transfers.OutputTransfer(outputs="x")]},
    {"transfers": [transfers.AttentionTransfer(["nowhere"], 1.0)]},
]


@pytest.mark.parametrize("wish", WISHES)
def test_wishes_are_rehearsed_on_the_model_before_anything_trains(wish):
    recovery = aip_tf.Recovery(2, **{"transfers": [], **wish})
    with pytest.raises(ValueError) as caught:
        aip_tf.prune(small_cnn(), (X, Y), recovery=recovery, check_only=True)
    is_one_paragraph(str(caught.value))


def test_a_rehearsal_draws_nothing_at_random():
    model, before = small_cnn(), random.getstate()
    aip_tf.prune(model, (X, Y), check_only=True)
    assert random.getstate() == before

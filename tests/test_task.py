"""`Task`: what is read from a compiled model, its data and the user's wishes, and is checked."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from game_models import small_cnn, two_headed
from keras import layers

import aip_tf
from aip_tf import criteria
from aip_tf.task import Task
from aip_tf.task.wishes import described


def classifier(units, activation=None):
    return keras.Sequential([keras.Input((4,)), layers.Dense(units, activation=activation)])


def read(model, labels, **wishes):
    return Task(**wishes).read(model, (np.zeros((len(labels), 4), "float32"), labels))


@pytest.mark.parametrize("ignored", [-1, 255])
def test_a_class_that_the_loss_ignores_may_have_any_number(ignored):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)
    task = read(classifier(3), np.array([0, 2, ignored]), loss=loss)
    task.check_all(np.array([0, ignored]))
    task.check_all(np.array([ignored]))
    assert task.main_metric == "loss"  # an accuracy would count the class as missed
    with pytest.raises(ValueError, match=r"labels from 0 to 3 .* Expected 0 to 2"):
        read(classifier(3), np.array([0, 3, ignored]), loss=loss)


def test_no_accuracy_is_measured_where_a_loss_of_ones_own_knows_the_labels():
    ctc = keras.losses.CTC()
    model = keras.Sequential([keras.Input((8, 4)), layers.Dense(6)])
    task = Task(loss=ctc).read(model, (np.zeros((2, 8, 4)), np.ones((2, 3), int)))
    assert (task.metrics, task.main_metric) == ([], "loss")


@pytest.mark.parametrize(
    ("units", "activation", "labels", "name", "from_logits"),
    [
        (3, None, np.zeros(5, int), "sparse_categorical_crossentropy", True),
        (3, "softmax", np.zeros((5, 1), int), "sparse_categorical_crossentropy", False),
        (3, "softmax", np.zeros((5, 3)), "categorical_crossentropy", False),
        (3, None, np.eye(3), "categorical_crossentropy", True),
        (3, "sigmoid", np.zeros((5, 3)), "binary_crossentropy", False),
        (1, None, np.zeros(5), "binary_crossentropy", True),
        (1, "sigmoid", np.zeros((5, 1)), "binary_crossentropy", False),
    ],
)
def test_the_loss_fits_output_and_labels(units, activation, labels, name, from_logits):
    task = read(classifier(units, activation), labels)
    assert task.loss.name == name
    assert task.loss.get_config()["from_logits"] == from_logits
    assert (task.main_metric, task.higher_is_better) == ("accuracy", True)


def test_each_output_of_several_gets_its_loss_and_accuracy():
    labels = [np.zeros(2, int), np.ones(2)]
    task = Task().read(two_headed(), (np.zeros((2, 8, 8, 1), "float32"), labels))
    losses = [output.loss.name for output in task.outputs]
    assert losses == ["sparse_categorical_crossentropy", "binary_crossentropy"]
    assert [output.kind for output in task.outputs] == ["softmax", "logits"]
    assert [output.num_classes for output in task.outputs] == [4, 2]
    assert task.main_metric == "kind_accuracy"
    data = tf.data.Dataset.from_tensors((np.zeros((2, 8, 8, 1)), tuple(labels)))
    assert {"loss", "kind_accuracy", "alive_accuracy"} <= set(task.evaluate(two_headed(), data))


@pytest.mark.parametrize("labels", [np.full((5, 6, 6, 2), 0.3), np.linspace(-1, 2, 5)])
def test_what_is_no_classification_needs_a_loss(labels):
    inputs = keras.Input((8, 8, 1))
    outputs = (
        layers.Conv2D(2, 3)(inputs)
        if labels.ndim == 4
        else layers.Dense(1)(layers.Flatten()(inputs))
    )
    with pytest.raises(ValueError, match=r"no loss.*Recovery\(loss=\.\.\.\)"):
        Task().read(keras.Model(inputs, outputs), (np.zeros((5, 8, 8, 1)), labels))


def test_what_a_model_was_compiled_with_is_taken_unless_the_user_says_otherwise():
    model = classifier(3)
    model.compile(loss="mse", metrics=["mae"], loss_weights=[0.5])
    task = read(model, np.zeros((5, 3)))
    assert (task.loss, task.metrics, task.loss_weights) == ("mse", ["mae"], [0.5])
    assert (task.main_metric, task.higher_is_better) == ("mae", False)
    assert task.outputs[0].form == "values"
    task = read(model, np.zeros((5, 3)), loss="mae", metrics=["mse"])
    assert (task.loss, task.metrics, task.loss_weights) == ("mae", ["mse"], None)


def test_evaluation_is_that_of_keras_and_leaves_the_model_alone():
    model = small_cnn()
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, [0.5], [metric], ["accuracy"])
    data = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32"), np.arange(5) % 4
    dataset = tf.data.Dataset.from_tensor_slices((*data, np.arange(5.0))).batch(2)
    task = Task().read(model, next(iter(dataset)))
    measured = task.evaluate(model, dataset)
    expected = model.evaluate(dataset, verbose=0, return_dict=True)
    assert measured == pytest.approx(expected)
    assert task.main_metric == "top2"
    assert task.is_better({"top2": 0.5}, {"top2": 0.4}) and task.is_better({"top2": 0.1}, None)


def test_class_numbers_become_one_hot_where_the_loss_wants_rows():
    model = classifier(3, "softmax")
    model.compile(loss="categorical_crossentropy")
    task = read(model, np.array([2, 0]))
    assert task.convert(np.array([2, 0])).numpy().tolist() == [[0, 0, 1], [1, 0, 0]]
    data = tf.data.Dataset.from_tensors((np.zeros((2, 4), "float32"), np.array([2, 0])))
    assert task.evaluate(model, task.prepare(data))["loss"] == pytest.approx(np.log(3))
    rows = np.eye(3)[:2]
    assert task.convert(rows) is rows


@pytest.mark.parametrize(
    ("units", "loss", "labels", "message"),
    [
        (3, "sparse_categorical_crossentropy", np.eye(3), "CategoricalCrossentropy, which takes"),
        (2, "sparse_categorical_crossentropy", np.array([0, 1, 2]), "labels from 0 to 2.*2 units"),
        (3, "sparse_categorical_crossentropy", np.array([1, 2, -1]), "from -1 to 2"),
        (3, "categorical_crossentropy", np.array([1, 2, 3]), "labels from 1 to 3"),
        (1, "binary_crossentropy", np.eye(3), "0 or 1 for each unit"),
        (3, "mse", np.array([0, 1, 2]), "a value for each unit"),
        (3, None, [np.zeros(2), np.zeros(3), np.zeros(4)], "parts have 3, 2, 3, 4 samples"),
    ],
)
def test_labels_that_do_not_fit_are_refused(units, loss, labels, message):
    model = classifier(units)
    if loss is not None:
        model.compile(loss=loss)
    with pytest.raises(ValueError, match=message):
        read(model, labels)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 8, 8, 3)), "images of 1 channels instead of 3"),
        (np.zeros((2, 9, 9, 1)), "resize the images to 8x8"),
        (np.zeros((2, 8, 8)), r"one channel: images\[..., None\]"),
        (np.zeros((8, 8, 1)), r"single sample.* dataset.batch\(32\)"),
        (np.array([["a"], ["b"]]), "shape"),
        ([np.zeros((2, 8, 8, 1))] * 2, "2 inputs in a batch. Expected 1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        Task().read(small_cnn(), (inputs, np.zeros(2, int)))


@pytest.mark.parametrize("batch", [np.zeros((2, 8, 8, 1)), (np.zeros((2, 8, 8, 1)), None)])
def test_data_without_labels_is_refused(batch):
    with pytest.raises(ValueError, match="labels say what"):
        Task().read(small_cnn(), batch)


def test_an_output_without_a_loss_needs_no_labels():
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in ("kind", "alive")}
    model = keras.Model(inputs, outputs)
    model.compile(loss={"kind": "sparse_categorical_crossentropy"})
    batch = np.zeros((2, 4), "float32"), {"kind": np.zeros(2, int)}
    task = Task().read(model, batch)
    assert list(task.evaluate(model, tf.data.Dataset.from_tensors(batch))) == ["loss"]
    with pytest.raises(ValueError, match=r"metrics, and no labels for the outputs \['alive'\]"):
        Task(metrics={"kind": ["accuracy"]}).read(model, batch)


def test_a_task_is_told_from_others_but_not_by_names_that_keras_numbers():
    one, same = (described(Task(metrics={f"dense_{i}": ["mse"]}), [f"dense_{i}"]) for i in (1, 2))
    weighted = described(Task(metrics={"dense_1": ["mse"]}, loss_weights=[2.0]), ["dense_1"])
    assert one == same != weighted


def test_labels_for_one_output_of_two_are_refused():
    with pytest.raises(ValueError, match="labels for each of"):
        Task().read(two_headed(), (np.zeros((2, 8, 8, 1)), np.zeros(2, int)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_is_read_by_its_loss():
    model = Subclassed()
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="no loss"):
        read(model, np.zeros(2, int))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    task = read(model, np.zeros(2, int))
    assert (task.outputs[0].kind, task.outputs[0].num_classes) == ("logits", 3)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_taylor_scores_a_compiled_yes_or_no_classifier(activation):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, name="a"), layers.Dense(1, activation=activation)]
    )
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=activation is None))
    data = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 2
    groups = aip_tf.find_channel_groups(model)
    scores = criteria.Taylor()(model, groups, data)["a"]
    assert np.isfinite(scores).all() and scores.min() > 0


def test_taylor_scores_with_several_outputs():
    model, images = two_headed(), np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    data = images.astype("float32"), [np.arange(4), np.ones((4, 1))]
    groups = aip_tf.find_channel_groups(model)
    assert all(np.isfinite(s).all() for s in criteria.Taylor()(model, groups, data).values())


@pytest.mark.parametrize(
    ("activation", "from_logits", "warning"),
    [
        (None, False, "no softmax or sigmoid, but its loss .* takes probabilities.*=True"),
        ("softmax", True, "ends in a softmax, but its loss .* takes logits.*from_logits=False"),
        ("softmax", False, None),
        (None, True, None),
    ],
)
def test_a_loss_on_another_scale_is_one_line(activation, from_logits, warning, caplog):
    model = classifier(3, activation)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits))
    for _ in range(2):  # asked by several, told once
        read(model, np.array([0, 2]))
    assert len(caplog.records) == (warning is not None)
    assert warning is None or re.search(warning, caplog.text)


@pytest.mark.parametrize(
    ("units", "truth", "form"),
    [(3, np.array([0, 2]), "integer"), (3, np.eye(3), "one_hot"), (1, np.ones(2), "binary")],
)
def test_keras_short_name_is_the_cross_entropy_that_fits(units, truth, form):
    model = classifier(units, "sigmoid" if units == 1 else "softmax")
    model.compile(loss="crossentropy")
    assert read(model, truth).outputs[0].labels == form


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "activation", "message"),
    [
        (2, None, "3 classes \\(cat, dog, bird\\).*2 logits, which tells 2 apart"),
        (1, "sigmoid", "3 classes.*1 yes/no answers, which tells 2 apart"),
        (1, None, "which tells 2 apart.*num_classes=3"),
    ],
)
def test_fewer_units_than_classes_are_refused(units, activation, message):
    task = read(classifier(units, activation), np.array([0, 1]))
    with pytest.raises(ValueError, match=message):
        task.check_classes(3, ["cat", "dog", "bird"])


def test_more_units_than_classes_are_one_line(caplog):
    task = read(classifier(5), np.array([0, 1]))
    task.check_classes(5)
    assert not caplog.records
    task.check_classes(3)
    assert len(caplog.records) == 1 and "5 classes apart; the data have 3" in caplog.text


def test_three_classes_for_a_sigmoid_are_seen_in_the_labels():
    with pytest.raises(ValueError, match=r"labels from 0 to 2.*binary_crossentropy"):
        model = classifier(1, "sigmoid")
        model.compile(loss="binary_crossentropy")
        read(model, np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("accuracy", "doubt"),
    [
        (0.26, "0.260, and 0.250 would be chance"),
        (0.9, None),
        (float("nan"), "accuracy on the validation data: no finite number"),
    ],
)
def test_a_teacher_near_chance_is_doubted(accuracy, doubt):
    task = read(classifier(4), np.array([0, 1]))
    found = task.doubt({"loss": 1.0, "accuracy": accuracy})
    assert (found is None) == (doubt is None)
    assert doubt is None or (doubt in found and "\n" not in found)

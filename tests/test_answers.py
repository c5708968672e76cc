"""Without labels the teacher's answers stand in for them, and transfers teach."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import Input, Model, layers

import aip_tf
from aip_tf.task.answers import Answers

OUTPUTS = (aip_tf.transfers.OutputTransfer(),)
X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")


def teacher():
    keras.utils.set_random_seed(0)
    inputs = Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    return Model(inputs, layers.Dense(3, name="kind")(x))


@pytest.mark.parametrize(
    "data, epochs",
    [((X,), 0), ((X, None), 0), (tf.data.Dataset.from_tensor_slices(X).batch(8), 1)],
    ids=["tuple", "None", "dataset"],
)
def test_a_model_is_pruned_on_inputs_alone(data, epochs):
    recovery = aip_tf.Recovery(epochs=epochs, transfers=[aip_tf.transfers.OutputTransfer()])
    model = teacher()
    student, report = aip_tf.prune(model, data, data, schedule=0.3, recovery=recovery)
    same = np.argmax(student(X), -1) == np.argmax(model(X), -1)
    assert report.student.metrics["agreement"] == pytest.approx(same.mean(), abs=1e-6)
    assert report.teacher.metrics["agreement"] == 1.0
    assert report.run["labels"] == "the teacher's answers"


@pytest.mark.parametrize("structure", [list, tuple, dict], ids=lambda t: t.__name__)
@pytest.mark.parametrize("epochs", [0, 1])
def test_several_outputs_need_no_labels_either(structure, epochs):
    keras.utils.set_random_seed(0)
    inputs = Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    heads = {"kind": layers.Dense(3, name="kind")(x), "is_old": layers.Dense(1, name="is_old")(x)}
    if structure is dict:
        heads = {"kind": heads["kind"], "is_old": layers.Identity()(heads["is_old"])}
    model = Model(inputs, heads if structure is dict else structure(heads.values()))
    _, report = aip_tf.prune(
        model, (X,), (X,), schedule=0.3, recovery=aip_tf.Recovery(epochs=epochs)
    )
    assert report.teacher.metrics["kind_agreement"] == 1.0
    assert report.teacher.metrics["is_old_agreement"] == 1.0


def test_a_subclassed_teacher_and_its_student_are_measured_by_the_same_names():
    class TwoHeads(Model):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(8, activation="relu")
            self.heads = [layers.Dense(3), layers.Dense(2)]

        def call(self, x):
            return tuple(head(self.hidden(x)) for head in self.heads)

    model = TwoHeads()
    model(X)
    recovery = aip_tf.Recovery(epochs=0)
    _, report = aip_tf.prune(model, (X,), (X,), schedule=0.3, recovery=recovery)
    assert report.teacher.metrics.keys() == report.student.metrics.keys()


@pytest.mark.parametrize("is_by_name", [False, True])
def test_a_dictionary_of_inputs_and_labels_is_no_batch(is_by_name):
    data, model = tf.data.Dataset.from_tensors({"images": X, "labels": np.zeros(24)}), teacher()
    if is_by_name:
        model = Model({"images": model.input}, model.output)
    with pytest.raises(ValueError, match="labels stand beside the inputs"):
        aip_tf.prune(model, data, check_only=True)


def test_labels_among_the_inputs_are_noticed(caplog):
    model = Model(i := Input((6,), name="x"), layers.Dense(3)(layers.Dense(8)(i)))
    data = tf.data.Dataset.from_tensors({"x": X, "kind": np.zeros(24)})
    inputs = data.map(lambda x: {"x": x["x"]})
    for train, validation in ((data, None), (inputs, data)):
        aip_tf.prune(model, train, validation, check_only=True)
        assert "No input of the model reads 'kind'. Labels stand beside the inputs" in caplog.text
        caplog.clear()
    aip_tf.prune(model, inputs, inputs, check_only=True)
    assert "No input" not in caplog.text


def test_labels_of_the_validation_data_are_what_counts():
    recovery, labels = aip_tf.Recovery(epochs=0), np.zeros(24, int)
    model = teacher()
    _, report = aip_tf.prune(model, (X,), (X, labels), schedule=0.3, recovery=recovery)
    expected = np.mean(np.argmax(model(X), -1) == 0)
    assert report.teacher.metrics["accuracy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "loss", ["mse", keras.losses.MeanSquaredError(), ["mse"]], ids=["name", "object", "list"]
)
def test_values_stay_values_however_their_loss_is_named(loss):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    _, answers = next(iter(Answers(model, loss).added_to(tf.data.Dataset.from_tensors(X))))
    np.testing.assert_allclose(answers, model(X), rtol=1e-5)


@pytest.mark.parametrize(
    "wish",
    [
        {"transfers": []},
        {"loss": keras.losses.SparseCategoricalCrossentropy()},
        {"class_weight": {0: 2.0}},
        {"supervised_weight": 0.5},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_what_needs_labels_is_refused_by_name_where_there_are_none(wish):
    (name,) = wish
    with pytest.raises(ValueError, match=f"{name}.*labels|labels.*{name}"):
        aip_tf.prune(teacher(), (X,), recovery=aip_tf.Recovery(**wish), check_only=True)


@pytest.mark.parametrize(
    "units, activation, loss, metric",
    [
        (3, None, None, 1.0),
        (3, "softmax", None, 1.0),
        (3, "sigmoid", None, 1.0),
        (1, None, None, 1.0),
        (3, None, keras.losses.MeanSquaredError(), 0.0),
        (3, None, keras.losses.BinaryCrossentropy(from_logits=True), 1.0),
        (3, "softmax", keras.losses.BinaryCrossentropy(), 1.0),
    ],
)
def test_a_model_agrees_with_itself_whatever_it_answers(units, activation, loss, metric):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([Input((6,)), layers.Dense(units, activation=activation)])
    answers = Answers(model, loss)
    data = answers.added_to(tf.data.Dataset.from_tensor_slices(X).batch(12))
    task = answers.task().read(model, next(iter(data)))
    name = "agreement" if metric else "mean_absolute_error"
    assert task.main_metric == name and task.higher_is_better == bool(metric)
    assert task.evaluate(model, data)[name] == pytest.approx(metric, abs=1e-6)
    other = keras.models.clone_model(model)
    assert task.evaluate(other, data)[name] != pytest.approx(metric, abs=1e-3)


def test_what_is_made_of_logits_is_no_answer_to_learn():
    model = teacher()
    outputs = {"a": keras.ops.argmax(model.output, -1), "b": model.output}
    model = Model(model.input, outputs)
    student, report = aip_tf.prune(
        model, (X,), (X,), schedule=0.3, recovery=aip_tf.Recovery(epochs=1, transfers=OUTPUTS)
    )
    assert report.run["main metric"] == "b_agreement"
    same = np.asarray(student(X)["a"]) == np.asarray(model(X)["a"])
    assert report.student.metrics["a_agreement"] == pytest.approx(same.mean(), abs=1e-6)


def distance(y, y_pred):
    return keras.ops.mean(keras.ops.abs(y - y_pred), -1)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(
    "metrics, truth, wanted",
    [
        (None, None, "values"),
        (["accuracy"], None, "largest"),
        (None, np.zeros(24, int), "largest"),
        (["accuracy"], "far", "values"),
    ],
)
def test_what_a_loss_of_ones_own_is_for_is_told_by_metrics_and_labels(
    units, metrics, truth, wanted
):
    model = keras.Sequential([Input((6,)), layers.Dense(units)])
    truth = np.linspace(-3, 9, 24 * units).reshape(24, units) if isinstance(truth, str) else truth
    data = tf.data.Dataset.from_tensors(X)
    _, answers = next(iter(Answers(model, distance, metrics, truth).added_to(data)))
    y = model(X)
    largest = np.argmax(y, -1) if units > 1 else y > 0
    np.testing.assert_allclose(answers, y if wanted == "values" else largest, rtol=1e-5)


def test_a_regression_by_a_loss_of_ones_own_stays_one_without_labels():
    """Compared as classes two values would keep their difference alone."""
    model = regression()
    model.compile("sgd", distance)
    _, report = aip_tf.prune(model, (X,), schedule=0.3, recovery=aip_tf.Recovery(epochs=0))
    assert report.run["main metric"] == "mean_absolute_error"


@pytest.mark.parametrize(
    "truth, form",
    [
        (np.arange(24) % 2, "classes"),
        (np.eye(2)[np.arange(24) % 2], "classes"),
        (np.full((24, 2), 0.5), "classes"),
        (np.tile([[1, 1], [0, 1]], (12, 1)), "yes/no"),
        (np.random.default_rng(0).normal(size=(24, 2)), "values"),
        (np.random.default_rng(0).uniform(size=(24, 2)), "values"),
    ],
)
def test_labels_say_what_a_loss_of_ones_own_is_for(truth, form):
    model = keras.Sequential([Input((6,)), layers.Dense(2)])
    task = aip_tf.Task(loss=distance, metrics=[]).read(model, (X, truth))
    assert task.forms == (form,)
    assert task.outputs[0].num_classes == (None if form == "values" else 2)


def test_labels_of_their_own_are_answered_one_by_one():
    """Several units, each yes or no: not the largest alone."""
    model = keras.Sequential([Input((6,)), layers.Dense(3)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    _, answers = next(iter(Answers(model, loss).added_to(tf.data.Dataset.from_tensors(X))))
    np.testing.assert_array_equal(answers, model(X) > 0)


def regression():
    """A network of two values that are far from zero, as "mse" has trained it to be."""
    keras.utils.set_random_seed(0)
    inputs = Input((6,))
    x = layers.Dense(16, activation="relu", name="hidden")(inputs)
    model = Model(inputs, layers.Dense(2, bias_initializer=keras.initializers.Constant(60.0))(x))
    model.compile("sgd", "mse")
    return model


def test_a_student_of_values_stays_at_its_teacher_without_labels():
    model = regression()
    expected = model.predict(X, verbose=0)
    recovery = aip_tf.Recovery(epochs=20)
    student, _ = aip_tf.prune(model, (X,), schedule=0.3, recovery=recovery)
    missed = np.square(student.predict(X, verbose=0) - expected).mean() / expected.var(0).mean()
    assert missed < 0.1


def one_number(last=None):
    """A network that answers `(batch,)`, a number for each sample."""
    keras.utils.set_random_seed(0)
    inputs = Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    return Model(inputs, keras.ops.squeeze(layers.Dense(1, activation=last)(x), -1))


@pytest.mark.parametrize("loss", ["mse", keras.losses.BinaryCrossentropy(from_logits=True), None])
@pytest.mark.parametrize("has_labels", [True, False])
def test_an_output_of_one_number_a_sample_is_a_unit(loss, has_labels):
    model, data = one_number(), (X, (X[:, 0] > 0).astype("float32")) if has_labels else (X,)
    if loss is not None:
        model.compile("sgd", loss)
    recovery = aip_tf.Recovery(epochs=1)
    student, report = aip_tf.prune(model, data, data, schedule=0.3, recovery=recovery)
    assert student(X).shape == (24,)
    assert np.isfinite(list(report.student.metrics.values())).all()


def test_what_is_wrong_with_the_answers_is_not_said_of_labels_that_nobody_gave():
    model = one_number()
    model.compile("sgd", "mse")
    model.get_layer("hidden").kernel.assign(np.full((6, 8), 1e38))
    with pytest.raises(
        ValueError, match="In the answers of the teacher, which stand in for labels: "
    ):
        aip_tf.prune(model, (X,), check_only=True)


def class_and_values():
    """A class and two values, under names that are not their layers'."""
    keras.utils.set_random_seed(0)
    inputs = Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    model = Model(inputs, {"kind": layers.Dense(3)(x), "size": layers.Dense(2)(x)})
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"size": "mse", "kind": cross_entropy})
    return model


def test_each_output_is_answered_as_its_own_loss_says():
    model = class_and_values()
    recovery = aip_tf.Recovery(epochs=1)
    student, report = aip_tf.prune(model, (X,), (X,), schedule=0.3, recovery=recovery)
    assert report.teacher.metrics["kind_agreement"] == 1.0
    assert report.teacher.metrics["size_mean_absolute_error"] == pytest.approx(0, abs=1e-6)
    missed = student(X)["size"] - model(X)["size"]
    found = report.student.metrics["size_mean_absolute_error"]
    assert found == pytest.approx(np.abs(missed).mean(), rel=1e-4)


def test_a_class_and_values_without_labels_are_judged_by_those_of_the_validation_data():
    model, recovery = class_and_values(), aip_tf.Recovery(epochs=0)
    labels = {"kind": np.zeros(24, int), "size": np.ones((24, 2), "float32")}
    _, report = aip_tf.prune(model, (X,), (X, labels), schedule=0.3, recovery=recovery)
    expected = np.mean(np.argmax(model(X)["kind"], -1) == 0)
    assert report.teacher.metrics["kind_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert report.teacher.metrics["size_mean_absolute_error"] > 0

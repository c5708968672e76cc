"""What cuts would cost, untrained: as `prune` makes them, of one scoring."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import aip_tf
from aip_tf import criteria, experiment, preview
from aip_tf.datasets import Data

AMOUNTS = (0.3, 0.6)


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(12, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.2)(layers.ReLU()(x))
    x = layers.Conv2D(12, 3, activation="relu", name="inner")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x), name="tiny")


def arrays():
    """Images whose class is their brightness."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 64)
    images = rng.normal(size=(64, 8, 8, 1)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def shuffled():
    return tf.data.Dataset.from_tensor_slices(arrays()).shuffle(64, seed=1).batch(16)


@pytest.fixture(scope="module", autouse=True)
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def look(**changes):
    options = {"amounts": AMOUNTS, "criterion": "l1", "runs": 0, **changes}
    data = options.pop("data", arrays())
    return aip_tf.trade_off(options.pop("model", None) or network(), data, **options)


@pytest.mark.parametrize(
    "criterion, validation", [("reconstruction", arrays()), ("l1", None)], ids=["refit", "alone"]
)
def test_a_cut_is_the_one_that_prune_makes_of_the_same_data_and_seed(criterion, validation):
    asked = {"criterion": criterion, "validation_data": validation}
    found = look(model=network(), data=shuffled(), **asked)  # in this order: it sets the seed
    student, report = aip_tf.prune(
        network(),
        shuffled(),
        schedule=AMOUNTS[-1],
        criterion=criterion,
        recovery=aip_tf.Recovery(epochs=0),
        validation_data=validation,
    )
    record = found.reports[AMOUNTS[-1]].student
    assert (record.macs, record.parameters) == (report.student.macs, report.student.parameters)
    metrics = report.student.metrics or student.evaluate(shuffled(), verbose=0, return_dict=True)
    # If one batch of the statistics were another, it would differ in the third digit.
    assert record.metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-6)


def test_channels_are_scored_once_and_rows_rise():
    calls = []

    def criterion(model, groups, data):
        calls.append(model)
        return criteria.get("l1")(model, groups, data)

    rows = look(amounts=np.array([0.6, 0.2, 0.4]), criterion=criterion).rows
    assert len(calls) == 1
    assert [row["amount"] for row in rows] == [0.0, 0.2, 0.4, 0.6]
    assert sorted((row["macs"] for row in rows), reverse=True) == [row["macs"] for row in rows]


@pytest.mark.parametrize(
    "amounts", [(), [0.0, 0.5], [1.0], [0.5, 0.5], ["0.5"], "0.5", [float("nan")], [True]]
)
def test_amounts_that_are_none_are_refused(amounts):
    with pytest.raises(ValueError, match=r"Received amounts=.*Expected fractions to remove"):
        look(amounts=amounts, check_only=True)


def test_without_amounts_it_is_tenths_as_far_as_they_can_be_reached():
    rows = look(amounts=None, selection=aip_tf.selection.Macs(max_sparsity=0.3)).rows
    tried = [row["amount"] for row in rows]
    assert tried == [x / 10 for x in range(len(tried))] and 0.1 < tried[-1] < 0.8


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"amounts": [0.5, 0.999]}, "reachable minimum"),
        ({"by_accuracy": -0.1}, "by_accuracy=-0.1"),
        ({"runs": 1.5}, "runs=1.5"),
        ({"model": "model.keras"}, "keras.Model"),
        ({"data": (arrays()[0][:, :4],)}, "shape"),
        ({"selection": "flops"}, "Unknown selection"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_scored(bad, message):
    with pytest.raises(ValueError, match=message):
        look(criterion=lambda *_: pytest.fail("scored"), **bad)


def test_data_that_bring_a_test_part_take_no_other():
    data = Data(shuffled(), shuffled(), (8, 8, 1), 3)
    with pytest.raises(ValueError, match="validation_data"):
        look(data=data, validation_data=arrays())


class Own(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def call(self, x):
        return 2 * self.network(x)


def test_a_subclassed_model_is_cut_without_labels_and_timed():
    model = Own()
    found = look(model=model, data=(arrays()[0],), amounts=[0.5], runs=2)
    whole, half = found.rows
    assert whole["agreement"] == 1.0 and 0 <= half["agreement"] <= 1
    assert half["num_bytes"] < whole["num_bytes"] and half["milliseconds"] > 0
    assert whole["times_faster"] is None and half["times_faster"] > 0


@pytest.mark.parametrize(
    "tolerance, expected", [(0.0, None), (0.0625, 0.25), (0.2, 0.447), (1.0, 0.8)]
)
def test_the_largest_amount_within_a_tolerance_is_found_to_a_hundredth(tolerance, expected):
    tried = [0.0, 0.4, 0.8]

    def loss(amount):
        tried.append(amount)
        return amount**2

    cuts = types.SimpleNamespace(amounts=list(tried), loss=loss)
    found = preview._largest(cuts, tolerance)
    if expected is None:
        assert found is None
    else:
        assert found**2 <= tolerance and expected - 0.01 <= found <= expected
    assert len(set(tried)) <= 3 + 6


def test_a_run_leaves_a_page_and_the_figures(tmp_path):
    x, y = arrays()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)

    def cut(model, data, validation_data, check_only=False):
        return look(
            model=model,
            data=data,
            validation_data=validation_data,
            by_accuracy=1.0,
            check_only=check_only,
        )

    outcome = experiment.run(
        network,
        lambda: Data(batches, batches, (8, 8, 1), 3),
        None,
        trade_off=cut,
        run_dir=tmp_path,
    )
    text = outcome.report.render()
    assert "0.6 (accuracy" in text.splitlines()[-1]
    rows = json.loads((tmp_path / "trade_off.json").read_text())["rows"]
    assert rows == outcome.report.rows
    page = (tmp_path / "trade_off.html").read_text()
    assert page.count("<img") == 1 and "<td>0.6</td>" in page  # nothing was timed
    with pytest.raises(ValueError, match=r"\.html"):
        outcome.report.save(tmp_path / "trade_off.png")


def test_a_look_stands_in_place_of_pruning():
    with pytest.raises(ValueError, match="prune=None"):
        experiment.run(network, shuffled, aip_tf.prune, trade_off=aip_tf.trade_off, run_dir="runs")

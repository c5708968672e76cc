"""Layer times: networks taken apart, tables of one machine, laws between the widths, budgets."""

import gc
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from aip_tf import config, preview, trade_off
from aip_tf import selection as selections
from aip_tf.channels import ChannelGraph
from aip_tf.cost import Cost
from aip_tf.layer_times import (
    LayerTimes,
    Table,
    check_measurable,
    converted,
    measure_layers,
    model,
    segments,
)
from aip_tf.selection import Latency, select_channels, timed


def make_graph():
    """A residual network with a classifier: 16 channels, 32 of them inside."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", name="stem")(image)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU(name="relu")(x)
    y = keras.layers.Conv2D(32, 3, padding="same", name="inner")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = keras.layers.Conv2D(16, 1, name="outer")(y)
    x = keras.layers.ReLU(name="after")(keras.layers.Add(name="add")([x, y]))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return ChannelGraph(keras.Model(image, keras.layers.Dense(10, name="logits")(x)))


def by_formula(piece):
    """Milliseconds that grow with what is read, what is written, and the multiplications."""
    read, written = (sum(a.size for _, a in side) for side in (piece.inputs, piece.outputs))
    return 0.01 + 1e-5 * read + 2e-5 * written


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "times.json")


@pytest.fixture
def formula(monkeypatch):
    monkeypatch.setattr(segments.Segment, "measure", by_formula)


def test_what_a_runtime_fuses_is_one_segment():
    found = segments.find(make_graph().trace)
    assert [piece.paths for piece in found] == [
        ("stem", "bn", "relu"),
        ("inner",),
        ("depthwise",),
        ("outer",),
        ("add", "after", "pool", "logits"),
    ]
    assert [piece.path for piece in found][-1] == "logits"
    assert [len(piece.inputs) for piece in found] == [1, 1, 1, 1, 2]


def test_the_key_of_a_segment_is_its_kind_and_shape_not_its_names_or_weights():
    keys = [[piece.key for piece in segments.find(make_graph().trace)] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 5
    image = keras.Input((8, 8, 3))
    other = keras.layers.Conv2D(16, 3, padding="valid")(image)
    other = segments.find(ChannelGraph(keras.Model(image, other)).trace)[0]
    assert other.key not in keys[0]


def test_layers_are_timed_by_litert_once_and_then_read(table, monkeypatch):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    network = keras.Model(image, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(x)))
    found = measure_layers(network, table=table.path)
    assert list(found) == ["conv", "dense"] and min(found.values()) > 0
    monkeypatch.setattr(segments.Segment, "measure", None)
    assert measure_layers(network, table=table.path) == found


def test_layers_that_litert_cannot_run_are_named(table):
    image = keras.Input((4,))
    x = keras.layers.Lambda(tf.math.bessel_i0, name="bessel")(image)
    graph = ChannelGraph(keras.Model(image, keras.layers.Dense(2)(x)))
    with pytest.raises(ValueError, match=r"cannot run: .*'padded_macs'"):
        check_measurable(graph, table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no table of layer times"),
        (json.dumps({"machine": {}, "times": {"a": 1}}), "no table of layer times"),
        (json.dumps({"machine": {"processor": "Z80"}, "times": {}}), "another machine.*Z80"),
    ],
)
def test_a_table_of_another_machine_is_refused(table, content, message):
    table.path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Table(table.path)
    with pytest.raises(ValueError, match=message):
        Latency(table=table.path).check(make_graph())


def test_tables_written_side_by_side_keep_both_entries(table):
    other = Table(table.path)
    table.milliseconds("a", "first", lambda: 1.0)
    other.milliseconds("b", "second", lambda: 2.0)
    table.save()
    other.save()
    whole = Table(table.path)
    assert [whole.milliseconds(key, "", None) for key in "ab"] == [1.0, 2.0]


def test_both_ends_of_a_layer_are_timed_at_all_pairs_of_widths():
    graph = make_graph()
    pairs = set()
    for masks in model._designs(graph):
        pairs.add((masks["inner"].sum(), masks["stem"].sum()))
    assert pairs == set(itertools.product((32, 16, 8), (16, 8, 4)))


def test_a_law_has_no_negative_part_and_is_found_again():
    rng = np.random.default_rng(0)
    features = np.stack([np.ones(9), *rng.uniform(1e3, 1e6, (3, 9))], axis=1)
    weights = np.array([0.02, 1e-6, 0, 3e-7])
    np.testing.assert_allclose(model._law(features, features @ weights), weights, atol=1e-12)
    assert (model._law(features, rng.uniform(1, 2, 9)) >= 0).all()


def test_times_at_any_width_follow_the_law_of_what_was_measured(table, formula):
    graph = make_graph()
    times, cost = LayerTimes(graph, table), Cost(graph)
    masks = {"inner": np.arange(32) < 11, "stem": np.arange(16) < 7}
    cut = segments.find(ChannelGraph(graph.prune(masks)).trace)
    expected = {piece.path: by_formula(piece) for piece in cut}
    found = times.by_layer(cost, masks)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-6)
    after = Cost(ChannelGraph(graph.prune(masks)), cost)
    np.testing.assert_allclose(times.milliseconds(after), times.milliseconds(cost, masks))


def cut_shares(monkeypatch, device):
    """What is measured of each trial, where `device` makes it of the predicted share."""
    shares = []

    def stopwatch(cost, folder):
        def share_of(masks):
            (times,) = timed._layer_times[cost.original.graph].values()
            total = times.milliseconds(cost.original)
            shares.append(device(times.milliseconds(cost, masks) / total))
            return shares[-1]

        return share_of

    monkeypatch.setattr(timed, "_stopwatch", stopwatch)
    return shares


def test_a_cut_is_chosen_anew_until_the_device_agrees(table, formula, monkeypatch):
    shares = cut_shares(monkeypatch, lambda predicted: 0.12 + 0.9 * predicted)
    graph = make_graph()
    select_channels(graph, 0.4, selection=Latency(table=table.path))
    assert len(shares) > 1 and shares[-1] == pytest.approx(0.6, rel=0.05)
    del shares[:]
    select_channels(graph, 1 / 0.6, selection=Latency(table=table.path))
    assert shares[-1] == pytest.approx(0.6, rel=0.05)


def test_a_cut_that_is_not_near_enough_is_told(table, formula, monkeypatch, caplog):
    shares = cut_shares(monkeypatch, lambda predicted: 0.9)
    masks = select_channels(make_graph(), 0.4, selection=Latency(table=table.path))
    assert len(shares) <= 4 and any(not keep.all() for keep in masks.values())
    (told,) = caplog.messages
    assert "takes 60.0% of the original's time, within 5%" in told and "takes 90.0%" in told


def test_a_cut_just_within_the_tolerance_is_chosen_anew_and_not_told(
    table, formula, monkeypatch, caplog
):
    shares = cut_shares(monkeypatch, lambda predicted: 1.04 * 0.6)
    select_channels(make_graph(), 0.4, selection=Latency(table=table.path))
    assert len(shares) > 1 and not caplog.messages


def test_why_a_better_cut_is_out_of_reach_is_told(table, formula, monkeypatch, caplog):
    cut_shares(monkeypatch, lambda predicted: 1.4 * predicted)
    latency = Latency(table=table.path, max_sparsity=0.6)
    select_channels(make_graph(), 0.4, selection=latency)
    (told,) = caplog.messages
    assert "max_sparsity" in told


def test_times_faster_are_fractions_and_what_is_neither_is_refused():
    latency = Latency()
    assert [latency.fraction(a) for a in (0, 0.3, 2.0, 4)] == [0, 0.3, 0.5, 0.75]
    for amount in (1, 1.0, -0.1):
        with pytest.raises(ValueError, match="times faster"):
            latency.fraction(amount)
    assert selections.final_fraction(2.0, latency) == 0.5
    assert selections.final_fraction(2.0, selections.Macs()) == 2.0
    schedule = object()
    assert selections.final_fraction(schedule, latency) is schedule


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"measure_model": 3}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=f"Received {next(iter(options))}"):
        Latency(**options)


@pytest.mark.parametrize("floor", [0.2, -0.4])
def test_time_that_no_layer_takes_does_not_lead_astray(table, formula, monkeypatch, caplog, floor):
    shares = cut_shares(monkeypatch, lambda predicted: floor + (1 - floor) * predicted)
    select_channels(make_graph(), 0.5, selection=Latency(table=table.path))
    assert len(shares) > 1 and not caplog.messages


def test_what_is_out_of_reach_the_device_says(table, formula, monkeypatch):
    shares = cut_shares(monkeypatch, lambda predicted: (predicted - 0.3) / 0.7)
    select_channels(make_graph(), 0.9, selection=Latency(table=table.path))
    nearest = min(shares, key=lambda share: abs(share - 0.1))
    assert nearest == pytest.approx(0.1, rel=0.1)  # sixteen channels go in steps
    shares = cut_shares(monkeypatch, lambda predicted: predicted - 0.01)
    with pytest.raises(selections.OutOfReachError, match="reachable minimum") as refused:
        select_channels(make_graph(), 0.9, selection=Latency(table=table.path))
    assert refused.value.most == pytest.approx(1 - shares[-1])  # as measured


def test_the_same_cut_is_not_timed_twice(table, formula, monkeypatch, caplog):
    seen = []
    cut_shares(
        monkeypatch, lambda predicted: seen.append(predicted) or 0.3 + 0.6 * (predicted > 0.59)
    )
    select_channels(make_graph(), 0.4, selection=Latency(table=table.path, round_to=8))
    assert len(seen) == len(set(seen)) and "tiles" in caplog.text


RUN_FILE = """
include 'gin/base.gin'
run.teacher = @load_model
run.data = @digits
run.export = None
load_model.source = 'network.keras'
digits.batch_size = 450                 # images
Latency.table = 'times.json'
"""


@pytest.fixture
def run_file(formula, monkeypatch, tmp_path):
    """`run_file(lines)` runs a gin file with those lines in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    shares = cut_shares(monkeypatch, lambda predicted: predicted)
    layers = [keras.layers.Conv2D(32, 3, name=name) for name in ("first", "second")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, name="logits")]
    keras.Sequential([keras.Input((8, 8, 1)), *layers]).save("network.keras")

    def run(lines):
        (tmp_path / "run.gin").write_text(RUN_FILE + lines)
        config.load(["run.gin"])
        config.describe("run")
        return config.run("run").report, shares

    return run


def test_a_run_file_prunes_to_a_time(run_file):
    report, shares = run_file(
        "prune.selection = @Latency()\nprune.criterion = 'l1'\nprune.schedule = 2.0\n"
        "prune.recovery = @Recovery()\nRecovery.epochs = 0\nRecovery.recalibration_batches = 0\n"
    )
    assert shares[-1] == pytest.approx(0.5, rel=0.05)
    assert report.student.macs < 0.7 * report.teacher.macs


def test_a_run_file_looks_at_several_times(run_file):
    report, shares = run_file(
        "run.prune = None\nrun.trade_off = @trade_off\ntrade_off.amounts = [1.25, 2.0]\n"
        "trade_off.selection = @Latency()\ntrade_off.criterion = 'l1'\ntrade_off.runs = 0\n"
    )
    assert [row["amount"] for row in report.rows] == pytest.approx([0, 0.2, 0.5])
    assert shares == pytest.approx([0.5, 0.8], rel=0.05)  # the largest first


def test_a_look_at_times_leaves_out_what_cannot_be_reached(table, formula, monkeypatch):
    cut_shares(monkeypatch, lambda predicted: predicted)
    network, images = make_graph().model, np.ones((2, 8, 8, 3), "float32")
    for amounts, message in (([2.0, 0.5], "named once"), ([1.0], "times faster")):
        with pytest.raises(ValueError, match=message):
            trade_off(network, (images,), amounts, selection=Latency(table=table.path))
    monkeypatch.setattr(preview, "_AMOUNTS", (0.2, 0.8))
    latency = Latency(table=table.path, max_sparsity=0.5)
    found = trade_off(network, (images,), selection=latency, criterion="l1", runs=0)
    assert [row["amount"] for row in found.rows] == [0, 0.2]


def test_a_cut_model_is_timed_beside_the_original_whose_file_is_written_once(tmp_path, monkeypatch):
    graph = make_graph()
    assert 0 < timed._stopwatch(Cost(graph), tmp_path)({"inner": np.arange(32) < 4}) < 2
    path = timed._original_file(graph)
    monkeypatch.setattr(timed, "_write", None)
    timed._stopwatch(Cost(graph), tmp_path)
    smaller = ChannelGraph(graph.prune({"inner": np.arange(32) < 16}))
    timed._stopwatch(Cost(smaller, graph), tmp_path)
    del graph, smaller
    gc.collect()
    assert not path.parent.exists()


def test_a_file_for_the_stopwatch_differs_from_the_model_in_its_large_weights_alone():
    layers = [keras.layers.Conv2D(64, 3), keras.layers.Flatten(), keras.layers.Dense(64)]
    network = keras.Sequential([keras.Input((4, 4, 64)), *layers])
    network.layers[0].bias.assign(np.arange(64))
    before = network.get_weights()
    spec = tf.TensorSpec((1, 4, 4, 64))
    files = [converted(network.call, [spec], variables=v) for v in ((), network.variables)]
    true, filled = (_operations_and_constants(file) for file in files)
    assert true[0] == filled[0]
    for known, other in zip(true[1], filled[1], strict=True):
        assert other.shape == known.shape
        assert np.ptp(other) == 0 if known.size >= 2**14 else np.array_equal(other, known)
    np.testing.assert_equal(network.get_weights(), before)


def _operations_and_constants(file):
    interpreter = Interpreter(
        model_content=file,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    operations = interpreter._get_ops_details()
    made = {interpreter.get_input_details()[0]["index"], -1}  # -1: nothing
    made = made.union(*(x["outputs"] for x in operations))
    interpreter.allocate_tensors()
    constants = sorted({i for x in operations for i in x["inputs"]} - made)
    constants = [interpreter.get_tensor(i) for i in constants]
    return [(x["op_name"], *x["inputs"], *x["outputs"]) for x in operations], constants

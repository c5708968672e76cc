"""Every tricky graph: groups as written by hand, law 1 with a negative control, law 2, costs."""

import graphs_more  # noqa: F401  (registers the second half)
import keras
import laws
import numpy as np
import pytest
from graphs import GRAPHS

import aip_tf
from aip_tf.cost import Cost


@pytest.fixture(scope="module", params=GRAPHS.values(), ids=GRAPHS)
def graph(request):
    return request.param


@pytest.fixture(scope="module")
def built(graph):
    """A model with random weights and a batch for it; no test changes them."""
    keras.utils.clear_session(free_memory=False)
    model, rng = graph.build(), np.random.default_rng(1)
    batch = laws.random_batch(model, rng)
    return laws.randomize(model, rng, batch), batch


@pytest.fixture(scope="module")
def snapshot(built):
    return laws.snapshot(built[0])


@pytest.fixture(scope="module")
def groups(built, snapshot):
    return aip_tf.find_channel_groups(built[0])


@pytest.fixture(scope="module")
def halved(built, groups):
    """The masks of half of the channels, and the model cut by them: error of law 1 in front."""
    masks = laws.random_masks(groups, np.random.default_rng(2))
    return *laws.masked_is_cut(built[0], masks, built[1]), masks


def test_there_are_enough_of_them():
    assert len(GRAPHS) >= 45


def test_groups_are_those_written_by_hand(graph, built, groups):
    assert laws.found_groups(built[0], groups) in laws.expected_groups(graph.groups)


def test_what_must_stay_is_kept_with_a_reason(graph, groups):
    prunable = {p for g in laws.cuttable(groups) for p in g.producers}
    assert not prunable & set(graph.pinned)
    assert all(bool(g.reason) != g.prunable for g in groups)
    pinned = {p for g in groups if not g.prunable or g.num_channels == 1 for p in g.producers}
    assert pinned >= set(graph.pinned)
    assert any(graph.reason.lower() in g.reason.lower() for g in groups if not g.prunable)


def test_masked_is_cut_and_a_wrong_channel_shows(graph, built, halved):
    (model, batch), (error, cut, masks) = built, halved
    assert error <= graph.tolerance
    outputs, rng = laws.run(cut, batch), np.random.default_rng(3)
    moved = laws.negative_control(model, masks, batch, outputs, rng, num_tries=12)
    silent = [name for name, distance in moved.items() if distance < laws.SENSITIVITY]
    assert len(silent) == graph.num_silent, moved
    assert [len(v.shape) for v in cut.weights] == [len(v.shape) for v in model.weights]
    assert [x.name for x in laws.all_layers(cut)] == [x.name for x in laws.all_layers(model)]


def test_keeping_all_is_the_identity(built):
    model, batch = built
    twin = aip_tf.prune_channels(model, {})
    for a, b in zip(twin.weights, model.weights, strict=True):
        assert a.path.split("/")[-1] == b.path.split("/")[-1]
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert laws.relative_error(laws.run(twin, batch), laws.run(model, batch)) == 0


def test_costs_by_formula_are_those_of_the_rebuilt_model(built, halved):
    model, (_, cut, masks) = built[0], halved
    costs = Cost(model)
    assert costs.parameters({}) == aip_tf.count_parameters(model) == model.count_params()
    assert costs.macs({}) == aip_tf.count_macs(model)
    assert costs.parameters(masks) == aip_tf.count_parameters(cut) == cut.count_params()
    assert costs.macs(masks) == aip_tf.count_macs(cut)
    assert costs.peak_memory(masks) == Cost(cut).peak_memory({})


def test_a_cut_model_saves_and_loads(built, halved, tmp_path):
    (_, batch), (_, cut, _) = built, halved
    cut.save(tmp_path / "cut.keras")
    loaded = keras.saving.load_model(tmp_path / "cut.keras", safe_mode=False)
    assert laws.relative_error(laws.run(loaded, batch), laws.run(cut, batch)) <= laws.TOLERANCE


def test_none_of_this_changes_the_model(built, halved, snapshot):
    assert laws.snapshot(built[0]) == snapshot

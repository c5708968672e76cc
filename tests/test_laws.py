"""The laws of CONTRIBUTING.md on whole architectures and on random graphs."""

import subprocess
import sys

import keras
import laws
import numpy as np
import pytest
import random_graphs
import zoo_models

import aip_tf

REST = [name for name in zoo_models.ARCHITECTURES if name not in zoo_models.FAMILIES]
NUM_RANDOM_GRAPHS, NUM_QUICK, CHUNK = 200, 60, 20
CHUNKS = [
    pytest.param(first, marks=[] if first < NUM_QUICK else pytest.mark.slow)
    for first in range(0, NUM_RANDOM_GRAPHS, CHUNK)
]


def prepare(name, batch_size=2):
    keras.utils.clear_session(free_memory=False)
    rng = np.random.default_rng(zoo_models.ARCHITECTURES.index(name))
    model = zoo_models.build(name)
    batch = laws.random_batch(model, rng, batch_size)
    return laws.randomize(model, rng, batch), batch, rng


def check_architecture(name):
    model, batch, rng = prepare(name)
    verdict = laws.check_cut(model, batch, rng)
    assert not verdict.problems
    costs, least = verdict.costs, laws.least_masks(verdict.costs.groups)
    assert costs.macs(least) <= 0.5 * costs.macs()
    assert costs.parameters(least) <= 0.5 * costs.parameters()


def test_there_are_forty_architectures():
    assert len(zoo_models.ARCHITECTURES) == 40
    assert set(zoo_models.FAMILIES) < set(zoo_models.ARCHITECTURES)


@pytest.mark.parametrize("name", zoo_models.FAMILIES)
def test_family(name):
    check_architecture(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_architecture(name):
    check_architecture(name)


@pytest.mark.parametrize("name", ["MobileNetV2", "DenseNet121"])
def test_zeroed_kernels_agree_with_the_cut(name):
    """Law 1 once more, against a reference that knows nothing of masks in the graph."""
    model, batch, rng = prepare(name)
    groups = aip_tf.find_channel_groups(model)
    masks = laws.random_masks(groups, rng)
    zeroed = laws.zeroed_consumers(model, groups, masks, batch)
    cut = laws.run(aip_tf.prune_channels(model, masks), batch)
    assert laws.relative_error(cut, zeroed) <= 10 * laws.TOLERANCE


def test_uncalibrated_statistics_would_hide_a_wrong_channel():
    """Why `randomize` exists: without it the negative control is blind."""
    keras.utils.clear_session(free_memory=False)
    rng = np.random.default_rng(0)
    model = keras.applications.MobileNetV2(weights=None, input_shape=(48, 48, 3), classes=10)
    batch = laws.random_batch(model, rng, 2)
    masks = laws.random_masks(aip_tf.find_channel_groups(model), rng)
    expected = laws.run(aip_tf.prune_channels(model, masks), batch)
    names = sorted(masks)[:1]
    moved = laws.negative_control(model, masks, batch, expected, rng, names, num_tries=1)
    assert max(moved.values()) < laws.SENSITIVITY


# --- random graphs -----------------------------------------------------------------------------


@pytest.mark.parametrize("first", CHUNKS)
def test_random_graphs(first):
    failures, num_groups = [], []
    for seed in range(first, first + CHUNK):
        problems, count = random_graphs.check(seed)
        num_groups.append(count)
        if problems:
            failures.append(random_graphs.explain(seed, problems))
    assert not failures, "\n".join(failures)
    assert np.mean(num_groups) > 2


def test_random_graphs_are_the_same_again():
    first, code = random_graphs.build(7)
    second, again = random_graphs.build(7)
    assert code == again
    assert [x.name for x in first.layers] == [x.name for x in second.layers]


# --- laws 3 and 6 ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV3Small"])
def test_the_order_of_cuts_does_not_matter(name):
    model, _, rng = prepare(name)
    masks = laws.random_masks(aip_tf.find_channel_groups(model), rng)
    names = rng.permutation(sorted(masks))
    half = {n: masks[n] for n in names[: len(names) // 2]}
    rest = {n: masks[n] for n in names[len(names) // 2 :]}
    together = aip_tf.prune_channels(model, masks)
    for first, second in ((half, rest), (rest, half)):
        twice = aip_tf.prune_channels(aip_tf.prune_channels(model, first), second)
        assert_same_weights(twice, together)


def test_a_group_cut_twice_is_a_group_cut_once():
    model, _, rng = prepare("MobileNetV2")
    masks = laws.random_masks(aip_tf.find_channel_groups(model), rng, amount=0.25)
    once = aip_tf.prune_channels(model, masks)
    again = laws.random_masks(aip_tf.find_channel_groups(once), rng, amount=0.25)
    both = {}
    for name, mask in masks.items():
        both[name] = mask.copy()
        both[name][mask] = again.get(name, True)
    assert_same_weights(aip_tf.prune_channels(once, again), aip_tf.prune_channels(model, both))


def assert_same_weights(a, b):
    for x, y in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy(), err_msg=x.path)


LOAD_WITHOUT_US = """
import sys
sys.modules["aip_tf"] = None  # any import of it fails
import keras, numpy as np
model = keras.saving.load_model("cut.keras")
x = np.load("batch.npy")
np.save("outputs.npy", np.asarray(model(x)))
"""


@pytest.mark.parametrize("name", ["MobileNetV3Small", "ConvNeXtTiny"])
def test_a_cut_model_loads_where_we_are_not_installed(name, tmp_path):
    model, batch, rng = prepare(name)
    masks = laws.random_masks(aip_tf.find_channel_groups(model), rng)
    cut = aip_tf.prune_channels(model, masks)
    cut.save(tmp_path / "cut.keras")
    np.save(tmp_path / "batch.npy", batch)
    command = [sys.executable, "-c", LOAD_WITHOUT_US]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = [np.load(tmp_path / "outputs.npy").astype("float64")]
    assert laws.relative_error(outputs, laws.run(cut, batch)) <= laws.TOLERANCE

"""Schedules: all cuts listed up front, tfmot's traps refused, Keras 3 left in place."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_tf import schedules
from aip_tf.schedules import Cut, PolynomialDecay, list_cuts, one_shot


def listed(amounts, **attributes):
    """A plain callable that cuts `amounts[epoch]` after `epoch`."""

    def schedule(step):
        return step in amounts, amounts.get(step, 0.0)

    for name, value in attributes.items():
        setattr(schedule, name, value)
    return schedule


class TestFloat:
    @given(st.floats(0.01, 0.99), st.integers(0, 400))
    def test_cuts_are_few_early_and_end_at_the_amount(self, amount, epochs):
        cuts = list_cuts(amount, epochs)
        assert cuts[-1].amount == amount
        assert cuts[0].epoch == -1  # the teacher is trained
        assert (epochs - 1 - cuts[-1].epoch) * 2 >= epochs
        for before, after in itertools.pairwise(cuts):
            assert before.epoch < after.epoch and before.amount < after.amount
        kept = [1.0] + [1 - cut.amount for cut in cuts]
        is_gentle = all(b / a > 0.5 - 1e-4 for a, b in itertools.pairwise(kept))
        most = max(1, min(3, epochs // 2))
        assert len(cuts) == most or (len(cuts) < most and is_gentle)

    def test_every_cut_removes_the_same_share_of_what_is_left(self):
        kept = np.array([1.0] + [1 - cut.amount for cut in list_cuts(0.8, 100)])
        np.testing.assert_allclose(kept[1:] / kept[:-1], 0.2 ** (1 / 3), atol=1e-5)

    @pytest.mark.parametrize(
        ("amount", "num_cuts"), [(0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.95, 3)]
    )
    def test_there_are_no_more_cuts_than_it_takes(self, amount, num_cuts):
        assert len(list_cuts(amount, 100)) == num_cuts

    @pytest.mark.parametrize("amount", [0.0, 1.0, -0.1, 1.5, float("nan"), 0, 1])
    def test_amount_out_of_range(self, amount):
        with pytest.raises(ValueError, match="between 0 and 1"):
            list_cuts(amount, 10)

    @pytest.mark.parametrize("epochs", [-1, -3, 2.0, True, None])
    def test_bad_epochs(self, epochs):
        with pytest.raises(ValueError, match="at least 0"):
            list_cuts(0.5, epochs)


class TestTfmot:
    def test_timetable_of_the_paper(self):
        schedule = PolynomialDecay(0.10, 0.4555, begin_step=0, end_step=16, frequency=4, power=1)
        cuts = list_cuts(schedule, epochs=90)
        assert [cut.epoch for cut in cuts] == [0, 4, 8, 12, 16]
        assert cuts[-1].amount == 0.4555
        expected = np.linspace(0.10, 0.4555, 5)
        np.testing.assert_allclose([cut.amount for cut in cuts], expected, atol=1e-6)

    def test_is_the_tfmot_class_with_our_defaults(self):
        schedule = PolynomialDecay(0.1, 0.3, 0, 2)
        assert type(schedule).__module__.startswith("tensorflow_model_optimization")
        assert (schedule.frequency, schedule.power) == (1, 1)
        assert [cut.epoch for cut in list_cuts(schedule, 5)] == [0, 1, 2]

    def test_one_shot(self):
        assert list_cuts(one_shot(0.3, epoch=2), 10) == [Cut(2, 0.3)]

    def test_amount_zero_is_no_cut(self):
        assert [cut.epoch for cut in list_cuts(PolynomialDecay(0.0, 0.5, 0, 4, 2), 10)] == [2, 4]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0.1, 0.5, 0, 10, 3), "never reaches its final amount 0.5"),
            ((0.1, 0.5, 0, 10, 100), "never reaches its final amount"),
            ((0.1, 0.5, 0, 40, 4), "beyond the run of 20 epochs"),
            ((0.1, 0.5, 0, 20, 4), "beyond the run"),
            ((0.1, 0.5, 4, 4, 1), r"NaN.*one_shot"),
            ((0.5, 0.1, 0, 8, 4), "must increase"),
            ((0.5, 0.5, 0, 8, 4), "must increase"),
            ((0.1, 0.5, 0, 19, 19), "nothing is left to recover"),
        ],
    )
    def test_traps(self, arguments, message):
        with pytest.raises(ValueError, match=message) as error:
            list_cuts(PolynomialDecay(*arguments), epochs=20)
        assert "PolynomialDecay(initial_sparsity=" in str(error.value)

    def test_constant_sparsity_that_never_ends(self):
        endless = type(one_shot(0.5))(0.5, begin_step=0, frequency=1)
        with pytest.raises(ValueError, match="one_shot"):
            list_cuts(endless, 10)

    def test_constant_sparsity_that_never_begins(self):
        late = type(one_shot(0.5))(0.5, begin_step=1000)
        with pytest.raises(ValueError, match="makes no cut in 10 epochs"):
            list_cuts(late, 10)


class TestCallables:
    def test_plain_callable(self):
        assert list_cuts(listed({1: 0.2, 3: 0.6}), 6) == [Cut(1, 0.2), Cut(3, 0.6)]

    def test_numpy_scalars(self):
        schedule = listed({0: np.float32(0.3)})
        assert list_cuts(schedule, 3) == [Cut(0, 0.3)]

    @pytest.mark.parametrize(
        ("schedule", "message"),
        [
            (listed({}), "makes no cut"),
            (listed({0: float("nan")}), "between 0 and 1"),
            (listed({0: 1.0}), "between 0 and 1"),
            (listed({0: -0.1}), "between 0 and 1"),
            (listed({0: 0.3, 1: 0.3}), "must increase"),
            (listed({0: 0.3, 1: 0.2}), "must increase"),
            (listed({9: 0.3}), "nothing is left to recover"),
            (listed({0: 0.3}, final_sparsity=0.4), "never reaches"),
            (lambda step: 0.5, r"expected a pair \(should_prune, amount\)"),
            (lambda step: (True, "much"), r"expected a pair"),
            ("fast", "expected the final amount"),
            (None, "expected the final amount"),
            (True, "expected the final amount"),
        ],
    )
    def test_errors(self, schedule, message):
        with pytest.raises(ValueError, match=message):
            list_cuts(schedule, 10)

    @given(st.dictionaries(st.integers(0, 30), st.floats(-0.2, 1.2), max_size=5))
    def test_a_listing_is_legal_or_an_error(self, amounts):
        try:
            cuts = list_cuts(listed(amounts), 20)
        except ValueError:
            return
        assert cuts
        assert [cut.epoch for cut in cuts] == sorted({cut.epoch for cut in cuts})
        assert all(0 < cut.amount < 1 for cut in cuts)
        assert all(a.amount < b.amount for a, b in itertools.pairwise(cuts))
        assert cuts[-1].epoch <= 18


_FRESH = """
import os, sys
from aip_tf import schedules
assert "tensorflow_model_optimization" not in sys.modules
schedules.one_shot(0.5)
print("loaded", file=sys.stderr)
assert "tensorflow_model_optimization" in sys.modules
assert os.environ.get("TF_USE_LEGACY_KERAS") == {expected!r}, "leaked"
import keras, tensorflow as tf
assert keras.__version__.startswith("3."), keras.__version__
assert tf.keras.layers.Dense is keras.layers.Dense
assert tf.keras.Model is keras.Model
"""


class TestKeras3Stays:
    def test_variable_is_restored_here(self, monkeypatch):
        import tensorflow as tf

        monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
        one_shot(0.5)
        assert "TF_USE_LEGACY_KERAS" not in os.environ
        assert tf.keras.layers.Dense.__module__.startswith("keras.")

    @pytest.mark.parametrize("before", [None, "0"])
    def test_fresh_process_keeps_keras_3_and_prints_nothing(self, before):
        environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
        if before is not None:
            environment["TF_USE_LEGACY_KERAS"] = before
        done = subprocess.run(
            [sys.executable, "-W", "default", "-c", _FRESH.format(expected=before)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed = done.stderr.split("loaded")[0]
        for word in ("Warning", "WARNING:tensorflow", "deprecated"):
            assert word not in printed


class TestDecays:
    def test_cosine_falls_from_one_to_zero(self):
        values = [schedules.cosine(progress) for progress in np.linspace(0, 1, 11)]
        assert values[0] == 1.0 and values[-1] == pytest.approx(0.0)
        assert values == sorted(values, reverse=True)

    def test_step_decay_of_the_paper(self):
        decay = schedules.get("step_decay")
        rates = [0.1 * decay(epoch / 90) for epoch in range(90)]
        np.testing.assert_allclose(rates, [0.1] * 45 + [0.01] * 23 + [0.001] * 22)

    def test_constant(self):
        assert schedules.get("constant")(0.9) == 1.0

    def test_callable_passes_through(self):
        assert schedules.get(schedules.cosine) is schedules.cosine

    @pytest.mark.parametrize("boundaries", [(0.5, 0.5), (0.7, 0.5), (0.0,), (1.0,), (45, 68)])
    def test_bad_boundaries(self, boundaries):
        with pytest.raises(ValueError, match="increasing shares"):
            schedules.step_decay(boundaries)

    @pytest.mark.parametrize("factor", [0.0, 1.5, -1])
    def test_bad_factor(self, factor):
        with pytest.raises(ValueError, match="factor="):
            schedules.step_decay(factor=factor)

    @pytest.mark.parametrize("identifier", ["cosinus", None, 3])
    def test_unknown_names_list_the_known(self, identifier):
        with pytest.raises(ValueError, match="'constant', 'cosine', 'step_decay'"):
            schedules.get(identifier)

"""Selections: never above the target, close below it, caps hold, larger amounts keep subsets."""

import functools
import math
from dataclasses import dataclass, field

import graphs_more
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aip_tf import criteria, selection, zoo
from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.selection import (
    Channels,
    Cost,
    Latency,
    Macs,
    Parameters,
    PerGroup,
    Threshold,
    select_channels,
)


@dataclass(frozen=True)
class FakeMember:
    layer: str
    variable: str = "kernel"
    role: str = "producer"
    indices: tuple = ()


@dataclass(frozen=True)
class FakeGroup:
    name: str
    num_channels: int
    residual: bool = False
    prunable: bool = True
    members: tuple = ()
    producers: tuple = field(default=None)

    def __post_init__(self):
        object.__setattr__(self, "producers", self.producers or (self.name,))


class FakeCost:
    """A chain of 3x3 convolutions at sizes that shrink, as a cost by formula."""

    def __init__(self, groups, original=None, layers=None):
        self.groups, self.original, self.calls = groups, original or self, 0
        self.layers = layers or {}
        self.model = "model"

    def _widths(self, keep_masks):
        self.calls += 1
        return [int(np.sum(keep_masks.get(g.name, np.ones(g.num_channels)))) for g in self.groups]

    def macs(self, keep_masks):
        widths = [3, *self._widths(keep_masks), 10]
        return sum(
            9 * a * b * max(1, 64 >> i)
            for i, (a, b) in enumerate(zip(widths, widths[1:]))  # noqa: B905, RUF007
        )

    def parameters(self, keep_masks):
        widths = [3, *self._widths(keep_masks), 10]
        return sum(9 * a * b for a, b in zip(widths, widths[1:]))  # noqa: B905, RUF007

    def num_channels(self, keep_masks):
        return sum(self._widths(keep_masks))

    def original_width(self, group):
        return next(g.num_channels for g in self.original.groups if g.name == group.name)

    def layer(self, path):
        return self.layers[path]


def scores_for(groups, seed=0):
    rng = np.random.default_rng(seed)
    return {g.name: (rng.random(g.num_channels) * rng.uniform(0.1, 5)) for g in groups}


def cut(groups, keep_masks):
    """The groups after a cut."""
    widths = {name: int(mask.sum()) for name, mask in keep_masks.items()}
    return [
        FakeGroup(g.name, widths.get(g.name, g.num_channels), g.residual, g.prunable)
        for g in groups
    ]


def counts(keep_masks):
    return {name: int(mask.sum()) for name, mask in keep_masks.items()}


@st.composite
def networks(draw):
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    flags = st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))
    residual = draw(flags)
    return [
        FakeGroup(f"conv{i}", n, r) for i, (n, r) in enumerate(zip(sizes, residual, strict=True))
    ]


BUDGETED = st.sampled_from([Macs, Parameters, Channels])
SCOPES = st.sampled_from(["global", "group", "inner"])
AMOUNTS = st.floats(0, 0.95)


class TestBudgets:
    @settings(max_examples=150, deadline=None)
    @given(networks(), BUDGETED, SCOPES, AMOUNTS, st.integers(1, 9), st.floats(0, 1), st.booleans())
    def test_within_the_target_and_one_step_below(
        self, groups, kind, scope, amount, round_to, max_sparsity, per_cost
    ):
        per_cost = per_cost and scope != "group"
        choose = kind(scope, round_to, max_sparsity, per_cost=per_cost)
        cost, scores = FakeCost(groups), scores_for(groups)
        before = choose.measure(cost, {})
        try:
            masks = choose(scores, groups, amount, cost)
        except ValueError as error:
            assert "reachable minimum" in str(error)
            self.smallest_is_too_large(groups, choose, amount, cost)
            return
        after = choose.measure(cost, masks)
        assert after <= (1 - amount) * before + 1e-9
        self.caps_and_rounding_hold(groups, masks, choose, max_sparsity)
        self.worst_go_first(masks, scores)
        if after < 0.99 * (1 - amount) * before:
            # One step back, in some group, is above the target: nothing smaller would do.
            assert self.one_step_back_exceeds(masks, choose, (1 - amount) * before, cost)

    def smallest_is_too_large(self, groups, choose, amount, cost):
        fewest = {}
        for group in groups:
            if choose.scope == "inner" and group.residual:
                continue
            floor = max(1, math.ceil((1 - choose.max_sparsity[".*"]) * group.num_channels - 1e-9))
            floor = min(group.num_channels, math.ceil(floor / choose.round_to) * choose.round_to)
            fewest[group.name] = np.arange(group.num_channels) < floor
        least = choose.measure(cost, fewest)
        assert least > (1 - amount) * choose.measure(cost, {})

    def caps_and_rounding_hold(self, groups, masks, choose, max_sparsity):
        for group in groups:
            if choose.scope == "inner" and group.residual:
                assert group.name not in masks
                continue
            kept, width = masks[group.name].sum(), group.num_channels
            assert kept >= max(1, (1 - max_sparsity) * width - 1e-9)
            assert kept % choose.round_to == 0 or kept == width

    def worst_go_first(self, masks, scores):
        for name, mask in masks.items():
            if not mask.all():
                assert scores[name][mask].min() >= scores[name][~mask].max()

    def one_step_back_exceeds(self, masks, choose, budget, cost):
        for name, mask in masks.items():
            wider = np.flatnonzero(~mask)[: choose.round_to - mask.sum() % choose.round_to]
            if len(wider):
                grown = {**masks, name: mask | np.isin(np.arange(len(mask)), wider)}
                if choose.measure(cost, grown) > budget:
                    return True
        return False

    @settings(max_examples=100, deadline=None)
    @given(networks(), BUDGETED, SCOPES, AMOUNTS, AMOUNTS, st.integers(1, 4))
    def test_larger_amounts_keep_a_subset(self, groups, kind, scope, a, b, round_to):
        choose, cost = kind(scope=scope, round_to=round_to, max_sparsity=1.0), FakeCost(groups)
        try:
            more, less = (choose(scores_for(groups), groups, x, cost) for x in sorted((a, b))[::-1])
        except ValueError:
            return
        for name in more:
            assert not (more[name] & ~less[name]).any()

    @settings(max_examples=60, deadline=None)
    @given(networks(), BUDGETED, SCOPES, st.floats(0, 0.9), st.floats(0, 1), st.integers(1, 4))
    def test_rounds_add_up(self, groups, kind, scope, amount, share, round_to):
        """Cutting a part first, and with new scores, still ends at the original's target."""
        choose, first = kind(scope=scope, round_to=round_to), FakeCost(groups)
        try:
            choose(scores_for(groups), groups, amount, first)
            masks = choose(scores_for(groups), groups, share * amount, first)
        except ValueError:
            return
        smaller = cut(groups, masks)
        second = FakeCost(smaller, original=first)
        try:
            masks = choose(scores_for(smaller, seed=1), smaller, amount, second)
        except ValueError as error:
            assert round_to > 1, error
            return
        assert choose.measure(second, masks) <= (1 - amount) * choose.measure(first, {}) + 1e-9
        for group in groups:
            if group.name in masks:
                assert masks[group.name].sum() >= 0.1 * group.num_channels - 1e-9

    def test_nothing_to_do_when_the_model_is_small_enough(self):
        groups = [FakeGroup("a", 8), FakeGroup("b", 8)]
        smaller = [FakeGroup("a", 2), FakeGroup("b", 2)]
        cost = FakeCost(smaller, original=FakeCost(groups))
        masks = Macs()(scores_for(smaller), smaller, 0.3, cost)
        assert all(mask.all() for mask in masks.values())

    def test_search_is_short(self):
        groups = [FakeGroup(f"conv{i}", 512) for i in range(20)]
        cost = FakeCost(groups)
        Macs()(scores_for(groups), groups, 0.5, cost)
        assert cost.calls <= 20

    def test_unreachable_names_the_minimum(self):
        groups = [FakeGroup("a", 10), FakeGroup("b", 10, residual=True)]
        with pytest.raises(ValueError, match=r"removed\) with 1 channel groups") as error:
            Channels(scope="inner", max_sparsity=0.5)(
                scores_for(groups), groups, 0.6, FakeCost(groups)
            )
        assert "keeps 15 of 20 (75.00% kept, 25.00% removed)" in str(error.value)

    @pytest.mark.parametrize("amount", [1.0, -0.1, float("nan"), 2])
    def test_amount_out_of_range(self, amount):
        groups = [FakeGroup("a", 10)]
        with pytest.raises(ValueError, match=r"in \[0, 1\)"):
            Macs()(scores_for(groups), groups, amount, FakeCost(groups))


class TestScopes:
    def test_global_follows_the_scores(self):
        groups = [FakeGroup("weak", 10), FakeGroup("strong", 10)]
        scores = {"weak": np.linspace(0, 1, 10), "strong": np.linspace(5, 6, 10)}
        masks = Channels()(scores, groups, 0.4, FakeCost(groups))
        assert counts(masks) == {"weak": 2, "strong": 10}

    def test_group_gives_every_group_the_same_share_whatever_the_scores(self):
        groups = [FakeGroup("weak", 10), FakeGroup("strong", 20)]
        scores = {"weak": np.linspace(0, 1, 10), "strong": np.linspace(5, 6, 20)}
        masks = Channels(scope="group")(scores, groups, 0.4, FakeCost(groups))
        assert counts(masks) == {"weak": 6, "strong": 12}

    def test_group_counts_from_the_original(self):
        original = [FakeGroup("a", 20), FakeGroup("b", 20)]
        now = [FakeGroup("a", 10), FakeGroup("b", 20)]
        cost = FakeCost(now, original=FakeCost(original))
        masks = Channels(scope="group")(scores_for(now), now, 0.5, cost)
        assert counts(masks) == {"a": 10, "b": 10}

    def test_inner_leaves_residual_sums_alone(self):
        groups = [FakeGroup("inner", 10), FakeGroup("sum", 10, residual=True)]
        masks = Channels(scope="inner")(scores_for(groups), groups, 0.4, FakeCost(groups))
        assert counts(masks) == {"inner": 2}

    def test_isomorphic_shares_within_families(self):
        def group(name, kind):
            return FakeGroup(name, 10, members=(FakeMember(name, variable=kind),))

        groups = [group("a", "kernel"), group("b", "kernel"), group("c", "gamma")]
        layers = dict.fromkeys("abc", keras.layers.Activation("relu"))
        scores = {
            "a": np.linspace(0, 1, 10),
            "b": np.linspace(2, 3, 10),
            "c": np.linspace(9, 10, 10),
        }
        masks = Channels(scope="isomorphic")(scores, groups, 0.4, FakeCost(groups, layers=layers))
        assert counts(masks) == {"a": 2, "b": 10, "c": 6}

    def test_per_cost_weighs_what_a_channel_saves(self):
        """Scores differ by less than what a channel of the first (large) and last layer saves."""
        groups = [FakeGroup("large", 10), FakeGroup("middle", 10), FakeGroup("small", 10)]
        scores = {"large": np.full(10, 2.0), "middle": np.full(10, 3.0), "small": np.ones(10)}
        cost = FakeCost(groups)
        plain = counts(Macs(max_sparsity=0.5)(scores, groups, 0.2, cost))
        weighed = counts(Macs(max_sparsity=0.5, per_cost=True)(scores, groups, 0.2, cost))
        assert plain == {"large": 9, "middle": 10, "small": 5}
        assert weighed == {"large": 7, "middle": 10, "small": 10}

    def test_equal_scores_are_spread(self):
        groups = [FakeGroup("a", 10), FakeGroup("b", 10)]
        scores = {"a": np.ones(10), "b": np.ones(10)}
        assert counts(Channels()(scores, groups, 0.5, FakeCost(groups))) == {"a": 5, "b": 5}


class TestLimits:
    def test_cap_by_pattern(self):
        groups = [FakeGroup("stage1_a", 10), FakeGroup("stage2_a", 10)]
        scores = {"stage1_a": np.linspace(0, 1, 10), "stage2_a": np.linspace(5, 6, 10)}
        choose = Channels(max_sparsity={"stage1.*": 0.3})
        assert counts(choose(scores, groups, 0.4, FakeCost(groups))) == {
            "stage1_a": 7,
            "stage2_a": 5,
        }

    def test_cap_counts_from_the_original(self):
        now = [FakeGroup("a", 6), FakeGroup("b", 10)]
        cost = FakeCost(now, original=FakeCost([FakeGroup("a", 10), FakeGroup("b", 10)]))
        scores = {"a": np.zeros(6), "b": np.ones(10)}
        assert counts(Channels(max_sparsity=0.5)(scores, now, 0.5, cost)) == {"a": 5, "b": 5}

    def test_rounding_never_reaches_zero_and_leaves_odd_widths_whole(self):
        groups = [FakeGroup("a", 20), FakeGroup("b", 4)]
        scores = {"a": np.linspace(0, 1, 20), "b": np.linspace(5, 6, 4)}
        choose = Channels(round_to=8, max_sparsity=1.0)
        assert counts(choose(scores, groups, 0.1, FakeCost(groups))) == {"a": 16, "b": 4}
        assert counts(choose(scores, groups, 0.5, FakeCost(groups))) == {"a": 8, "b": 4}
        with pytest.raises(ValueError, match="keeps 12 of 24"):
            choose(scores, groups, 0.6, FakeCost(groups))

    @pytest.mark.parametrize(
        ("widths", "tiles"),
        [
            ([512, 128, 64, 32, 24], [32, 32, 16, 8, 1]),
            ([256, 128, 64, 32, 24], [32, 16, 8, 1, 1]),
            ([64, 32, 16], [1, 1, 1]),
            ([], []),
        ],
    )
    def test_the_wider_a_network_the_wider_its_tiles(self, widths, tiles):
        assert Macs().preferred_tiles(widths) == tiles

    def test_kept_counts_are_whole_tiles_by_default(self):
        groups = [FakeGroup(f"g{n}", n) for n in (256, 128, 64, 32)]
        masks = Channels(scope="group")(scores_for(groups), groups, 0.31, FakeCost(groups))
        assert counts(masks) == {"g256": 160, "g128": 96, "g64": 48, "g32": 22}

    def test_tiles_are_the_nearest_within_the_cap(self):
        groups = [FakeGroup("a", 32), FakeGroup("b", 32)]
        scores = {"a": np.arange(32.0), "b": 20 + np.arange(32.0)}
        choose = Channels("global", round_to=8, max_sparsity=0.4)
        assert counts(choose(scores, groups, 0.11, FakeCost(groups))) == {"a": 24, "b": 32}
        assert counts(choose(scores, groups, 0.2, FakeCost(groups))) == {"a": 24, "b": 24}

    def test_tiles_give_way_where_they_would_miss_the_amount(self):
        groups = [FakeGroup("a", 128), FakeGroup("b", 64)]
        scores, cost = scores_for(groups), FakeCost(groups)
        assert counts(Channels(max_sparsity=0.9)(scores, groups, 0.89, cost)) == {"a": 14, "b": 7}
        with pytest.raises(ValueError, match="round_to=16"):
            Channels(max_sparsity=0.9, round_to=16)(scores, groups, 0.89, cost)

    def test_ignore_names_expressions_and_types(self):
        groups = [
            FakeGroup(name, 10, members=(FakeMember(name),)) for name in ("conv1", "conv2", "fc")
        ]
        layers = {
            "conv1": keras.layers.Conv2D(1, 1),
            "conv2": keras.layers.Conv2D(1, 1),
            "fc": keras.layers.Dense(1),
        }
        cost = FakeCost(groups, layers=layers)
        for ignore, cut_groups in [
            (["conv1"], {"conv2", "fc"}),
            ("conv.*", {"fc"}),
            ([keras.layers.Dense], {"conv1", "conv2"}),
            (keras.layers.Conv2D, {"fc"}),
        ]:
            masks = Channels(ignore=ignore)(scores_for(groups), groups, 0.2, cost)
            assert set(masks) == cut_groups

    def test_groups_that_are_not_prunable_stay(self):
        groups = [FakeGroup("a", 10), FakeGroup("logits", 10, prunable=False)]
        masks = Channels()({"a": np.arange(10)}, groups, 0.2, FakeCost(groups))
        assert counts(masks) == {"a": 6}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ignore": ["convv1"]}, "`ignore` has 'convv1', which matches no layer"),
            ({"max_sparsity": {"stage9.*": 0.5}}, "`max_sparsity` has 'stage9"),
        ],
    )
    def test_patterns_that_match_nothing(self, options, message):
        groups = [FakeGroup("conv1", 10)]
        with pytest.raises(ValueError, match=message):
            Macs(**options)(scores_for(groups), groups, 0.2, FakeCost(groups))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scope": "local"}, "global, group, inner, isomorphic"),
            ({"round_to": 0}, "round_to=0"),
            ({"round_to": 8.0}, "round_to=8.0"),
            ({"max_sparsity": 1.5}, "`max_sparsity`"),
            ({"scope": "group", "per_cost": True}, "`per_cost` divides scores"),
            ({"max_sparsity": {"a": "half"}}, "`max_sparsity`"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            Macs(**options)


class TestScores:
    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            ({}, "no scores for channel group 'a'"),
            ({"a": np.ones(9)}, r"shape \(9,\)"),
            ({"a": np.array([1.0] * 9 + [np.nan])}, "1 non-finite"),
        ],
    )
    def test_unusable_scores(self, scores, message):
        groups = [FakeGroup("a", 10)]
        with pytest.raises(ValueError, match=message):
            Macs()(scores, groups, 0.2, FakeCost(groups))


class TestPerGroup:
    groups = (
        FakeGroup("stage1_conv1", 64),
        FakeGroup("stage1_out", 64, residual=True),
        FakeGroup("stage4_conv1", 512),
        FakeGroup("other", 32),
    )

    def test_ends_at_the_shares(self):
        cost = FakeCost(self.groups)
        choose = PerGroup({"stage[123].*": 0.46, "stage4.*": 0.658})
        shares = {"stage1_conv1": 29, "stage4_conv1": 337}
        final = {n: np.arange(cost.original_width(FakeGroup(n, 0))) < k for n, k in shares.items()}
        amount = 1 - cost.macs(final) / cost.macs({})
        masks = choose(scores_for(self.groups), self.groups, amount, cost)
        assert counts(masks) == {**shares, "other": 32}
        with pytest.raises(ValueError, match="reachable minimum"):
            choose(scores_for(self.groups), self.groups, amount + 0.01, cost)

    def test_pair_of_numbers_of_the_paper(self):
        """ResNet-18 loses 36.78% of its parameters and 45.55% of its MACs (arXiv 2108.13591)."""
        net = zoo.resnet18()
        choose = PerGroup({"layer[123]_.*": 0.46, "layer4_.*": 0.658})
        masks = selection.select_channels(net, 0.4555, selection=choose, criterion="random")
        cost = Cost(net)
        assert 1 - cost.macs(masks) / cost.macs({}) == pytest.approx(0.4555, abs=0.001)
        assert 1 - cost.parameters(masks) / cost.parameters({}) == pytest.approx(0.3678, abs=0.001)
        assert all(name.endswith("_conv1") for name in masks)

    def test_goes_there_in_proportion(self):
        cost = FakeCost(self.groups)
        choose = PerGroup({"stage[123].*": 0.5, "stage4.*": 0.75})
        kept = counts(choose(scores_for(self.groups), self.groups, 0.1, cost))
        lost = (1 - kept["stage1_conv1"] / 64) / 0.5, (1 - kept["stage4_conv1"] / 512) / 0.25
        assert 0 < lost[0] < 1
        assert abs(lost[0] - lost[1]) <= 2 / 64 / 0.5

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="`shares_kept`"):
            PerGroup({"a": 1.5})
        with pytest.raises(ValueError, match="PerGroup expects"):
            PerGroup({"a": 0.5}, scope="global")
        with pytest.raises(ValueError, match="`shares_kept` has 'nothing'"):
            PerGroup({"nothing": 0.5})(
                scores_for(self.groups), self.groups, 0.1, FakeCost(self.groups)
            )


class TestThreshold:
    def test_keeps_what_exceeds_the_threshold_and_at_least_one(self):
        groups = [FakeGroup("a", 3), FakeGroup("b", 3), FakeGroup("sum", 3, residual=True)]
        scores = {
            "a": np.array([0.05, 0.1, 0.2]),
            "b": np.array([0.01, 0.03, 0.02]),
            "sum": np.zeros(3),
        }
        masks = Threshold()(scores, groups, 0.1, FakeCost(groups))
        assert {name: mask.tolist() for name, mask in masks.items()} == {
            "a": [False, False, True],
            "b": [False, True, False],
        }
        assert "sum" in Threshold(scope="global")(scores, groups, 0.1, FakeCost(groups))

    def test_options_hold(self):
        groups = [FakeGroup("a", 16), FakeGroup("b", 16)]
        scores = {"a": np.linspace(0, 1, 16), "b": np.zeros(16)}
        masks = Threshold(round_to=4, max_sparsity=0.75)(scores, groups, 0.6, FakeCost(groups))
        assert counts(masks) == {"a": 8, "b": 4}

    def test_bad_scope_and_amount(self):
        with pytest.raises(ValueError, match="Threshold expects"):
            Threshold(scope="group")
        with pytest.raises(ValueError, match="finite number"):
            Threshold()({}, [], float("nan"), FakeCost([]))


class TestLatency:
    def test_measures_models_that_are_really_cut(self, monkeypatch):
        groups = [FakeGroup("a", 10), FakeGroup("b", 10)]
        cost = FakeCost(groups)
        monkeypatch.setattr(selection.timed, "prune_channels", lambda model, masks: (model, masks))
        seen = []

        def milliseconds(model):
            seen.append(model[0])
            return 1 + cost.num_channels(model[1]) / 20

        masks = Latency(milliseconds)(scores_for(groups), groups, 0.25, cost)
        assert sum(counts(masks).values()) == 10
        assert set(seen) == {"model"} and len(seen) < 10


class TestGet:
    @pytest.mark.parametrize("name", ["channels", "latency", "macs", "parameters", "threshold"])
    def test_names(self, name):
        assert type(selection.get(name)).__name__.lower() == name

    def test_objects_classes_and_callables_pass(self):
        own = Macs(scope="inner")
        assert selection.get(own) is own
        assert isinstance(selection.get(Macs), Macs)
        rule = functools.partial(own.__call__)
        assert selection.get(rule) is rule

    @pytest.mark.parametrize("identifier", ["flops", None, 0.5])
    def test_unknown_names_list_the_known(self, identifier):
        known = "'channels', 'latency', 'macs', 'padded_macs', 'parameters', 'threshold'"
        with pytest.raises(ValueError, match=known):
            selection.get(identifier)


# Real models ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["digits_resnet", "mobilenet_v2", "chain_of_kinds"])
def model(request):
    keras.utils.set_random_seed(0)
    if request.param == "digits_resnet":
        return zoo.digits_resnet(width=16)
    if request.param == "mobilenet_v2":
        return zoo.mobilenet_v2(10, alpha=0.35, input_shape=(32, 32, 3))
    layers = [
        keras.layers.Conv2D(16, 3, name="conv"),
        keras.layers.Conv2D(24, 3, groups=4, name="grouped"),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(32, name="dense"),
        keras.layers.Dense(5),
    ]
    return keras.Sequential([keras.Input((10, 10, 3)), *layers])


class TestRealModels:
    @pytest.mark.parametrize(
        ("name", "scope"),
        [
            ("macs", "global"),
            ("macs", "group"),
            ("macs", "inner"),
            ("macs", "isomorphic"),
            ("parameters", "global"),
            ("channels", "group"),
        ],
    )
    def test_target_met_by_the_model_that_is_really_cut(self, model, name, scope):
        choose = type(selection.get(name))(scope=scope)
        masks = selection.select_channels(model, 0.3, selection=choose)
        before, after = Cost(model), Cost(prune_channels(model, masks))
        kept = choose.measure(after, {}) / choose.measure(before, {})
        assert choose.measure(after, {}) == choose.measure(before, masks)
        assert 0.6 < kept <= 0.7

    def test_rounds_refer_to_the_original(self, model):
        student = model
        for amount in (0.2, 0.35, 0.5):
            choose = Macs(max_sparsity=0.6)
            masks = selection.select_channels(
                student, amount, selection=choose, criterion="random", reference=model
            )
            student = prune_channels(student, masks)
            kept = Cost(student).macs({}) / Cost(model).macs({})
            assert 1 - amount - 0.1 < kept <= 1 - amount
        cost = Cost(student, reference=model)
        for group in cost.groups:
            if group.prunable:
                assert group.num_channels >= 0.4 * cost.original_width(group) - 1e-6
        assert any(g.num_channels < cost.original_width(g) for g in cost.groups)

    def test_reference_of_another_network(self, model):
        other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
        with pytest.raises(ValueError, match="The reference has no channels made by layer"):
            selection.select_channels(model, 0.3, reference=other)

    def test_ignore_by_type_and_name(self):
        net = zoo.digits_resnet(width=16)
        names = {g.name for g in find_channel_groups(net) if g.prunable}
        first = sorted(names)[0]
        for ignore, gone in [([first], {first}), ([keras.layers.Conv2D], names)]:
            masks = Threshold(scope="global", ignore=ignore)(
                {name: np.ones(64)[: g.num_channels] for name, g in _by_name(net).items()},
                find_channel_groups(net),
                0.5,
                Cost(net),
            )
            assert set(masks) == names - gone

    def test_open_sizes(self):
        layers = [
            keras.layers.Conv2D(8, 3, name="a"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
        net = keras.Sequential([keras.Input((None, None, 3)), *layers])
        masks = selection.select_channels(net, 0.5, input_shape=(8, 8, 3))
        assert counts(masks) == {"a": 4}

    def test_own_callables(self, model):
        def criterion(model, groups, data):
            return {g.name: np.arange(g.num_channels) for g in groups}

        def halve(scores, groups, amount, cost):
            return {g.name: scores[g.name] >= g.num_channels / 2 for g in groups if g.prunable}

        masks = selection.select_channels(model, 0.5, selection=halve, criterion=criterion)
        student = prune_channels(model, masks)
        assert Cost(student).parameters({}) < 0.5 * Cost(model).parameters({})


class TestWidthsAfterAFlip:
    def test_caps_hold_in_filters(self):
        """After a cut of a shuffle into conv groups, channels may be told apart another way."""
        net = graphs_more.channel_shuffle_into_conv_groups()
        cost = Cost(net)
        masks = {
            g.name: np.arange(g.num_channels) < max(1, g.num_channels // 2)
            for g in cost.groups
            if g.prunable
        }
        after = Cost(prune_channels(net, masks), reference=net)
        for group in after.groups:
            if group.prunable:
                layer = group.producers[0]
                now, then = (c.layer(layer).filters for c in (after, cost))
                share = group.num_channels / after.original_width(group)
                assert share == pytest.approx(now / then)


def _by_name(model):
    return {g.name: g for g in find_channel_groups(model)}


class AddsUp(criteria.Magnitude):
    adds_up = True


def test_scores_that_add_up_cut_inner_groups_until_these_become_too_thin():
    keras.utils.set_random_seed(0)
    model = zoo.digits_resnet()
    residual = {g.name for g in find_channel_groups(model) if g.residual}
    cut = [
        {n for n, keep in select_channels(model, a, criterion=AddsUp()).items() if not all(keep)}
        for a in (0.3, 0.75)
    ]
    assert not cut[0] & residual and cut[1] & residual
    by_size = select_channels(model, 0.3, criterion="l1")
    assert any(not all(by_size[name]) for name in residual & set(by_size))


def test_scores_that_add_up_are_divided_by_what_is_saved():
    assert Macs().suited_to(AddsUp()).per_cost and not Macs().suited_to(criteria.get("l1")).per_cost
    assert not Macs(scope="group").suited_to(AddsUp()).per_cost
    assert not Macs(per_cost=False).suited_to(AddsUp()).per_cost


# --- what a device does -----------------------------------------------------------------------


def wide_chain():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(40, 1, name="a")(inputs)
    x = keras.layers.Conv2D(64, 1, name="b")(x)
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))


def test_padded_macs_count_whole_tiles():
    cost = Cost(wide_chain())
    keep = {"a": np.arange(40) < 33, "b": np.arange(64) < 16}
    assert cost.padded_macs(keep, lanes=16) == 16 * (48 * 3 + 16 * 33) + 5 * 16 * 16
    assert cost.padded_macs(keep, lanes=1) == cost.macs(keep)


def test_padded_macs_keep_what_fills_a_tile_up_and_cut_narrow_layers_all_the_same():
    model = wide_chain()
    masks = select_channels(model, 0.5, selection="padded_macs")
    assert all(int(keep.sum()) % 16 == 0 or keep.all() for keep in masks.values())
    cost = Cost(model)
    assert cost.padded_macs(masks) <= 0.5 * cost.padded_macs()
    narrow = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Conv2D(12, 3), keras.layers.Conv2D(12, 1)]
    )
    masks = select_channels(narrow, 0.2, selection=selection.PaddedMacs(lanes=4))
    assert [int(keep.sum()) for keep in masks.values()] == [8]
    masks = select_channels(narrow, 0.3, selection=selection.PaddedMacs(lanes=8))
    assert [int(keep.sum()) for keep in masks.values()] == [8]
    with pytest.raises(ValueError, match="`lanes` is 0"):
        selection.PaddedMacs(lanes=0)


@pytest.mark.parametrize("criterion", ["l1", "reconstruction"])
def test_a_model_without_weights_is_refused(criterion):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    images = np.zeros((16, 8, 8, 3), "float32")
    with pytest.raises(selection.OutOfReachError, match="measures 0"):
        select_channels(model, 0.5, criterion=criterion, data=images)

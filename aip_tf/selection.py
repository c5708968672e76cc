"""From importance scores and an amount to keep masks.

Every budgeted selection works the same way: order the channels from the least to the most important
one (how they are compared is the *scope*), then find by bisection the shortest beginning of that
order whose removal brings the cost within the budget. Costs come from kept counts by formula, so a
step of the search takes about a millisecond.

Amounts are fractions *removed of the original*: `reference`, the untouched network, sets the budget
and the widths that caps and shares refer to; `model` may already have been cut.
"""

import itertools
import math
import re
from dataclasses import dataclass

import numpy as np

from aip_tf import _keras, criteria
from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.cost import CostModel
from aip_tf.latency import measure_latency

_SCOPES = ("global", "group", "inner", "isomorphic")


def select_channels(model, amount, *, selection="macs", criterion="l1", data=None, reference=None):
    """Choose the channels that stay.

    Args:
        model: the `keras.Model` to cut; not changed.
        amount: float in [0, 1), the fraction removed of the original cost (for "threshold": the
            score that a channel must exceed).
        selection: what the amount means: "macs" (default), "parameters", "channels", "latency",
            "threshold", an object of this module, or any callable
            `(scores, groups, amount, cost) -> keep_masks`, where `cost` is a `Cost`.
        criterion: how channels are scored: a name, an object of `aip_tf.criteria`, or any callable
            `(model, groups, data) -> {group name: scores}`.
        data: what a criterion that looks at data needs: a `tf.data.Dataset` of (images, labels)
            batches or a tuple of arrays.
        reference: the original model when `model` was cut before; its totals and widths are what
            `amount`, `max_sparsity` and shares refer to. Layer names must match.

    Returns:
        keep_masks: {group name: bool (num_channels,)}, True = keep, for `prune_channels`. Groups
        that are not named are kept whole.

    Raises:
        ValueError: for unknown names, an amount out of range, unusable scores, or a target that
            cannot be reached; the message then names the reachable minimum.

    >>> import keras
    >>> layers = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> {name: int(keep.sum()) for name, keep in select_channels(model, 0.5).items()}
    {'hidden': 4}
    """
    criterion, selection = criteria.get(criterion), get(selection)
    cost = Cost(model, reference)
    return selection(criterion(model, cost.groups, data), cost.groups, amount, cost)


class Cost:
    """What a selection may ask: the cost of a model under keep masks, and of the original.

    Attributes:
        model: the current `keras.Model`.
        groups: its channel groups.
        original: the `Cost` of the reference model; the object itself if there is none.
    """

    def __init__(self, model, reference=None):
        self.model = model
        self.groups = find_channel_groups(model)
        self.original = self if reference is None or reference is model else Cost(reference)
        self._counts = CostModel(model)

    def macs(self, keep_masks):
        """Multiply-accumulates for one sample (int); groups not named are kept whole."""
        return self._counts.macs(keep_masks)

    def parameters(self, keep_masks):
        """Number of parameters (int)."""
        return self._counts.parameters(keep_masks)

    def num_channels(self, keep_masks):
        """Number of channels (int)."""
        return self._counts.num_channels(keep_masks)

    def layer(self, path):
        """The layer at a path such as "outer/inner"."""
        return _keras.layer_at(self.model, path)

    def original_width(self, group):
        """The width that `group` (of the current model) had in the original, in its channels.

        Counted in filters of its first producer, by layer name, because the identity of groups may
        change with a cut. Groups that share their producers (a convolution split into branches)
        are told apart by name or, failing that, share the original width in proportion.
        """
        if self.original is self:
            return group.num_channels
        before = [g for g in self.original.groups if g.producers == group.producers]
        named = [g for g in before if g.name == group.name]
        now = [g for g in self.groups if g.producers == group.producers]
        filters = sum(map(_num_filters, now if not named else [group]))
        filters_before = sum(map(_num_filters, named or before))
        return group.num_channels * max(1.0, filters_before / max(1, filters))


def _num_filters(group):
    """Filters of the first producer that belong to the group."""
    for member in group.members:
        if member.role == "producer" and member.layer == group.producers[0]:
            return len(member.indices)
    return group.num_channels


@dataclass(frozen=True)
class _Candidate:
    """A group that may be cut: its channels from worst to best and the fewest that must stay."""

    group: object
    scores: np.ndarray
    order: np.ndarray
    original: float
    floor: int

    @property
    def name(self):
        return self.group.name

    def quantiles(self):
        """Share of the original gone once each channel (worst first) is, earlier cuts included."""
        gone = self.original - len(self.order)
        return (gone + 1 + np.arange(len(self.order))) / self.original

    def keep(self, num_kept):
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - num_kept :]] = True
        return mask


class Selection:
    """Base of the budgeted selections: subclass it and override `measure` for a cost of your own.

    Args:
        scope: which channels compete.
            "global": all channels of all groups by their score;
            "group": every group gives up the same share of its original width;
            "isomorphic": groups of equal structure compete by score, and every such family gives up
                the same share (Isomorphic Pruning, arXiv 2407.04616);
            "inner": as "global", but groups whose channels pass through a residual sum are kept
                whole (AIP, arXiv 2108.13591, cuts only these).
        round_to: kept counts are rounded up to multiples of this; never to zero, and a group that
            loses nothing keeps its width.
        max_sparsity: largest fraction of its original width that a group may lose, in [0, 1]; a
            float for all groups or {pattern: float}. At least one channel stays in any case.
        ignore: groups that stay whole: layer names, regular expressions or layer classes of their
            producers or channel-wise layers.

    Patterns are regular expressions that must match a whole group name or layer path.

    Calling a selection with (scores, groups, amount, cost) returns keep masks whose cost is at most
    (1 - amount) of the original's, and less than that by no more than one step, the removal of one
    channel (or `round_to` channels) of one group. With fixed scores a larger amount keeps a subset.
    """

    def __init__(self, scope="global", round_to=1, max_sparsity=0.9, ignore=()):
        if scope not in _SCOPES:
            raise ValueError(f"Unknown scope {scope!r}; expected one of {', '.join(_SCOPES)}.")
        if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
            raise ValueError(f"`round_to` is {round_to!r}; expected an integer of at least 1.")
        self.scope = scope
        self.round_to = round_to
        self.max_sparsity = _as_shares(max_sparsity, "max_sparsity")
        self.ignore = (ignore,) if isinstance(ignore, (str, type)) else tuple(ignore)

    def measure(self, cost, keep_masks):
        """The cost (a number) of `cost.model` under `keep_masks`."""
        raise NotImplementedError(f"{type(self).__name__} must override `measure`.")

    def __call__(self, scores, groups, amount, cost):
        if not 0 <= amount < 1:
            raise ValueError(
                f"`amount` is {amount!r}; expected the fraction removed of the original, in [0, 1)."
            )
        candidates = self._candidates(scores, groups, cost)
        sequence = self._sequence(candidates, cost)
        budget = (1 - amount) * self.measure(cost.original, {})
        fits = lambda length: self.measure(cost, masks(length)) <= budget  # noqa: E731
        masks = lambda length: self._masks(candidates, sequence[:length])  # noqa: E731
        if not fits(len(sequence)):
            self._refuse(amount, candidates, masks(len(sequence)), cost)
        return masks(_first_true(fits, len(sequence)))

    def _candidates(self, scores, groups, cost):
        ignored = _Matcher(self.ignore, groups, cost, "ignore")
        limits = _Matcher(self.max_sparsity, groups, cost, "max_sparsity")
        candidates = []
        for group in groups:
            outside = self.scope == "inner" and group.residual
            if not group.prunable or outside or ignored.first(group) is not None:
                continue
            limit = self.max_sparsity.get(limits.first(group), 1.0)
            candidates.append(self._candidate(group, scores, limit, cost))
        return candidates

    def _candidate(self, group, scores, limit, cost):
        values = _checked_scores(scores, group)
        original = cost.original_width(group)
        floor = max(1, math.ceil((1 - limit) * original - 1e-9))
        order = np.argsort(values, kind="stable")
        return _Candidate(group, values, order, original, min(floor, group.num_channels))

    def _sequence(self, candidates, cost):
        """Indices of candidates: whose worst remaining channel goes first, second, ..."""
        owners, keys, quantiles = [], [], []
        for index, (candidate, key) in enumerate(
            zip(candidates, self._keys(candidates, cost), strict=True)
        ):
            removable = len(candidate.order) - candidate.floor
            owners.append(np.full(removable, index))
            keys.append(key[:removable])
            quantiles.append(candidate.quantiles()[:removable])
        if not owners:
            return np.zeros(0, int)
        owners, keys, quantiles = map(np.concatenate, (owners, keys, quantiles))
        # Equal keys are settled by the share already gone, so that no group is emptied first.
        return owners[np.lexsort((quantiles, keys))]

    def _keys(self, candidates, cost):
        """For each candidate the sort keys of its channels, worst first."""
        if self.scope == "group":
            return [candidate.quantiles() for candidate in candidates]
        keys = [candidate.scores[candidate.order] for candidate in candidates]
        if self.scope == "isomorphic":
            families = [_structure(candidate.group, cost) for candidate in candidates]
            return _quantiles_by_family(candidates, keys, families)
        return keys

    def _masks(self, candidates, removed):
        counts = np.bincount(removed, minlength=len(candidates))
        return {
            candidate.name: candidate.keep(self._rounded(len(candidate.order) - count, candidate))
            for candidate, count in zip(candidates, counts, strict=True)
        }

    def _rounded(self, num_kept, candidate):
        return min(len(candidate.order), math.ceil(num_kept / self.round_to) * self.round_to)

    def _refuse(self, amount, candidates, smallest, cost):
        total = self.measure(cost.original, {})
        least = self.measure(cost, smallest)
        raise ValueError(
            f"{type(self).__name__} cannot remove {amount:.2%}: the reachable minimum keeps "
            f"{least:,.10g} of {total:,.10g} ({least / total:.2%} kept, {1 - least / total:.2%} "
            f"removed) with {len(candidates)} channel groups to cut. Lower the amount, or relax "
            f"scope={self.scope!r}, round_to={self.round_to}, max_sparsity="
            f"{self.max_sparsity}, ignore={self.ignore}."
        )


class Macs(Selection):
    """The amount is a fraction of the multiply-accumulates (the paper's "FLOPs"). See `Selection`.

    >>> Macs(scope="inner", round_to=8).scope
    'inner'
    """

    def measure(self, cost, keep_masks):
        return cost.macs(keep_masks)


class Parameters(Selection):
    """The amount is a fraction of the parameters. See `Selection`."""

    def measure(self, cost, keep_masks):
        return cost.parameters(keep_masks)


class Channels(Selection):
    """The amount is a fraction of the channels. See `Selection`."""

    def measure(self, cost, keep_masks):
        return cost.num_channels(keep_masks)


class Latency(Selection):
    """The amount is a fraction of the measured latency. See `Selection`.

    Args:
        measure_model: callable `model -> number`, by default the median of
            `aip_tf.measure_latency(model)` in milliseconds. It is called about a dozen times on
            models that are really cut, so it may be slow but should repeat well.
        **options: as for `Selection`.
    """

    def __init__(self, measure_model=None, **options):
        super().__init__(**options)
        self.measure_model = measure_model or (lambda model: measure_latency(model).median_ms)

    def measure(self, cost, keep_masks):
        return self.measure_model(prune_channels(cost.model, keep_masks))


class PerGroup(Selection):
    """Groups give up width in given proportions: the paper's amounts per stage.

    The amount is a fraction of MACs, as for `Macs`. At scale t in [0, 1] a group that is to keep
    the share s of its original width keeps 1 - t (1 - s); the smallest t that meets the amount is
    taken. So a schedule leads up to the shares, and no group goes below its own.

    Args:
        shares_kept: {pattern: share kept, in (0, 1]}; the first pattern that matches a group
            counts; groups that none matches stay whole.
        scope: "inner" (default: of the matching groups only those without residual sum) or "group".
        **options: as for `Selection`.

    AIP's ResNet-18 removes 36.8% of the parameters and 45.6% of the MACs with

    >>> selection = PerGroup({"stage[123].*": 0.46, "stage4.*": 0.658})
    """

    def __init__(self, shares_kept, scope="inner", max_sparsity=1.0, **options):
        if scope not in ("inner", "group"):
            raise ValueError(f"`scope` is {scope!r}; PerGroup expects 'inner' or 'group'.")
        super().__init__(scope=scope, max_sparsity=max_sparsity, **options)
        self.shares_kept = _as_shares(shares_kept, "shares_kept")

    def measure(self, cost, keep_masks):
        return cost.macs(keep_masks)

    def _candidates(self, scores, groups, cost):
        matcher = _Matcher(self.shares_kept, groups, cost, "shares_kept")
        candidates = []
        for candidate in super()._candidates(scores, groups, cost):
            share = self.shares_kept.get(matcher.first(candidate.group), 1.0)
            floor = min(
                len(candidate.order), max(candidate.floor, round(share * candidate.original))
            )
            candidates.append(_Candidate(**{**vars(candidate), "floor": floor}))
        return candidates

    def _keys(self, candidates, cost):
        losses = [1 - candidate.floor / candidate.original for candidate in candidates]
        return [
            candidate.quantiles() / max(loss, 1e-9)
            for candidate, loss in zip(candidates, losses, strict=True)
        ]


class Threshold(Selection):
    """The paper's rule: a channel is kept if its score exceeds the amount (arXiv 2108.13591).

    One threshold serves all layers, so scores should be comparable: AIP divides by the layer's
    maximum and uses 0.1 (`criterion="feature_magnitude"`). At least one channel of a group stays.

    Args:
        scope: "inner" (default, the paper) or "global".
        **options: as for `Selection`; caps are off by default.
    """

    def __init__(self, scope="inner", max_sparsity=1.0, **options):
        if scope not in ("inner", "global"):
            raise ValueError(f"`scope` is {scope!r}; Threshold expects 'inner' or 'global'.")
        super().__init__(scope=scope, max_sparsity=max_sparsity, **options)

    def __call__(self, scores, groups, amount, cost):
        if not math.isfinite(amount):
            raise ValueError(f"`amount` is {amount!r}; expected the threshold, a finite number.")
        masks = {}
        for candidate in self._candidates(scores, groups, cost):
            num_above = int(np.sum(candidate.scores > amount))
            masks[candidate.name] = candidate.keep(
                self._rounded(max(num_above, candidate.floor), candidate)
            )
        return masks


class _Matcher:
    """Finds the first of several patterns or layer classes that matches a group."""

    def __init__(self, patterns, groups, cost, argument):
        self._patterns, self._cost = tuple(patterns), cost
        names = set().union(*map(_names, groups)) if groups else set()
        for pattern in self._patterns:
            if isinstance(pattern, str) and not any(re.fullmatch(pattern, name) for name in names):
                raise ValueError(
                    f"`{argument}` has {pattern!r}, which matches no layer or channel group; "
                    f"expected a whole name or a regular expression for one, among: "
                    f"{', '.join(sorted(names)[:20])}{', ...' if len(names) > 20 else ''}."
                )

    def first(self, group):
        return next((p for p in self._patterns if self._matches(p, group)), None)

    def _matches(self, pattern, group):
        if isinstance(pattern, str):
            return any(re.fullmatch(pattern, name) for name in _names(group))
        return any(isinstance(self._cost.layer(path), pattern) for path in _layers(group))


def _layers(group):
    own = [member.layer for member in group.members if member.role != "consumer"]
    return {*group.producers, *own}


def _names(group):
    return {group.name, *_layers(group)}


def _structure(group, cost):
    """What makes two groups comparable: the same kinds of layers in the same roles."""
    kinds = ((type(cost.layer(m.layer)).__name__, m.variable, m.role) for m in group.members)
    return tuple(sorted(kinds))


def _quantiles_by_family(candidates, keys, families):
    """Replace scores by the share of their family that is gone once they are."""
    result = [None] * len(candidates)
    for family in set(families):
        members = [index for index, own in enumerate(families) if own == family]
        ranks = np.argsort(np.argsort(np.concatenate([keys[i] for i in members]), kind="stable"))
        original = sum(candidates[index].original for index in members)
        ends = list(itertools.accumulate(len(keys[index]) for index in members))
        shares = (original - ends[-1] + 1 + ranks) / original
        for index, share in zip(members, np.split(shares, ends[:-1]), strict=True):
            result[index] = share
    return result


def _checked_scores(scores, group):
    if group.name not in scores:
        raise ValueError(
            f"The criterion gave no scores for channel group {group.name!r}; expected a float array "
            f"of shape ({group.num_channels},) for every prunable group."
        )
    values = np.asarray(scores[group.name], np.float64)
    if values.shape != (group.num_channels,) or not np.isfinite(values).all():
        raise ValueError(
            f"The scores of channel group {group.name!r} have shape {values.shape} and "
            f"{np.size(values) - np.isfinite(values).sum()} non-finite entries; expected "
            f"{group.num_channels} finite numbers."
        )
    return values


def _as_shares(value, name):
    shares = dict(value) if isinstance(value, dict) else {".*": value}
    for pattern, share in shares.items():
        if not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(
                f"`{name}` gives {share!r} for {pattern!r}; expected a number in [0, 1]."
            )
    return shares


def _first_true(predicate, last):
    """Smallest n in 0..last with predicate(n), given predicate(last) and monotony."""
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        if predicate(middle):
            high = middle
        else:
            low = middle + 1
    return high


_SELECTIONS = {
    "channels": Channels,
    "latency": Latency,
    "macs": Macs,
    "parameters": Parameters,
    "threshold": Threshold,
}


def get(identifier):
    """Look a selection up: a name, a `Selection` (object or class) or any callable.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    >>> type(get("macs")).__name__
    'Macs'
    """
    if isinstance(identifier, str) and identifier in _SELECTIONS:
        return _SELECTIONS[identifier]()
    if isinstance(identifier, type) and issubclass(identifier, Selection):
        return identifier()
    if callable(identifier):
        return identifier
    known = ", ".join(repr(name) for name in _SELECTIONS)
    raise ValueError(
        f"Unknown selection {identifier!r}; expected one of {known}, or a callable "
        "(scores, groups, amount, cost) -> keep_masks."
    )

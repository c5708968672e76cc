"""Selections that meet a budget: one ranking, one bisection."""

import copy
import math

import numpy as np

from aip_tf.arguments import Kind, check, choice, instance, integer
from aip_tf.selection.candidates import (
    Candidate,
    Matcher,
    as_shares,
    check_patterns,
    checked_scores,
    quantiles_by_family,
    structure,
)
from aip_tf.selection.chain import Chain

_KINDS = {
    "round_to": Kind(
        lambda value: choice("auto").accepts(value) or integer(1).accepts(value),
        "an integer of at least 1, or 'auto'",
    ),
    "per_cost": instance(bool, "True or False", or_none=True),
}
SCOPES = ("global", "group", "inner", "isomorphic")
_TILES = (32, 16, 8)  # channels that devices make at a time
# What share of a group a tile may be, by the widest group of the network; measured in
# benchmarks/README.md. In narrower networks each channel counts.
_SHARES = ((512, 1 / 4), (128, 1 / 8))
_NEAR_THE_END = 2 / 3  # of what inner groups can give: beyond it they become too thin


class OutOfReachError(ValueError):
    """An amount is more than can be removed, whatever the scores.

    Attributes:
        most: the largest amount that can be.
    """

    def __init__(self, message, most):
        super().__init__(message)
        self.most = most


class Selection:
    """Base of the budgeted selections: subclass it and override `measure` for a cost of your own.

    Args:
        scope: which channels compete.
            "global": all channels of all groups by their score;
            "group": every group gives up the same share of its original width;
            "isomorphic": groups of equal structure compete by score, and every such family gives up
                the same share (Isomorphic Pruning, arXiv 2407.04616);
            "inner": as "global", but groups whose channels pass through a residual sum are kept
                whole (AIP, arXiv 2108.13591, cuts only these);
            None: as suits the criterion. Where its scores add up, as those of "reconstruction" do,
                "inner" as long as the amount is within two thirds of what inner groups can give;
                else "global". A residual stream that stays whole is worth more in the recovery than
                it costs in the cut (benchmarks/choices.md).
        round_to: kept counts are rounded to the nearest multiple of this; never to zero, and a
            group that loses nothing keeps its width. "auto": to 32, 16 or 8, because devices make
            so many channels at a time: at most a quarter of the group in networks with a group of
            512 channels or more, an eighth in those with one of 128; in narrower ones, to 1. Halved
            as often as it takes where the amount could not be reached so.
        max_sparsity: largest fraction of its original width that a group may lose, in [0, 1]; a
            float for all groups or {pattern: float}. At least one channel stays in any case.
        ignore: groups that stay whole: layer names, regular expressions or layer classes of their
            producers or channel-wise layers.
        per_cost: whether scores are divided by what one channel of the group saves, in the scopes
            "global" and "inner". Then the importance lost for a saving is least; that is right for
            scores which add up, as "taylor" does, and a matter of trial for others. None: whether
            the criterion says that its scores add up so (`Criterion.adds_up`).

    Patterns are regular expressions that must match a whole group name or layer path.

    Calling a selection with (scores, groups, amount, cost) returns keep masks whose cost is at most
    (1 - amount) of the original's, and less than that by no more than one step, the removal of one
    channel (or `round_to` channels) of one group. With fixed scores a larger amount keeps a subset,
    unless "auto" has to give way for it.
    """

    def __init__(
        self, scope=None, round_to: int | str = "auto", max_sparsity=0.9, ignore=(), per_cost=None
    ):
        if scope is not None and scope not in SCOPES:
            raise ValueError(f"Unknown scope {scope!r}; expected one of {', '.join(SCOPES)}.")
        check(_KINDS, locals())
        if per_cost and scope not in (None, "global", "inner"):
            raise ValueError(
                f"`per_cost` divides scores, which the scope {scope!r} does not compare between "
                "groups; expected the scope 'global' or 'inner', or per_cost=False."
            )
        self.scope = scope
        self.round_to = round_to
        self.max_sparsity = as_shares(max_sparsity, "max_sparsity")
        self.ignore = tuple(ignore) if isinstance(ignore, list | tuple | set) else (ignore,)
        check_patterns(self.ignore, "ignore")
        self.per_cost = per_cost
        self.prefers_inner = False

    def suited_to(self, criterion):
        """A copy in which what is None is as suits a criterion."""
        suited, adds_up = copy.copy(self), getattr(criterion, "adds_up", False)
        if self.per_cost is None:
            suited.per_cost = adds_up and self.scope in (None, "global", "inner")
        suited.prefers_inner = adds_up
        return suited

    def measure(self, cost, keep_masks):
        """The cost (a number) of `cost.model` under `keep_masks`."""
        raise NotImplementedError(f"{type(self).__name__} must override `measure`.")

    def fraction(self, amount):
        """The amount as a fraction removed; here it is one."""
        return amount

    def check(self, graph):
        """Whether networks such as the one of a `ChannelGraph` can be measured; here all can."""

    def __call__(self, scores, groups, amount, cost):
        amount = self.fraction(amount)
        if not 0 <= amount < 1:
            raise ValueError(
                f"`amount` is {amount!r}; expected the fraction removed of the original, in [0, 1)."
            )
        return self.choose(scores, groups, amount, cost)

    def choose(self, scores, groups, amount, cost):
        """The keep masks, by the formula of `measure`."""
        total = self.measure(cost.original, {})
        if amount and not total:
            raise OutOfReachError(
                f"{type(self).__name__} cannot remove {amount:.2%}: the model {cost.model.name!r} "
                "measures 0. Expected one with layers that have weights, such as convolutions.",
                most=0.0,
            )
        within = self.settled(scores, groups, amount, cost)
        budget = total - amount * total
        for chain in within.chains(scores, groups, cost):
            place = chain.first(lambda masks: self.measure(cost, masks) <= budget)
            if place is not None:
                return chain.masks(place)
        within.refuse(amount, total, self.measure(cost, chain.masks(chain.last)), chain)

    def settled(self, scores, groups, amount, cost):
        """This selection, or where its scope is left open a copy with the one for an amount."""
        if self.scope is not None:
            return self
        inner = self._within("inner")
        is_easy = self.prefers_inner and inner._is_easy(scores, groups, amount, cost)
        return inner if is_easy else self._within("global")

    def chains(self, scores, groups, cost):
        """Yields the `Chain`s of cuts that come into question, those of the widest tiles first."""
        candidates = self._candidates(scores, groups, cost)
        sequence = self._sequence(candidates, cost)
        for tiles in self.tiles([candidate.original for candidate in candidates]):
            yield Chain(candidates, sequence, tiles)

    def tiles(self, widths):
        """Yields what each group is rounded to: the first with which the amount is reached counts.

        Args:
            widths: their original numbers of channels.
        """
        if self.round_to != "auto":
            yield [self.round_to] * len(widths)
            return
        tiles = self.preferred_tiles(widths)
        while max(tiles, default=1) > 1:
            yield tiles
            tiles = [max(1, tile // 2) for tile in tiles]
        yield tiles

    def preferred_tiles(self, widths):
        """What `round_to="auto"` rounds groups of such widths to, if it can."""
        widest = max(widths, default=0)
        share = next((share for least, share in _SHARES if widest >= least), 0)
        return [next((n for n in _TILES if n <= share * width), 1) for width in widths]

    def _within(self, scope):
        """A copy with another scope."""
        other = copy.copy(self)
        other.scope = scope
        return other

    def _is_easy(self, scores, groups, amount, cost):
        """Whether the amount is well within what can be removed."""
        total = self.measure(cost.original, {})
        candidates = self._candidates(scores, groups, cost)
        least = {c.name: c.keep(c.floor) for c in candidates}
        return amount <= _NEAR_THE_END * (1 - self.measure(cost, least) / total)

    def _candidates(self, scores, groups, cost):
        ignored = Matcher(self.ignore, groups, cost, "ignore")
        limits = Matcher(self.max_sparsity, groups, cost, "max_sparsity")
        candidates = []
        for group in groups:
            outside = self.scope == "inner" and group.residual
            if not group.prunable or outside or ignored.first(group) is not None:
                continue
            limit = self.max_sparsity.get(limits.first(group), 1.0)
            candidates.append(self._candidate(group, scores, limit, cost))
        return candidates

    def _candidate(self, group, scores, limit, cost):
        values = checked_scores(scores, group)
        original = cost.original_width(group)
        floor = max(1, math.ceil((1 - limit) * original - 1e-9))
        order = np.argsort(values, kind="stable")
        return Candidate(group, values, order, original, min(floor, group.num_channels))

    def _sequence(self, candidates, cost):
        """Indices of candidates: whose worst remaining channel goes first, second, ..."""
        if not candidates:
            return np.zeros(0, int)
        removable = [len(candidate.order) - candidate.floor for candidate in candidates]
        quantiles = [candidate.quantiles() for candidate in candidates]
        keys = self._keys(candidates, cost)
        keys, quantiles = (
            np.concatenate([values[:n] for values, n in zip(each, removable, strict=True)])
            for each in (keys, quantiles)
        )
        # Equal keys are settled by the share already gone, so that no group is emptied first.
        return np.repeat(np.arange(len(candidates)), removable)[np.lexsort((quantiles, keys))]

    def _keys(self, candidates, cost):
        """For each candidate the sort keys of its channels, worst first."""
        if self.scope == "group":
            return [candidate.quantiles() for candidate in candidates]
        if self.scope == "isomorphic":
            families = [structure(candidate.group, cost) for candidate in candidates]
            return quantiles_by_family(candidates, families)
        scores = [candidate.scores[candidate.order] for candidate in candidates]
        return self._per_cost(candidates, scores, cost) if self.per_cost else scores

    def _per_cost(self, candidates, scores, cost):
        """Scores over what a channel saves, told by a whole tile: one alone may save nothing."""
        whole = self.measure(cost, {})
        tiles = next(self.tiles([candidate.original for candidate in candidates]))
        keys = []
        for candidate, own, tile in zip(candidates, scores, tiles, strict=True):
            fewer = min(tile, max(1, len(candidate.order) - 1))
            keep = candidate.keep(max(1, len(candidate.order) - fewer))
            saved = (whole - self.measure(cost, {candidate.name: keep})) / fewer
            keys.append(own / max(saved, 1e-9))
        return keys

    def refuse(self, amount, total, least, chain):
        """Raises the `OutOfReachError` of an amount of `total`: the chain ends at `least`."""
        if not chain.masks(0):
            raise OutOfReachError(
                f"{type(self).__name__} cannot remove {amount:.2%}: the reachable minimum keeps "
                "all, as there is no channel group to cut. Expected a hidden layer that may become "
                "narrower; `aip_tf.summary(model)` says for each why it stays. Otherwise "
                f"{self.remedy()}.",
                most=0.0,
            )
        raise OutOfReachError(
            f"{type(self).__name__} cannot remove {amount:.2%}: the reachable minimum keeps "
            f"{least:,.10g} of {total:,.10g} ({least / total:.2%} kept, {1 - least / total:.2%} "
            f"removed) with {len(chain.masks(0))} channel groups to cut. Lower the amount, or "
            f"{self.remedy()}.",
            most=max(0.0, 1 - least / total - 1e-9),
        )

    def remedy(self):
        """What brings smaller cuts within reach."""
        return (
            f"relax scope={self.scope!r}, round_to={self.round_to!r}, max_sparsity="
            f"{self.max_sparsity}, ignore={self.ignore}"
        )


class Macs(Selection):
    """The amount is a fraction of the multiply-accumulates (the paper's "FLOPs"). See `Selection`.

    >>> Macs(scope="inner", round_to=8).scope
    'inner'
    """

    def measure(self, cost, keep_masks):
        return cost.macs(keep_masks)


class PaddedMacs(Selection):
    """The amount is a fraction of the MACs as a device counts them, see `Cost.padded_macs`.

    Channels that fill a tile up cost nothing: with `round_to="auto"` kept counts are multiples of
    the tile in every group where the amount can be reached so, else of half of it, and so on down
    to 1. So narrow layers are cut too.

    Args:
        lanes: output channels that the device makes at a time: 8, 16 or 32 on CPUs with XNNPACK.
        **options: as for `Selection`.

    >>> PaddedMacs(lanes=8).preferred_tiles([64, 16])
    [8, 8]
    """

    def __init__(self, lanes=16, **options):
        if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
            raise ValueError(
                f"`lanes` is {lanes!r}; expected an integer of at least 1, such as 16."
            )
        super().__init__(**options)
        self.lanes = lanes

    def measure(self, cost, keep_masks):
        return cost.padded_macs(keep_masks, self.lanes)

    def preferred_tiles(self, widths):
        return [self.lanes] * len(widths)


class Parameters(Selection):
    """The amount is a fraction of the parameters. See `Selection`."""

    def measure(self, cost, keep_masks):
        return cost.parameters(keep_masks)


class Channels(Selection):
    """The amount is a fraction of the channels. See `Selection`."""

    def measure(self, cost, keep_masks):
        return cost.num_channels(keep_masks)

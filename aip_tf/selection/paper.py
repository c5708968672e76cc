"""The paper's two ways to choose: a threshold, and given shares for each stage."""

import dataclasses
import math

import numpy as np

from aip_tf.selection.budget import Selection
from aip_tf.selection.candidates import Matcher, as_shares
from aip_tf.selection.chain import rounded


class PerGroup(Selection):
    """Groups give up width in given proportions: the paper's amounts per stage.

    The amount is a fraction of MACs, as for `Macs`. At scale t in [0, 1] a group that is to keep
    the share s of its original width keeps 1 - t (1 - s); the smallest t that meets the amount is
    taken. So a schedule leads up to the shares, and no group goes below its own.

    Args:
        shares_kept: {pattern: share kept, in (0, 1]}; the first pattern that matches a group
            counts; groups that none matches stay whole.
        scope: "inner" (default: of the matching groups only those without residual sum) or "group".
        round_to, max_sparsity, ignore: as for `Selection`; caps are off by default.

    AIP's ResNet-18 removes 36.8% of the parameters and 45.6% of the MACs with

    >>> selection = PerGroup({"layer[123]_.*": 0.46, "layer4_.*": 0.658})
    """

    def __init__(self, shares_kept, scope="inner", round_to=1, max_sparsity=1.0, ignore=()):
        if scope not in ("inner", "group"):
            raise ValueError(f"`scope` is {scope!r}; PerGroup expects 'inner' or 'group'.")
        super().__init__(scope, round_to, max_sparsity, ignore)
        self.shares_kept = as_shares(shares_kept, "shares_kept")

    def measure(self, cost, keep_masks):
        return cost.macs(keep_masks)

    def _candidates(self, scores, groups, cost):
        matcher = Matcher(self.shares_kept, groups, cost, "shares_kept")
        candidates = []
        for candidate in super()._candidates(scores, groups, cost):
            share = self.shares_kept.get(matcher.first(candidate.group), 1.0)
            floor = max(candidate.floor, round(share * candidate.original))
            floor = min(floor, len(candidate.order))
            candidates.append(dataclasses.replace(candidate, floor=floor))
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
        round_to, max_sparsity, ignore: as for `Selection`; caps are off by default.
    """

    def __init__(self, scope="inner", round_to=1, max_sparsity=1.0, ignore=()):
        if scope not in ("inner", "global"):
            raise ValueError(f"`scope` is {scope!r}; Threshold expects 'inner' or 'global'.")
        super().__init__(scope, round_to, max_sparsity, ignore)

    def __call__(self, scores, groups, amount, cost):
        if not math.isfinite(amount):
            raise ValueError(f"`amount` is {amount!r}; expected the threshold, a finite number.")
        candidates = self._candidates(scores, groups, cost)
        tiles = next(self.tiles([candidate.original for candidate in candidates]))
        masks = {}
        for candidate, tile in zip(candidates, tiles, strict=True):
            num_kept = max(int(np.sum(candidate.scores > amount)), candidate.floor)
            masks[candidate.name] = candidate.keep(rounded(num_kept, tile, candidate))
        return masks

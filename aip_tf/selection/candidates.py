"""The groups that a selection may cut, and how users name them."""

import re
from dataclasses import dataclass

import keras
import numpy as np

from aip_tf.arguments import number, shown

_SHARE = number("a number in [0, 1]", 0, 1)


@dataclass(frozen=True)
class Candidate:
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


class Matcher:
    """Finds the first of several patterns or layer classes that matches a group."""

    def __init__(self, patterns, groups, cost, argument):
        self._patterns, self._cost = tuple(patterns), cost
        names = set().union(*map(_names, groups)) if groups else set()
        for pattern in self._patterns:
            unknown = isinstance(pattern, str) and not any(re.fullmatch(pattern, n) for n in names)
            if names and unknown:
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


def structure(group, cost):
    """What makes two groups comparable: the same kinds of layers in the same roles."""
    kinds = ((type(cost.layer(m.layer)).__name__, m.variable, m.role) for m in group.members)
    return tuple(sorted(kinds))


def quantiles_by_family(candidates, families):
    """For each candidate (worst channel first) the share of its family that is gone with each."""
    shares = [np.empty(len(candidate.order)) for candidate in candidates]
    for family in set(families):
        members = [i for i, own in enumerate(families) if own == family]
        scores = np.concatenate([candidates[i].scores[candidates[i].order] for i in members])
        within = np.concatenate([candidates[i].quantiles() for i in members])
        original = sum(candidates[i].original for i in members)
        order = np.lexsort((within, scores))
        gone = np.empty(len(order))
        gone[order] = (original - len(order) + 1 + np.arange(len(order))) / original
        ends = np.cumsum([len(candidates[i].order) for i in members])[:-1]
        for i, share in zip(members, np.split(gone, ends), strict=True):
            shares[i] = share
    return shares


def checked_scores(scores, group):
    """The scores of a group as float64 (num_channels,), or an error that says what is wrong."""
    if group.name not in scores:
        raise ValueError(
            f"The criterion gave no scores for channel group {group.name!r}; expected a float "
            f"array of shape ({group.num_channels},) for every prunable group."
        )
    values = np.asarray(scores[group.name], np.float64)
    if values.shape != (group.num_channels,) or not np.isfinite(values).all():
        raise ValueError(
            f"The scores of channel group {group.name!r} have shape {values.shape} and "
            f"{np.size(values) - np.isfinite(values).sum()} non-finite entries; expected "
            f"{group.num_channels} finite numbers. If the criterion is not of your own, a batch of "
            "the data holds NaN or infinity, or the model answers so."
        )
    return values


def check_patterns(patterns, argument):
    """Whether each is a regular expression or a layer class.

    Raises:
        ValueError: for the first that is not.
    """
    for pattern in patterns:
        if isinstance(pattern, type) and issubclass(pattern, keras.layers.Layer):
            continue
        try:
            re.compile(pattern)
        except (TypeError, re.error) as error:
            raise ValueError(
                f"Received {shown(pattern)} in {argument}. Expected a layer's name, a regular "
                f"expression for some, or a layer class: {error}."
            ) from error


def as_shares(value, name):
    """One number for all groups, or one for each pattern, as {pattern: number in [0, 1]}."""
    shares = dict(value) if isinstance(value, dict) else {".*": value}
    check_patterns(shares, name)
    for pattern, share in shares.items():
        if not _SHARE.accepts(share):
            raise ValueError(
                f"`{name}` gives {share!r} for {pattern!r}; expected a number in [0, 1]."
            )
    return shares

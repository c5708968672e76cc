"""The cut of a wanted time, found by timing a few."""

import itertools

import numpy as np

from aip_tf.selection.chain import first_true

_MOST_TRIALS = 12  # each is a cut model, written and timed
_CAREFUL = 4  # the first of them aim at half of the tolerance
_BY_FORMULA = 3  # trials along a chain, before its bracket is halved


class Search:
    """Looks along chains of cuts for the one that takes a wanted share of the original's time.

    Between two cuts that were measured, one too slow and one too fast, the next is chosen by
    formula; where the formula sees none between them, by their places; where both have failed a
    few times, it is the one in the middle.

    Args:
        wanted: the share, in (0, 1).
        tolerance: how far from it a cut may be, as a share of it.
        predict: callable `keep masks -> share`, by formula.
        measure: the same, by the device.

    Attributes:
        trials: `[(share measured, keep masks)]`, in the order in which they were made.
    """

    def __init__(self, wanted, tolerance, predict, measure):
        self._wanted, self._tolerance = wanted, tolerance
        self._predict, self._measure = predict, measure
        self._known = {0: (1.0, 1.0)}  # place: shares measured and predicted
        self.trials = []

    @property
    def nearest(self):
        """The trial that comes nearest to what is wanted."""
        return min(self.trials, key=lambda trial: abs(trial[0] - self._wanted))

    @property
    def is_exhausted(self):
        """Whether no further trial is made."""
        return len(self.trials) == _MOST_TRIALS

    def is_within(self, tolerance):
        """Whether the nearest is that near."""
        return bool(self.trials) and abs(self.nearest[0] / self._wanted - 1) <= tolerance

    def along(self, chain):
        """Measure cuts of a `Chain` until one is near enough, or none lies between the known ones.

        Where a device takes a step at one channel, the cuts beside it are tried next.

        Returns:
            The chain whose `neighbors` were found.
        """
        self._go(chain)
        (_, _), (place, fast) = self.neighbors(chain)
        other = chain.around(place) if place <= chain.last and not self._is_over() else None
        if other is None:
            return chain
        self._known = {0: (1.0, 1.0), place: fast}
        return self.along(other)

    def _go(self, chain):
        steps = chain.steps()
        for trial in itertools.count():
            between = self._between(chain, steps)
            if self._is_over() or not between.size:
                break
            place = self._guess(chain, between) if trial < _BY_FORMULA else _middle(between)
            masks = chain.masks(place)
            self._known[place] = self._time_of(masks), self._predict(masks)

    def _time_of(self, masks):
        """The measured share of a cut, which may have come by another way before."""
        for share, tried in self.trials:
            if all(np.array_equal(keep, tried[name]) for name, keep in masks.items()):
                return share
        self.trials.append((self._measure(masks), masks))
        return self.trials[-1][0]

    def neighbors(self, chain):
        """`((place, shares), (place, shares))`: of the known cuts, one too slow and the next.

        Behind the last cut of the chain there would be nothing left, in no time.
        """
        known = sorted({**self._known, chain.last + 1: (0.0, 0.0)}.items())
        return next(pair for pair in itertools.pairwise(known) if pair[1][1][0] <= self._wanted)

    def _is_over(self):
        # One half of the tolerance is for what the stopwatch may err.
        aim = self._tolerance / 2 if len(self.trials) < _CAREFUL else self._tolerance
        return self.is_exhausted or self.is_within(aim)

    def _between(self, chain, steps):
        """The places of the cuts that may be measured next: int array."""
        (low, _), (high, _) = self.neighbors(chain)
        return steps[(low < steps) & (steps < high)]

    def _guess(self, chain, between):
        """The place where the time should be the wanted one."""
        (low, slow), (high, fast) = self.neighbors(chain)
        share = np.interp(self._wanted, *zip(fast, slow, strict=True))
        if fast[1] <= share < slow[1]:
            place = first_true(lambda n: self._predict(chain.masks(n)) <= share, between)
            if place is not None:
                return place
        if high > chain.last:
            return between[-1]
        place = np.interp(self._wanted, (fast[0], slow[0]), (high, low))
        return between[min(np.searchsorted(between, place), between.size - 1)]


def _middle(between):
    return between[between.size // 2]

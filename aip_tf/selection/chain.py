"""Cuts in a row: each has lost a channel more than the one before."""

import math

import numpy as np


class Chain:
    """What is left when the least important channels go one after the other.

    A cut is known by how many channels were taken, before their groups are rounded to tiles: so
    chains of other tiles have nearly the same cuts in the same places.

    Args:
        candidates: the groups.
        sequence: indices of candidates: whose worst remaining channel goes first, second, ...
        tiles: what the kept counts of each candidate are rounded to.

    Attributes:
        last: the place of the smallest cut.
    """

    def __init__(self, candidates, sequence, tiles):
        self._candidates, self._sequence, self._tiles = candidates, sequence, tiles
        self._ahead = ()  # candidates that were put in front
        self.last = len(sequence)

    def masks(self, place):
        """The keep masks of a cut."""
        counts = np.bincount(self._sequence[:place], minlength=len(self._candidates))
        return {
            candidate.name: candidate.keep(rounded(len(candidate.order) - count, tile, candidate))
            for candidate, count, tile in zip(self._candidates, counts, self._tiles, strict=True)
        }

    def first(self, is_small_enough):
        """The place of the first cut of which that holds; None if it does not of the last."""
        places = range(self.last + 1)
        return first_true(lambda place: is_small_enough(self.masks(place)), places)

    def around(self, place):
        """Another way to the same cut, where its last step is too large: a chain, or None.

        On the way the group of that step is cut first, so the cuts just before are like this one
        but for channels of other groups.
        """
        index = self._sequence[place - 1]
        before = self._sequence[:place]
        if index in self._ahead or (before == index).all():
            return None
        ordered = [before[before == index], before[before != index], self._sequence[place:]]
        other = Chain(self._candidates, np.concatenate(ordered), self._tiles)
        other._ahead = (*self._ahead, index)
        return other

    def steps(self):
        """The places at which the cut is another than before: int array, rising."""
        steps = []
        for index, (candidate, tile) in enumerate(zip(self._candidates, self._tiles, strict=True)):
            places = 1 + np.flatnonzero(self._sequence == index)
            width = len(candidate.order)
            kept = [rounded(width - n, tile, candidate) for n in range(len(places) + 1)]
            steps.append(places[np.diff(kept) != 0])
        return np.sort(np.concatenate(steps)) if steps else np.zeros(0, int)


def rounded(num_kept, tile, candidate):
    """How many of a candidate stay when `num_kept` are to: all, or the nearest multiple of `tile`.

    To the nearest, because up alone would favor the groups that happen to stand above a multiple.
    """
    width = len(candidate.order)
    if num_kept == width:
        return width
    fewest = math.ceil(candidate.floor / tile)
    return min(width, max(fewest, math.floor(num_kept / tile + 0.5)) * tile)


def first_true(predicate, values):
    """The first of a sequence for which a predicate holds, which does not turn false again.

    None where it holds for none.
    """
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if predicate(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low] if low < len(values) else None

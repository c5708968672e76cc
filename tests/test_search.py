"""A cut of a wanted time is found where devices take steps, and without many trials."""

import types

import numpy as np
import pytest

from aip_tf.selection.candidates import Candidate
from aip_tf.selection.chain import Chain
from aip_tf.selection.search import Search


def make_chain(*widths, tile=1):
    """Groups that lose their first channels in turns, the widest the most often."""
    candidates = [
        Candidate(types.SimpleNamespace(name=name), None, np.arange(width), width, 1)
        for name, width in zip("abcd", widths, strict=False)
    ]
    places = np.concatenate([(1 + np.arange(w - 1)) / w for w in widths])
    owners = np.repeat(np.arange(len(widths)), [w - 1 for w in widths])
    return Chain(candidates, owners[np.argsort(places, kind="stable")], [tile] * len(widths))


def kept(masks):
    return [int(mask.sum()) for mask in masks.values()]


def smooth(masks):
    """A formula that knows of no steps."""
    return np.mean([mask.mean() for mask in masks.values()])


def by_tiles(*shares):
    """A device that makes sixteen channels at a time in some groups, each worth a share."""

    def time(masks):
        each = [mask if share else -1 for mask, share in zip(kept(masks), shares, strict=True)]
        return sum(s * np.ceil(n / 16) * 16 / 32 for n, s in zip(each, shares, strict=True))

    return time


def found(chain, wanted, device, formula=smooth):
    search = Search(wanted, 0.05, formula, device)
    search.along(chain)
    return search


def test_the_places_of_a_chain_are_its_cuts_each_smaller_than_the_one_before():
    chain = make_chain(32, 16, tile=8)
    steps = chain.steps()
    cuts = [kept(chain.masks(place)) for place in (0, *steps)]
    assert cuts[0] == [32, 16] and cuts[-1] == [8, 8]
    assert (np.diff(np.sum(cuts, axis=1)) == -8).all()
    for place in range(chain.last + 1):
        assert kept(chain.masks(place)) == cuts[np.searchsorted(steps, place, side="right")]


@pytest.mark.parametrize("wanted", [0.9, 0.71, 0.5, 0.33, 0.2])
def test_a_device_that_follows_the_formula_is_asked_once(wanted):
    search = found(make_chain(64, 64), wanted, smooth)
    assert len(search.trials) == 1 and search.is_within(0.025)


@pytest.mark.parametrize("power", [0.5, 2, 4])
@pytest.mark.parametrize("wanted", [0.8, 0.5, 0.25])
def test_a_device_that_does_not_is_asked_again(wanted, power):
    search = found(make_chain(64, 64), wanted, lambda masks: smooth(masks) ** power)
    assert search.is_within(0.05) and len(search.trials) <= 8


def test_where_the_formula_sees_one_cut_and_the_device_many():
    search = found(make_chain(64, 64), 0.6, smooth, by_tiles(0.25, 0.25))
    assert search.is_within(0.05) and len(search.trials) < 12


def test_a_step_at_one_channel_is_gone_around():
    def device(masks):
        a, b = kept(masks)
        return 0.2 * a / 32 + (0.8 if b > 16 else 0.4)

    chain = make_chain(32, 32)
    ways = [device(chain.masks(place)) for place in range(chain.last + 1)]
    assert min(abs(way / 0.55 - 1) for way in ways) > 0.05
    search = found(chain, 0.55, device)
    assert search.is_within(0.05) and kept(search.nearest[1])[1] == 16


def test_what_no_cut_reaches_ends_between_its_neighbors():
    search = Search(0.6, 0.05, smooth, by_tiles(1))
    chain = search.along(make_chain(32))
    (slow, _), (fast, _) = search.neighbors(chain)
    assert not search.is_within(0.05) and not search.is_exhausted
    assert (kept(chain.masks(slow)), kept(chain.masks(fast))) == ([17], [16])
    search = Search(0.01, 0.05, smooth, by_tiles(1))
    chain = search.along(make_chain(32))
    assert search.neighbors(chain)[1][0] > chain.last

"""Identities: the classes of all pairs, a reason on every class that has one, and their views."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aip_tf.channels.identities import Identities, distinct, line, spread

SIZE = 6
identity = st.integers(0, SIZE - 1)
pairs = st.lists(st.tuples(identity, identity), min_size=1, max_size=8)


def naive_classes(links):
    """Sets of identities, merged pair by pair."""
    classes = {i: {i} for i in range(SIZE)}
    for a, b in links:
        merged = classes[a] | classes[b]
        classes |= dict.fromkeys(merged, merged)
    return classes


@settings(max_examples=300)
@given(rounds=st.lists(pairs, max_size=4), pins=st.lists(st.tuples(st.integers(0, 4), identity)))
def test_classes_and_pins_are_those_of_single_pairs(rounds, pins):
    identities = Identities()
    everything = identities.new(SIZE)
    for when, links in enumerate([*rounds, []]):
        for _, pinned in (p for p in pins if p[0] == when):
            identities.pin(np.array([pinned]), "kept")
        if links:
            identities.union(*np.array(links).T)
    classes = naive_classes([link for links in rounds for link in links])
    pinned = {p for when, p in pins if when <= len(rounds)}
    assert identities.find(everything).tolist() == [min(classes[i]) for i in range(SIZE)]
    found = (identities.reasons(everything) > 0).tolist()
    assert found == [bool(classes[i] & pinned) for i in range(SIZE)]
    for a in range(SIZE):
        assert identities.are_one(a, 0) == (0 in classes[a])


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_pin_climbs_a_chain_of_pairs_that_are_merged_at_once(order):
    identities = Identities()
    identities.new(6)
    identities.pin(np.array([5]), "kept")
    identities.union(np.array([5, 3])[order], np.array([3, 1])[order])
    assert identities.reason(identities.reasons(np.array([1]))[0]) == "kept"


def test_identities_that_do_not_fit_their_axis_are_refused():
    with pytest.raises(ValueError, match=r"3 identities for axis -1 .* \(1, 4\). Expected one, or"):
        spread(np.arange(3), (1, 4))


def test_what_was_spread_is_known_again():
    ids = np.arange(3)
    array = spread(ids, (2, 4, 3))
    assert line(array, 2) is ids
    assert line(spread(ids, (2, 3, 4), axis=1), 1) is ids
    assert line(array[..., ::-1], 2).tolist() == [2, 1, 0]
    assert line(array[..., :2], 2).tolist() == [0, 1]


def test_views_of_the_same_entries_count_once_and_parts_of_them_apart():
    ids = np.arange(3)
    array = spread(ids, (2, 4, 3))
    found = [x.ravel().tolist() for x in distinct([array, array[:, ::-1], ids, array[..., :2]])]
    assert found == [[0, 1, 2], [0, 1]]

"""`LayerTimes`: the time of a network under keep masks, by formula."""

import collections
import itertools
import weakref

import numpy as np

from aip_tf.channels import ChannelGraph
from aip_tf.cost import Cost
from aip_tf.layer_times import segments
from aip_tf.layer_times.table import Table

_SHARES = (1.0, 0.5, 0.25)  # of the width of a group, at which its layers are timed
_LANES = 16
# Nine networks in which any two columns meet in all pairs of shares: an orthogonal array.
_COLUMNS = ((1, 0), (0, 1), (1, 1), (1, 2))


class LayerTimes:
    """Times of a network's pieces at all widths, measured at a few: LiteRT, float32, one thread.

    Args:
        graph: `ChannelGraph` of the network.
        table: the `Table` that is asked first and completed; None: that of this machine.

    Raises:
        ValueError: if LiteRT cannot run some layers; they are named.
    """

    def __init__(self, graph, table=None):
        table = table or Table()
        samples = collections.defaultdict(list)
        try:
            for masks in _designs(graph):
                cost = Cost(ChannelGraph(graph.prune(masks), graph.input_shapes))
                features = _Features(cost)
                times = _measured(features.segments, table)
                for piece, row, ms in zip(features.segments, features(), times, strict=True):
                    samples[piece.paths].append((row, ms))
        finally:
            if samples:
                table.save()
        self._laws = {paths: _law(*zip(*found, strict=True)) for paths, found in samples.items()}
        self._features = weakref.WeakKeyDictionary()

    def milliseconds(self, cost, keep_masks=None):
        """The time of a network, which may have been cut out of the one that was measured.

        Args:
            cost: its `Cost`.
            keep_masks: what is to be cut of it.
        """
        return float(self._of_pieces(cost, keep_masks).sum())

    def by_layer(self, cost, keep_masks=None):
        """{path of a layer: its milliseconds, with what is fused to it}."""
        found = collections.Counter()
        for piece, ms in zip(
            self._features_of(cost).segments, self._of_pieces(cost, keep_masks), strict=True
        ):
            found[piece.path] += float(ms)
        return dict(found)

    def _of_pieces(self, cost, keep_masks):
        features = self._features_of(cost)
        unknown = np.zeros(len(features()[0]))
        laws = [self._laws.get(piece.paths, unknown) for piece in features.segments]
        return (np.array(laws) * features(keep_masks)).sum(axis=1)

    def _features_of(self, cost):
        if cost not in self._features:
            self._features[cost] = _Features(cost)
        return self._features[cost]


class _Features:
    """What the time of each piece depends on: a row for each of `segments`."""

    def __init__(self, cost):
        trace = cost.graph.trace
        self._cost = weakref.proxy(cost)  # it is the key under which this is kept
        self.segments = segments.find(trace)
        order = {id(x): i for i, x in enumerate(trace.tensors())}
        sides = ([x.inputs for x in self.segments], [x.outputs for x in self.segments])
        self._ends = [
            _incidence([[order[id(a)] for _, a in ends] for ends in side], len(order))
            for side in sides
        ]
        self._places = _incidence([x.places for x in self.segments], len(trace.calls))

    def __call__(self, keep_masks=None):
        sizes = self._cost.tensor_bytes(keep_masks)
        macs = self._cost.call_macs(keep_masks, _LANES)
        constant = np.ones(len(self.segments))
        return np.stack([constant, *(e @ sizes for e in self._ends), self._places @ macs], axis=1)


def _incidence(rows, width):
    matrix = np.zeros((len(rows), width))
    for row, places in zip(matrix, rows, strict=True):
        row[list(places)] = 1
    return matrix


def _law(features, times):
    """Weights of the features, none negative, that fit the times best, relative to each.

    Some are 0, and the others are the least squares without these: all choices are tried.
    """
    features, times = np.array(features), np.array(times)
    scale = np.maximum(features.max(axis=0), 1e-12)
    rows = features / scale / times[:, None]
    choices = itertools.product((0, 1), repeat=rows.shape[1])
    fits = (_least_squares(rows, choice) for choice in choices)
    allowed = (weights for weights in fits if weights.min() >= 0)
    return min(allowed, key=lambda weights: np.square(rows @ weights - 1).sum()) / scale


def _least_squares(rows, choice):
    """The weights of the chosen features with which all rows come nearest to 1."""
    weights, chosen = np.zeros(len(choice)), np.flatnonzero(choice)
    weights[chosen] = np.linalg.lstsq(rows[:, chosen], np.ones(len(rows)), rcond=None)[0]
    return weights


def _designs(graph):
    """Keep masks of nine networks: the layers at both ends of each piece in all pairs of widths."""
    columns = _colored(graph)
    for a, b in itertools.product(range(3), repeat=2):
        yield {
            group.name: _first(group.num_channels, _SHARES[(x * a + y * b) % 3])
            for group, (x, y) in columns
        }


def _first(width, share):
    tile = next((n for n in (16, 8, 4) if width >= 4 * n), 1)
    return np.arange(width) < min(width, max(1, round(width * share / tile)) * tile)


def _colored(graph):
    """[(group, column)]: groups that meet in a piece have different columns where four suffice."""
    number = np.full(len(graph.trace.pinned), -1)
    groups = [group for group in graph.groups if group.prunable]
    for i, group in enumerate(groups):
        number[graph.classes_of(group.name)] = i
    taken = collections.defaultdict(collections.Counter)
    chosen = {}
    neighbors = _neighbors(graph.trace, number)
    for i in range(len(groups)):
        chosen[i] = min(range(len(_COLUMNS)), key=lambda column: taken[i][column])
        for other in neighbors[i]:
            taken[other][chosen[i]] += 1
    return [(group, _COLUMNS[chosen[i]]) for i, group in enumerate(groups)]


def _neighbors(trace, number):
    """{group: groups at the ends of the same pieces}, by number."""
    found = collections.defaultdict(set)
    for piece in segments.find(trace):
        ends = [trace.vector(array)[0] for _, array in (*piece.inputs, *piece.outputs)]
        met = set(np.unique(number[trace.class_of[np.concatenate(ends)]])) - {-1}
        for group in met:
            found[group] |= met - {group}
    return found


def _measured(pieces, table):
    """The time of every piece."""
    times, refused = [], {}
    for piece in pieces:
        try:
            times.append(table.milliseconds(piece.key, piece.what, piece.measure))
        except ValueError as error:
            refused[piece.path] = error
    if refused:
        path, error = next(iter(refused.items()))
        raise ValueError(
            f"Received layers that LiteRT cannot run: {', '.join(refused)} (of {path}: {error}). "
            "Expected a network whose time can be measured. Cut by another selection, such as "
            "'padded_macs'."
        )
    return times


def check_measurable(graph, table=None):
    """Whether every layer of a network can be timed; it is timed as it is, in seconds.

    Raises:
        ValueError: as for `LayerTimes`.
    """
    table = table or Table()
    _measured(segments.find(graph.trace), table)
    table.save()


def measure_layers(model, input_shape=None, table=None):
    """Times the layers of a model: LiteRT, float32, one thread, one sample.

    Args:
        model: a `keras.Model` or its `ChannelGraph`; not changed.
        input_shape: see `ChannelGraph`.
        table: path of a file with times of this machine, which is completed; None: one in the
            user's cache.

    Returns:
        {path of a layer: milliseconds, with what is fused to it}, for `summary`.

    Raises:
        ValueError: if LiteRT cannot run some layers, or the file is of another machine.
    """
    graph = ChannelGraph.of(model, input_shape)
    table, pieces = Table(table), segments.find(graph.trace)
    found = collections.Counter()
    for piece, ms in zip(pieces, _measured(pieces, table), strict=True):
        found[piece.path] += ms
    table.save()
    return dict(found)

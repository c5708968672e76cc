"""A budget in milliseconds of LiteRT: by layer times, and checked by measuring the cut model."""

import logging
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from aip_tf.arguments import OPTIONAL_FUNCTION, check, number
from aip_tf.channels import prune_channels
from aip_tf.deploy.samples import sized
from aip_tf.deploy.source import Source, quiet, serving
from aip_tf.latency import compare_latency, measure_latency
from aip_tf.layer_times import LayerTimes, Table, check_measurable, converted
from aip_tf.selection.budget import Selection
from aip_tf.selection.search import Search

_KINDS = {
    "tolerance": number("a number above 0, at most 1", above=0, most=1),
    "measure_model": OPTIONAL_FUNCTION,
}
_LEAST_RUNS, _MOST_RUNS, _WARM_UP = 25, 400, 3
_LEAST_MS = 20  # that all runs of a model take, where they may be so many
_STEP = "the cuts next to that time take {:.1f}% and {:.1f}%: devices take channels in tiles."
_UNLIKE = (
    "models do not take the time of their layers here. Other work on this machine may be why: "
    "cut at a quieter time, or allow more by `tolerance`."
)
# {graph of the original: {path of a table: its times}}, which rounds share.
_layer_times = weakref.WeakKeyDictionary()
_originals = weakref.WeakKeyDictionary()  # {graph of the original: its file}
_log = logging.getLogger("aip_tf")


class Latency(Selection):
    """The amount is a fraction of the time of one inference: LiteRT, float32, one thread.

    The layers of the network are timed at a few widths, once for this machine and runtime, which
    takes one or two minutes (`aip_tf.layer_times`). The cut is chosen by the sum of their times.
    Then the cut model is written and timed in turns with the original; where its time is not within
    half of `tolerance` of what was asked for, it is chosen anew with what was learnt, three times;
    then, where `tolerance` itself is not met, eight times more, and the nearest is taken. One that
    is not within `tolerance` is told by a warning. Times are those of the processor, which other
    processes hardly change.

    Amounts above 1 say how many times faster: 2.0 is 0.5.

    Args:
        measure_model: callable `model -> number` in place of all that, for another device. It is
            called about a dozen times on models that are really cut, so it may be slow but should
            repeat well.
        table: path of the file of layer times; None: one in the user's cache.
        tolerance: how far the measured time may be from the one asked for, as a share of it.
        **options: as for `Selection`.

    >>> Latency().fraction(4.0)
    0.75
    """

    def __init__(self, measure_model=None, table=None, tolerance=0.05, **options):
        super().__init__(**options)
        check(_KINDS, locals())
        self.table = table
        self.tolerance = tolerance
        self.measure_model = measure_model

    def fraction(self, amount):
        """The amount as a fraction removed.

        Raises:
            ValueError: for amounts that are neither a fraction nor times faster.
        """
        if amount < 0 or amount == 1:
            raise ValueError(
                f"`amount` is {amount!r}; expected the fraction of the time that is removed, in "
                "[0, 1), or how many times faster, above 1."
            )
        return amount if amount < 1 else 1 - 1 / amount

    def check(self, graph):
        """Whether LiteRT can time the layers of a network.

        Raises:
            ValueError: if it cannot; the layers are named. Or for a table of another machine.
        """
        if self.measure_model is None:
            check_measurable(graph, Table(self.table))

    def measure(self, cost, keep_masks):
        if self.measure_model is not None:
            return self.measure_model(prune_channels(cost.model, keep_masks))
        return self._times_of(cost.original).milliseconds(cost, keep_masks)

    def __call__(self, scores, groups, amount, cost):
        amount = self.fraction(amount)
        if self.measure_model is not None or amount == 0:
            return super().__call__(scores, groups, amount, cost)
        with tempfile.TemporaryDirectory() as folder:
            share_of = _stopwatch(cost, Path(folder))
            return self._approach(scores, groups, amount, cost, share_of)

    def _approach(self, scores, groups, amount, cost, share_of):
        """The masks whose measured time comes nearest to the one asked for, of a few trials."""
        total = self.measure(cost.original, {})

        def predicted(masks):
            return self.measure(cost, masks) / total

        within = self.settled(scores, groups, amount, cost)
        chains = list(within.chains(scores, groups, cost))
        # What layers alone say is out of reach is tried: each was timed with what a call costs.
        wide = [x for x in chains if predicted(x.masks(x.last)) <= 1 - amount]
        search = Search(1 - amount, self.tolerance, predicted, share_of)
        for chain in wide or chains[-1:]:
            chain = search.along(chain)
            if search.is_within(self.tolerance):
                return search.nearest[1]
        slow, (place, fast) = search.neighbors(chain)
        if place <= chain.last:
            reason = (
                _UNLIKE if search.is_exhausted else _STEP.format(100 * slow[1][0], 100 * fast[0])
            )
        elif wide:
            reason = f"it is the smallest within reach: {within.remedy()}."
        else:
            within.refuse(amount, total, total * slow[1][0], chain)
        self._warn(1 - amount, search, reason)
        return search.nearest[1]

    def _warn(self, wanted, search, reason):
        _log.warning(
            "Expected a cut model that takes %.1f%% of the original's time, within %g%% of that. "
            "The nearest of %d that were measured takes %.1f%%; it is taken, because %s",
            *(100 * wanted, 100 * self.tolerance, len(search.trials), 100 * search.nearest[0]),
            reason,
        )

    def _times_of(self, original):
        known = _layer_times.setdefault(original.graph, {})
        if self.table not in known:
            known[self.table] = LayerTimes(original.graph, Table(self.table))
        return known[self.table]


def _stopwatch(cost, folder):
    """`share_of(keep_masks)`: the time of a cut model over that of the original."""
    original, smaller = _original_file(cost.original.graph), folder / "smaller.tflite"
    with quiet():
        milliseconds = measure_latency(original, runs=3, warm_up=1, num_threads=1).median_ms
    runs = int(np.clip(_LEAST_MS / milliseconds, _LEAST_RUNS, _MOST_RUNS))

    def share_of(keep_masks):
        _write(cost.graph.prune(keep_masks), smaller)
        paths = {"original": original, "smaller": smaller}
        with quiet():
            found = compare_latency(paths, runs=runs, warm_up=_WARM_UP, num_threads=1)
        return 1 / found.speed_ups["smaller"].processor

    return share_of


def _original_file(graph):
    """The file of an original, written once and kept as long as its graph."""
    if graph not in _originals:
        folder = Path(tempfile.mkdtemp(prefix="aip_tf_"))
        weakref.finalize(graph, shutil.rmtree, folder, ignore_errors=True)
        _write(graph.model, folder / "original.tflite")
        _originals[graph] = folder / "original.tflite"
    return _originals[graph]


def _write(model, path):
    source = Source(model, sized(model, None), path.parent)
    specs = source.specs(batch_size=1, in_float32=True)
    model = source.float32_model
    path.write_bytes(converted(serving(model), [specs], variables=model.variables))

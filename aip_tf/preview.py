"""`trade_off`: what cuts of several amounts cost and gain, before anybody trains for a day."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Iterable

from aip_tf import _keras, failures
from aip_tf import selection as selections
from aip_tf.arguments import FLAG, check, integer, number, shown
from aip_tf.assignment import Assignment
from aip_tf.cost import Cost
from aip_tf.cutting import apply_cut, plan_cut
from aip_tf.datasets import Data, looks
from aip_tf.datasets.passes import Replay
from aip_tf.deploy.timing import Timing
from aip_tf.recovery import recovery_from
from aip_tf.report import ModelRecord, PruningReport, TradeOff, tables
from aip_tf.selection import OutOfReachError

_log = logging.getLogger("aip_tf")

__all__ = ["trade_off"]

_AMOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_STEP = 0.01  # how exactly `by_accuracy` finds the amount
_AMOUNT = number("a fraction to remove, in (0, 1)", most=1 - 1e-9, above=0)
_KINDS = {
    "by_accuracy": number("how much of the main metric may be lost, >= 0", 0, or_none=True),
    "runs": integer(0),
    "check_only": FLAG,
}


def trade_off(
    model,
    data,
    amounts=None,
    *,
    validation_data=None,
    selection="macs",
    criterion="reconstruction",
    recovery=None,
    by_accuracy=None,
    runs=50,
    check_only=False,
):
    """Measure what cuts of several amounts leave of a model, without any training.

    Channels are scored once. Every cut is made of the original, proved, refitted where the
    criterion can, else its statistics measured anew: the cut of amount a is what
    `prune(model, data, schedule=a, recovery=Recovery(epochs=0))` gives of the same data and seed.
    Labels are not needed; without them the metric is the agreement with the model.

    Args:
        model: a trained `keras.Model`; not touched.
        data: what `fit` takes, see `prune`; or a `datasets.Data`, whose test part judges.
        amounts: what to remove, numbers in (0, 1), with a budget of time also above 1, see
            `select_channels`; None: 0.1, 0.2, ... 0.8, as far as they can be reached.
        validation_data: what the cuts are judged on; None: `data` themselves, as they come.
        selection, criterion: see `select_channels`.
        recovery: a `Recovery`, whose task, steps and recalibration count; nothing is trained.
        by_accuracy: how much of the main metric a cut may lose, such as 0.02: the largest amount
            that loses no more is looked for between 0 and the largest of `amounts`, to 0.01.
        runs: how often the model and every cut are timed, in turns, as LiteRT files on one thread;
            0: not at all.
        check_only: whether to stop once all arguments are checked against model and data.

    Returns:
        A `report.TradeOff`: `render()` for a table, `save("trade_off.html")` for table and charts,
        `rows` for the figures; None with `check_only`.

    Raises:
        ValueError: for arguments that cannot work, known before anything is scored, and if a cut
            model differs from its masked twin.

    Example:

    >>> found = aip_tf.trade_off(model, train_data, (0.2, 0.4), validation_data=test_data)
    >>> print(found.render())
    """
    checking = failures.checking("`trade_off` cannot work with what it is given")
    with checking, _keras.keeping_random_states(model):
        check(_KINDS, locals())
        selection = selections.get(selection)
        is_open = amounts is None
        amounts = _AMOUNTS if is_open else _checked(amounts, selection)
        train, validation = _sides(data, validation_data)
        recovery = dataclasses.replace(recovery_from(recovery), epochs=0, keep="last")
        most = amounts[0 if is_open else -1]  # that must be within reach
        assignment = Assignment(model, train, validation, most, selection, criterion, recovery)
    if check_only:
        return None
    with _Cuts(assignment, runs) as cuts:
        for amount in reversed(amounts):
            with contextlib.suppress(*[OutOfReachError] if is_open else []):
                cuts.measure(amount)
        cuts.measure(0.0)  # last: before the first cut, `prune` reads no other data either
        largest = None if by_accuracy is None else _largest(cuts, by_accuracy)
        return TradeOff(cuts.reports(), by_accuracy, largest)


def _checked(amounts, selection):
    """The amounts as rising fractions, each once."""
    is_one = isinstance(amounts, str) or not isinstance(amounts, Iterable)
    given = [selections.final_fraction(x, selection) for x in ([amounts] if is_one else amounts)]
    wrong = [x for x in given if not _AMOUNT.accepts(x)]
    if wrong or not given or len(set(given)) < len(given):
        raise ValueError(
            f"Received amounts={shown(amounts)}. Expected fractions to remove, each in (0, 1) and "
            "named once, such as (0.2, 0.4, 0.6)."
        )
    return sorted(map(float, given))


def _sides(data, validation_data):
    if not isinstance(data, Data):
        return data, validation_data
    if validation_data is not None:
        raise ValueError(
            "Received a datasets.Data, which has a test part, and validation_data. Expected one "
            "of them: leave validation_data out, or give data.train."
        )
    return data.train, data.test


class _Cuts(contextlib.ExitStack):
    """The cuts of one model, made one by one of the same scores, batches and random numbers."""

    def __init__(self, assignment, runs):
        super().__init__()
        self._assignment, self._runs = assignment, runs
        self._task, self._graph = assignment.recovery.task, assignment.graph
        self._criterion = _Once(assignment.criterion)
        self._replay = Replay(assignment.train)
        self._random = None
        self._measured = {}

    def __enter__(self):
        self.callback(self._replay.forget)
        self.enter_context(_keras.keeping_random_states(self._assignment.teacher))
        self._timing = self.enter_context(Timing(self._graph.input_shapes))
        return super().__enter__()

    def measure(self, amount):
        """Make a cut, unless that was done; 0.0 is the model itself."""
        if amount in self._measured:
            return
        started = time.monotonic()
        with looks.reading(self._assignment.passes[0].dataset):
            graph = self._cut(amount) if amount else self._graph
        data = self._assignment.validation or self._assignment.train
        metrics = self._task.evaluate(graph.model, data)
        cost = Cost(graph)
        record = ModelRecord(cost.macs(), cost.parameters(), metrics)
        if self._runs:
            self._timing.add(amount, graph.plain_model)
        self._measured[amount] = record, time.monotonic() - started
        _log.info("%s (%.0f s)", self._in_words(amount, record), self._measured[amount][1])

    def loss(self, amount):
        """How much of the main metric a cut loses."""
        self.measure(amount)
        metric = self._task.main_metric
        before, after = (self._measured[x][0].metrics[metric] for x in (0.0, amount))
        return before - after if self._task.higher_is_better else after - before

    @property
    def amounts(self):
        """Those measured so far, rising."""
        return sorted(self._measured)

    def reports(self):
        """A `PruningReport` for every amount measured."""
        timed = self._timing.artefacts(0.0, self._runs) if self._runs else {}
        teacher, run = self._measured[0.0][0], {"main metric": self._task.main_metric}
        return {
            amount: PruningReport(
                teacher=teacher,
                student=record,
                seconds=seconds,
                run=run,
                deliveries=tuple(filter(None, [timed.get(amount)])),
            )
            for amount, (record, seconds) in sorted(self._measured.items())
        }

    def _cut(self, amount):
        """The graph of the cut model, which `prune` would make without training."""
        keep_masks = plan_cut(
            self._graph,
            amount,
            selection=self._assignment.selection,
            criterion=self._criterion,
            data=self._assignment.train,
            reference=self._graph,
        )
        self._begin_anew()
        smaller, _ = apply_cut(
            self._graph,
            keep_masks,
            self._assignment.inputs,
            data=self._replay.dataset,
            refit=getattr(self._assignment.criterion, "refit", None),
            num_batches=self._assignment.recovery.recalibration_batches,
        )
        return smaller

    def _begin_anew(self):
        """Every cut sees the batches and draws the random numbers that came after the scoring."""
        if self._random is None:
            self._random = _keras.random_state()
        _keras.set_random_state(self._random)
        self._replay.rewind()

    def _in_words(self, amount, record):
        quality = tables.format_metric(record.metrics, self._task.main_metric)
        cut = f"Amount {amount:.4g}" if amount else "The model itself"
        return (
            f"{cut}: {self._task.main_metric} {quality}, {record.macs:,} MACs, "
            f"{record.parameters:,} parameters"
        )


class _Once:
    """A criterion that looks at the data once."""

    def __init__(self, criterion):
        self.adds_up = getattr(criterion, "adds_up", False)
        self._score = functools.cache(lambda: criterion(*self._asked))

    def __call__(self, model, groups, data):
        self._asked = model, groups, data
        return self._score()


def _largest(cuts, tolerance):
    """The largest amount found that loses no more than a tolerance; None if none does."""
    passed = [amount for amount in cuts.amounts if cuts.loss(amount) <= tolerance]
    low = passed[-1]  # the model itself loses nothing
    beyond = [amount for amount in cuts.amounts if amount > low]
    high = beyond[0] if beyond else low
    while high - low > _STEP:
        middle = round((low + high) / 2, 4)
        low, high = (middle, high) if cuts.loss(middle) <= tolerance else (low, middle)
    return low or None

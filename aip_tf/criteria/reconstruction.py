"""The criterion "reconstruction": what the outputs lose when the other channels make up for one."""

import copy
import dataclasses
import logging

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.arguments import check, integer, number
from aip_tf.channels import find_channel_groups
from aip_tf.channels.members import entries_of, num_weights, variable_of
from aip_tf.criteria.base import Criterion
from aip_tf.reconstruction import (
    Change,
    Study,
    System,
    Trial,
    divide,
    first_inputs,
    num_inputs_of,
    num_of_some,
    removal_order,
)

_log = logging.getLogger("aip_tf")
_UNSEEN = 0.25
_SILENT = 1e-6  # nats: of the outputs' rounding
_FEWEST = 8
_MAX_BYTES = 2**28  # of refitted weights that wait for their trial
_KINDS = {
    "num_samples": integer(_FEWEST, or_none=True),
    "ridge": number("a number > 0, such as 1e-3", above=0),
    "capacity": number("a number >= 0, such as 0.25", least=0),
}


class Reconstruction(Criterion):
    """The criterion "reconstruction": how far outputs move without a channel, others refitted.

    1. *Observe*: one pass over unlabelled inputs gives the covariance of what each layer reads.
    2. *Order*: within a group the channel goes first whose loss the others can make up for best, by
       least squares in all layers that read it; then the next one, the others refitted. What each
       adds to the squared error follows from the covariance (`reconstruction.solving`).
    3. *Measure*: errors of different groups mean different things. So once for each group half of
       its channels are taken out, the readers refitted, and the divergence of the outputs measured
       (`reconstruction.Trial`), on inputs that no covariance has seen. Divergence over error is
       the group's factor. (Of a group with dead channels, of which that half says nothing, half of
       those that are left goes too.)
    4. *Leave room to learn*: what a network loses for good depends on the weights it has left. So a
       group that keeps the share s of its channels also costs about -c log(s) times its share of
       the network's weights; c is `capacity` times the sum of what step 3 measured. Ours; what
       chose it is in benchmarks/choices.md.

    The score of a channel is its error times the factor of its group and what it adds to step 4, in
    nats: such scores add up, so selections divide them by what a channel saves. `refit` then gives
    the layers of the cut model the weights that the scores supposed, and lets them make up for what
    a residual stream lost before them (He et al. 2017, arXiv 1707.06168, section 3.3).

    Layers of other kinds than convolutions and dense layers (recurrent ones, attention), and those
    whose weights a constraint holds, are counted by the size of their weights and not refitted.
    Frozen layers are: no training could mend them.

    Args:
        num_samples: how many inputs of `data` to look at; a quarter of them is for measuring, fewer
            of large ones, such as 64 images of 224 pixels. None: 1,024, or 512 of such images.
        ridge: share of the mean variance that is added to every variance; grows where a layer has
            few samples for its inputs.
        capacity: how much the weights that go count beside what was measured, >= 0, see step 4;
            0: not at all.

    Raises:
        ValueError: for other arguments; when called without data or with fewer than 8 inputs.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> images, groups = np.random.normal(size=(64, 4)), find_channel_groups(model)
    >>> criterion = Reconstruction()
    >>> (name, scores), = criterion(model, groups, images).items()
    >>> keep_masks = {name: scores > np.median(scores)}
    >>> smaller = aip_tf.prune_channels(model, keep_masks)
    >>> len(criterion.refit(model, smaller, keep_masks, images).layers)
    1
    """

    adds_up = True

    def __init__(self, num_samples=None, ridge=1e-3, capacity=0.25):
        super().__init__(normalize="none", aggregate="sum")
        check(_KINDS, locals())
        self.num_samples, self.ridge, self.capacity = num_samples, ridge, capacity
        self._forms = ()

    def for_task(self, task):
        told = copy.copy(self)
        told._forms = task.forms
        return told

    def get_config(self):
        return {name: getattr(self, name) for name in _KINDS}

    def check(self, inputs, num_batches):
        if num_batches >= 0:
            self._check_number(num_batches * num_inputs_of(inputs))

    def observe(self, model, groups, data):
        seen, unseen = self._batches(model, data)
        looked, measured = (sum(map(num_inputs_of, batches)) for batches in (seen, unseen))
        _log.info(
            "Scoring %d channel groups on %d inputs, measuring on %d.",
            len(groups),
            looked,
            measured,
        )
        trial = Trial(model, unseen, _shapes(unseen), self._forms)
        study = Study(model, groups, seen, self.ridge)
        rankings = [
            half.ranking(divergence)
            for some in _portions(_half_of(model, group, study) for group in groups)
            for half, divergence in _measured(some, trial, study)
        ]
        everything = max(1, model.count_params())
        room = self.capacity * sum(ranking.measured for ranking in rankings) / everything
        return {
            group.name: ranking.scores(room * num_weights(model, group))
            for group, ranking in zip(groups, rankings, strict=True)
        }

    def score(self, model, group, observed):
        return [observed[group.name]]

    def refit(self, before, after, keep_masks, data, groups=None):
        """Give the layers of a cut model that read cut channels the best weights; in place.

        Args:
            before: the model before the cut.
            after: `prune_channels(before, keep_masks)`.
            keep_masks: `{group name: bool (num_channels,)}`.
            data: as for scoring.
            groups: `find_channel_groups(before)`, if at hand.

        Returns:
            A `reconstruction.Refit`: what was refitted, what was not and why.
        """
        seen, unseen = self._batches(before, data)
        groups = groups or find_channel_groups(before, _shapes(seen))
        record = Study(before, groups, [*seen, *unseen], self.ridge).refit(after, keep_masks)
        for path, reason in (record.skipped | record.shrunk).items():
            _log.info("Refit of %s: %s.", path, reason)
        return record

    def _batches(self, model, data):
        """Inputs to look at, and inputs to measure on: two lists of batches."""
        size = _keras.fixed_batch(model)
        batches = [] if data is None else first_inputs(data, self.num_samples, size)
        count = sum(map(num_inputs_of, batches))
        self._check_number(count)
        # Every group is tried on each of them: ResNet-50 took six minutes for a quarter of its own.
        unseen, seen = divide(batches, min(num_of_some(batches), round(_UNSEEN * count)), size)
        if not seen:
            raise ValueError(
                f"The criterion 'reconstruction' received {count} inputs for a model that takes "
                f"batches of {size}. Expected at least {2 * size}: it looks at some of them and "
                "measures on others. criterion='l1' looks at no data."
            )
        return seen, unseen

    def _check_number(self, count):
        if count < _FEWEST:
            raise ValueError(
                f"The criterion 'reconstruction' received {count} inputs. Expected at least "
                f"{_FEWEST}, better {self.num_samples or 1024}: a tf.data.Dataset of batches or "
                "arrays; labels are not needed. criterion='l1' looks at no data."
            )


@dataclasses.dataclass(frozen=True)
class _Half:
    """In which order the channels of a group go, and half of them gone.

    Attributes:
        name: of the group.
        order: int (num_channels,), the channel that goes first in front.
        errors: float (num_channels,): what each adds to the squared error.
        num_gone: how many are gone: more than half where half of them move nothing.
        change: these gone, a `Change`.
    """

    name: str
    order: np.ndarray
    errors: np.ndarray
    num_gone: int
    change: Change

    def ranking(self, divergence):
        """Its `_Ranking`, now that it is known how far outputs move."""
        _log.debug("%s: %d gone cost %.4f nats", self.name, self.num_gone, divergence)
        gone = self.errors[: self.num_gone].sum()
        factor = max(divergence, 0.0) / max(gone, np.finfo(np.float32).tiny)
        # What goes later is not missed less; a trace of the order settles ties.
        rising = np.maximum.accumulate(self.errors) * (1 + 1e-6 * np.arange(len(self.order)))
        return _Ranking(self.order, factor * rising, self.num_gone)

    def with_gone(self, num_gone, study):
        """The same with so many gone."""
        change = _change(self.name, study, self.order[:num_gone])
        return dataclasses.replace(self, num_gone=num_gone, change=change)


@dataclasses.dataclass(frozen=True)
class _Ranking:
    """What the channels of a group cost, one after the other.

    Attributes:
        order: int (num_channels,), the channel that goes first in front.
        losses: float (num_channels,): what each adds, in nats, in that order.
        num_gone: how many were gone when it was measured.
    """

    order: np.ndarray
    losses: np.ndarray
    num_gone: int

    @property
    def measured(self):
        """The loss without them."""
        return self.losses[: self.num_gone].sum()

    def scores(self, room):
        """Importance of the channels, in nats: float (num_channels,).

        Args:
            room: what the group costs for being e times thinner.
        """
        left = len(self.order) - np.arange(len(self.order))
        scores = np.empty(len(self.order))
        scores[self.order] = self.losses + room / left
        return scores


def _half_of(model, group, study):
    fits = study.fits(study.readers_of([group.name]))
    systems = [system for fit in fits for system in fit.systems(group.name)]
    systems += _unseen_readers(model, group, study)
    order, errors = removal_order(systems, group.num_channels)
    num_gone = max(1, len(order) // 2)
    change = _change(group.name, study, order[:num_gone])
    return _Half(group.name, order, errors, num_gone, change)


def _change(name, study, gone):
    (size,) = (group.num_channels for group in study.groups if group.name == name)
    keep_masks = {name: ~np.isin(np.arange(size), gone)}
    fits = study.fits(study.readers_of([name]))
    return Change(keep_masks, [(fit.reader, *fit.refitted(keep_masks)) for fit in fits])


def _measured(halves, trial, study):
    """Each half, or more where nothing hears it, and how far outputs move without it."""
    divergences = trial.divergences([half.change for half in halves])
    for half, divergence in zip(halves, divergences, strict=True):
        if divergence < _SILENT and half.num_gone < len(half.order) - 1:
            half, divergence = _heard(half, trial, study)
        yield half, divergence


def _heard(half, trial, study):
    """A silent half with half of the rest gone too, until outputs move; and how far they do."""
    most = len(half.order) - 1
    last = half.with_gone(most, study)
    (divergence,) = trial.divergences([last.change])
    if divergence < _SILENT:  # dead channels, but for the one that stays
        return last, divergence
    while half.num_gone < most:
        half = half.with_gone((half.num_gone + most + 1) // 2, study)
        (divergence,) = trial.divergences([half.change])
        if divergence >= _SILENT:
            break
    return half, divergence


def _portions(halves):
    """Lists of as many as memory has room for their weights."""
    some, size = [], 0
    for half in halves:
        some.append(half)
        size += half.change.num_bytes
        if size > _MAX_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _unseen_readers(model, group, study):
    """Systems of the layers that are not refitted: as if their inputs had nothing in common.

    Where nothing reads the channels by weights, those that make them stand in.
    """
    members = [m for m in group.members if m.role == "consumer"]
    members = (
        [m for m in members if m.layer in study.others]
        if members
        else [m for m in group.members if m.role == "producer"]
    )
    for member in members:
        values = keras.ops.convert_to_numpy(variable_of(model, member))
        rows = entries_of(values, member)
        size = max(np.sum(rows**2), np.finfo(np.float32).tiny) / values.shape[-1]
        yield System(np.eye(len(rows)), rows / np.sqrt(size), member.channels)


def _shapes(batches):
    """Sizes of the inputs without the batch, in their structure."""
    return keras.tree.map_structure(lambda x: tuple(x.shape[1:]), batches[0])

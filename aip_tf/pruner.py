"""`prune`: the loop of cuts and recoveries."""

import dataclasses
import logging
import time

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras, criteria, interruption
from aip_tf import selection as selections
from aip_tf.channels import check_cut, find_channel_groups, prune_channels
from aip_tf.cost import CostModel
from aip_tf.game.distribution import share_batches
from aip_tf.progress import Progress
from aip_tf.recovery import Recovery, recalibrate
from aip_tf.report import GroupRecord, ModelRecord, PruningReport, RoundRecord
from aip_tf.run_state import RunState
from aip_tf.schedules import list_cuts
from aip_tf.selection import select_channels

__all__ = ["Recovery", "prune"]

_log = logging.getLogger("aip_tf")


def prune(
    model,
    train_data,
    validation_data=None,
    *,
    schedule=0.5,
    selection="macs",
    criterion="l1",
    recovery=None,
    run_dir=None,
):
    """Make a CNN smaller in a few rounds, and let it recover with the help of the original.

    Adversarial iterative pruning with knowledge transfer (arXiv 2108.13591): `model` is the
    teacher; its copy, the student, loses channels after the epochs that `schedule` names, and in
    between learns from the teacher (see `AdversarialDistiller`). After every cut the cut model is
    compared with its masked twin on a batch; a difference stops the run.

    Training runs under the `tf.distribute` strategy in whose scope `prune` is called.

    Args:
        model: a trained Functional or Sequential `keras.Model`; not touched. If it is compiled,
            its loss and metrics are used.
        train_data: `tf.data.Dataset` of (inputs, labels) batches with a known number of batches, or
            a tuple of arrays (inputs, labels).
        validation_data: the same, for the metrics in the report; None: none are measured.
        schedule: when to cut and how much: a float (the final amount, reached in three cuts), a
            tfmot `PruningSchedule` or a callable, see `aip_tf.schedules.list_cuts`. Amounts are
            fractions removed of the original.
        selection: what the amount means and where to cut, see `select_channels`.
        criterion: how channels are scored, see `select_channels`.
        recovery: a `Recovery`, how to train.
        run_dir: folder for the state of the run; the same call goes on from the last finished
            epoch after an interruption. None: nothing is written.

    Returns:
        `(student, report)`: a compiled plain `keras.Model` and its `PruningReport`.

    Raises:
        ValueError: for arguments that cannot work (known before training starts), for a run
            directory of another run, and if a cut model differs from its masked twin.

    Example:

    >>> student, report = aip_tf.prune(model, train_data, validation_data, schedule=0.6)
    >>> print(report.render())
    """
    recovery = recovery or Recovery()
    train_data, validation_data = _dataset(train_data), _dataset(validation_data)
    cuts = list_cuts(schedule, recovery.epochs)
    selection, criterion = selections.get(selection), criteria.get(criterion)
    settings = _settings(model, cuts, selection, criterion, recovery)
    batch = next(iter(train_data.take(1)))
    inputs = batch[0]
    recovery = recovery.for_model(model, batch)
    train_data, validation_data = map(recovery.task.prepare, (train_data, validation_data))
    criterion = criteria.for_task(criterion, recovery.task)
    _check_last_cut(model, cuts[-1].amount, selection, recovery, _input_shapes(model, inputs))
    state = RunState(run_dir, settings)
    if (report := state.read_report()) is not None:
        _log.info("The run in %s is complete; nothing is left to do.", run_dir)
        student = state.load_final()
        recovery.compile(student)
        return student, report
    loop = _Loop(model, train_data, validation_data, cuts, selection, criterion, recovery, state)
    return loop.run()


class _Loop:
    """One run of `prune`: the student and the records, moving from cut to cut."""

    def __init__(self, teacher, train, validation, cuts, selection, criterion, recovery, state):
        self.teacher = teacher
        self.train, self.validation = train, validation
        self.cuts = cuts
        self.selection, self.criterion = selection, criterion
        self.recovery = recovery
        self.state = state
        self.started = time.monotonic()
        # 11 samples: Keras' eager sum takes a gate (batch, 1, 1, 1) for a bias where heights match.
        self.batch = keras.tree.map_structure(lambda x: x[:11], next(iter(train.take(1)))[0])
        self.input_shape = _input_shapes(teacher, self.batch)
        if state.progress is None:
            self._start()
        else:
            self._resume()

    def _start(self):
        self.student = prune_channels(self.teacher, {}, self.input_shape)
        self.round, self.epoch, self.seconds = 0, 0, 0.0
        self.rounds, self.history, self.keep_masks = [], [], []
        cost = CostModel(self.teacher, self.input_shape)
        self.teacher_record = ModelRecord(cost.macs(), cost.parameters(), self._evaluate())
        self._log_cost("teacher", self.teacher_record, self.teacher_record.metrics)
        self.state.start_round(self.student, self._progress())

    def _resume(self):
        progress = self.state.progress
        self.round, self.epoch = progress["round"], progress["epoch"]
        self.seconds = progress["seconds"]
        self.history, self.keep_masks = progress["history"], progress["keep_masks"]
        self.student = self._replay()
        self.state.load_student(self.student)
        self.rounds = [_round_record(r) for r in progress["rounds"]]
        self.teacher_record = ModelRecord(**progress["teacher"])
        _log.info("Going on after %d epochs and %d cuts.", self.epoch, self.round)

    def _replay(self):
        """The teacher after all cuts so far: layers keep the names they have in this process."""
        student = prune_channels(self.teacher, {}, self.input_shape)
        for cut in self.keep_masks:
            groups = find_channel_groups(student, self.input_shape)
            masks = {groups[int(i)].name: np.array(keep, bool) for i, keep in cut.items()}
            student = prune_channels(student, masks, self.input_shape)
        return student

    def run(self):
        """Recover and cut in turn; returns the student and the report."""
        self._recover()
        while self.round < len(self.cuts):
            self._cut()
            self._recover()
        report = self._report()
        self.state.finish(self.student, report)
        self.recovery.compile(self.student)
        return self.student, report

    def _recover(self):
        """Train until the next cut, or to the end of the run."""
        last = self.round == len(self.cuts)
        end = self.recovery.epochs if last else self.cuts[self.round].epoch + 1
        first = self.cuts[self.round - 1].epoch + 1 if self.round else 0
        steps = (end - first) * int(self.train.cardinality())
        game = self.recovery.distiller(self.teacher, self.student, steps)
        self.state.restore(game)
        if self.epoch < end:
            game.fit(
                self.train,
                validation_data=self.validation,
                initial_epoch=self.epoch,
                epochs=end,
                shuffle=False,  # the dataset shuffles
                callbacks=[*self.recovery.callbacks, *self._callbacks(game, end)],
                verbose=0,
            )
        if self.rounds:
            self._finish_round()

    def _callbacks(self, game, end):
        last_batch = int(self.train.cardinality()) - 1

        def measure_statistics(batch, logs):
            if batch == last_batch and self.epoch == end - 1:  # the validation comes behind it
                recalibrate(self.student, self.train, self.recovery.recalibration_batches)

        yield Progress(self.recovery.epochs)
        yield keras.callbacks.LambdaCallback(
            on_train_batch_end=measure_statistics,
            on_epoch_end=lambda epoch, logs: self._finish_epoch(epoch, logs, game),
        )
        if self.state.events():
            yield keras.callbacks.TensorBoard(self.state.events())
        yield interruption.answering()

    def _finish_epoch(self, epoch, logs, game):
        self.epoch = epoch + 1
        self.history.append({"epoch": epoch, **{k: float(v) for k, v in (logs or {}).items()}})
        self.state.finish_epoch(game, self._progress())

    def _finish_round(self):
        after = {k[4:]: v for k, v in self.history[-1].items() if k.startswith("val_")}
        seconds = self._elapsed() - sum(r.seconds for r in self.rounds[:-1])
        record = dataclasses.replace(self.rounds[-1], metrics_after=after, seconds=seconds)
        self.rounds[-1] = record
        self._log_cost(f"round {self.round}/{len(self.cuts)}, recovered", record, after)

    def _cut(self):
        """Remove channels, prove the cut on a batch, measure the statistics anew, take records."""
        cut = self.cuts[self.round]
        keep_masks = select_channels(
            self.student,
            cut.amount,
            selection=self.selection,
            criterion=self.criterion,
            data=self.train,
            reference=self.teacher,
            input_shape=self.input_shape,
        )
        smaller = prune_channels(self.student, keep_masks, self.input_shape)
        error = check_cut(self.student, smaller, keep_masks, self.batch)
        recalibrate(smaller, self.train, self.recovery.recalibration_batches)
        groups = find_channel_groups(self.student, self.input_shape)
        places = {g.name: i for i, g in enumerate(groups)}
        self.keep_masks.append({places[n]: np.asarray(k).tolist() for n, k in keep_masks.items()})
        self.student = smaller
        self.round += 1
        cost = CostModel(self.student, self.input_shape)
        original = find_channel_groups(self.teacher, self.input_shape)
        self.rounds.append(
            RoundRecord(
                round=self.round,
                epoch=cut.epoch,
                amount=cut.amount,
                macs=cost.macs(),
                parameters=cost.parameters(),
                metrics_before=self._evaluate(),
                check_error=error,
                groups=_group_records(original, cost.groups),
            )
        )
        name = f"round {self.round}/{len(self.cuts)}, after epoch {cut.epoch}, cut"
        self._log_cost(name, self.rounds[-1], self.rounds[-1].metrics_before)
        self.state.start_round(self.student, self._progress())

    def _evaluate(self):
        """Validation metrics of the student."""
        if self.validation is None:
            return {}
        return self.recovery.task.evaluate(self.student, self.validation)

    def _elapsed(self):
        return self.seconds + time.monotonic() - self.started

    def _progress(self):
        return {
            "round": self.round,
            "epoch": self.epoch,
            "seconds": self._elapsed(),
            "history": self.history,
            "keep_masks": self.keep_masks,
            "rounds": [dataclasses.asdict(r) for r in self.rounds],
            "teacher": dataclasses.asdict(self.teacher_record),
        }

    def _report(self):
        final = self.rounds[-1]
        return PruningReport(
            teacher=self.teacher_record,
            student=ModelRecord(final.macs, final.parameters, final.metrics_after or {}),
            rounds=tuple(self.rounds),
            history=tuple(self.history),
            seconds=self._elapsed(),
            settings=self.state.settings,
        )

    def _log_cost(self, what, record, metrics):
        teacher = self.teacher_record
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        _log.info(
            "%s: %s MACs (%.1f%% kept), %s parameters (%.1f%% kept), %s (%.0f s)",
            what,
            f"{record.macs:,}",
            100 * record.macs / max(1, teacher.macs),
            f"{record.parameters:,}",
            100 * record.parameters / max(1, teacher.parameters),
            shown or "not evaluated",
            self._elapsed(),
        )


def _dataset(data):
    """Training or validation data as a finite dataset of batches."""
    if isinstance(data, tuple) and len(data) in (2, 3):
        size = len(keras.tree.flatten(data)[0])
        data = tf.data.Dataset.from_tensor_slices(data).shuffle(size, seed=0).batch(32)
    if data is None:
        return None
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            f"Received data of type {type(data).__name__}. Expected a tf.data.Dataset of (inputs, "
            "labels) batches or a tuple of arrays; aip_tf.datasets makes datasets."
        )
    size = int(data.cardinality())
    if size < 1:
        raise ValueError(
            f"Received a dataset of unknown or infinite size (cardinality {size}). Expected a "
            "finite one: apply tf.data.experimental.assert_cardinality."
        )
    return share_batches(data)


def _settings(model, cuts, selection, criterion, recovery):
    """What identifies a run, as plain values."""
    described = {"selection": selection, "criterion": criterion}
    described |= {f.name: getattr(recovery, f.name) for f in dataclasses.fields(recovery)}
    return {
        "parameters": model.count_params(),
        "cuts": [[cut.epoch, cut.amount] for cut in cuts],
        **{name: describe(value) for name, value in described.items() if name != "callbacks"},
    }


def describe(value):
    """A value of a setting as text or plain value: the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set):
        return [describe(v) for v in value]
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, type) or not hasattr(value, "__dict__") or hasattr(value, "__name__"):
        return getattr(value, "__name__", type(value).__name__)
    config = dict(value.get_config() if hasattr(value, "get_config") else vars(value))
    config.pop("name", None)  # Keras numbers names: they differ from process to process
    return {"class": type(value).__name__, **describe(config)}


def _input_shapes(model, inputs):
    """Shapes of a batch of inputs where the model leaves sizes open, else None: it knows them."""
    graph = _keras.graph_of(model)
    if all(None not in x.shape[1:] for x in graph.inputs):
        return None
    return [tuple(x.shape[1:]) for x in _keras.flat_inputs(graph, inputs)]


def _check_last_cut(model, amount, selection, recovery, input_shape):
    """Fail before training if it cannot be made (whatever the scores) or no transfer fit it."""
    budgeted = (selections.Macs, selections.Parameters, selections.Channels, selections.PerGroup)
    if isinstance(selection, budgeted):
        masks = select_channels(model, amount, selection=selection, input_shape=input_shape)
        if recovery.transfers:
            student = prune_channels(model, masks, input_shape)
            for transfer in recovery.transfers:
                transfer.check(model, student)


def _group_records(original, groups):
    """Kept channels of every original group, by name."""
    left = {g.name: g.num_channels for g in groups}
    return tuple(
        GroupRecord(g.name, g.num_channels, left.get(g.name, g.num_channels), g.reason)
        for g in original
    )


def _round_record(fields):
    groups = tuple(GroupRecord(**g) for g in fields["groups"])
    return RoundRecord(**{**fields, "groups": groups})

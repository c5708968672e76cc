"""`prune`: the loop of cuts and recoveries."""

import dataclasses
import logging

import keras

from aip_tf import failures, files
from aip_tf.arguments import FLAG, check
from aip_tf.assignment import Assignment
from aip_tf.books import Books
from aip_tf.channels import check_copy
from aip_tf.cutting import apply_cut, plan_cut, replay
from aip_tf.distribution import is_chief
from aip_tf.progress import Progress
from aip_tf.recovery import Recovery, recalibrate
from aip_tf.run_state import RunState, Status, replace
from aip_tf.saving import check_saving, read_report, save_report, save_student
from aip_tf.training import Best, train, trained_variables

_log = logging.getLogger("aip_tf")

__all__ = ["Recovery", "prune"]


def prune(
    model,
    train_data,
    validation_data=None,
    *,
    schedule=0.5,
    selection="macs",
    criterion="reconstruction",
    recovery=None,
    run_dir=None,
    overwrite=False,
    check_only=False,
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
        train_data: what `fit` takes, inputs and labels in one object: a `tf.data.Dataset` of
            (inputs, labels) batches, a tuple of arrays (inputs, labels), a PyDataset, a generator
            with `Recovery(steps_per_epoch=...)`; see `datasets.as_dataset`. Without labels, as a
            dataset of inputs alone or a tuple (inputs,), the transfers teach, and the metric is
            the agreement with the teacher, unless the validation data have labels.
        validation_data: the same, for the metrics in the report; None: none are measured.
        schedule: when to cut and how much: a float (the final amount, reached in three cuts), a
            tfmot `PruningSchedule` or a callable, see `aip_tf.schedules.list_cuts`. Amounts are
            fractions removed of the original.
        selection: what the amount means and where to cut, see `select_channels`.
        criterion: how channels are scored, see `select_channels`.
        recovery: a `Recovery`, how to train.
        run_dir: folder of the run; the same call goes on from the last snapshot after an
            interruption, see docs/runs.md. None: nothing is written.
        overwrite: whether a run with another model, other data or settings in that folder may be
            dropped, as far as they differ; otherwise it is refused.
        check_only: whether to stop once all arguments are checked against model and data.

    Returns:
        `(student, report)`: a compiled plain `keras.Model` and its `PruningReport`; None with
        `check_only`.

    Raises:
        ValueError: for arguments that cannot work (known before training starts), for a run
            directory of another run or one in which another process is at work, and if a cut model
            differs from its masked twin.

    Example:

    >>> student, report = aip_tf.prune(model, train_data, validation_data, schedule=0.6)
    >>> print(report.render())
    """
    with failures.checking("`prune` cannot work with what it is given"):
        check({"overwrite": FLAG, "check_only": FLAG}, locals())
        if run_dir is not None:
            files.check_folder(run_dir)
        assignment = Assignment(
            model, train_data, validation_data, schedule, selection, criterion, recovery
        )
        if run_dir is not None:
            check_saving(assignment.graph.prune({}), assignment.inputs)
    if check_only:
        return None
    with files.Lock(run_dir if is_chief() else None, "pruning"):
        state = RunState(
            run_dir,
            assignment.identity,
            assignment.passes,
            overwrite=overwrite,
            survives=assignment.survives,
        )
        return _Loop(assignment, state).run()


class _Loop:
    """One run of `prune`: the student, moving from cut to cut."""

    def __init__(self, assignment, state):
        self.assignment, self.state = assignment, state
        self.recovery, self.task = assignment.recovery, assignment.recovery.task
        self.status = status = state.status or Status()
        check_copy(assignment.graph, assignment.graph.prune({}), assignment.inputs)
        self.graph = replay(assignment.graph, status.cuts)
        self.books = Books(
            status, assignment.graph, self._evaluate, len(assignment.cuts), self.task.illustrate
        )
        if state.status is None and (doubt := self.task.doubt(self.books.teacher.metrics)):
            _log.warning(doubt)
        self.best = Best(self.task, status, state.path("best.npz"))
        # A snapshot inside a stretch is of the game, which is made by `_recover`.
        is_inside = status.epoch > status.begin or status.step > 0
        self.is_inside = is_inside and not status.recovered
        if state.status is not None and not self.is_inside:
            state.restore(self.student.variables)

    @property
    def student(self):
        return self.graph.model

    def run(self):
        """Recover and cut in turn; returns the student and the report."""
        status, cuts = self.status, self.assignment.cuts
        if self._is_complete():
            _log.info("The run in '%s' is complete; nothing is left to do.", self.state.folder)
        else:
            self.state.forget("student.keras", "report.json", "report.html")  # of another run
            if self.state.status is not None:
                _log.info("Going on after %d epochs and %d cuts.", status.epoch, status.round)
        while not self._is_complete():
            if status.recovered:
                self._cut(cuts[status.round])
            else:
                self._recover()
        return self._deliver()

    def _is_complete(self):
        return self.status.recovered and self.status.round == len(self.assignment.cuts)

    def _recover(self):
        """Train until the next cut, or to the end of the run; then measure what came of it."""
        status = self.status
        if length := self.assignment.lengths[status.round]:
            self._train(length)
        self.books.recovered(self.student)
        status.recovered, status.stopped = True, False
        folder = f"round_{status.round:02d}"
        if self.state.folder is not None:
            replace(self.state.path(f"{folder}/student.keras"), self.student.save)
        self._save(folder)

    def _train(self, length):
        """The game for some epochs; then the statistics are measured anew."""
        status, assignment = self.status, self.assignment
        steps = length * int(assignment.train.cardinality())
        game = self.recovery.distiller(assignment.graph.plain_model, self.student, steps)
        if self.is_inside:
            self.state.restore(trained_variables(game))
            self.is_inside = False
        else:
            game.balance(assignment.inputs)
        keeps_best = self.recovery.keep == "best" and status.round == len(assignment.cuts)
        train(
            game,
            assignment.train,
            status,
            self.state,
            status.begin + length,
            validation=assignment.validation,
            callbacks=[*self.recovery.callbacks, Progress(self.recovery.epochs), *self._events()],
            on_epoch=self._note_best if keeps_best else None,
        )
        if keeps_best:
            self.best.put_back(self.student)
        # Behind everything that may have changed the weights: averages, early stopping, callbacks.
        recalibrate(self.student, assignment.train, self.recovery.recalibration_batches)

    def _cut(self, cut):
        """Remove channels, prove the cut on a batch, refit, measure the statistics anew."""
        assignment, status = self.assignment, self.status
        keep_masks = plan_cut(
            self.graph,
            cut.amount,
            selection=assignment.selection,
            criterion=assignment.criterion,
            data=assignment.train,
            reference=assignment.graph,
        )
        self.graph, record = apply_cut(
            self.graph,
            keep_masks,
            assignment.inputs,
            data=assignment.train,
            refit=getattr(assignment.criterion, "refit", None),
            num_batches=self.recovery.recalibration_batches,
        )
        status.cuts.append(record.keep_masks)
        status.round, status.recovered, status.begin = (
            status.round + 1,
            False,
            status.epoch,
        )
        self.books.cut(self.graph, cut.amount, record.check_error)
        self._save()

    def _deliver(self):
        """Write the student and the report of a complete run, unless they are there."""
        assignment, path = self.assignment, self.state.path
        save_student(path("student.keras"), self.student, assignment.inputs, self.recovery)
        written = read_report(path("report.json"))
        report = self.books.report(self.graph, assignment.settings, assignment.describe())
        if written is not None:  # a second start: what was exported since is entered there
            entered = {"artefacts": written.artefacts, "deliveries": written.deliveries}
            report = dataclasses.replace(report, **entered)
        save_report(path("report.json"), report)
        return self.student, report

    def _evaluate(self, model):
        """Validation metrics of a model, by name."""
        data = self.assignment.validation
        return {} if data is None else self.task.evaluate(model, data)

    def _note_best(self, logs):
        metrics = {k[4:]: v for k, v in logs.items() if k.startswith("val_")}
        if self.task.main_metric not in metrics:  # a task may measure more than `fit` does
            metrics = self._evaluate(self.student)
        self.best.note(metrics, self.student)

    def _events(self):
        """Logs for TensorBoard."""
        if self.state.folder is not None and is_chief():
            yield keras.callbacks.TensorBoard(str(self.state.path("events")))

    def _save(self, place=None):
        self.books.tick()
        self.status.passes = [passes.count for passes in self.assignment.passes]
        self.state.save(self.status, self.student.variables, place=place)

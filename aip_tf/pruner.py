"""`prune`: the loop of cuts and recoveries."""

import logging

from aip_tf import _keras, failures, files
from aip_tf.arguments import FLAG, check
from aip_tf.assignment import Assignment
from aip_tf.books import Books
from aip_tf.channels import check_copy
from aip_tf.cutting import replay
from aip_tf.distribution import is_chief
from aip_tf.recovery import Recovery
from aip_tf.run_state import RunState, Status, replace
from aip_tf.saving import check_saving, save_report, save_student
from aip_tf.training import recover

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
    """Make a CNN smaller, in one cut or several, and let it recover with the help of the original.

    Adversarial iterative pruning with knowledge transfer (arXiv 2108.13591): `model` is the
    teacher; its copy, the student, loses channels after the epochs that `schedule` names, and in
    between learns from the teacher (see `AdversarialDistiller`). After every cut the cut model is
    compared with its masked twin on a batch; a difference stops the run.

    Training runs under the `tf.distribute` strategy in whose scope `prune` is called.

    Args:
        model: a trained `keras.Model`; not touched (a subclassed one: docs/channels.md). If it is
            compiled, its loss and metrics are used.
        train_data: what `fit` takes, inputs and labels in one object: a `tf.data.Dataset` of
            (inputs, labels) batches, a tuple of arrays (inputs, labels), a PyDataset, a generator
            with `Recovery(steps_per_epoch=...)`; see `datasets.as_dataset`. Without labels, as a
            dataset of inputs alone or a tuple (inputs,), the transfers teach, and the metric is
            the agreement with the teacher, unless the validation data have labels.
        validation_data: the same, for the metrics in the report; None: none are measured.
        schedule: when to cut and how much: a float (the final amount, up to a half in one cut), a
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
    checking = failures.checking("`prune` cannot work with what it is given")
    with checking, _keras.keeping_random_states(model):
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
        self.status = status = state.status or Status()
        check_copy(assignment.graph, assignment.graph.prune({}), assignment.inputs)
        self.graph = replay(assignment.graph, status.cuts)
        task, num_cuts = assignment.recovery.task, len(assignment.cuts)
        self.books = Books(status, assignment.graph, assignment.evaluate, num_cuts, task.illustrate)
        if state.status is None and (doubt := task.doubt(self.books.teacher.metrics)):
            _log.warning(doubt)
        if state.is_waiting and not status.is_inside:  # inside, `recover` makes what is restored
            state.restore(self.graph.model.variables)

    def run(self):
        """Recover and cut in turn; returns the student and the report."""
        if self._is_complete():
            _log.info("The run in '%s' is complete; nothing is left to do.", self.state.folder)
        else:
            self.state.forget("student.keras", "report.json", "report.html")  # of another run
            if self.state.status is not None:
                _log.info(
                    "Going on after %d epochs and %d cuts.", self.status.epoch, self.status.round
                )
        while not self._is_complete():
            if self.status.recovered:
                self._cut(self.assignment.cuts[self.status.round])
            else:
                self._recover()
        return self._deliver()

    def _is_complete(self):
        return self.status.recovered and self.status.round == len(self.assignment.cuts)

    def _recover(self):
        """Train until the next cut, or to the end of the run; then measure what came of it."""
        status, student = self.status, self.graph.model
        if self.assignment.lengths[status.round]:
            with _keras.keeping_random_states(self.assignment.teacher):
                recover(student, self.assignment, status, self.state)
        self.books.recovered(student)
        self._compare_with_cut()
        status.recovered, status.stopped = True, False
        folder = f"round_{status.round:02d}"
        if self.state.folder is not None:
            replace(self.state.path(f"{folder}/student.keras"), student.save)
        self._save(folder)

    def _compare_with_cut(self):
        """Say so where training has made the student worse than its cut was, by a hundredth."""
        rounds, recovery = self.books.rounds, self.assignment.recovery
        if not rounds or not rounds[-1].metrics_after:
            return
        both = rounds[-1].metrics_before, rounds[-1].metrics_after
        cut, now = (metrics[recovery.task.main_metric] for metrics in both)
        if recovery.task.is_better(*both) and abs(cut - now) > 0.01 * abs(cut):
            is_last = self.status.round == len(self.assignment.cuts)
            would = recovery.keep == "last" and is_last
            _log.warning(
                "The student is less good than straight after its cut: %s %.4f, then %.4f. More "
                "epochs or images may help%s.",
                recovery.task.main_metric,
                cut,
                now,
                "; keep='best' would have kept the cut" if would else "",
            )

    def _cut(self, cut):
        """Remove channels, prove the cut on a batch, refit, measure the statistics anew."""
        assignment, status = self.assignment, self.status
        self.graph, record = assignment.cut(self.graph, cut.amount)
        status.cut(record.keep_masks)
        self.books.cut(self.graph, cut.amount, record.check_error)
        self._save()

    def _deliver(self):
        """Write the student and the report of a complete run, unless they are there."""
        assignment, path, student = self.assignment, self.state.path, self.graph.model
        save_student(path("student.keras"), student, assignment.inputs, assignment.recovery)
        # Nothing is read back from a report, which may have been edited: `experiment` enters anew
        # what was exported since, from a record of its own.
        report = self.books.report(self.graph, assignment.settings, assignment.describe())
        save_report(path("report.json"), report)
        return student, report

    def _save(self, place=None):
        self.books.tick()
        self.status.passes = [passes.count for passes in self.assignment.passes]
        self.state.save(self.status, self.graph.model.variables, place=place)

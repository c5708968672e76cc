"""The books of a run: what was cut, what it cost, what it gained, and what ran.

They are kept in the run's `Status`, as plain values, so that they survive with its snapshots.
"""

import dataclasses
import logging
import platform
import sys
import time

from aip_tf.cost import Cost, whole_layers
from aip_tf.report import GroupRecord, LayerRecord, ModelRecord, PruningReport, RoundRecord
from aip_tf.text import when

_log = logging.getLogger("aip_tf")


class Books:
    """Keeps the records of one run.

    Args:
        status: the `Status` that holds them.
        teacher: `ChannelGraph` of the original model.
        evaluate: `evaluate(model) -> {metric: value}` on the validation data.
        num_cuts: how many cuts there will be.
        illustrate: `illustrate(model) -> pictures`, see `Task.illustrate`.
    """

    def __init__(self, status, teacher, evaluate, num_cuts, illustrate=lambda model: {}):
        self.status, self._illustrate = status, illustrate
        self._evaluate, self._num_cuts = evaluate, num_cuts
        self._original = teacher
        self._started = time.monotonic() - status.seconds
        if "teacher" not in status.records:
            status.records |= {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "rounds": []}
            status.records["teacher"] = dataclasses.asdict(self._measure(teacher))
            self._show("teacher", teacher.model)
            self._log("teacher", self.teacher, self.teacher.metrics)

    @property
    def teacher(self):
        return ModelRecord(**self.status.records["teacher"])

    @property
    def rounds(self):
        return tuple(map(_round_record, self.status.records["rounds"]))

    def tick(self):
        """Note the time."""
        self.status.seconds = time.monotonic() - self._started

    def cut(self, student, amount, check_error):
        """Enter a cut, made after the last finished epoch; `student`: its `ChannelGraph`."""
        measured = self._measure(student)
        record = RoundRecord(
            round=self.status.round,
            epoch=self.status.epoch - 1,
            amount=amount,
            macs=measured.macs,
            parameters=measured.parameters,
            metrics_before=measured.metrics,
            check_error=check_error,
            groups=_group_records(self._original.groups, student.groups),
        )
        self.status.records["rounds"].append(dataclasses.asdict(record))
        self._show("student after the last cut", student.model)
        self.tick()
        name = f"round {record.round}/{self._num_cuts}, {when(record.epoch)}, cut"
        self._log(name, record, record.metrics_before)

    def recovered(self, student):
        """Enter how good the student is after its recovery."""
        if not self.rounds:
            self.tick()
            return
        metrics = self._evaluate(student)
        self.tick()
        self._show("student, recovered", student)
        last = self.status.records["rounds"][-1]
        before = sum(record.seconds for record in self.rounds[:-1])
        last |= {"metrics_after": metrics, "seconds": self.status.seconds - before}
        self._log(f"round {last['round']}/{self._num_cuts}, recovered", self.rounds[-1], metrics)

    def report(self, student, settings, run):
        """The `PruningReport` of a complete run.

        Args:
            student: its `ChannelGraph`.
            settings: what the run was asked to do, by name.
            run: further facts about what ran, by name.
        """
        final = self.rounds[-1]
        return PruningReport(
            teacher=self.teacher,
            student=ModelRecord(final.macs, final.parameters, final.metrics_after or {}),
            rounds=self.rounds,
            history=tuple(self.status.history),
            seconds=self.status.seconds,
            settings=settings,
            pictures=self.status.records.get("pictures", {}),
            layers=_layer_records(Cost(self._original), Cost(student)),
            run={**run, "date": self.status.records["date"], "versions": _versions()},
        )

    def _measure(self, graph):
        cost = Cost(graph)
        # Of a subclassed model with several outputs metrics have other names than its student's.
        metrics = self._evaluate(graph.plain_model)
        return ModelRecord(cost.macs(), cost.parameters(), metrics)

    def _show(self, who, model):
        """Enter what a model finds on a few samples, if its task has pictures."""
        shown = self._illustrate(model)
        if shown:
            found = {"ground truth": shown.pop("truth"), who: shown.pop("found")}
            pictures = self.status.records.setdefault("pictures", {**shown, "found": {}})
            pictures["found"] |= found

    def _log(self, what, record, metrics):
        teacher = self.teacher
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        _log.info(
            "%s: %s MACs (%.1f%% kept), %s parameters (%.1f%% kept), %s (%.0f s)",
            what,
            f"{record.macs:,}",
            100 * record.macs / max(1, teacher.macs),
            f"{record.parameters:,}",
            100 * record.parameters / max(1, teacher.parameters),
            shown or "not evaluated",
            self.status.seconds,
        )


def _versions():
    packages = {name: sys.modules[name].__version__ for name in ("aip_tf", "keras", "tensorflow")}
    return {**packages, "python": platform.python_version()}


def _group_records(original, groups):
    """Kept channels of every original group, by name."""
    left = {g.name: g.num_channels for g in groups}
    return tuple(
        GroupRecord(g.name, g.num_channels, left.get(g.name, g.num_channels), g.reason)
        for g in original
    )


def _layer_records(original, student):
    """MACs of every layer, of two `Cost`s; cuts do not change the paths of layers."""
    left = student.layer_macs()
    reasons = {path: reason for path, _, _, reason in whole_layers(original)}
    return tuple(
        LayerRecord(path, macs, left.get(path, macs), reasons.get(path, ""))
        for path, macs in original.layer_macs().items()
    )


def _round_record(fields):
    groups = tuple(GroupRecord(**group) for group in fields["groups"])
    return RoundRecord(**{**fields, "groups": groups})

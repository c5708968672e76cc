"""The proof of delivered files: each is run by its runtime on the same samples as the model."""

import ast
import contextlib
import dataclasses
import hashlib
import logging

import numpy as np

from aip_tf import files
from aip_tf.deploy.judging import Judge
from aip_tf.deploy.source import answer_in_parts
from aip_tf.latency import compare_latency
from aip_tf.report.artefacts import Artefact
from aip_tf.task import Task

_log = logging.getLogger("aip_tf")


def prove(source, written, samples, task=None):
    """Run files on the same samples as the Keras model that they came from.

    Args:
        source: the `Source`.
        written: {name: (`Format`, path)}.
        samples: iterable of `Batch`es.
        task: a `Task`; None: read from the model and the first batch, if that has labels.

    Returns:
        A list with an `Artefact` for each, at the path where it is now.

    Raises:
        ValueError: if the model's own outputs are not finite.
    """
    trials = {name: _Trial(name, *each) for name, each in written.items()}
    judge = None
    for batch in samples:
        if judge is None:
            task = _task_of(source.model, batch, task)
            judge = Judge(task, source.model)
            for trial in trials.values():
                trial.judge = Judge(task, source.model)
        expected = answer_in_parts(source.answer, batch.feeds, source.batch_size)
        _check_finite(expected)
        judge.see(batch, expected, expected)
        for trial in trials.values():
            trial.see(batch, expected)
    if task is not None:
        judge.measure(lambda feeds: answer_in_parts(source.answer, feeds, source.batch_size))
        for trial in trials.values():
            trial.measure()
    metric = task.main_metric if task is not None and judge.metrics else ""
    return [trial.artefact(judge.metrics, metric) for trial in trials.values()]


class _Trial:
    """One file, run by its runtime until that fails."""

    def __init__(self, name, format_, path):
        self.name, self.format, self.path = name, format_, path
        self.program = self.judge = None
        self.error = ""
        with self._runtime():
            self.program = format_.open(path)

    @contextlib.contextmanager
    def _runtime(self):
        """What the runtime raises is the file's fault."""
        try:
            yield
        except Exception as error:  # runtimes raise many types
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.error = f"{self.format.runtime} cannot run it ({reason})."

    def see(self, batch, expected):
        """Run a `Batch`."""
        if not self.error:
            with self._runtime():
                self.judge.see(batch, expected, self.program.answer(batch.feeds))

    def measure(self):
        """What the task measures on data of its own."""
        if not self.error:
            with self._runtime():
                self.judge.measure(self.program.answer)

    def artefact(self, keras_metrics, main_metric):
        """What came of it."""
        judge = self.judge
        artefact = Artefact(
            format=self.name,
            path=str(self.path),
            runtime=self.format.runtime,
            num_bytes=num_bytes(self.path),
            sha256=digest(self.path),
            signature={} if self.error else self.program.describe(),
            num_samples=judge.num_samples,
            max_absolute_difference=judge.max_absolute_difference,
            max_relative_difference=judge.max_relative_difference,
            tolerance=self.format.tolerance,
            agreement=judge.agreement,
            metrics=judge.metrics,
            keras_metrics=keras_metrics,
            main_metric=main_metric,
        )
        faults = [self.error] if self.error else _faults(artefact, self.format)
        return dataclasses.replace(artefact, faults=tuple(faults))


def _task_of(model, batch, task):
    """The task read from the model and a batch; None without labels, or where they do not fit."""
    if not batch.truth:
        return None
    try:
        return (task or Task()).read(model, (batch.inputs, *batch.truth))
    except ValueError as error:
        _log.warning("The delivered files are not evaluated: %s", error)
        return None


def _check_finite(expected):
    broken = [name for name, value in expected.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"Received a model whose outputs {broken} are not finite on the check data. "
            "Expected finite numbers, for nothing can be compared with NaN or infinity. "
            "Check the model's weights and the range of the data."
        )


def _faults(artefact, format_):
    """Why an artefact is not good enough, in sentences."""
    relative, absolute = artefact.max_relative_difference, artefact.max_absolute_difference
    if not relative <= artefact.tolerance:  # NaN is no number below it
        hint = "; an output is missing or has another shape" if np.isinf(relative) else ""
        yield (
            f"Its outputs differ from the Keras model's by {relative:.3g} of the largest output "
            f"({absolute:.3g} absolute{hint}), more than the tolerance {artefact.tolerance:.3g}."
        )
    metric, limit = artefact.main_metric, format_.max_loss
    if limit is not None and artefact.quality is not None:
        before = artefact.keras_metrics[metric]
        # Which way is better the task knows; a limit in points is for what lies in 0 to 1.
        if abs(artefact.quality - before) > limit and artefact.quality < before:
            yield (
                f"Its {metric} is {artefact.quality:.4f} on {artefact.num_samples} samples, the "
                f"Keras model's {before:.4f}: more than {limit:g} lost."
            )


def num_bytes(path):
    """The size of a file; of a folder, that of all its files."""
    return sum(file.stat().st_size for file in _files(path))


def digest(path):
    """The sha256 of a file; of a folder, that of the names and sums of its files."""
    if path.is_file():
        return files.digest(path)
    lines = [f"{files.digest(x)}  {x.relative_to(path).as_posix()}\n" for x in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path):
    return [path] if path.is_file() else sorted(x for x in path.rglob("*") if x.is_file())


def time_together(artefact, teacher, format_, runs):
    """Both artefacts with what they take, timed in turns on one thread where the runtime can.

    Args:
        artefact, teacher: `Artefact`s of one format; `teacher` may be None.
        format_: the `Format`.
        runs: how often each is timed.

    Returns:
        `(artefact, teacher)` with latency and, if there is a teacher, the speed-up. Inputs of open
        size, or batches of two sizes, are not timed.
    """
    subjects = {"teacher": teacher, "student": artefact}
    subjects = {name: x for name, x in subjects.items() if x is not None and x.signature}
    inputs = {name: _inputs_of(x) for name, x in subjects.items()}
    shapes = [shape for each in inputs.values() for _, shape in each.values()]
    sizes = {shape[0] for shape in shapes} - {None}
    if len(sizes) > 1 or any(None in shape[1:] for shape in shapes):
        return artefact, teacher
    size = max(sizes, default=1)
    found = compare_latency(
        {n: format_.timed(x.path, _feeds(inputs[n], size)) for n, x in subjects.items()},
        batch_size=size,
        runs=runs,
    )
    timed = {
        name: dataclasses.replace(
            x,
            latency=quartiles(found.latencies[name], "_ms"),
            batch_size=size,
            num_threads=found.latencies[name].num_threads,
        )
        for name, x in subjects.items()
    }
    faster = found.speed_ups.get("student")
    speed_up = quartiles(faster) if faster else {}
    return dataclasses.replace(timed["student"], speed_up=speed_up), timed.get("teacher", teacher)


def _inputs_of(artefact):
    """{name: ("float32", (None, 8, 8, 1))} of {name: "float32 (None, 8, 8, 1)"}."""
    pairs = {name: text.partition(" ") for name, text in artefact.signature["inputs"].items()}
    return {name: (dtype, ast.literal_eval(shape)) for name, (dtype, _, shape) in pairs.items()}


def _feeds(inputs, size):
    """A batch for one file, by its own names: teacher and student may call an input differently."""
    return {name: _values(dtype, (size, *shape[1:])) for name, (dtype, shape) in inputs.items()}


def _values(dtype, shape):
    values = np.random.default_rng(0).standard_normal(shape)
    return values.astype(dtype) if "float" in dtype else np.ones(shape, dtype)


def quartiles(values, unit=""):
    """A `Latency` or `SpeedUp` as records hold it."""
    names = ("median", "lower_quartile", "upper_quartile")
    return {name: getattr(values, name + unit) for name in names}

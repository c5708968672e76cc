"""`compare_files`: delivered files beside each other, whoever wrote them."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from aip_tf import files as disk
from aip_tf.arguments import check, integer, shown
from aip_tf.deploy import truth
from aip_tf.deploy.formats import KerasFile, Onnx, SavedModel, TFLite
from aip_tf.deploy.proof import num_bytes
from aip_tf.deploy.source import quiet
from aip_tf.latency import LatencyComparison, compare_latency
from aip_tf.text import text_table

_FORMATS = {".keras": KerasFile, ".tflite": TFLite, ".onnx": Onnx}
_KNOWN = ("file", "runtime", "bytes", "difference")
_TIMED = ("milliseconds", "quartiles", "faster", "processor ms", "faster")
_KINDS = {"runs": integer(0), "batch_size": integer(1)}


@dataclasses.dataclass(frozen=True)
class FileComparison:
    """Several files, timed in turns.

    Attributes:
        runtimes: `{name: what ran it}`, in the order given; the first file is the reference.
        num_bytes: the size of each; of a folder, that of all its files.
        differences: the largest difference of each from the first one's outputs on the data, else
            on the same random inputs, relative to the largest output; only of files with the same
            signature.
        times: the `LatencyComparison`; None if nothing was timed.
        metric: "accuracy", with data that have labels; with others "agreement", the share of
            answers that name the class which the first file names; "" without data.
        qualities: `{name: the metric}`, of each by the runtime that runs it.
        num_samples: how many there were.
    """

    runtimes: dict[str, str]
    num_bytes: dict[str, int]
    differences: dict[str, float]
    times: LatencyComparison | None
    metric: str = ""
    qualities: dict[str, float] = dataclasses.field(default_factory=dict)
    num_samples: int = 0

    def render(self) -> str:
        """Returns a table: file, runtime, bytes, difference, quality, milliseconds, times faster.

        The last two columns are of the processor time, all threads together.
        """
        header = [*_KNOWN, *([self.metric] if self.qualities else [])]
        header += _TIMED if self.times else ()
        return text_table(header, map(self._row, self.runtimes), align="<<" + ">" * len(header[2:]))

    def _row(self, name):
        difference = self.differences.get(name)
        cells = [name, self.runtimes[name], f"{self.num_bytes[name]:,}"]
        cells.append("" if difference is None else f"{difference:.1e}")
        if self.qualities:
            cells.append(f"{self.qualities[name]:.4f}" if name in self.qualities else "")
        if self.times is None:
            return cells
        latency, faster = self.times.latencies[name], self.times.speed_ups.get(name)
        quartiles = f"{latency.lower_quartile_ms:.3g} to {latency.upper_quartile_ms:.3g}"
        return [
            *cells,
            f"{latency.median_ms:.3g}",
            quartiles,
            f"{faster.median:.2f}x" if faster else "",
            f"{latency.processor_ms:.3g}",
            f"{faster.processor:.2f}x" if faster else "",
        ]


def compare_files(files, *, data=None, runs=50, batch_size=1) -> FileComparison:
    """Time files by the runtimes that will run them, in turns, and compare what they answer.

    LiteRT and ONNX Runtime use one thread, Keras and TensorFlow all that they may.

    Args:
        files: paths of `.keras`, `.tflite` and `.onnx` files and folders of SavedModels, or
            `{name: path}`; the first is the reference.
        data: test data, as `fit` takes them, or a `datasets.Data`, whose test part counts: all of
            them go through every file. Where labels name classes, so does the accuracy; without
            labels the first file's answers stand in for them. None: no quality is measured.
        runs: how often each is timed; 0: not at all.
        batch_size: samples per timed run; sizes that a file fixes must be this.

    Raises:
        ValueError: for no file, one that is missing or of another kind, one that its runtime does
            not open, inputs of open size, or data that do not fit a file.

    Example:

    >>> print(compare_files(["teacher/model.tflite", "model.tflite"], data=(x, y)).render())
    """
    check(_KINDS, locals())
    opened = {name: _opened(path) for name, path in _named(files).items()}
    feeds = {name: file.feeds(batch_size) for name, file in opened.items()}
    differences, quality = _answered(opened, feeds) if data is None else _judged(opened, data)
    times = None
    if runs:
        timed = {name: file.timed(feeds[name]) for name, file in opened.items()}
        times = compare_latency(timed, batch_size=batch_size, runs=runs)
    return FileComparison(
        {name: file.format.runtime for name, file in opened.items()},
        {name: num_bytes(file.path) for name, file in opened.items()},
        differences,
        times,
        **quality,
    )


def _answered(opened, feeds):
    """The differences on one batch for each file; nothing is known of their quality."""
    first, *others = opened
    differences = _Differences(opened)
    differences.see({name: opened[name].program.answer(feeds[name]) for name in (first, *others)})
    return differences.relative(), {}


def _judged(opened, data):
    """The differences on all data, and the quality as fields of a `FileComparison`."""
    differences = _Differences(opened)
    decisions = {name: truth.Decisions(file.path) for name, file in opened.items()}
    labels, count = [], 0
    for inputs, given in truth.batches(data):
        answers = {name: file.answer(inputs) for name, file in opened.items()}
        differences.see(answers)
        for name, values in answers.items():
            decisions[name].see(values)
        count += len(keras.tree.flatten(inputs)[0])
        labels += [] if given is None else [given]
    return differences.relative(), {
        "metric": "accuracy" if labels else "agreement",
        "qualities": _qualities(decisions, labels),
        "num_samples": count,
    }


def _qualities(decisions, labels):
    """{name: how often a file names the right class}; without labels, that of the first file."""
    found = {name: each.classes() for name, each in decisions.items()}
    expected = next(iter(found.values()))
    if labels:
        whole = _together(labels)
        return {
            name: float(np.mean(found[name] == decisions[name].labels(whole))) for name in found
        }
    return {
        name: float(np.mean(classes == expected))
        for name, classes in found.items()
        if classes is not None and expected is not None and classes.shape == expected.shape
    }


def _together(labels):
    if keras.tree.is_nested(labels[0]):
        raise ValueError(
            "Received labels in a structure of several arrays. Expected one array, whose labels "
            "name classes. Give inputs alone: then only answers are compared."
        )
    return np.concatenate(labels)


class _Differences:
    """How far answers are from the first file's, of those that take the same inputs."""

    def __init__(self, opened):
        takes = {name: file.program.describe()["inputs"] for name, file in opened.items()}
        first, *others = takes
        self._first = first
        self._found = {name: [] for name in others if takes[name] == takes[first]}
        self._largest = {}

    def see(self, answers):
        """Note the answers to a batch, {name of the file: {name of the output: array}}."""
        expected = answers[self._first]
        for output, values in expected.items():
            largest = np.max(np.abs(values), initial=0.0)
            self._largest[output] = max(self._largest.get(output, 0.0), largest)
        for name, found in self._found.items():
            if _shapes(answers[name]) == _shapes(expected):
                pairs = ((n, np.abs(answers[name][n] - x)) for n, x in expected.items())
                found += [(n, np.max(x, initial=0.0)) for n, x in pairs]

    def relative(self):
        """{name: the largest difference, relative to the largest output}."""
        return {
            name: float(np.max([value / max(self._largest[n], 1e-30) for n, value in found]))
            for name, found in self._found.items()
            if found
        }


def _shapes(answers):
    return {name: values.shape for name, values in answers.items()}


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    format: object
    program: object

    def feeds(self, batch_size):
        """Seeded random values for every input."""
        generator = np.random.default_rng(0)
        feeds = {}
        for name, (dtype, (first, *sizes)) in self.program.inputs.items():
            if None in sizes or first not in (None, batch_size):
                raise ValueError(
                    f"Received '{self.path}', whose input {name!r} has the shape "
                    f"{(first, *sizes)}, and batch_size={batch_size}. Expected known sizes and "
                    "that batch size. Deliver it at a size: export_model(input_shapes=[...])."
                )
            shape = (batch_size, *sizes)
            is_float = "float" in dtype
            values = generator.standard_normal(shape) if is_float else np.ones(shape)
            feeds[name] = values.astype(dtype)
        return feeds

    def answer(self, inputs):
        """What it answers to a batch of data."""
        feeds = truth.feeds_of(self.program, inputs, self.path)
        return self.program.answer(feeds)

    def timed(self, feeds):
        return self.format.timed(self.path, feeds)


def _named(files):
    """{name: path}; of paths alone as much of each as tells them apart."""
    if isinstance(files, Mapping):
        found = {str(name): disk.expand(path) for name, path in files.items()}
    else:
        paths = files if isinstance(files, list | tuple) else [files]
        whole = [os.path.abspath(disk.expand(path)) for path in paths]
        around = os.path.commonpath([os.path.dirname(path) for path in whole]) if whole else ""
        found = {os.path.relpath(path, around): Path(path) for path in whole}
    if not found:
        raise ValueError(
            f"Received files={shown(files)}. Expected at least one path of a .keras, .tflite or "
            ".onnx file or of the folder of a SavedModel."
        )
    return found


def _opened(path):
    """The file, opened by its runtime."""
    format_ = _format_of(path)
    format_.check()
    try:
        with quiet():
            program = format_.open(path)
    except Exception as error:  # runtimes raise many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"Received '{path}', which {format_.runtime} does not open ({reason}). Expected a "
            "whole file with the signature 'serving_default', such as aip_tf.export_model writes."
        ) from error
    return _File(path, format_, program)


def _format_of(path):
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return SavedModel()
    if path.is_file() and path.suffix in _FORMATS:
        return _FORMATS[path.suffix]()
    what = "a folder without saved_model.pb" if path.is_dir() else "no such file"
    raise ValueError(
        f"Received '{path}', which is {what if not path.is_file() else 'of another kind'}. "
        f"Expected files that end in {', '.join(_FORMATS)}, or the folder of a SavedModel."
    )

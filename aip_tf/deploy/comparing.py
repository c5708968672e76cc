"""`compare_files`: delivered files beside each other, whoever wrote them."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aip_tf import files as disk
from aip_tf.arguments import check, integer, shown
from aip_tf.deploy.formats import KerasFile, Onnx, SavedModel, TFLite
from aip_tf.deploy.proof import num_bytes
from aip_tf.deploy.source import quiet
from aip_tf.latency import LatencyComparison, compare_latency
from aip_tf.text import text_table

_FORMATS = {".keras": KerasFile, ".tflite": TFLite, ".onnx": Onnx}
_HEADER = ("file", "runtime", "bytes", "difference", "milliseconds", "quartiles", "faster")
_KINDS = {"runs": integer(0), "batch_size": integer(1)}


@dataclasses.dataclass(frozen=True)
class FileComparison:
    """Several files, timed in turns.

    Attributes:
        runtimes: `{name: what ran it}`, in the order given; the first file is the reference.
        num_bytes: the size of each; of a folder, that of all its files.
        differences: the largest difference of each from the first one's outputs on the same random
            inputs, relative to the largest output; only of files with the same signature.
        times: the `LatencyComparison`; None if nothing was timed.
    """

    runtimes: dict[str, str]
    num_bytes: dict[str, int]
    differences: dict[str, float]
    times: LatencyComparison | None

    def render(self) -> str:
        """Returns a table: file, runtime, bytes, difference, milliseconds, times faster.

        The last two columns are of the processor time, all threads together.
        """
        header = (*_HEADER, "processor ms", "faster") if self.times else _HEADER[:4]
        return text_table(header, map(self._row, self.runtimes), align="<<" + ">" * len(header[2:]))

    def _row(self, name):
        difference = self.differences.get(name)
        cells = [name, self.runtimes[name], f"{self.num_bytes[name]:,}"]
        cells.append("" if difference is None else f"{difference:.1e}")
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


def compare_files(files, *, runs=50, batch_size=1) -> FileComparison:
    """Time files by the runtimes that will run them, in turns, and compare what they answer.

    LiteRT and ONNX Runtime use one thread, Keras and TensorFlow all that they may.

    Args:
        files: paths of `.keras`, `.tflite` and `.onnx` files and folders of SavedModels, or
            `{name: path}`; the first is the reference.
        runs: how often each is timed; 0: not at all.
        batch_size: samples per run; sizes that a file fixes must be this.

    Raises:
        ValueError: for no file, one that is missing or of another kind, one that its runtime does
            not open, or inputs of open size.

    Example:

    >>> print(compare_files(["teacher/model.tflite", "model.tflite"]).render())
    """
    check(_KINDS, locals())
    opened = {name: _opened(path) for name, path in _named(files).items()}
    feeds = {name: file.feeds(batch_size) for name, file in opened.items()}
    first, *others = opened
    expected = opened[first].program.answer(feeds[first])
    differences = {}
    for name in others:
        if opened[name].program.describe()["inputs"] == opened[first].program.describe()["inputs"]:
            answers = opened[name].program.answer(feeds[name])
            differences[name] = _difference(answers, expected)
    times = None
    if runs:
        timed = {name: file.timed(feeds[name]) for name, file in opened.items()}
        times = compare_latency(timed, batch_size=batch_size, runs=runs)
    return FileComparison(
        {name: file.format.runtime for name, file in opened.items()},
        {name: num_bytes(file.path) for name, file in opened.items()},
        {name: value for name, value in differences.items() if value is not None},
        times,
    )


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


def _difference(answers, expected):
    """The largest over all outputs, each relative to its largest; None for other outputs."""
    shapes = [{name: x.shape for name, x in side.items()} for side in (answers, expected)]
    if shapes[0] != shapes[1]:
        return None
    parts = [
        np.max(np.abs(answers[name] - wanted)) / max(np.max(np.abs(wanted)), 1e-30)
        for name, wanted in expected.items()
    ]
    return float(max(parts, default=0.0))

"""What a complete run hands over: the student, loaded back and compared (law 6), and the report."""

import logging

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras, files
from aip_tf.distribution import is_chief
from aip_tf.report import PruningReport
from aip_tf.run_state import replace

_log = logging.getLogger("aip_tf")

_TOLERANCE = 1e-4  # of the largest output; the same weights in the same layers differ by rounding


def save_student(path, student, inputs, recovery):
    """Compile a student, write it to a `.keras` file, and prove that the file is the student.

    A loss or a metric of this package stays out of the file: that loads without the package.

    Args:
        path: where the file belongs; None: the student is only compiled.
        student: the `keras.Model`.
        inputs: a batch of inputs.
        recovery: the `Recovery` that compiles it.

    Raises:
        ValueError: if the file cannot be written, or a model loaded from it answers otherwise.
    """
    needs_us = any(map(_is_ours, _parts(recovery)))
    if not needs_us:
        recovery.compile(student)
    if path is not None:
        replace(path, student.save)
        if not _keras.is_multi_worker(tf.distribute.get_strategy()):
            _check(path, student, inputs)
    if needs_us:
        recovery.compile(student)


def _parts(recovery):
    task = recovery.task
    return keras.tree.flatten([task.loss, task.metrics, task.weighted_metrics, recovery.optimizer])


def _is_ours(part):
    kind = part if hasattr(part, "__name__") else type(part)
    return (getattr(kind, "__module__", None) or "").split(".")[0] == "aip_tf"


def _check(path, student, inputs):
    loaded = _load(path)
    if loaded is None:
        return
    answers = [keras.tree.flatten(model(inputs, training=False)) for model in (student, loaded)]
    for expected, found in zip(*answers, strict=True):
        expected, found = (
            keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in (expected, found)
        )
        size = np.max(np.abs(expected), initial=1e-9)
        if not np.allclose(expected, found, rtol=0, atol=_TOLERANCE * size, equal_nan=True):
            raise ValueError(
                f"Received a student that is another one after saving and loading: the outputs of "
                f"'{path}' differ by {np.max(np.abs(expected - found)) / size:.1e} of the largest. "
                "Expected the same: a layer's `get_config` forgets an argument, or a custom layer "
                "does not save one of its weights."
            )


def _answers(model, inputs):
    answers = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in answers]


def _load(path):
    """What anyone would load; None where that takes classes or functions of the user's."""
    try:
        return keras.saving.load_model(path)
    except (TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        _log.info("'%s' loads with custom_objects={...} only: %s", path, reason)
        return None


def save_report(path, report):
    """Write a report as JSON, and beside it as a page; `path` None: nothing."""
    if path is not None and is_chief():
        files.write_text(path.with_suffix(".html"), report.to_html())
        files.write_text(path, report.to_json())


def read_report(path):
    """The report that a complete run left at `path`, or None if there is none to read."""
    if path is None:
        return None
    try:
        return PruningReport.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

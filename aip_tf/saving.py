"""What a complete run hands over: the student, loaded back and compared (law 6), and the report."""

import logging
import re
import tempfile
import textwrap
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras, failures, files
from aip_tf.distribution import is_chief
from aip_tf.run_state import replace

_log = logging.getLogger("aip_tf")

_TOLERANCE = 1e-4  # of the largest output; the same weights in the same layers differ by rounding
# What Keras says where a file needs a class or a function of the user's, or his consent.
_CUSTOM = re.compile("Could not locate|cannot be imported|is a custom class|safe_mode=False")
_REMEDY = (
    "`prune` without a run_dir writes nothing: the student is pruned all the same, and its weights "
    "can be saved by `save_weights`."
)


def check_saving(model, inputs):
    """Law 6 before anything trains: a file of `model` can be written and loaded, and is the model.

    Args:
        model: a `keras.Model` of the layers that the student will have.
        inputs: a batch of inputs.

    Raises:
        ValueError: if it cannot be; names the layer that Keras cannot write down.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> check_saving(model, np.ones((2, 4), "float32"))
    """
    if _keras.is_multi_worker(tf.distribute.get_strategy()):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.keras"
        save_model(path, model)
        _check(path, model, inputs)


def save_model(path, model):
    """Write a model to a `.keras` file, whole or not at all.

    Raises:
        ValueError: names the layer that Keras cannot write down.
    """
    obstacle = _failure(lambda: replace(path, model.save))
    if obstacle is not None:
        raise ValueError(_unwritten(model, obstacle))


def _failure(action):
    """What an action of Keras' raises because of what it is given; None if it succeeds."""
    try:
        action()
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        if failures.is_on_purpose(error):  # the disk is full, say
            raise
        return error
    except OSError as error:
        if error.errno is not None:  # the disk's, not that of source code that is not there
            raise
        return error
    return None


def _unwritten(model, obstacle):
    failed = {
        layer.name: (len(_keras.all_layers(layer)), failure)
        for layer in _keras.all_layers(model)
        if (failure := _failure(lambda x=layer: keras.saving.serialize_keras_object(x)))
    }
    name, (_, failure) = min(
        failed.items(), key=lambda x: x[1][0], default=(model.name, (0, obstacle))
    )
    return (
        f"The layer {name!r} cannot be written to a file: {_brief(failure)}. Expected what Keras "
        "can write down, as functions with `@keras.saving.register_keras_serializable()` instead "
        f"of a `functools.partial` or a lambda. {_REMEDY}"
    )


def _brief(error):
    """What a message of Keras' comes to; the configurations that it prints are left out."""
    cause = str(error).rsplit("Exception encountered:", 1)[-1].split("onfig=")[0]
    return textwrap.shorten(cause, 300, placeholder=" ...").strip(" .:")


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
        save_model(path, student)
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
    # Keras' files do not hold how far random generators have got.
    for own, other in zip(*map(_keras.random_states, (student, loaded)), strict=False):
        other.assign(own)
    for expected, found in zip(*(_answers(m, inputs) for m in (student, loaded)), strict=True):
        size = np.max(np.abs(expected), initial=1e-9)
        if not np.allclose(expected, found, rtol=0, atol=_TOLERANCE * size, equal_nan=True):
            raise ValueError(
                f"Received a student that is another one after saving and loading: the outputs of "
                f"'{path}' differ by {np.max(np.abs(expected - found)) / size:.1e} of the largest. "
                "Expected the same: a layer's `get_config` forgets an argument, or a custom layer "
                "does not save one of its weights."
            )


def _answers(model, inputs):
    answers = keras.tree.flatten(_keras.answer(model, inputs))
    return [keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in answers]


def _load(path):
    """What anyone would load; None where that takes what is the user's: classes, consent."""
    try:
        return keras.saving.load_model(path)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        if _CUSTOM.search(str(error)) is None:
            raise ValueError(
                f"The student's file cannot be loaded again: {_brief(error)}. Expected layers that "
                "Keras makes anew from their `get_config`, with all their weights; one that a "
                "wrapper (such as TimeDistributed) and something else share is written once, but "
                f"read twice. {_REMEDY}"
            ) from error
        _log.info("'%s' loads with what is yours only: %s", path, _brief(error))
        return None


def save_report(path, report):
    """Write a report as JSON, and beside it as a page; `path` None: nothing."""
    if path is not None and is_chief():
        files.write_text(path.with_suffix(".html"), report.to_html())
        files.write_text(path, report.to_json())

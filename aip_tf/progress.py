"""What a terminal shows of training: one line an epoch, the terms of the loss on demand."""

import logging
import math
import shutil
import sys
import time

import keras
import numpy as np

from aip_tf import _keras

_log = logging.getLogger(__name__)
_WIDTH = 100  # columns, where the output is no terminal
_BAR = 20  # columns
_SECONDS = 0.1  # between two updates of a line


class Progress(keras.callbacks.Callback):
    """Shows each epoch on one line; give it to `fit` with `verbose=0`.

    What a distiller minimises, `total_loss`, and its terms are in the logs of every epoch, in
    TensorBoard, and, if the logger "aip_tf" is at level DEBUG (`aip_run --verbose`), on a second
    line; see `AdversarialDistiller` for what `loss` is.

    Epochs count to `epochs`, the end of the run, over all stretches between cuts. What does not fit
    into the line is left out at its end, where the metrics on augmented training images stand.
    `keras.utils.disable_interactive_logging()` silences it as it does Keras' own bar.

    Args:
        epochs: number of epochs of the whole run.
    """

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs
        self._started = self._shown = 0.0
        self._width = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._started = time.monotonic()
        self._shown = -math.inf

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if is_terminal() and now - self._shown > _SECONDS:
            self._shown = now
            self._show(self._bar(batch + 1), logs or {}, end="")

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._started
        self._show(f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s", logs or {}, "\n")
        hidden = self._terms(logs or {})
        if hidden and _log.isEnabledFor(logging.DEBUG):
            _keras.show("    " + _fitted(hidden, math.inf) + "\n")

    def _show(self, what, logs, end):
        """Write over the line before; a shorter one also wipes out what that left."""
        head = f"Epoch {self._epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  {what}  "
        width = shutil.get_terminal_size((_WIDTH, 0)).columns - 1 if is_terminal() else _WIDTH
        line = head + _fitted(self._main(logs), width - len(head))
        wiped = " " * max(0, self._width - len(line))
        self._width = 0 if end else len(line)
        _keras.show(("\r" if is_terminal() else "") + line + wiped + end)

    def _bar(self, batch):
        steps = self.params.get("steps")
        if not steps:
            return f"batch {batch}"
        done = _BAR * batch // steps
        return f"{'━' * done}{'─' * (_BAR - done)} {batch:>{len(str(steps))}}/{steps}"

    def _main(self, logs):
        """The labels' loss, what was measured on validation data, then the training metrics.

        The parts of a loss, of models with several outputs, come last: a line has few columns.
        """
        terms = getattr(self.model, "term_names", ())
        measured = [name for name in logs if name.startswith("val_")]
        parts = [name for name in logs if name.endswith("_loss")]
        rest = [name for name in (*measured, *logs) if name not in parts]
        order = dict.fromkeys(["loss", "val_loss", *rest, *parts])
        found = {name: logs[name] for name in order if name in logs and name not in terms}
        return numbers_in(found)

    def _terms(self, logs):
        names = getattr(self.model, "term_names", ())
        return {name: logs[name] for name in names if name in logs}


def numbers_in(logs):
    """The logs that are numbers, as floats: callbacks may add what they like.

    >>> numbers_in({"loss": np.float32(0.5), "classes": [3, 4], "when": "now", "none": None})
    {'loss': 0.5}
    """
    arrays = {k: np.asarray(v) for k, v in (logs or {}).items()}
    return {k: float(v) for k, v in arrays.items() if v.size == 1 and v.dtype.kind in "fiub"}


def is_terminal():
    """Whether a line can be written over: in a terminal and in a notebook."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def _fitted(values, width):
    """`name value` for as many values as fit into `width` columns."""
    line = ""
    for name, value in values.items():
        item = f"{'  ' if line else ''}{name} {_number(value)}"
        if len(line) + len(item) > width:
            break
        line += item
    return line


def _number(value):
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"

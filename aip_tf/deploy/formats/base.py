"""What a format is: how a file is written, and how it is run."""

import dataclasses
from collections.abc import Callable

import numpy as np

from aip_tf.deploy.source import answer_in_parts


@dataclasses.dataclass(frozen=True)
class Program:
    """A delivered file, opened by the runtime that will run it.

    Attributes:
        call: {name: array} to {name: array}, of `batch_size` samples.
        inputs: {name: (dtype, shape with batch, None where open)}.
        outputs: the same of what it answers.
        batch_size: the one it takes; None: any.
    """

    call: Callable
    inputs: dict
    outputs: dict
    batch_size: int | None

    def answer(self, feeds):
        """{name: float64 array} for any number of samples."""
        answers = answer_in_parts(self.call, feeds, self.batch_size)
        return {name: np.asarray(value, np.float64) for name, value in answers.items()}

    def describe(self):
        """The signature: {"inputs": {name: "float32 (None, 8, 8, 1)"}, "outputs": {...}}."""
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        return {
            side: {name: f"{dtype} {tuple(shape)}" for name, (dtype, shape) in tensors.items()}
            for side, tensors in sides.items()
        }


@dataclasses.dataclass(frozen=True)
class Format:
    """One format. A new one is a file with a subclass, and a line in `formats.FORMATS`.

    Attributes:
        tolerance: the largest difference from the Keras model, relative to the largest absolute
            value of an output, that is accepted.
        max_loss: how much worse the main metric may be than the Keras model's, on the same samples,
            0.01 for one percentage point; None: not limited by itself.
    """

    tolerance: float = 1e-4
    max_loss: float | None = None

    name = ""  # as a string names it
    file_name = ""  # in the export folder
    runtime = ""  # what runs it
    needs_samples = False  # whether ranges are measured on real samples

    def __post_init__(self):
        for name in ("tolerance", "max_loss"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and value >= 0) and not (name == "max_loss" and value is None):
                raise ValueError(
                    f"Received {name}={value!r} for the format {self.name!r}. Expected a number "
                    "of at least 0. Correct it."
                )

    def check(self):
        """Whether the format can be written here.

        Raises:
            ValueError: if a package is missing; says how to install it.
        """

    def write(self, source, path):
        """Write the file or folder `path` of a `Source`; whatever goes wrong is an exception."""
        raise NotImplementedError(f"{type(self).__name__} must override `write`.")

    def open(self, path):
        """The `Program` at `path`."""
        raise NotImplementedError(f"{type(self).__name__} must override `open`.")

    def timed(self, path, feeds):
        """What `compare_latency` times: the path, or a function without arguments.

        Args:
            path: the file.
            feeds: one batch of the size that is timed.
        """
        return str(path)

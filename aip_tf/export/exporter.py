"""`export_model`: write, compare, and only then put in place."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from aip_tf.export import conversion, parity, signature
from aip_tf.text import text_table

_TOLERANCES = {"saved_model": 1e-4, "tflite": 1e-4, "tflite_float16": 1e-2, "tflite_int8": 0.2}
# Runtimes fuse and reorder; in a model that computes with few bits that shows earlier.
_LOW_PRECISION_TOLERANCES = {"float16": 2e-2, "bfloat16": 1e-1}


@dataclasses.dataclass(frozen=True)
class Artefact:
    """One exported file or folder.

    Attributes:
        format: one of the formats of `export_model`.
        path: where it is.
        num_bytes: its size; of a folder, that of all its files.
        max_absolute_difference: largest difference between its outputs and the Keras model's.
        max_relative_difference: the same divided by the largest absolute value of that output,
            and the largest over all outputs.
        tolerance: the largest relative difference that was accepted.
    """

    format: str
    path: str
    num_bytes: int
    max_absolute_difference: float
    max_relative_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the artefact computes what the Keras model computes."""
        return self.max_relative_difference <= self.tolerance  # False for NaN


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_model` wrote.

    Attributes:
        artefacts: one entry per format, in the order asked for.
        num_samples: size of the batch that models and files were compared on.
        is_real_data: whether that batch came from the caller; else it is random.
    """

    artefacts: tuple[Artefact, ...]
    num_samples: int
    is_real_data: bool

    @property
    def paths(self) -> dict[str, str]:
        """The path of every artefact by its format."""
        return {artefact.format: artefact.path for artefact in self.artefacts}

    def render(self) -> str:
        """Returns a table: format, bytes, differences, tolerance, path."""
        header = ("format", "bytes", "absolute difference", "relative", "tolerance", "path")
        rows = [
            (
                artefact.format,
                f"{artefact.num_bytes:,}",
                f"{artefact.max_absolute_difference:.1e}",
                f"{artefact.max_relative_difference:.1e}",
                f"{artefact.tolerance:.1e}",
                artefact.path,
            )
            for artefact in self.artefacts
        ]
        return text_table(header, rows, align="<>>>><")


def export_model(
    model: keras.Model,
    directory: str | os.PathLike,
    formats: Sequence[str] = ("saved_model", "tflite"),
    *,
    check_data=None,
    tolerances: Mapping[str, float] | None = None,
    seed: int = 0,
) -> ExportReport:
    """Writes files for other runtimes and compares each with the Keras model.

    Formats and what they become in `directory`:

    * `"saved_model"`: the folder `saved_model`, in the precision of the model;
    * `"tflite"`: `model.tflite` for LiteRT, float32 (also of a mixed precision model);
    * `"tflite_float16"`: `model_float16.tflite`, weights stored in half the space;
    * `"tflite_int8"`: `model_int8.tflite`, weights and activations in 8 bits, inputs and
      outputs still float32; `check_data` calibrates it (100 samples or more are advisable).

    Inputs have the names of the model's inputs, outputs the keys of a dictionary or
    `output_0`, `output_1`, ...; anything but letters, digits and `_` becomes `_`. Everything
    is written under a temporary name, compared, and only then put in place: after an error,
    what was there before is still there and nothing else.

    Args:
        model: built Functional or Sequential model. It is not changed.
        directory: folder for the files; made if it is missing.
        formats: names from the list above.
        check_data: one batch in the model's input structure (or by input name), or a
            `tf.data.Dataset`, whose first batch is used (labels are dropped). None: a seeded
            random batch.
        tolerances: `{format: largest relative difference}`, in place of the default 1e-4
            (1e-2 for float16, 0.2 for int8; more for models in low precision). The difference
            is relative to the largest absolute value of the output.
        seed: of the random batch.

    Returns:
        Paths, sizes and differences.

    Raises:
        ValueError: if a format is unknown, the model has no symbolic inputs, the data does not
            fit, a conversion fails, or an artefact differs by more than its tolerance.

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_model(model, directory, formats=["tflite"])
    >>> report.artefacts[0].passed
    True
    """
    formats = check_formats(formats, tolerances or {})
    _check_samples(formats, check_data)
    names = signature.input_names(model)
    feeds = signature.make_feeds(model, names, check_data, seed)
    expected = signature.finite_outputs(model, names, feeds)
    limits = {name: _tolerance(model, name) for name in formats} | dict(tolerances or {})
    os.makedirs(directory, exist_ok=True)
    artefacts = []
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as staging:
        writer = conversion.Writer(model, names, feeds, Path(staging))
        for name in formats:
            staged = writer.write(name)
            difference = parity.differences(expected, parity.run(name, staged, feeds))
            final = Path(directory, staged.name)
            artefact = Artefact(name, str(final), _num_bytes(staged), *difference, limits[name])
            artefacts.append(_refuse_unless_passed(artefact))
        for artefact in artefacts:
            final = Path(artefact.path)
            _publish(Path(staging, final.name), final)
    num_samples = len(next(iter(feeds.values())))
    return ExportReport(tuple(artefacts), num_samples, check_data is not None)


def check_formats(formats, tolerances=()):
    """The names of formats as a tuple, each once.

    Raises:
        ValueError: for an unknown name, here or among the tolerances.
    """
    formats = tuple(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    unknown = [name for name in (*formats, *tolerances) if name not in _TOLERANCES]
    if unknown or not formats:
        raise ValueError(
            f"Received formats={formats!r}, tolerances for {list(tolerances)}. Expected one or "
            f"more of {list(_TOLERANCES)}. Correct the names."
        )
    return formats


def _check_samples(formats, check_data):
    if "tflite_int8" in formats and check_data is None:
        raise ValueError(
            "Received the format 'tflite_int8' without check_data. Expected real samples, "
            "because the 8-bit ranges are measured on them. Pass check_data=a batch."
        )


def _publish(staged, final):
    """Puts a verified artefact in place of an older one (a folder cannot be replaced at once)."""
    if final.is_dir():
        os.replace(final, staged.with_name(f"replaced_{final.name}"))
    os.replace(staged, final)


def _num_bytes(path):
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _tolerance(model, name):
    return max(
        _TOLERANCES[name], _LOW_PRECISION_TOLERANCES.get(conversion.low_precision(model), 0.0)
    )


def _refuse_unless_passed(artefact):
    if artefact.passed:
        return artefact
    difference = artefact.max_relative_difference
    hint = "; an output is missing or has another shape" if np.isinf(difference) else ""
    raise ValueError(
        f"Received the artefact {artefact.format!r} ({Path(artefact.path).name}), whose outputs "
        f"differ from the Keras model's by {difference:.3g} of the largest output "
        f"({artefact.max_absolute_difference:.3g} absolute{hint}). Expected at most the "
        f"tolerance {artefact.tolerance:.3g}. Nothing was written. Compare on real "
        f"check_data, or raise tolerances={{{artefact.format!r}: ...}} if that is acceptable."
    )

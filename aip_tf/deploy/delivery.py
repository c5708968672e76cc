"""`export_model`: write, run, judge, time, and only then put in place."""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from aip_tf import files
from aip_tf.cost import count_macs
from aip_tf.deploy import card, proof, signature
from aip_tf.deploy.formats import FORMATS, resolve
from aip_tf.deploy.samples import Samples, sized
from aip_tf.deploy.source import Source, low_precision, quiet
from aip_tf.report.artefacts import Artefact, artefact_lines

_log = logging.getLogger("aip_tf")
_FAILED = "failed_"
# A judgement on 10,000 samples tells a tenth of a point; a large network would take hours for it.
_MOST_SAMPLES, _LEAST_SAMPLES, _MOST_MACS = 10_000, 200, 2 * 10**12
_LOW_PRECISION_TOLERANCES = {"float16": 2e-2, "bfloat16": 1e-1}


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_model` wrote.

    Attributes:
        artefacts: one entry per format (and size), in the order asked for.
        is_real_data: whether they were compared on samples of the caller; else on a random batch.
    """

    artefacts: tuple[Artefact, ...]
    is_real_data: bool

    @property
    def paths(self) -> dict[str, str]:
        """The path of every artefact by its format."""
        return {artefact.format: artefact.path for artefact in self.artefacts}

    @property
    def num_samples(self):
        """On how many samples the artefacts were run."""
        return self.artefacts[0].num_samples

    @property
    def failures(self):
        """What is wrong with the artefacts that may not be used, in a line for each."""
        return [
            f"{artefact.format}: {' '.join(artefact.faults)}"
            for artefact in self.artefacts
            if not artefact.passed
        ]

    def render(self) -> str:
        """Returns a table: format, bytes, quality, difference, milliseconds, path."""
        return artefact_lines(self.artefacts)


class ExportError(ValueError):
    """Some artefact is not what it should be; what passed is in place.

    Attributes:
        report: the `ExportReport`, with the figures of those that failed.
    """

    def __init__(self, message, report):
        super().__init__(message)
        self.report = report


def export_model(
    model: keras.Model,
    directory: str | os.PathLike,
    formats: Sequence = ("saved_model", "tflite"),
    *,
    check_data=None,
    calibration_data=None,
    teacher=None,
    task=None,
    input_shapes: Sequence | None = None,
    tolerances: Mapping | None = None,
    max_samples: int | str | None = "auto",
    runs: int = 50,
    check_only: bool = False,
) -> ExportReport:
    """Writes files for other runtimes, runs each by its own runtime, and compares and times it.

    Formats, and what they become in `directory`:

    * `"keras"`: `model.keras`;
    * `"saved_model"`: the folder `saved_model`, in the precision of the model;
    * `"tflite"`: `model.tflite` for LiteRT, float32 (also of a mixed precision model);
    * `"tflite_float16"`: `model_float16.tflite`, weights stored in half the space;
    * `"tflite_dynamic"`: `model_dynamic.tflite`, weights in 8 bits;
    * `"tflite_int8"`: `model_int8.tflite`, weights and activations in 8 bits, calibrated on
      samples; `deploy.TFLiteInt8(integer_io=True)`: inputs and outputs too;
    * `"onnx"`: `model.onnx`, needs the extra: `pip install '.[onnx]'` in a checkout.

    Beside them stands a card, `README.md`: figures, sums, and how to load the files. The teacher's
    artefacts, of the same formats, are in the folder `teacher`.

    Inputs have the names of the model's inputs, outputs the keys of a dictionary or `output_0`,
    `output_1`, ...; anything but letters, digits and `_` becomes `_`. A batch size that the model
    fixes stays fixed; LSTM and GRU are delivered to LiteRT for one sample at a time. Everything is
    written under a temporary name, compared, and only then put in place: what cannot be converted
    leaves everything as it was. A file that differs too much is kept as `failed_...`.

    Args:
        model: built Functional or Sequential model. It is not changed.
        directory: folder for the files; made if it is missing.
        formats: names from the list above, or objects such as `deploy.TFLiteInt8()`.
        check_data: what artefacts are compared on: a `tf.data.Dataset` of inputs or (inputs,
            labels) batches, (inputs,) or (inputs, labels) arrays, or one batch in the structure of
            the model's inputs (or by input name). With labels, every artefact's own metrics are
            measured. None: a seeded random batch.
        calibration_data: training samples, in the same forms, for 8 bits; None: `check_data`.
        teacher: the original model, to be compared with; None: there is none.
        task: the `Task`, where the model and its data do not say all of it.
        input_shapes: sizes to deliver a model of open sizes at: a list of input shapes without
            batch size; each becomes a file of its own. None: sizes stay as they are.
        tolerances: `{format: largest relative difference}` in place of the formats' own: 1e-4,
            1e-2 for float16, 0.1 for dynamic, 0.2 for int8; more for models in low precision. The
            accuracy of int8 may also be at most 0.01 below the Keras model's.
        max_samples: at most so many samples of `check_data` are used; None: all; "auto": 10,000,
            but fewer, down to 200, of a model that would need more than 2e12 MACs for them.
        runs: how often each artefact is timed, in turns with the teacher's; 0: not at all.
        check_only: whether to stop once all arguments but the samples are checked; a model that is
            still to be trained, opened or cut will do.

    Returns:
        Paths, sizes, differences, metrics and times; None with `check_only`.

    Raises:
        ValueError: if a format is unknown or lacks a package, the model has no symbolic inputs, the
            data do not fit, or a conversion fails.
        ExportError: a ValueError, if an artefact differs by more than it may.

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_model(model, directory, formats=["tflite"])
    >>> report.artefacts[0].passed
    True
    """
    if not check_only:
        signature.input_names(model)  # refuses what is no model
    if not isinstance(teacher, keras.Model | None):
        raise ValueError(
            f"Received teacher={teacher!r}. Expected a keras.Model, or None. Load it first: "
            "aip_tf.load_model(path)."
        )
    if not isinstance(input_shapes, list | tuple | None):
        raise ValueError(
            f"Received input_shapes={input_shapes!r}. Expected a list of shapes without batch "
            "size, such as [(160, 160, 3)], or None."
        )
    delivery = _Delivery(
        check_formats(formats, tolerances or {}, model),
        Samples(check_data, calibration_data, _most(model, max_samples)),
        task,
        input_shapes or [None],
        runs,
    )
    delivery.check(model)
    directory = files.expand(directory)
    card.check_free(directory, delivery.file_names)
    if check_only:
        return None
    delivery.check_samples(model)
    files.make_folder(directory)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as staging:
        artefacts = delivery.make(model, Path(staging) / "student")
        teachers = delivery.make_of_teacher(teacher, Path(staging) / "teacher")
        artefacts = [delivery.compare(x, teachers.get(x.format)) for x in artefacts]
        card.claim(directory)
        artefacts = tuple(_published(artefact, directory) for artefact in artefacts)
    report = ExportReport(artefacts, check_data is not None)
    card.write(directory, model, teacher, artefacts)
    if report.failures:
        raise ExportError(_refusal(report, directory), report)
    return report


def check_formats(formats, tolerances=(), model=None):
    """Formats by name or as objects, each once, with the tolerances that are asked for.

    Args:
        formats, tolerances: see `export_model`.
        model: one in low precision is allowed more, where no tolerance is given.

    Raises:
        ValueError: for an unknown name, here or among the tolerances, or a package that is missing.
    """
    if tolerances and not isinstance(tolerances, Mapping):
        raise ValueError(
            f"Received tolerances={tolerances!r}. Expected {{format: largest difference}}, such as "
            "{'tflite': 1e-3}."
        )
    formats, tolerances = resolve(formats), dict(tolerances)
    unknown = [name for name in tolerances if name not in FORMATS]
    if unknown:
        raise ValueError(
            f"Received tolerances for {unknown}. Expected names out of {list(FORMATS)}. Correct "
            "the names."
        )
    # Runtimes fuse and reorder; in a model that computes with few bits that shows earlier.
    least = 0.0 if model is None else _LOW_PRECISION_TOLERANCES.get(low_precision(model), 0.0)
    return tuple(
        dataclasses.replace(x, tolerance=tolerances.get(x.name, max(x.tolerance, least)))
        for x in formats
    )


@dataclasses.dataclass(frozen=True)
class _Delivery:
    """How models become files; see the arguments of `export_model`."""

    formats: tuple
    samples: Samples
    task: object
    input_shapes: Sequence
    runs: int

    def check(self, model):
        """Look at everything that is known before there are samples."""
        _check_number("runs", self.runs, 0)
        self.samples.check(self.formats)
        for asked in filter(None, self.input_shapes):
            sized(model, asked)

    def check_samples(self, model):
        """Look at a batch, and at all samples for 8 bits, before anything is written."""
        for source in self._sources(model, None):
            next(self.samples.batches(model, source.input_shapes))

    @property
    def file_names(self):
        """Names of all files, in the folder that they are published in."""
        return [_named(x, asked) for x in self.formats for asked in self.input_shapes]

    def _sources(self, model, folder):
        """A `Source` for each size that is delivered."""
        for asked in self.input_shapes:
            shapes = sized(model, asked)
            samples = self.samples.calibration(model, shapes, self.formats)
            yield Source(model, shapes, folder and folder / f"shared{_size(asked)}", samples)

    def make(self, model, folder):
        """Write all files to a new folder and prove them: list of `Artefact`s."""
        artefacts = []
        for asked, source in zip(self.input_shapes, self._sources(model, folder), strict=True):
            source.folder.mkdir(parents=True)
            written = {
                each.name + _size(asked): (each, write_file(each, source, folder, asked))
                for each in self.formats
            }
            samples = self.samples.batches(model, source.input_shapes)
            artefacts += proof.prove(source, written, samples, self.task)
        return artefacts

    def make_of_teacher(self, teacher, folder):
        """{format: `Artefact`} of the teacher; none where that cannot be delivered."""
        if teacher is None:
            return {}
        try:
            return {artefact.format: artefact for artefact in self.make(teacher, folder)}
        except ValueError as error:
            _log.warning("There is no file of the teacher to compare with: %s", error)
            return {}

    def compare(self, artefact, teacher):
        """The artefact, timed in turns with the teacher's, which may be None."""
        if self.runs and artefact.signature:
            named = {x.name + _size(asked): x for x in self.formats for asked in self.input_shapes}
            format_ = named[artefact.format]
            artefact, teacher = proof.time_together(artefact, teacher, format_, self.runs)
        if teacher is None:
            return artefact
        fields = ("path", "num_bytes", "sha256", "metrics", "latency")
        return dataclasses.replace(artefact, teacher={x: getattr(teacher, x) for x in fields})


def _most(model, max_samples):
    """How many samples the files are run on at most; None: all."""
    if max_samples != "auto":
        if max_samples is not None:
            _check_number("max_samples", max_samples, 1)
        return max_samples
    try:
        macs = count_macs(model)
    except ValueError:  # of open size: who knows
        return _MOST_SAMPLES // 10
    return max(_LEAST_SAMPLES, min(_MOST_SAMPLES, _MOST_MACS // max(1, macs)))


def _size(input_shape):
    """What tells the files of one size from those of another: "_160x160x3"."""
    if input_shape is None:
        return ""
    shapes = input_shape.values() if isinstance(input_shape, Mapping) else [input_shape]
    return "".join(f"_{'x'.join(map(str, shape))}" for shape in shapes)


def _named(format_, input_shape):
    name = Path(format_.file_name)
    return f"{name.stem}{_size(input_shape)}{name.suffix}"


def write_file(format_, source, folder, input_shape=None):
    """The path of a new file; whatever the converter raises becomes a ValueError."""
    path = folder / _named(format_, input_shape)
    try:
        with quiet():
            format_.write(source, path)
    except Exception as error:  # converters raise many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise ValueError(
            f"Received a model that cannot be converted to {format_.name!r} ({reason}). Expected "
            f"operations that {format_.runtime} knows. Leave {format_.name!r} out of formats or "
            "replace the operation."
        ) from error
    return path


def _published(artefact, directory):
    """The artefact at its place in the folder, and its teacher's in the folder `teacher`."""
    prefix = "" if artefact.passed else _FAILED
    final = _publish(Path(artefact.path), directory, prefix)
    artefact = dataclasses.replace(artefact, path=str(final))
    if not artefact.teacher:
        return artefact
    place = files.make_folder(directory / "teacher")
    path = _publish(Path(artefact.teacher["path"]), place)
    return dataclasses.replace(artefact, teacher=artefact.teacher | {"path": str(path)})


def _publish(staged, directory, prefix=""):
    """Puts an artefact in place of an older one (a folder cannot be replaced at once)."""
    final = directory / (prefix + staged.name)
    for older in (directory / staged.name, directory / (_FAILED + staged.name)):
        if older.exists():  # what failed is no longer good, and the other way round
            os.replace(older, staged.with_name(f"replaced_{older.name}"))
    os.replace(staged, final)
    return final


def _refusal(report, directory):
    places = ", ".join(x.path for x in report.artefacts if not x.passed)
    return (
        f"Received a model, some files of which are not what it is: {' '.join(report.failures)} "
        f"Expected them within their limits. They are kept as {places}; the others are in "
        f"'{directory}'. Compare on real check_data, calibrate on more samples, or raise "
        "tolerances={format: ...} if that is acceptable."
    )


def _check_number(name, value, least):
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Received {name}={value!r}. Expected an integer of at least {least}. Correct it."
        )

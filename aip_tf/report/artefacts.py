"""What was delivered, and the proof that comes with it: plain data."""

import dataclasses
from pathlib import Path

from aip_tf.report.records import normalize, plain
from aip_tf.text import text_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artefact:
    """One delivered file or folder, and what its runtime makes of real samples.

    Attributes:
        format: its name, such as `"tflite_int8"`; with the size of the input where several sizes
            were asked for, such as `"tflite_160x160x3"`.
        path: where it is.
        runtime: what ran it, such as `"LiteRT"`.
        num_bytes: its size; of a folder, that of all its files.
        sha256: its sum; of a folder, that of the names and sums of its files.
        signature: `{"inputs": {name: "float32 (None, 8, 8, 1)"}, "outputs": {...}}`.
        num_samples: on how many samples it was run.
        max_absolute_difference: largest difference between its outputs and the Keras model's.
        max_relative_difference: the same divided by the largest absolute value of that output,
            and the largest over all outputs.
        tolerance: the largest relative difference that is accepted.
        agreement: share of the samples (or positions) on which the largest output is the one of
            the Keras model; None if no output tells classes apart.
        metrics: its own metrics on these samples, by name; empty without labels.
        keras_metrics: the same of the Keras model.
        main_metric: the metric that counts; empty without labels.
        latency: `{"median", "lower_quartile", "upper_quartile"}` in milliseconds, of `batch_size`
            samples on `num_threads` threads; empty if it was not timed.
        speed_up: the same keys: how many times faster than the teacher's artefact of this format,
            over pairs of neighbouring runs; empty without a teacher.
        batch_size, num_threads: of the timed runs.
        teacher: `{"path", "num_bytes", "metrics", "latency"}` of the teacher's artefact; empty
            without a teacher.
        faults: why it is not good enough, in a sentence each; empty if it is.
    """

    format: str
    path: str
    runtime: str = ""
    num_bytes: int = 0
    sha256: str = ""
    signature: dict = dataclasses.field(default_factory=dict)
    num_samples: int = 0
    max_absolute_difference: float = 0.0
    max_relative_difference: float = 0.0
    tolerance: float = 0.0
    agreement: float | None = None
    metrics: dict = dataclasses.field(default_factory=dict)
    keras_metrics: dict = dataclasses.field(default_factory=dict)
    main_metric: str = ""
    latency: dict = dataclasses.field(default_factory=dict)
    speed_up: dict = dataclasses.field(default_factory=dict)
    batch_size: int = 1
    num_threads: int = 1
    teacher: dict = dataclasses.field(default_factory=dict)
    faults: tuple[str, ...] = ()

    def __post_init__(self):
        normalize(self, path=str, num_bytes=int, signature=plain, metrics=plain, faults=tuple)
        normalize(self, keras_metrics=plain, latency=plain, speed_up=plain, teacher=plain)
        normalize(self, max_absolute_difference=float, max_relative_difference=float)

    @property
    def passed(self):
        """Whether it may be used in place of the Keras model."""
        return not self.faults

    @property
    def quality(self):
        """Its main metric; None without labels."""
        return self.metrics.get(self.main_metric)


def milliseconds(latency):
    """ "0.231 (0.229 to 0.240)" out of a latency, or "" without one."""
    return _with_quartiles(latency, ".3g")


def times_faster(speed_up):
    """ "2.4x (2.3 to 2.5)" out of a speed-up, or "" without one."""
    return _with_quartiles(speed_up, ".2f", "x")


def _with_quartiles(values, form, unit=""):
    if not values:
        return ""
    lower, upper = values["lower_quartile"], values["upper_quartile"]
    return f"{values['median']:{form}}{unit} ({lower:{form}} to {upper:{form}})"


_HEADER = (
    "format",
    "bytes",
    "of teacher",
    "{metric}",
    "same answer",
    "difference",
    "milliseconds",
    "faster",
    "file",
)


def artefact_table(artefacts):
    """Header and rows of the table of artefacts, without columns that nothing stands in."""
    header = [cell.format(metric=_main_metric_of(artefacts)) for cell in _HEADER]
    columns = zip(header, *_rows(artefacts), strict=True)
    header, *rows = zip(*[x for x in columns if any(x[1:])], strict=True)
    return header, rows


def artefact_lines(artefacts):
    """The same as text."""
    header, rows = artefact_table(artefacts)
    return text_table(header, rows, align="<" + ">" * (len(header) - 2) + "<")


def _rows(artefacts):
    return [
        (
            artefact.format,
            f"{artefact.num_bytes:,}",
            _share(artefact.num_bytes, artefact.teacher.get("num_bytes")),
            "" if artefact.quality is None else f"{artefact.quality:.4f}",
            "" if artefact.agreement is None else f"{artefact.agreement:.4f}",
            f"{artefact.max_relative_difference:.1e}",
            milliseconds(artefact.latency),
            times_faster(artefact.speed_up),
            Path(artefact.path).name,
        )
        for artefact in artefacts
    ]


def _main_metric_of(artefacts):
    """The name of the metric in the table of artefacts."""
    return next((artefact.main_metric for artefact in artefacts if artefact.main_metric), "metric")


def _share(part, whole):
    return f"{part / whole:.0%} kept" if whole else ""

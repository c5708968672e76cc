"""The record of a whole run, and what can be made of it."""

import dataclasses
import json
import math

from aip_tf.report import page, tables
from aip_tf.report.artefacts import Artefact
from aip_tf.report.records import (
    GroupRecord,
    LayerRecord,
    ModelRecord,
    RoundRecord,
    normalize,
    plain,
)

_VERSION = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningReport:
    """The record of a whole run: what was cut, what it cost, what it gained.

    Numbers of NumPy, paths, tuples and callables are turned into plain Python values on
    construction, so that `from_json(report.to_json()) == report` always holds.

    Attributes:
        teacher: the model at the start.
        rounds: one record per cut, in order.
        history: one dictionary of logs per epoch, each with its `"epoch"` (zero-based).
        student: the model at the end.
        seconds: wall-clock time of the whole run.
        settings: what the run was asked to do, by name.
        run: what ran, by name: model, data, classes, transfers, loss, metrics, seed, date, versions
            of the packages, the resolved configuration.
        artefacts: what was written, by name: `{"student": "runs/a/student.keras", ...}`.
        pictures: photographs and what was found on them, see `pictures.render`; or empty.
        layers: what every layer that multiplies computes, before and after.
        deliveries: the exported files with their proofs.

    >>> report = PruningReport(
    ...     teacher=ModelRecord(macs=1000, parameters=200, metrics={"accuracy": 0.98}),
    ...     student=ModelRecord(macs=250, parameters=50, metrics={"accuracy": 0.97}),
    ... )
    >>> PruningReport.from_json(report.to_json()) == report
    True
    >>> report.render().splitlines()[1]
    'MACs        1,000 -> 250 (25.0% kept, 75.0% removed)'
    """

    teacher: ModelRecord
    student: ModelRecord
    rounds: tuple[RoundRecord, ...] = ()
    history: tuple[dict, ...] = ()
    seconds: float = 0.0
    settings: dict = dataclasses.field(default_factory=dict)
    run: dict = dataclasses.field(default_factory=dict)
    artefacts: dict[str, str] = dataclasses.field(default_factory=dict)
    pictures: dict = dataclasses.field(default_factory=dict)
    layers: tuple[LayerRecord, ...] = ()
    deliveries: tuple[Artefact, ...] = ()

    def __post_init__(self):
        normalize(self, layers=tuple, deliveries=tuple)
        normalize(self, rounds=tuple, seconds=float, settings=plain, run=plain, artefacts=plain)
        normalize(self, pictures=plain)
        normalize(self, history=lambda history: tuple(plain(logs) for logs in history))

    def to_json(self) -> str:
        """Returns the report as standard JSON; non-finite numbers are `{"non_finite": "nan"}`."""
        fields = {"version": _VERSION, **dataclasses.asdict(self)}
        return json.dumps(_encode(fields), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "PruningReport":
        """Returns the report that `to_json` wrote.

        Raises:
            ValueError: if the text is not such a report.
        """
        try:
            fields = json.loads(text, object_hook=_decode)
            if fields.pop("version") != _VERSION:
                raise KeyError("version")
            fields["rounds"] = tuple(map(_round_from, fields["rounds"]))
            fields["layers"] = tuple(LayerRecord(**layer) for layer in fields["layers"])
            fields["deliveries"] = tuple(Artefact(**each) for each in fields["deliveries"])
            models = {name: ModelRecord(**fields[name]) for name in ("teacher", "student")}
            return cls(**{**fields, **models})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Received a text that is no pruning report ({type(error).__name__}: {error}). "
                f"Expected what PruningReport.to_json() of report version {_VERSION} writes. "
                "Write the report anew with this version of aip_tf."
            ) from error

    def render(self) -> str:
        """Returns the report as text for a terminal: summary, rounds, groups, artefacts."""
        return tables.render(self)

    def to_html(self) -> str:
        """Returns the report as one self-contained HTML page with its plots inside."""
        return page.render(self)


def _round_from(fields):
    groups = tuple(GroupRecord(**group) for group in fields["groups"])
    return RoundRecord(**{**fields, "groups": groups})


def _encode(value):
    if isinstance(value, float) and not math.isfinite(value):
        return {"non_finite": repr(value)}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(fields):
    return float(fields["non_finite"]) if fields.keys() == {"non_finite"} else fields

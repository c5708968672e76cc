"""The records of a run. They hold plain Python values only, so JSON keeps them exactly."""

import dataclasses
import json
import math
from collections.abc import Mapping

_VERSION = 2


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """Size and quality of one model.

    Attributes:
        macs: multiply-accumulate operations for one sample.
        parameters: number of weights, trainable or not.
        metrics: validation metrics by name, as Keras' `evaluate(return_dict=True)` gives them.
    """

    macs: int
    parameters: int
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        _normalise(self, macs=int, parameters=int, metrics=_plain)


@dataclasses.dataclass(frozen=True)
class GroupRecord:
    """How many channels of one channel group are left.

    Attributes:
        name: the group's name.
        num_channels: channels of the original model, before the first cut.
        kept: channels left.
        reason: why the group is kept whole; empty where it may be cut.
    """

    name: str
    num_channels: int
    kept: int
    reason: str = ""

    def __post_init__(self):
        _normalise(self, name=str, num_channels=int, kept=int, reason=str)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One cut and its recovery.

    Attributes:
        round: number of the cut, from 1.
        epoch: zero-based index of the epoch after which the cut was made.
        amount: the cumulative amount asked of the selection.
        macs: multiply-accumulate operations for one sample, after the cut.
        parameters: number of weights after the cut.
        metrics_before: validation metrics right after the cut, before recovery.
        metrics_after: validation metrics at the end of the recovery; None if not measured.
        seconds: wall-clock time of the cut and its recovery.
        check_error: relative difference between the masked and the cut model (law 1).
        groups: every channel group after the cut.
    """

    round: int
    epoch: int
    amount: float
    macs: int
    parameters: int
    metrics_before: dict[str, float] = dataclasses.field(default_factory=dict)
    metrics_after: dict[str, float] | None = None
    seconds: float = 0.0
    check_error: float = 0.0
    groups: tuple[GroupRecord, ...] = ()

    def __post_init__(self):
        _normalise(self, round=int, epoch=int, amount=float, macs=int, parameters=int)
        _normalise(self, metrics_before=_plain, metrics_after=_plain)
        _normalise(self, seconds=float, check_error=float, groups=tuple)


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

    def __post_init__(self):
        _normalise(self, rounds=tuple, seconds=float, settings=_plain, run=_plain, artefacts=_plain)
        _normalise(self, history=lambda history: tuple(_plain(logs) for logs in history))

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
        from aip_tf.report import tables

        return tables.render(self)

    def to_html(self) -> str:
        """Returns the report as one self-contained HTML page with its plots inside."""
        from aip_tf.report import page

        return page.render(self)


def _normalise(record, **converters):
    """Replaces fields of a frozen record by plain values; only for `__post_init__`."""
    for name, convert in converters.items():
        object.__setattr__(record, name, convert(getattr(record, name)))


def _plain(value):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if hasattr(value, "numpy"):  # tensors
        return value.numpy().tolist()
    return getattr(value, "__name__", None) or str(value)


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

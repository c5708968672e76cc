"""The records of a run. They hold plain Python values only, so JSON keeps them exactly."""

import dataclasses
from collections.abc import Mapping


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
        normalize(self, macs=int, parameters=int, metrics=plain)


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
        normalize(self, name=str, num_channels=int, kept=int, reason=str)


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """What one layer computes.

    Attributes:
        name: path of the layer.
        macs: its multiply-accumulates for one sample in the original model.
        kept: those left after the last cut.
        reason: why none of its channels can be cut; empty where some can.
    """

    name: str
    macs: int
    kept: int
    reason: str = ""

    def __post_init__(self):
        normalize(self, name=str, macs=int, kept=int, reason=str)


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
        latency: `{"median", "lower_quartile", "upper_quartile"}` in milliseconds of its LiteRT file
            after the recovery; empty if it was not timed.
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
    latency: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        normalize(self, latency=plain)
        normalize(self, round=int, epoch=int, amount=float, macs=int, parameters=int)
        normalize(self, metrics_before=plain, metrics_after=plain)
        normalize(self, seconds=float, check_error=float, groups=tuple)


def normalize(record, **converters):
    """Replaces fields of a frozen record by plain values; only for `__post_init__`."""
    for name, convert in converters.items():
        object.__setattr__(record, name, convert(getattr(record, name)))


def plain(value):
    """A value as JSON can hold it: numbers of NumPy, paths, tuples, callables as plain Python."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if hasattr(value, "numpy"):  # tensors
        return value.numpy().tolist()
    return getattr(value, "__name__", None) or str(value)

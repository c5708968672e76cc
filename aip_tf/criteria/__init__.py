"""How much a channel matters: importance scores, higher = keep.

A criterion is any callable `(model, groups, data) -> {group name: float32 (num_channels,)}`. The
ones here differ in what they look at (weights, normalisation, outputs, gradients) and share how
their numbers are made comparable: a group with several producers (a residual sum) has one vector
of scores from each; each vector is *normalised*, then they are *aggregated*. Normalising is what
lets one ranking run over groups of different size ("global" selection, thresholds).
"""

from aip_tf.arguments import shown, takes
from aip_tf.criteria.base import Criterion
from aip_tf.criteria.data import FeatureMagnitude, Taylor
from aip_tf.criteria.reconstruction import Reconstruction
from aip_tf.criteria.weights import (
    GeometricMedian,
    Magnitude,
    NormalizationScale,
    Random,
    ScaledMagnitude,
)

__all__ = [
    "Criterion",
    "FeatureMagnitude",
    "GeometricMedian",
    "Magnitude",
    "NormalizationScale",
    "Random",
    "Reconstruction",
    "ScaledMagnitude",
    "Taylor",
    "for_task",
    "get",
]

_CRITERIA = {
    "bn_scale": NormalizationScale,
    "feature_magnitude": FeatureMagnitude,
    "fpgm": GeometricMedian,
    "l1": Magnitude,
    "l1_bn": ScaledMagnitude,
    "l2": lambda: Magnitude(order=2),
    "random": Random,
    "reconstruction": Reconstruction,
    "taylor": Taylor,
}


def get(identifier):
    """Look a criterion up: a name, a `Criterion` (object or class) or any callable.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    >>> get("l2").order
    2
    """
    if isinstance(identifier, str) and identifier in _CRITERIA:
        return _CRITERIA[identifier]()
    if isinstance(identifier, type) and issubclass(identifier, Criterion):
        return identifier()
    if callable(identifier) and takes(identifier, 3):
        return identifier
    known = ", ".join(repr(name) for name in _CRITERIA)
    raise ValueError(
        f"Unknown criterion {shown(identifier)}; expected one of {known}, or a callable "
        "(model, groups, data) -> {group name: scores}."
    )


def for_task(criterion, task):
    """`criterion` told what the model is asked to do, see `Criterion.for_task`."""
    return criterion.for_task(task) if isinstance(criterion, Criterion) else criterion

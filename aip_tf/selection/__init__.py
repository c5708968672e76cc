"""From importance scores and an amount to keep masks.

Every budgeted selection works the same way: order the channels from the least to the most important
one (how they are compared is the *scope*), then find by bisection the shortest beginning of that
order whose removal brings the cost within the budget. Costs come from kept counts by formula, so a
step of the search takes about a millisecond.

Amounts are fractions *removed of the original*: `reference`, the untouched network, sets the budget
and the widths that caps and shares refer to; `model` may already have been cut.
"""

import numbers

from aip_tf import criteria
from aip_tf.arguments import shown, takes
from aip_tf.channels import ChannelGraph
from aip_tf.cost import Cost
from aip_tf.selection.budget import (
    Channels,
    Macs,
    OutOfReachError,
    PaddedMacs,
    Parameters,
    Selection,
)
from aip_tf.selection.paper import PerGroup, Threshold
from aip_tf.selection.timed import Latency

__all__ = [
    "Channels",
    "Cost",
    "Latency",
    "Macs",
    "OutOfReachError",
    "PaddedMacs",
    "Parameters",
    "PerGroup",
    "Selection",
    "Threshold",
    "get",
    "select_channels",
]


def select_channels(
    model,
    amount,
    *,
    selection="macs",
    criterion="l1",
    data=None,
    reference=None,
    input_shape=None,
):
    """Choose the channels that stay.

    Args:
        model: the `keras.Model` to cut, or its `ChannelGraph`; not changed.
        amount: float in [0, 1), the fraction removed of the original cost (for "threshold": the
            score that a channel must exceed; for "latency" also above 1, as "2.0 times faster").
        selection: what the amount means: "macs" (default), "padded_macs", "parameters", "channels",
            "latency", "threshold", an object of this module, or any callable
            `(scores, groups, amount, cost) -> keep_masks`, where `cost` is a `Cost`.
        criterion: how channels are scored: a name, an object of `aip_tf.criteria`, or any callable
            `(model, groups, data) -> {group name: scores}`.
        data: what a criterion that looks at data needs: a `tf.data.Dataset` of (images, labels)
            batches or a tuple of arrays.
        reference: the original model when `model` was cut before; its totals and widths are what
            `amount`, `max_sparsity` and shares refer to. Layer names must match.
        input_shape: see `find_channel_groups`; needed where the model leaves sizes open.

    Returns:
        keep_masks: {group name: bool (num_channels,)}, True = keep, for `prune_channels`. Groups
        that are not named are kept whole.

    Raises:
        ValueError: for unknown names, an amount out of range, or unusable scores.
        OutOfReachError: a ValueError, for a target that cannot be reached; the message names the
            reachable minimum.

    >>> import keras
    >>> layers = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> {name: int(keep.sum()) for name, keep in select_channels(model, 0.5).items()}
    {'hidden': 4}
    """
    criterion, selection = criteria.get(criterion), get(selection)
    graph = ChannelGraph.of(model, input_shape)
    plain = graph if graph.plain_model is graph.model else ChannelGraph(graph.plain_model)
    cost = Cost(plain, reference, input_shape)
    if isinstance(selection, Selection):
        selection = selection.suited_to(criterion)
    return selection(criterion(plain.model, cost.groups, data), cost.groups, amount, cost)


def final_fraction(schedule, selection):
    """A schedule that is one number as the fraction removed; any other schedule as it is.

    >>> final_fraction(2.0, Latency()), final_fraction(0.4, "macs")
    (0.5, 0.4)
    """
    is_number = isinstance(schedule, numbers.Real) and not isinstance(schedule, bool)
    return (
        selection.fraction(schedule) if is_number and hasattr(selection, "fraction") else schedule
    )


_SELECTIONS = {
    "channels": Channels,
    "latency": Latency,
    "macs": Macs,
    "padded_macs": PaddedMacs,
    "parameters": Parameters,
    "threshold": Threshold,
}


def get(identifier):
    """Look a selection up: a name, a `Selection` (object or class) or any callable.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    >>> type(get("macs")).__name__
    'Macs'
    """
    if isinstance(identifier, str) and identifier in _SELECTIONS:
        return _SELECTIONS[identifier]()
    if isinstance(identifier, type) and issubclass(identifier, Selection):
        return identifier()
    if callable(identifier) and takes(identifier, 4):
        return identifier
    known = ", ".join(repr(name) for name in _SELECTIONS)
    raise ValueError(
        f"Unknown selection {shown(identifier)}; expected one of {known}, or a callable "
        "(scores, groups, amount, cost) -> keep_masks."
    )

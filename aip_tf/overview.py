"""`summary`: what of a model can be cut, what every layer costs, and what is kept whole."""

import math
from collections.abc import Mapping

import numpy as np

from aip_tf.arguments import shown
from aip_tf.cost import Cost, whole_layers
from aip_tf.text import text_table


def summary(model, input_shape=None, milliseconds=None):
    """A table of the model's channel groups, of its layers, of what is kept whole, and its cost.

    Args:
        model: a `keras.Model` or its `ChannelGraph`.
        input_shape: see `ChannelGraph`.
        milliseconds: {path of a layer: its time}, as `measure_layers(model)` gives it; None: no
            times are shown.

    Returns:
        str: one line for each channel group (channels, whether they can be pruned or why not, the
        producers); one for each layer that multiplies or was timed (its MACs, their share,
        milliseconds, their share); the layers made of layers that were opened; one line for each
        layer that is kept whole (its share of the parameters and of the MACs, why); and a line
        with parameters, MACs and the share of the MACs that a cut of all prunable groups down to
        one channel would leave.

    Raises:
        ValueError: for times that are none, or of other layers.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="only")])
    >>> print(chr(10).join(summary(model, milliseconds={"only": 0.25}).splitlines()[4:7]))
    layer  MACs   share  milliseconds   share
    -----------------------------------------
    only     12  100.0%          0.25  100.0%
    """
    cost = Cost(model, input_shape=input_shape)
    times = _checked(milliseconds or {}, cost)
    blocks = [
        _group_table(cost.groups),
        _layer_table(cost, times),
        _opened(cost.graph),
        _table_of_whole_layers(cost),
    ]
    return "\n\n".join([*filter(None, blocks), _totals(cost, times)])


def _checked(times, cost):
    known = {call.path for call in cost.graph.trace.calls}
    is_named = isinstance(times, Mapping) and set(times) <= known
    if not is_named or not all(isinstance(x, int | float) and x >= 0 for x in times.values()):
        raise ValueError(
            f"Received milliseconds={shown(times)}. Expected {{path of a layer: number >= 0}} of "
            "this model, as aip_tf.measure_layers(model) gives it."
        )
    return times


def _layer_table(cost, times):
    macs = cost.layer_macs()
    paths = dict.fromkeys(call.path for call in cost.graph.trace.calls)
    rows = [
        (path, f"{macs.get(path, 0):,}", _share(macs.get(path, 0), macs), *_time(path, times))
        for path in paths
        if macs.get(path) or path in times
    ]
    if not rows:
        return ""
    header = ("layer", "MACs", "share", *(("milliseconds", "share") if times else ()))
    return text_table(header, rows, align="<" + ">" * (len(header) - 1))


def _time(path, times):
    if not times:
        return ()
    if path not in times:
        return "", ""
    return f"{times[path]:.3g}", _share(times[path], times)


def _share(part, all_):
    whole = math.fsum(all_.values())
    return f"{part / whole:.1%}" if whole else ""


def _group_table(groups):
    if not groups:
        return "No channel group: no layer makes channels that are known."
    rows = []
    for g in groups:
        verdict = "yes" if g.prunable else f"no: {g.reason}"
        rows.append((g.name, str(g.num_channels), verdict, ", ".join(g.producers)))
    return text_table(("channel group", "channels", "prunable", "producers"), rows, "<><<")


def _opened(graph):
    names = graph.trace.opened
    return f"Opened (made of layers): {', '.join(names)}" if names else ""


def _table_of_whole_layers(cost):
    layers = whole_layers(cost)
    if not layers:
        return ""
    parameters, macs = max(1, cost.parameters()), max(1, cost.macs())
    rows = []
    for path, count, own, reason in layers:
        share = "unknown" if own is None else f"{own / macs:.1%}"
        rows.append((path, f"{count / parameters:.1%}", share, reason))
    return text_table(("kept whole", "parameters", "MACs", "why"), rows, "<>><")


def _totals(cost, times):
    least = {g.name: np.arange(g.num_channels) == 0 for g in cost.groups if g.prunable}
    known = f"{cost.macs():,} MACs"
    if cost.unknown_macs:
        known += f" and an unknown number in {', '.join(cost.unknown_macs)}"
    if times:
        known += f", {math.fsum(times.values()):.3g} ms in layers that were timed"
    return (
        f"{cost.parameters():,} parameters, {known}; one channel in every prunable "
        f"group would leave {cost.macs(least) / max(1, cost.macs()):.1%} of the MACs"
    )

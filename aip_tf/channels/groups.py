"""Channel groups: the sets of channels among which a keep mask may choose freely."""

import collections
import dataclasses
import random
from typing import NamedTuple

import numpy as np

from aip_tf import _keras
from aip_tf.channels.identities import compact, distinct


class Member(NamedTuple):
    """Where channels of a group stand in one axis of one variable.

    Attributes:
        layer: path of the layer, `"outer/inner"` where models are nested.
        variable: the variable's path inside the layer: "kernel", "gamma", "query/kernel".
        axis: axis of the variable.
        role: "producer" (makes the channels), "consumer" (reads them), "channelwise" (one value
            for each channel that passes).
        indices: int array (n,), positions on the axis.
        channels: int array (n,), the channel of the group, 0 .. num_channels - 1, that each
            position belongs to; a channel may own several positions (Dense after Flatten).
    """

    layer: str
    variable: str
    axis: int
    role: str
    indices: np.ndarray
    channels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are made by the same layers and occur in the same tensors.

    Any subset may be kept, as long as it is not empty.

    Attributes:
        name: the path of the first producer, with ":2", ":3" for further groups of it.
        num_channels: number of channels.
        producers: paths of the layers whose variables make the channels.
        consumers: paths of the layers whose variables read them.
        members: where the channels stand in variables.
        prunable: whether channels may be removed.
        reason: why not, or "".
        residual: whether the channels meet others in a sum (a residual connection).
    """

    name: str
    num_channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    members: tuple[Member, ...]
    prunable: bool
    reason: str
    residual: bool


def group_channels(traced):
    """Put the channels of a `Trace` into groups (rule 7 of docs/channels.md).

    Returns:
        The groups, prunable or not, in the order of the network, and `{group name: int array
        (num_channels,)}`, which class of the trace each channel is.
    """
    first = _first_made(traced)
    sets = _free(traced, first) + _kept_whole(traced)
    sets.sort(key=lambda entry: entry[0])
    classes = [channels for _, channels, _ in sets]
    places = _Places(traced, classes)
    producers, members = _producers(traced, places), _members(traced, places)
    names = _names(traced, classes, producers)
    merged = np.zeros(len(traced.pinned), bool)
    for ids in traced.tracer.residuals:
        merged[traced.class_of[ids]] = True
    groups = []
    for i, (_, channels, reason) in enumerate(sets):
        if not reason and len(channels) == 1:
            reason = "it has a single channel"
        consumers = dict.fromkeys(m.layer for m in members[i] if m.role == "consumer")
        groups.append(
            ChannelGroup(
                name=names[i],
                num_channels=len(channels),
                producers=tuple(producers[i]),
                consumers=tuple(consumers),
                members=tuple(members[i]),
                prunable=not reason,
                reason=reason,
                residual=bool(merged[channels].any()),
            )
        )
    return groups, dict(zip(names, classes, strict=True))


def _first_made(traced):
    """For each class the smallest identity that a layer produces, or else any; its order."""
    first = np.empty(len(traced.pinned), int)
    made = [ids for _, ids in traced.tracer.producers]  # in ascending order, as they were started
    for ids in (np.arange(len(traced.class_of)), np.concatenate([np.zeros(0, int), *made])):
        first[traced.class_of[ids[::-1]]] = ids[::-1]  # of several the last one stays
    return first


def _free(traced, first):
    """Sets of channels that may be removed, by that rule; within a set in the order of `first`."""
    signature = _signatures(traced)
    free = np.flatnonzero((signature > 0) & ~traced.pinned)
    if not free.size:
        return []
    free = free[np.lexsort((first[free], signature[free]))]
    ends = np.flatnonzero(np.diff(signature[free])) + 1
    return [(first[channels[0]], channels, "") for channels in np.split(free, ends)]


def _signatures(traced):
    """A number for each class that tells the tensors in which it occurs and its producers."""
    signature = np.zeros(len(traced.pinned), np.uint64)
    places = [*traced.tensors(), *(ids for _, ids in traced.tracer.producers)]
    places = distinct(places)  # tensors that hold the same channels tell nothing new
    numbers = np.frombuffer(random.Random(0).randbytes(8 * len(places)), np.uint64)
    for ids, number in zip(places, numbers, strict=True):
        signature[traced.class_of[ids]] += number  # once, however often a class occurs
    return signature


def _kept_whole(traced):
    """Sets of channels that are pinned, one for all producers that share them."""
    sets = {}
    made = _Joined([ids for _, ids in traced.tracer.producers])
    is_held = traced.pinned[traced.class_of[made.entries]]
    for ids, any_held in zip(made.arrays, made.reduced(np.logical_or, is_held), strict=True):
        if any_held:
            channels = traced.class_of[ids]
            held = channels[traced.pinned[channels]]
            reason = traced.reason_of(held[0])
            sets.setdefault(np.unique(held).tobytes(), (ids[0], held, reason))
    return list(sets.values())


class _Joined:
    """Arrays of identities end to end: one look at all of them, as a network has hundreds."""

    def __init__(self, arrays):
        self.arrays = [ids for ids in arrays if len(ids)]
        self.entries = np.concatenate([np.zeros(0, int), *self.arrays])
        self.bounds = np.cumsum([0, *map(len, self.arrays)]).tolist()

    def reduced(self, ufunc, values):
        """`ufunc` over the `values` of each array's entries: list, one for each array."""
        return ufunc.reduceat(values, self.bounds[:-1]).tolist() if self.arrays else []


class _Places:
    """Where the channels of each set stand in the arrays of identities that make or read them."""

    def __init__(self, traced, classes):
        self.num_sets = len(classes)
        owner, place = np.full(len(traced.pinned), -1), np.zeros(len(traced.pinned), int)
        for i, channels in enumerate(classes):
            owner[channels] = i
            place[channels] = np.arange(len(channels))
        arrays = [ids for _, ids in traced.tracer.producers]
        arrays += [axis.ids for weight in traced.weights.values() for axis in weight.axes]
        joined = _Joined(
            {id(ids): ids for ids in arrays}.values()
        )  # a layer's variables share them
        entries = traced.class_of[joined.entries]
        owners, places = owner[entries], place[entries]
        lowest, highest = joined.reduced(np.minimum, owners), joined.reduced(np.maximum, owners)
        numbers = np.arange(max(map(len, joined.arrays), default=0))
        self._found = {}
        for i, (ids, low, high) in enumerate(zip(joined.arrays, lowest, highest, strict=True)):
            here = slice(joined.bounds[i], joined.bounds[i + 1])
            if low != high:
                found = _several(owners[here], places[here])
            else:  # the usual case
                found = [(low, numbers[: len(ids)], places[here])] if low >= 0 else []
            self._found[id(ids)] = found

    def __call__(self, ids):
        """For each set in `ids`: its number, the indices of its entries, their channels."""
        return self._found.get(id(ids), [])


def _several(owners, places):
    indices = [(i, np.flatnonzero(owners == i)) for i in np.unique(owners) if i >= 0]
    return [(i, here, places[here]) for i, here in indices]


def _producers(traced, places):
    producers = [{} for _ in range(places.num_sets)]
    for path, ids in traced.tracer.producers:
        for i, _, _ in places(ids):
            producers[i][path] = True
    return producers


def _members(traced, places):
    members = [[] for _ in range(places.num_sets)]
    for weight in traced.weights.values():
        path, variable = weight.path, name_inside(weight.layer, weight.variable)
        for axis in weight.axes:
            for i, indices, channels in places(axis.ids):
                members[i].append(Member(path, variable, axis.axis, axis.role, indices, channels))
    return members


def name_inside(layer, variable):
    """The path of a variable inside the layer that owns it: "kernel", "query/kernel"."""
    for inner in _keras.sublayers(layer):
        if any(v is variable for v in inner.variables):
            return f"{inner.name}/{name_inside(inner, variable)}"
    return variable.name


def _names(traced, classes, producers):
    """The first producer's path, numbered where it has several groups."""
    used, names = collections.Counter(), []
    for channels, paths in zip(classes, producers, strict=True):
        path = next(iter(paths), None) or _first_place(traced, channels[0])
        used[path] += 1
        names.append(path if used[path] == 1 else f"{path}:{used[path]}")
    return names


def _first_place(traced, channel):
    for call in traced.calls:
        if any((traced.class_of[compact(x)] == channel).any() for x in call.outputs):
            return call.path
    return "input"

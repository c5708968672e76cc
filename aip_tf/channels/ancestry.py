"""Which channels of the network it was cut from each channel of a cut network is.

Known as long as the objects live: every cut notes it, over any number of cuts. What is loaded from
a file has no ancestors.
"""

import dataclasses
import weakref

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Descent:
    """What a network is of its ancestor: `kept` is {path: (axis, indices)} where channels went."""

    ancestor: object  # stands for it, even when it is gone
    kept: dict[str, tuple[int, np.ndarray]]


_descents = weakref.WeakKeyDictionary()


def note_descent(before, after, traced, kept):
    """Note that `after` is what `kept` leaves of `before`, whose `Trace` is `traced`."""
    known = _descent(before)
    indices = dict(known.kept)
    for call in traced.calls:
        found = kept.axis(call.outputs[0]) if call.outputs else None
        if found is not None:
            axis, left = found[0], np.flatnonzero(found[1])
            _, earlier = known.kept.get(call.path, (axis, np.arange(len(found[1]))))
            indices[call.path] = axis, earlier[left]
    _descents[after] = _Descent(known.ancestor, indices)


def kept_channels(teacher, student, path):
    """Which channels of the teacher's tensor at `path` the student's channels are.

    Args:
        teacher: a network.
        student: what cuts have left of it, or of the network that both were cut from.
        path: layer path, the same in both.

    Returns:
        `(axis, indices)`: the student's tensor is the teacher's, taken at `indices` along `axis`;
        None where it has all channels.

    Raises:
        ValueError: if the student is not known to come from the teacher by cutting.

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2)])
    >>> smaller = aip_tf.prune_channels(model, {"a": np.array([True, False, True])})
    >>> kept_channels(model, smaller, "a")
    (1, array([0, 2]))
    """
    theirs, own = _descent(teacher), _descent(student)
    if theirs.ancestor is not own.ancestor:
        raise ValueError(
            f"Received the student {student.name!r}, which is not known to be cut from the teacher "
            f"{teacher.name!r} (a model that was loaded has forgotten it). Expected what "
            "`prune_channels` or `prune` made of it in this process; or give "
            "kept={path: channels of the teacher}."
        )
    if path not in own.kept:
        return None
    axis, indices = own.kept[path]
    if path in theirs.kept:
        indices = np.searchsorted(theirs.kept[path][1], indices)
    return axis, indices


def _descent(model):
    return _descents.setdefault(model, _Descent(object(), {}))

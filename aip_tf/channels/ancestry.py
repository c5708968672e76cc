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
        student: what cuts have left of it; or of the network that both were cut from, with no
            channel that the teacher has lost.
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
    had, left = theirs.kept.get(path), own.kept.get(path)
    has_all = had is None or (left is not None and np.isin(left[1], had[1]).all())
    if theirs.ancestor is not own.ancestor or not has_all:
        raise ValueError(
            f"Received the student {student.name!r}, whose channels at {path!r} are not known to "
            f"be cut from the teacher {teacher.name!r} (a model that was loaded has forgotten it). "
            "Expected what `prune_channels` or `prune` made of it in this process; "
            "or give kept={path: channels of the teacher}."
        )
    if left is None:
        return None
    axis, indices = left
    return axis, indices if had is None else np.searchsorted(had[1], indices)


def _descent(model):
    return _descents.setdefault(model, _Descent(object(), {}))

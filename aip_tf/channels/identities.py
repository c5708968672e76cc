"""Channel identities: integers, and the union-find that says which of them are one channel."""

import numpy as np


class IdentityArray(np.ndarray):
    """An integer array shaped like a tensor; each entry is the identity that flows there.

    A subclass only so that a rule can tell a traced tensor from a constant of the graph.
    """


class Identities:
    """Union-find over integers, vectorised, with a reason on every class that must stay whole."""

    def __init__(self):
        self._parent = np.arange(4096)
        self._reason = np.zeros(4096, np.int32)
        self._reasons = [""]
        self.size = 0

    def new(self, count):
        """`count` fresh identities, each a class of its own: int array (count,)."""
        start, self.size = self.size, self.size + count
        while self.size > len(self._parent):
            grown = np.arange(2 * len(self._parent))
            grown[: len(self._parent)] = self._parent
            self._parent = grown
            self._reason = np.concatenate([self._reason, np.zeros_like(self._reason)])
        return np.arange(start, self.size)

    def find(self, ids):
        """The representative of each entry's class, in the shape of `ids`."""
        parent = self._parent
        roots = first = parent[ids]
        while True:
            above = parent[roots]
            if (above == roots).all():
                if roots is not first:
                    parent[ids] = roots
                return roots
            roots = above

    def are_one(self, a, b):
        """Whether two identities are of one class."""
        parent = self._parent
        while (above := parent[a]) != a:
            a = above
        while (above := parent[b]) != b:
            b = above
        return a == b

    def union(self, a, b):
        """Make `a[i]` and `b[i]` one class, for all i (the arrays broadcast)."""
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            if a.shape != b.shape:
                a, b = np.broadcast_arrays(a, b)
            a, b = a[differ], b[differ]
            low, high = np.minimum(a, b), np.maximum(a, b)
            self._parent[high] = low
            are_linked = (self._parent[high] == low).all()
            if not are_linked:  # several for one: it goes to the least, the others wait
                np.minimum.at(self._parent, high, low)
            held = self._reason[high]
            if held.any():  # to the top of each chain: pairs may follow one another, (5, 3), (3, 1)
                np.maximum.at(self._reason, self.find(high), held)
            if are_linked:
                return

    def pin(self, ids, reason):
        """Keep the classes of `ids` whole, whatever else is cut; the first reason stands."""
        roots = self.find(ids)
        free = roots[self._reason[roots] == 0]
        if free.size:
            if reason not in self._reasons:
                self._reasons.append(reason)
            self._reason[free] = self._reasons.index(reason)

    def reasons(self, ids):
        """Index of the reason why each entry is pinned, 0 where it is not; see `reason`."""
        return self._reason[self.find(ids)]

    def reason(self, index):
        """The text behind an index of `reasons`."""
        return self._reasons[index]

    def classes(self, ids):
        """Class of each entry; all pinned entries count as one class, -1."""
        roots = self.find(ids)
        return np.where(self._reason[roots] > 0, -1, roots)


_ALL, _FIRST = slice(None), slice(0, 1)


def compact(array):
    """`array` with every axis that is a broadcast view cut down to size 1."""
    return array[tuple([_FIRST if step == 0 else _ALL for step in array.strides])]


def distinct(arrays):
    """Arrays of identities, compact, without those that only show the entries of another."""
    found = {}
    for array in arrays:
        small = owner = compact(array)
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        found.setdefault(id(owner) if owner.size == small.size else id(array), small)
    return found.values()


def long_axes(array):
    """The axes on which `compact(array)` has more than one entry; it varies along no other."""
    return [a for a, step in enumerate(array.strides) if step and array.shape[a] > 1]


def line(array, axis):
    """The entries of an identity array along `axis`, at index 0 of every other axis.

    Of what `spread` made it is the very array that was spread, so that it is known again.
    """
    base, shown = array.base, ((array.shape[axis],), (array.strides[axis],))
    if type(base) is np.ndarray and (base.shape, base.strides) == shown:
        return base
    return np.asarray(array)[(*(0,) * axis, _ALL, *(0,) * (array.ndim - 1 - axis))]


def spread(ids, shape, axis=-1):
    """An identity array of `shape` that varies along `axis` only, where it is `ids`; a view."""
    ids = np.ascontiguousarray(ids)
    if len(ids) not in (1, shape[axis]):
        raise ValueError(
            f"Received {len(ids)} identities for axis {axis} of the shape {tuple(shape)}. Expected "
            f"one, or as many as the axis is long: a channel rule gives one for each channel."
        )
    strides = [0] * len(shape)
    strides[axis] = ids.itemsize if len(ids) > 1 else 0
    view = IdentityArray(shape, ids.dtype, ids, strides=strides)
    view.flags.writeable = False
    return view


def varying_axes(classes):
    """The axes along which an array of classes is not constant."""
    return [
        axis
        for axis, size in enumerate(classes.shape)
        if size > 1 and (classes != classes.take([0], axis)).any()
    ]


def rows(array, axis):
    """A compact array as a matrix: one row per index on `axis`."""
    moved = np.moveaxis(array, axis, 0)
    return moved.reshape(len(moved), -1)

"""Streams: what a layer puts out is added to a tensor that brings errors from further up.

The layer can make up for those too, as far as its inputs tell: it learns to put out what the sum
lacks (He et al. 2017, arXiv 1707.06168, section 3.3, "multi-branch").
"""

import dataclasses
import itertools

import keras
import numpy as np

from aip_tf.game.taps import SUMS
from aip_tf.reconstruction.tape import Step, Tape

_LOOSE = 1e-2  # half precision is as exact
_SILENT = float(np.finfo(np.float32).eps)
_LEAST = 1e-2  # a slope, as a share of the largest: what hardly reaches the sum is not worth moving


def lost_in_sum(whole, left, reader, waiting, take):
    """What the sum behind a reader has lost, in units of what the reader puts out.

    Args:
        whole, left: `Tape`s of the network before and behind a cut, which wait at the reader.
        reader: the `Reader`, of the whole network.
        waiting: paths of all readers; those between here and the sum are not refitted yet.
        take: see `write`.

    Returns:
        A function that gives it for one of the batches: `lost(i) -> array`, shaped as what the
        layer puts out in the whole network. None where no sum follows, or one that is not linear in
        the layer, or which waits for another reader.
    """
    before, after = find_sum(whole), find_sum(left)
    if not reader.linear.is_linear or len(reader.arrangement) > 1 or None in (before, after):
        return None
    if any(step.path in waiting for step in [*before.between, *after.between]):
        return None
    slope, axis, kept = before.slope(), -1, slice(None)
    if before.rest(0).shape != after.rest(0).shape:
        axis, kept = reader.linear.output_axis, _kept_outputs(reader, take)
    if slope is None or axis is None:
        return None
    inverse = np.moveaxis(_inverse(slope), axis, -1)

    def lost(i):
        rest, left_of_it = (np.moveaxis(s.rest(i), axis, -1) for s in (before, after))
        missing = np.zeros_like(rest)
        missing[..., kept] = rest[..., kept] - left_of_it
        return np.moveaxis(missing * inverse, -1, axis)

    return lost


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum that takes what a layer puts out, on a `Tape` that waits at the layer.

    Attributes:
        tape: the `Tape`.
        chain: the calls on the way, the layer's own in front.
        between: the calls that the other summands wait for.
        others: numbers of the other summands.
    """

    tape: Tape
    chain: list[Step]
    between: list[Step]
    others: list[int]

    def rest(self, i):
        """The other summands together, of batch `i`: an array."""
        values = dict(self.tape.values[i])
        for step in self.between:
            step.run(values)
        return _array(sum(values[n] for n in self.others))

    def slope(self):
        """How much the sum grows with what the layer puts out: an array (1, ...), entry by entry.

        None where it does not grow in proportion, as behind a ReLU, not so much that the others'
        rounding would show it, or is stretched to a sum of another shape.
        """
        values = dict(self.tape.values[0])
        (y,) = self.chain[0].call(values)
        zero, one, found = (
            self._behind_chain(values, x)
            for x in (keras.ops.zeros_like(y), keras.ops.ones_like(y), y)
        )
        rest = self.rest(0)
        if not zero.shape == y.shape == rest.shape:
            return None
        if np.abs(found - zero).max() <= _SILENT * np.abs(rest).max():
            return None
        slope, tolerance = one - zero, _LOOSE * np.abs(found).max()
        is_linear = np.abs(found - zero - slope * _array(y)).max() <= tolerance
        return slope[:1] if is_linear else None

    def _behind_chain(self, values, y):
        for before, step in itertools.pairwise(self.chain):
            (y,) = step.call({**values, before.outputs[0]: y})
        return _array(y)


def find_sum(tape):
    """The `Sum` that takes what the layer at this place of `tape` puts out.

    None if something else does: on the way each tensor is read once, by a call that reads nothing
    else. (Calls that hand on what they got, such as dropout now, are no readers.)
    """
    chain, way, place = [], set(), tape.place
    while True:
        step = tape.steps[place]
        made, *others = step.outputs
        readers = [
            i for i, s in enumerate(tape.steps) if made in s.slots() and made not in s.outputs
        ]
        if others or len(readers) != 1 or made in tape.outputs:
            return None
        chain.append(step)
        way.add(made)
        (place,) = readers
        step = tape.steps[place]
        rest = [n for n in step.slots() if n != made]
        if rest and type(step.node.operation) in SUMS:
            between = [
                s for s in tape.steps[tape.place + 1 : place] if not way.intersection(s.slots())
            ]
            return Sum(tape, chain, [s for s in between if s not in chain], rest)
        if rest:
            return None


def _inverse(slope):
    """1 / slope; less where that would be large."""
    slope = slope.astype(np.float64)
    return slope / np.maximum(slope**2, (_LEAST * np.abs(slope).max()) ** 2)


def _kept_outputs(reader, take):
    """Which outputs of a reader the cut leaves: int (kept outputs,)."""
    num_blocks, num_entries, num_outputs = reader.matrix().shape
    places = np.arange(num_blocks * num_outputs).reshape(num_blocks, 1, 1, num_outputs)
    shape = (num_blocks, num_entries // reader.num_slots, reader.num_slots, num_outputs)
    linear = reader.linear
    return np.unique(
        take(linear.kernel(np.broadcast_to(places, shape)), reader.path, linear.variable)
    )


def _array(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))

"""One network, the layers in it that read channels, and what they see."""

import dataclasses

import numpy as np

from aip_tf import _keras
from aip_tf.reconstruction.batches import divide, num_inputs_of, num_of_some
from aip_tf.reconstruction.moments import Fit, observe
from aip_tf.reconstruction.readers import find_readers, prepare
from aip_tf.reconstruction.refitting import refit_in_order
from aip_tf.reconstruction.statistics import settle
from aip_tf.reconstruction.write import write

_MAX_BYTES = 2**30  # of covariances held at a time: ResNet-50's, which else takes four passes


@dataclasses.dataclass(frozen=True)
class Refit:
    """What a refit did.

    Attributes:
        layers: paths of the layers that were refitted.
        skipped: `{path: reason}`, layers that read cut channels and were left as they are.
        shrunk: `{path: reason}`, refitted layers that saw fewer samples than they have inputs.
    """

    layers: tuple[str, ...]
    skipped: dict[str, str]
    shrunk: dict[str, str]


class Study:
    """One network, the layers in it that read channels, and what they see.

    Args:
        model: a Functional or built Sequential `keras.Model`; not changed.
        groups: its channel groups.
        batches: list of batches of inputs, see `first_inputs`.
        ridge: see `Fit`.

    Attributes:
        readers: `{path: Reader}`, in the order of the network.
        others: `{path: reason}`, layers that read channels and cannot be refitted.
    """

    def __init__(self, model, groups, batches, ridge):
        self.model, self.groups = model, groups
        self._batches, self._ridge = batches, ridge
        readers, others = find_readers(model, groups)
        num_inputs = sum(map(num_inputs_of, batches))
        few = _keras.first_samples(model, batches[0], 1)
        self.readers, more = prepare(model, readers, few, num_inputs)
        self.others = others | more
        self._moments = {}

    def readers_of(self, names):
        """Paths of the readers of the groups with these names, in the order of the network."""
        names = set(names)
        return [path for path, reader in self.readers.items() if names & reader.owners.keys()]

    def fits(self, paths):
        """The `Fit`s of the readers at `paths`; looks at the data if they are not known yet."""
        if not set(paths) <= self._moments.keys():
            self._look(paths)
        return [
            Fit(self.model, self.readers[path], self._moments[path], self._ridge) for path in paths
        ]

    def _look(self, paths):
        """One pass for the readers at `paths`, and as many from there on as memory allows."""
        self._moments = {}
        order = list(self.readers)
        first = order.index(paths[0])
        chosen, size = {}, 0
        for path in dict.fromkeys([*paths, *order[first:], *order[:first]]):
            size += self.readers[path].num_bytes
            if path in paths or size <= _MAX_BYTES:
                chosen[path] = self.readers[path]
        self._moments = observe(self.model, chosen, self._batches)

    def refit(self, after, keep_masks):
        """Set kernels and biases of the layers of `after` that read cut channels; in place.

        Args:
            after: the network without the channels that `keep_masks` remove.
            keep_masks: `{group name: bool (num_channels,)}`.

        Returns:
            A `Refit`.
        """
        cut = {name: np.asarray(mask) for name, mask in keep_masks.items() if not np.all(mask)}
        take, reading = _Taken(self.groups, cut), self.readers_of(cut)
        single = {p: self.readers[p] for p in reading if self.readers[p].num_calls == 1}
        # A layer that is called twice stands before and behind itself: it has no place in an order.
        # It makes up for what it lost as if nothing else had changed.
        counts = self._refit_alone([p for p in reading if p not in single], after, cut, take)
        model, batches = self.model, self._batches
        counts |= refit_in_order(model, after, single, cut, batches, self._ridge, take)
        left = [path for path in reading if path not in counts]
        counts |= self._refit_alone(left, after, cut, take)
        settle(after, divide(batches, num_of_some(batches), _keras.fixed_batch(after))[0])
        consumers = {path for g in self.groups if g.name in cut for path in g.consumers}
        skipped = {path: why for path, why in self.others.items() if path in consumers}
        return Refit(tuple(reading), skipped, self._shrunk(counts))

    def _refit_alone(self, paths, after, cut, take):
        counts = {}
        for path in paths:
            (fit,) = self.fits([path])
            write(after, fit.reader, *fit.refitted(cut), take)
            counts[path] = fit.moments.count
        return counts

    def _shrunk(self, counts):
        shrunk = {}
        for path, count in counts.items():
            num_inputs, each = self.readers[path].num_inputs, self.readers[path].samples_for_each
            if count < num_inputs:
                shrunk[path] = (
                    f"it has {num_inputs} inputs and saw {count} samples, so it keeps close to its "
                    f"old weights: {-(-num_inputs // each)} images would do"
                )
        return shrunk


class _Taken:
    """What a cut leaves of a weight: `taken(value, layer path, variable name)`."""

    def __init__(self, groups, keep_masks):
        self._gone = {}
        for group in groups:
            for member in group.members if group.name in keep_masks else ():
                gone = member.indices[~keep_masks[group.name][member.channels]]
                key = member.layer, member.variable
                self._gone.setdefault(key, []).append((member.axis, gone))

    def __call__(self, value, path, name):
        removed = {}
        for axis, indices in self._gone.get((path, name), ()):
            removed.setdefault(axis % value.ndim, []).append(indices)
        for axis, indices in removed.items():
            value = np.delete(value, np.concatenate(indices), axis)
        return value

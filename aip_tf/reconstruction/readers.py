"""The layers that read channels, and how the network around them takes up a constant."""

import collections
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.reconstruction.linear import Linear, linear_view

_MAX_INPUTS = 6144  # of one least-squares problem: a float64 matrix of 300 MB
_SAMPLES = 24_000, 100_000  # looked at for one layer, at least and at most, if there are so many
_PRODUCTS = 2**37  # of which one covariance is the sum: between the two, what takes equally long


@dataclasses.dataclass(eq=False)
class Reader:
    """A layer that reads channels, as one or several least-squares problems ("cells").

    A cell is a block of the layer (a conv group). With too many inputs for one covariance, or more
    than there are samples, each place of a channel (position of the kernel or of a flattened image)
    has a cell of its own: the errors of places then add up as if they had nothing in common.

    Attributes:
        path: of the layer.
        linear: the layer as a matrix product.
        axis: the axis of its kernel along which it reads channels.
        owners: `{group name: int (slots,)}`, the channel that each slot belongs to, else -1.
        normalization: path of the BatchNormalization that alone reads the outputs, or "".
        constant: what takes up a constant added to the outputs: "bias", "normalization", or "".
        arrangement: int (cells for a block, inputs): entries of (places x slots).
        samples_for_each: samples looked at in each input.
        num_slots: entries of the axis along which it reads.
        num_calls: how often the network calls it.
    """

    path: str
    linear: Linear
    axis: int
    owners: dict[str, np.ndarray]
    normalization: str = ""
    constant: str = ""
    arrangement: np.ndarray | None = None
    samples_for_each: int = 1
    num_slots: int = 0
    num_calls: int = 0

    @property
    def num_inputs(self):
        """Inputs of one cell."""
        return self.arrangement.shape[1]

    @property
    def num_bytes(self):
        """What its covariances take: int."""
        num_blocks = len(self.matrix())
        return 8 * num_blocks * len(self.arrangement) * self.num_inputs**2

    def matrix(self):
        """The kernel of each block: float64 (blocks, places x slots, outputs)."""
        kernel = _read(self.linear.layer, self.linear.variable)
        matrix = self.linear.matrix(kernel)
        return matrix.reshape(len(matrix), -1, matrix.shape[-1])

    def cells(self, matrix):
        """(blocks, places x slots, outputs) as (cells, inputs, outputs)."""
        return matrix[:, self.arrangement].reshape(-1, self.num_inputs, matrix.shape[-1])

    def joined(self, cells):
        """The reverse of `cells`."""
        num_entries = self.arrangement.size
        cells = cells.reshape(-1, num_entries, cells.shape[-1])
        matrix = np.empty_like(cells)
        matrix[:, self.arrangement.ravel()] = cells
        return matrix

    def as_weights(self, kernels, gaps):
        """Kernels of the cells, and the means their outputs lack, as `write` takes them.

        Args:
            kernels: (cells, inputs, outputs).
            gaps: (cells, outputs).

        Returns:
            `(kernel, constant)`: the kernel in the layer's shape, and (blocks, outputs) to be added
            to the layer's outputs; zero where nothing takes it up.
        """
        matrix = self.joined(kernels)
        shape = (len(matrix), -1, self.num_slots, matrix.shape[-1])
        constant = gaps.reshape(len(matrix), -1, gaps.shape[-1]).sum(axis=1)
        return self.linear.kernel(matrix.reshape(shape)), constant * bool(self.constant)

    def behind_cut(self, model, keep_masks):
        """The same reader in the cut `model`, which sees the kept inputs in the same order."""
        layer = _keras.layer_at(model, self.path)
        linear = linear_view(layer, self.linear.variable, self.axis)
        kept = np.zeros(self.arrangement.size, bool)
        kept[self.arrangement[:, self.kept_inputs(keep_masks)]] = True
        place_among_kept = np.cumsum(kept) - 1
        arrangement = place_among_kept[self.arrangement[:, self.kept_inputs(keep_masks)]]
        return dataclasses.replace(self, linear=linear, arrangement=arrangement)

    def slot_of_inputs(self):
        """The slot of each input of a cell, which is the same in all cells up to its place."""
        return self.arrangement[0] % self.num_slots

    def owner(self, name):
        """The channel of group `name` that each input of a cell belongs to: int (inputs,)."""
        return self.owners[name][self.slot_of_inputs()]

    def kept_inputs(self, keep_masks):
        """Which inputs of a cell are left: bool (inputs,)."""
        kept = np.ones(self.num_slots, bool)
        for name, channels in self.owners.items():
            if name in keep_masks:
                mine = channels >= 0
                kept[mine] &= np.asarray(keep_masks[name])[channels[mine]]
        return kept[self.slot_of_inputs()]

    def inputs(self, x, random):
        """Inputs of the cells for a batch: float64 (cells, samples, inputs).

        Equal states of the generator `random` choose equal samples.
        """
        rows = self.linear.inputs(x, self._choice(random))
        rows = rows.reshape(*rows.shape[:2], -1)[:, :, self.arrangement]
        rows = rows.reshape(len(rows), -1, self.num_inputs)
        return np.ascontiguousarray(np.moveaxis(rows, 0, 1), np.float64)

    def outputs(self, y, random):
        """What the layer puts out, for the same samples: (blocks, samples, outputs)."""
        return np.moveaxis(self.linear.outputs(y, self._choice(random)), 0, 1)

    def _choice(self, random):
        def choose(size, available):
            if self.samples_for_each >= available:
                return np.tile(np.arange(available), (size, 1))
            return random.integers(0, available, (size, self.samples_for_each))

        return choose

    def arrange(self, x, num_inputs):
        """Choose samples and cells, knowing a batch `x` of what the layer is called on."""
        available = self.linear.num_samples(x)
        self.samples_for_each = min(available, -(-self._num_wanted() // num_inputs))
        places, slots = self.linear.matrix(_read(self.linear.layer, self.linear.variable)).shape[
            1:3
        ]
        self.num_slots = slots
        entries = np.arange(places * slots)
        self.arrangement = entries[None]
        if len(entries) > min(_MAX_INPUTS, num_inputs * self.samples_for_each):
            apart = self._places_apart(entries)
            self.arrangement = self.arrangement if apart is None else apart

    def _num_wanted(self):
        matrix = self.matrix()
        least, most = _SAMPLES
        return min(most, max(least, _PRODUCTS // (len(matrix) * matrix.shape[1] ** 2)))

    def _places_apart(self, entries):
        """Entries by their place among those of one channel; None if channels differ in it."""
        owner = np.full(self.num_slots, -1)
        offset = 0
        for channels in self.owners.values():
            owner[channels >= 0] = offset + channels[channels >= 0]
            offset = owner.max() + 1
        owner = owner[entries % self.num_slots]
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner[order] + 1)
        counts = counts[counts > 0]
        if (counts != counts[0]).any() or counts[0] == 1:
            return None
        return entries[order].reshape(-1, counts[0]).T


def find_readers(model, groups):
    """`({path: Reader}, {path: reason})`: the layers that read channels of `groups`, and those that
    do but are not refitted."""
    readers, others = {}, {}
    for group in groups:
        for member in group.members:
            if member.role != "consumer":
                continue
            layer = _keras.layer_at(model, member.layer)
            reader = readers.get(member.layer)
            if reader is None:
                linear = linear_view(layer, member.variable, member.axis)
                obstacle = _obstacle(layer, linear)
                if obstacle:
                    others[member.layer] = obstacle
                    continue
                reader = readers[member.layer] = Reader(member.layer, linear, member.axis, {})
            size = getattr(layer, member.variable).shape[member.axis]
            owner = reader.owners.setdefault(group.name, np.full(size, -1))
            owner[member.indices] = member.channels
    return readers, others


def _obstacle(layer, linear):
    """Why a layer is not refitted; "" if it is."""
    if linear is None:
        return f"a {type(layer).__name__} is no plain matrix product"
    for weight in layer.weights:
        # The next training step would bring it back to where the constraint wants it.
        if getattr(weight, "constraint", None) is not None:
            return f"{type(weight.constraint).__name__} holds its {weight.name}"
    return ""


def prepare(model, readers, inputs, num_inputs):
    """Let a few `inputs` through and tell every reader what it is called on and what follows it.

    Args:
        model: the network.
        readers: `{path: Reader}`.
        inputs: a small batch.
        num_inputs: how many inputs will be looked at.

    Returns:
        `({path: Reader}, {path: reason})`: those that the network calls itself, in that order, and
        those that are not refitted: another layer calls them, or what they read cannot be told.
    """
    calls, uses, made, alive = collections.Counter(), collections.defaultdict(list), {}, []
    others = {}

    def see(operation, path, args, outputs):
        alive.append(outputs)  # an id is that of a tensor only while the tensor lives
        calls[path] += 1
        made[path] = id(outputs)
        for x in args:
            uses[id(x)].append((operation, path))
        if path in readers:
            try:
                readers[path].arrange(args[0], num_inputs)
            except tf.errors.OpError:  # it runs in the network, but not as `linear` asks it
                others[path] = f"what a {type(operation).__name__} reads cannot be told"

    for x in keras.tree.flatten(_keras.observe(model, inputs, see)):
        uses[id(x)].append((None, ""))
    for path, reader in readers.items():
        if path not in made:
            continue
        reader.num_calls = calls[path]
        followers = uses[made[path]]
        if len(followers) == 1 and calls[path] == calls[followers[0][1]] == 1:
            reader.normalization = _normalization(reader, *followers[0])
        reader.constant = _constant(reader)
    others |= dict.fromkeys(readers.keys() - made, "another layer calls it")
    return {p: readers[p] for p in made if p in readers and p not in others}, others


def _normalization(reader, operation, path):
    linear = reader.linear
    if type(operation) is not keras.layers.BatchNormalization or not linear.is_linear:
        return ""
    if linear.output_axis is None:
        return ""
    axis, rank = keras.tree.flatten(operation.axis)[0], operation.input_spec.ndim
    return path if axis % rank == linear.output_axis % rank else ""


def _constant(reader):
    if reader.linear.layer.bias is None:
        return "normalization" if reader.normalization else ""
    num_blocks, _, num_outputs = reader.matrix().shape
    return "bias" if reader.linear.bias(np.zeros((num_blocks, num_outputs))) is not None else ""


def _read(layer, variable):
    return keras.ops.convert_to_numpy(getattr(layer, variable)).astype(np.float64)

"""Behind a cut: layers that lost inputs get the weights that bring their old outputs back.

One layer after the other, in the order of the network, both networks run side by side: a layer of
the cut network learns from what it *really* sees, behind all layers that were refitted before it,
to put out what it put out in the whole network. So errors do not add up on the way. Where that is
added to a stream, which brings errors from further up, it makes up for them too (`sums`). Layers
that lost no input of their own stay (refitted too, ResNet-20 kept 80 instead of 88%), but what they
put out keeps its mean and spread if a BatchNormalization follows (`statistics`).
"""

import collections

import numpy as np

from aip_tf import _keras
from aip_tf.reconstruction import solving
from aip_tf.reconstruction.batches import divide, num_inputs_of
from aip_tf.reconstruction.moments import CrossMoments, stiffness
from aip_tf.reconstruction.statistics import is_settled, match
from aip_tf.reconstruction.sums import find_sum, lost_in_sum
from aip_tf.reconstruction.tape import Tape
from aip_tf.reconstruction.write import write

_MAX_BYTES = 1536 * 2**20  # of tensors that wait for the next layer


def refit_in_order(before, after, readers, keep_masks, batches, ridge, take):
    """Set kernels and biases of the layers of `after`, in place.

    Args:
        before, after: the network before and behind a cut.
        readers: `{path: Reader}` of `before`, to be refitted, in the order of the network.
        keep_masks: what was cut.
        batches: list of batches of inputs.
        ridge: see `stiffness`.
        take: see `write`.

    Returns:
        `{path: number of samples}` of the layers that were refitted: not those that the two
        networks do not have in common, in this order.
    """
    few = _keras.first_samples(before, batches[0], 1)
    whole, left = (Tape(model, few) for model in (before, after))
    statistics = _statistics_to_match(left, readers.values())
    size = whole.bytes_at(readers) + left.bytes_at(readers)
    count = min(sum(map(num_inputs_of, batches)), max(1, int(_MAX_BYTES // max(size, 1))))
    batches, _ = divide(batches, count, _keras.fixed_batch(before))
    for tape in (whole, left):
        tape.start(batches)

    def match_at(path, is_ahead):
        # To wait there takes no time, but perhaps more memory than there is for so many inputs.
        is_ahead |= whole.bytes_at([path]) + left.bytes_at([path]) > size
        look = Tape.inputs_ahead if is_ahead else Tape.inputs_at
        tensors = [look(tape, path) or () for tape in (whole, left)]
        match(statistics.pop(path), *tensors, lambda x, name: take(x, path, name))

    counts = {}
    for path in left.paths():
        if path in statistics:
            match_at(path, is_ahead=False)
        if path not in readers:
            continue
        reader = readers[path]
        seen, sees = whole.inputs_at(path), left.inputs_at(path)
        smaller = reader.behind_cut(after, keep_masks)
        if seen is None or sees is None or len(smaller.matrix()) != len(reader.matrix()):
            continue
        old, moments = reader.cells(reader.matrix()), CrossMoments()
        lost = lost_in_sum(whole, left, reader, readers, take)
        for step in find_sum(left).between if lost is not None else ():
            if step.path in statistics:  # what it makes up for must not change behind it
                match_at(step.path, is_ahead=True)
        for i, (x, z) in enumerate(zip(seen, sees, strict=True)):
            target = reader.inputs(x, np.random.default_rng(i)) @ old
            if lost is not None:
                target += reader.outputs(lost(i), np.random.default_rng(i))
            moments.add_pair(smaller.inputs(z, np.random.default_rng(i)), target)
        keep = reader.kept_inputs(keep_masks)
        write(after, reader, *_weights(reader, moments, old, keep, ridge), take)
        counts[path] = moments.count
    return counts


def _statistics_to_match(tape, readers):
    """`{path: BatchNormalization}` of those that no refitted layer has to itself, called once."""
    calls = collections.Counter(step.path for step in tape.steps)
    taken = {reader.normalization for reader in readers}
    layers = {step.path: step.node.operation for step in tape.steps}
    return {
        path: layer
        for path, layer in layers.items()
        if calls[path] == 1 and path not in taken and is_settled(layer)
    }


def _weights(reader, moments, old, keep, ridge):
    """What `write` takes: the kernel that comes closest to what the reader should put out."""
    centered = bool(reader.constant)
    stiff, new = stiffness(ridge, moments, centered), np.zeros_like(old)
    for cell in range(moments.num_cells):
        both = moments.covariance(cell, centered), moments.cross(cell, centered)
        new[cell, keep] = solving.refit(*both, old[cell, keep], stiff)
    gaps = moments.target_mean - np.einsum("ci,cio->co", moments.mean, new[:, keep])
    return reader.as_weights(new, gaps)

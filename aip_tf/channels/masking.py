"""The masked twin: the model itself, with removed channels zeroed wherever they are read."""

import functools
import operator

import numpy as np
from keras import ops, tree

from aip_tf import _keras


class MaskedModel(_keras.GivenInputs):
    """The reference for a cut.

    Entries of removed channels are set to zero in the inputs of every operation, by masks that are
    read off the identity arrays of the trace, not off the indices that surgery uses. It shares the
    weights of the model; it computes, and can be neither saved nor cut.

    Args:
        model: the `keras.Model` that was traced.
        traced: its `Trace`.
        kept: `Kept`.
    """

    def __init__(self, model, traced, kept):
        super().__init__(f"{model.name}_masked")
        self.model = model
        self._traced = traced
        self._kept = kept
        self._calls = [call for call in traced.calls if not call.is_inside]

    def call(self, inputs, training=None):
        """Run the model as Keras does, `training` handed to every operation that takes it."""
        return self._run(_keras.standardized(self._traced.graph, inputs), training)

    def run_again(self, memory, changed=()):
        """Run in inference mode on the batch of a `Memory`; what that knows is not computed again.

        Args:
            memory: a `Memory` that masked models of one `ChannelGraph` share.
            changed: paths of the layers whose weights are not those of its first run.
        """
        if memory.inputs is None:
            memory.inputs = _keras.standardized(self._traced.graph, memory.batch)
        memory.changed = frozenset(changed)
        return self._run(memory.inputs, False, memory)

    def _run(self, inputs, training, memory=None):
        graph, inside = self._traced.graph, self._traced.openings.inside
        outputs = run_masked(graph, self._calls, self._kept, inputs, inside, training, memory)
        is_alone = isinstance(outputs, list | tuple) and len(outputs) == 1
        return outputs[0] if is_alone else outputs  # as Keras does


class Memory:
    """What the calls of a network gave when it first ran on a batch.

    On the very tensors that it was given then a call gives what it gave then, unless its layer has
    changed. So of many small changes, tried one by one, only what stands behind each is computed.

    Args:
        batch: inputs of the network.
    """

    def __init__(self, batch):
        self.batch, self.inputs, self.changed = batch, None, frozenset()
        self._calls = {}

    def get(self, call, path, arguments, run):
        """What `run()` gives: the call at `path` on `arguments`, masked ones being new tensors."""
        given = tree.flatten(arguments)
        if id(call) not in self._calls:
            self._calls[id(call)] = given, run()
            return self._calls[id(call)][1]
        before, outputs = self._calls[id(call)]
        is_same = len(before) == len(given) and all(map(operator.is_, before, given))
        return outputs if is_same and path not in self.changed else run()


def run_masked(graph, calls, kept, inputs, inside, training, memory=None):
    """Run a graph with removed channels zeroed wherever they are read.

    Args:
        graph: a `Graph`.
        calls: the `Call`s of its operations, in order.
        kept: `Kept`.
        inputs: tensors.
        inside: see `run_graph`.
        training: bool, or None.
        memory: a `Memory`, or None.
    """
    calls = iter(calls)

    def run_call(node, args, kwargs, path):
        call = next(calls)
        masks = [_mask(kept, x) for x in call.inputs]
        if any(mask is not None for mask in masks):
            args, kwargs = _masked(node, args, kwargs, masks)
        if call.masked_call is None:
            run = functools.partial(_keras.run_operation, node, args, kwargs, training)
            return run() if memory is None else memory.get(call, path, (args, kwargs), run)
        if training is not None:
            kwargs = kwargs | {"training": training}
        return call.masked_call(kept, node.operation, *args, **kwargs)

    return _keras.run_graph(graph, inputs, run_call, inside)


def _mask(kept, array):
    """What is kept of an array, along the one axis on which it varies; None: all."""
    found = kept.axis(array)
    if found is None:
        return None
    axis, mask = found
    return mask.reshape([-1 if a == axis else 1 for a in range(array.ndim)])


def _of_all_samples(mask, x):
    """A mask along the first axis is that of one sample: it is repeated for those of a batch."""
    if len(mask) in (1, x.shape[0]):
        return mask
    return np.tile(mask, (x.shape[0] // len(mask), *[1] * (mask.ndim - 1)))


def _masked(node, args, kwargs, masks):
    """Zero the removed channels in those arguments that are tensors of the graph."""
    masks = iter(masks)
    flat = tree.flatten((args, kwargs))
    for i, is_traced in enumerate(_keras.tensor_places(node)):
        if is_traced and flat[i] is not None and (mask := next(masks)) is not None:
            mask = _of_all_samples(mask, flat[i])
            # Not a product: an operation may have made NaN of removed channels, as 0 / 0.
            zeroed = ops.where(mask, flat[i], ops.zeros_like(flat[i]))
            flat[i] = _keras.with_mask_of(flat[i], zeroed)
    return tree.pack_sequence_as((args, kwargs), flat)

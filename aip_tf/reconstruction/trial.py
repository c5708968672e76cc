"""What a cut would do to the outputs: tried on a copy, with what reads the channels refitted."""

import dataclasses

import keras
import numpy as np

from aip_tf.channels import ChannelGraph, prune_channels
from aip_tf.channels.masking import Memory
from aip_tf.game.taps import Reading
from aip_tf.game.transfers import OutputTransfer
from aip_tf.game.views import Scale
from aip_tf.reconstruction.batches import num_inputs_of
from aip_tf.reconstruction.write import write
from aip_tf.task.outputs import num_units

# Softer answers than the network's own: at 1 the divergence of a sure network hangs on the few
# images that it is unsure of, and which of them are drawn decided the cut (benchmarks/choices.md).
_TEMPERATURE = 4.0


@dataclasses.dataclass(frozen=True)
class Change:
    """Channels taken out of a network, and what makes up for them.

    Attributes:
        keep_masks: `{group name: bool (num_channels,)}`.
        weights: list of what `write` takes: (reader, kernel, constant).
    """

    keep_masks: dict
    weights: list

    @property
    def num_bytes(self):
        """What the weights take."""
        return sum(kernel.nbytes for _, kernel, _ in self.weights)

    @property
    def paths(self):
        """Those of the layers whose weights change."""
        readers = [reader for reader, _, _ in self.weights]
        return {path for r in readers for path in (r.path, r.normalization) if path}


class Trial:
    """Measures how far outputs move, on inputs that no covariance has seen.

    Args:
        model: the network; not changed.
        batches: list of batches of inputs.
        input_shape: see `find_channel_groups`.
        forms: what each output answers, as `Output.form` of a `Task`; (): as its making says.
    """

    def __init__(self, model, batches, input_shape=None, forms=()):
        self._copy = ChannelGraph(prune_channels(model, {}, input_shape), input_shape)
        self._batches = batches
        self._transfer = OutputTransfer(_TEMPERATURE).bind(model, model)
        if forms:
            values = [i for i, form in enumerate(forms) if form == "values"]
            self._transfer.tell(forms, self._scales(values) if values else {})

    def divergences(self, changes):
        """How far outputs move by each of several `Change`s alone: float (changes,).

        T^2 KL(outputs || outputs without the channels) in nats at T = 4 for classes and yes/no
        answers, the share of their variance that is missed for values; summed over the outputs.
        """
        twins = [self._copy.mask(change.keep_masks) for change in changes]
        losses = [self._losses(batch, changes, twins) for batch in self._batches]
        return np.average(losses, axis=0, weights=list(map(num_inputs_of, self._batches)))

    def _scales(self, places):
        """{place of an output of values: its `Scale`}, of all inputs at hand."""
        readings = [_reading(self._copy.mask({}).run_again(Memory(x))) for x in self._batches]
        scales = {}
        for i in places:
            answers = [np.asarray(reading.outputs[i]) for reading in readings]
            units = num_units(answers[0].shape[1:])
            answers = np.concatenate([x.reshape(-1, units) for x in answers])
            scales[i] = Scale(units)
            scales[i].assign(scales[i].measure(answers))
        return scales

    def _losses(self, batch, changes, twins):
        memory = Memory(batch)
        expected, losses = _reading(self._copy.mask({}).run_again(memory)), []
        for change, twin in zip(changes, twins, strict=True):
            undo = [write(self._copy.model, *weights) for weights in change.weights]
            found = _reading(twin.run_again(memory, change.paths))
            losses.append(float(self._transfer.loss(expected, found)))
            for restore in undo:
                restore()
        return losses


def _reading(outputs):
    return Reading(keras.tree.flatten(outputs))

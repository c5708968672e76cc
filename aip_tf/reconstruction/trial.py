"""What a cut would do to the outputs: tried on a copy, with what reads the channels refitted."""

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.channels import ChannelGraph, prune_channels
from aip_tf.game.taps import Reading
from aip_tf.game.transfers import OutputTransfer
from aip_tf.losses import feature_loss
from aip_tf.reconstruction.write import write

# Softer answers than the network's own: at 1 the divergence of a sure network hangs on the few
# images that it is unsure of, and which of them are drawn decided the cut (benchmarks/README.md).
_TEMPERATURE = 4.0


class Trial:
    """Measures how far outputs move, on inputs that no covariance has seen.

    Args:
        model: the network; not changed.
        batches: list of batches of inputs.
        input_shape: see `find_channel_groups`.
        kinds: what each output is, as `Output.kind` of a `Task`; None: all are a classifier's.
    """

    def __init__(self, model, batches, input_shape=None, kinds=None):
        kinds = kinds or ["logits"] * len(model.outputs)
        self._values = [i for i, kind in enumerate(kinds) if kind == "values"]
        self._classes = [i for i, kind in enumerate(kinds) if kind != "values"]
        self._copy = ChannelGraph(prune_channels(model, {}, input_shape), input_shape)
        self._batches = batches
        if self._classes:
            transfer = OutputTransfer(_TEMPERATURE, outputs=self._classes)
            self._transfer = transfer.bind(model, model)
        self._expected = [_reading(_answers(model, batch)) for batch in batches]

    def divergence(self, fits, keep_masks):
        """How far outputs move without channels, the readers refitted: float.

        T^2 KL(outputs || outputs without the channels) in nats at T = 4 for a classifier, the
        squared difference relative to the size of the outputs for values; summed over the outputs.

        Args:
            fits: the `Fit`s of the readers that lose inputs.
            keep_masks: `{group name: bool (num_channels,)}`.
        """
        undo = [write(self._copy.model, fit.reader, *fit.refitted(keep_masks)) for fit in fits]
        masked = self._copy.mask(keep_masks)
        losses = [
            self._loss(expected, _reading(masked(batch, training=False)))
            for expected, batch in zip(self._expected, self._batches, strict=True)
        ]
        for restore in undo:
            restore()
        sizes = [len(keras.tree.flatten(batch)[0]) for batch in self._batches]
        return float(np.average(losses, weights=sizes))

    def _loss(self, expected, found):
        loss = self._transfer.loss(expected, found) if self._classes else 0.0
        for i in self._values:
            loss += keras.ops.mean(feature_loss(expected.outputs[i], found.outputs[i]))
        return float(loss)


def _answers(model, batch):
    """Run call by call: Keras keeps all tensors of a run to its end."""
    return _keras.observe(model, batch, lambda *call: None)


def _reading(outputs):
    return Reading(keras.tree.flatten(outputs))

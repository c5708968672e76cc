"""What a cut would do to the outputs: tried on a copy, with what reads the channels refitted."""

import keras
import numpy as np

from aip_tf.channels import mask_channels, prune_channels
from aip_tf.game.taps import Reading
from aip_tf.game.transfers import OutputTransfer
from aip_tf.reconstruction.write import write


class Trial:
    """Measures how far outputs move, on inputs that no covariance has seen.

    Args:
        model: the network; not changed.
        batches: list of batches of inputs.
        input_shape: see `find_channel_groups`.
    """

    def __init__(self, model, batches, input_shape=None):
        self._copy = prune_channels(model, {}, input_shape)
        self._batches, self._input_shape = batches, input_shape
        self._transfer = OutputTransfer(temperature=1.0).bind(model, model)
        self._expected = [_reading(model, batch) for batch in batches]

    def divergence(self, fits, keep_masks):
        """KL(outputs || outputs without the channels), the readers refitted, in nats: float.

        Args:
            fits: the `Fit`s of the readers that lose inputs.
            keep_masks: `{group name: bool (num_channels,)}`.
        """
        undo = [write(self._copy, fit.reader, *fit.refitted(keep_masks)) for fit in fits]
        masked = mask_channels(self._copy, keep_masks, self._input_shape)
        losses = [
            float(self._transfer.loss(expected, _reading(masked, batch)))
            for expected, batch in zip(self._expected, self._batches, strict=True)
        ]
        for restore in undo:
            restore()
        sizes = [len(keras.tree.flatten(batch)[0]) for batch in self._batches]
        return float(np.average(losses, weights=sizes))


def _reading(model, batch):
    return Reading(keras.tree.flatten(model(batch, training=False)))

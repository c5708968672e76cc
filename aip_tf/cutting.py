"""One cut: planned, made, proved, refitted, or its statistics measured anew.

The proof comes before the refit, because refitting changes the function on purpose. Statistics
measured anew change it too, towards what was before; a refit has come closer already.
"""

import dataclasses

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.channels import ChannelGraph, check_cut
from aip_tf.recovery import recalibrate
from aip_tf.selection import select_channels

# Keras' eager sum takes a gate (batch, 1, 1, 1) for a bias where heights match; none is 11 high.
_PROOF_SAMPLES = 11


@dataclasses.dataclass(frozen=True)
class CutRecord:
    """What is known of a cut that was made.

    Attributes:
        keep_masks: {place of a group in `find_channel_groups`: list of bool, True = keep}. By
            place, because Keras numbers the names of layers anew in every process.
        check_error: relative difference between the masked and the cut model (law 1).
    """

    keep_masks: dict[str, list[bool]]
    check_error: float


def plan_cut(graph, amount, *, selection, criterion, data=None, reference=None):
    """Choose what a cut removes; see `select_channels`, whose arguments these are.

    Args:
        graph: `ChannelGraph` of the model to cut.
        reference: `ChannelGraph` of the original.

    Returns:
        keep_masks: {group name: bool (num_channels,)} of the groups that lose channels.
    """
    masks = select_channels(
        graph, amount, selection=selection, criterion=criterion, data=data, reference=reference
    )
    return {name: keep for name, keep in masks.items() if not np.all(keep)}


def apply_cut(graph, keep_masks, inputs, *, data=None, refit=None, num_batches=20):
    """Cut a model, prove the cut on a batch, refit what reads cut channels, measure statistics.

    Args:
        graph: `ChannelGraph` of the model to cut, which is not changed.
        keep_masks: {group name: bool (num_channels,)}, True = keep.
        inputs: a batch of inputs for the proof.
        data: `tf.data.Dataset` of training batches, for the refit and the statistics; None: both
            are left out.
        refit: None, or `refit(before, after, keep_masks, data)`, which improves the weights of
            `after` in place so that it answers as `before`. It may return a record with an
            attribute `skipped`, such as `reconstruction.Refit`; if that is empty, nothing is left
            to mend, and the statistics are left to it.
        num_batches: batches on which the statistics of BatchNormalization are measured; 0: they
            stay.

    Returns:
        `(smaller, record)`: the `ChannelGraph` of the cut model and its `CutRecord`.

    Raises:
        ValueError: if the cut model differs from its masked twin, or a refit brings weights that
            are no numbers.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> graph = ChannelGraph(model)
    >>> keep_masks = {graph.groups[0].name: np.arange(8) < 6}
    >>> smaller, record = apply_cut(graph, keep_masks, np.ones((2, 4), "float32"))
    >>> smaller.model.count_params(), record.check_error < 1e-5
    (44, True)
    """
    smaller = graph.prune(keep_masks)
    inputs = _keras.first_samples(graph.trace.graph, inputs, _PROOF_SAMPLES)
    error = check_cut(graph, smaller, keep_masks, inputs)
    if data is not None:
        infinite = _infinite(smaller)
        refitted = refit and refit(graph.plain_model, smaller, keep_masks, data)
        _check_refit(_infinite(smaller) - infinite)
        if getattr(refitted, "skipped", True):
            recalibrate(smaller, data, num_batches)
    places = {group.name: str(i) for i, group in enumerate(graph.groups)}
    masks = {places[name]: np.asarray(keep, bool).tolist() for name, keep in keep_masks.items()}
    return ChannelGraph(smaller, graph.input_shapes), CutRecord(masks, float(error))


def _infinite(model):
    """Paths of the variables with entries that are not finite, as a mask of the user's may have."""
    return {v.path for v in model.variables if not np.all(np.isfinite(_array(v)))}


def _check_refit(wrong):
    if wrong:
        raise ValueError(
            f"The refit of a cut received a network of numbers and left {len(wrong)} weights with "
            f"entries that are not finite, such as {min(wrong)!r}. Expected numbers: please report "
            "it with the model; a criterion without refit, such as criterion='l1', goes on."
        )


def _array(variable):
    return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))


def replay(graph, cuts):
    """A copy of a model after some cuts: the structure alone, its weights are still to be loaded.

    Args:
        graph: `ChannelGraph` of the model that was cut first, which is not changed.
        cuts: the `keep_masks` of each `CutRecord`, in order.

    Returns:
        The `ChannelGraph` of the copy.
    """
    smaller = ChannelGraph(graph.prune({}), graph.input_shapes)
    for masks in cuts:
        named = {smaller.groups[int(place)].name: np.array(keep) for place, keep in masks.items()}
        smaller = ChannelGraph(smaller.prune(named), graph.input_shapes)
    return smaller

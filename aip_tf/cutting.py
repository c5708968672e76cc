"""One cut: planned, made, proved, refitted, its statistics measured anew.

The proof comes before the refit, because refitting changes the function on purpose; the statistics
come last, because they describe what is left.
"""

import dataclasses

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.channels import check_cut, find_channel_groups, prune_channels
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


def plan_cut(model, amount, *, selection, criterion, data=None, reference=None, input_shape=None):
    """Choose what a cut removes; see `select_channels`, whose arguments these are.

    Returns:
        keep_masks: {group name: bool (num_channels,)} of the groups that lose channels.
    """
    masks = select_channels(
        model,
        amount,
        selection=selection,
        criterion=criterion,
        data=data,
        reference=reference,
        input_shape=input_shape,
    )
    return {name: keep for name, keep in masks.items() if not np.all(keep)}


def apply_cut(
    model, keep_masks, inputs, *, data=None, refit=None, num_batches=20, input_shape=None
):
    """Cut a model, prove the cut on a batch, refit what reads cut channels, measure statistics.

    Args:
        model: the `keras.Model` to cut; not changed.
        keep_masks: {group name: bool (num_channels,)}, True = keep.
        inputs: a batch of inputs for the proof.
        data: `tf.data.Dataset` of training batches, for the refit and the statistics; None: both
            are left out.
        refit: None, or `refit(before, after, keep_masks, data)`, which improves the weights of
            `after` in place so that it answers as `before`.
        num_batches: batches on which the statistics of BatchNormalization are measured; 0: they
            stay.
        input_shape: see `find_channel_groups`.

    Returns:
        `(smaller, record)`: the cut model and its `CutRecord`.

    Raises:
        ValueError: if the cut model differs from its masked twin.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> name = find_channel_groups(model)[0].name
    >>> smaller, record = apply_cut(model, {name: np.arange(8) < 6}, np.ones((2, 4), "float32"))
    >>> smaller.count_params(), record.check_error < 1e-5
    (44, True)
    """
    smaller = prune_channels(model, keep_masks, input_shape)
    inputs = keras.tree.map_structure(lambda x: x[:_PROOF_SAMPLES], inputs)
    error = check_cut(model, smaller, keep_masks, inputs)
    if data is not None and refit is not None:
        refit(model, smaller, keep_masks, data)
    if data is not None:
        recalibrate(smaller, data, num_batches)
    places = {g.name: str(i) for i, g in enumerate(find_channel_groups(model, input_shape))}
    masks = {places[name]: np.asarray(keep, bool).tolist() for name, keep in keep_masks.items()}
    return smaller, CutRecord(masks, float(error))


def replay(model, cuts, input_shape=None):
    """A copy of `model` after some cuts: the structure alone, its weights are still to be loaded.

    Args:
        model: the `keras.Model` that was cut first; not changed.
        cuts: the `keep_masks` of each `CutRecord`, in order.
        input_shape: see `find_channel_groups`.
    """
    smaller = prune_channels(model, {}, input_shape)
    for masks in cuts:
        groups = find_channel_groups(smaller, input_shape)
        named = {groups[int(place)].name: np.array(keep) for place, keep in masks.items()}
        smaller = prune_channels(smaller, named, input_shape)
    return smaller


def open_shapes(model, inputs):
    """Shapes of a batch of inputs where the model leaves sizes open, else None: it knows them."""
    graph = _keras.graph_of(model)
    if all(None not in x.shape[1:] for x in graph.inputs):
        return None
    return [tuple(x.shape[1:]) for x in _keras.flat_inputs(graph, inputs)]

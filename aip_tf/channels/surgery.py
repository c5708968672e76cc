"""The verbs of surgery: cut a model, mask it, prove the cut and the copy."""

from aip_tf.channels.graph import ChannelGraph
from aip_tf.channels.proof import prove_copy, prove_cut


def prune_channels(model, keep_masks, input_shape=None):
    """A new model without the channels that the masks remove; `model` is not touched.

    A copy is the model: functions, regularizers, constraints and initializers travel as the objects
    they are, registered for saving or not; arrays in them lose the removed channels. Names,
    `trainable` flags at every level and dtype policies survive, and so does the order of weights,
    unless a layer was opened or the model is subclassed: then it follows the graph, and
    `set_weights` must not take one's list for the other's. Sequential stays Sequential; every
    other model comes back as plain `keras.Model`. Layers made of layers become nested Functional
    models of the layer's name, so the result loads without their classes. Layers that are no part
    of the graph (an augmentation used in `train_step`, a preprocessor) and methods of the model's
    class (a `train_step`) stay behind. The result is not compiled.

    Args:
        model: a `keras.Model` or its `ChannelGraph`.
        keep_masks: `{group name: bool array (num_channels,)}`, True = keep, for groups of
            `find_channel_groups(model)`. Groups that are not named are kept whole.
        input_shape: see `ChannelGraph`.

    Returns:
        A `keras.Model` whose outputs equal those of `mask_channels(model, keep_masks)`.

    Raises:
        ValueError: for an unknown group, a mask of another length or type or one that keeps
            nothing, a model that cannot be traced, a layer that is cut but has no `get_config`.

    Example:

    >>> group = aip_tf.find_channel_groups(model)[0]
    >>> keep = np.arange(group.num_channels) % 2 == 0
    >>> smaller = aip_tf.prune_channels(model, {group.name: keep})
    """
    return ChannelGraph.of(model, input_shape).prune(keep_masks)


def mask_channels(model, keep_masks, input_shape=None):
    """The reference for a cut: `model` itself, with removed channels zeroed wherever they are read.

    Normalisations over channels use the kept channels only.

    Args:
        model, keep_masks, input_shape: see `prune_channels`.

    Returns:
        A `keras.Model` that shares the weights of `model`. It computes; it can be neither saved
        nor cut.

    Raises:
        ValueError: see `prune_channels`.
    """
    return ChannelGraph.of(model, input_shape).mask(keep_masks)


def check_cut(model, cut, keep_masks, inputs):
    """Law 1 on a batch: a cut model equals the masked one; decided in float64 when in doubt.

    Where layers were opened, an uncut copy must be the model first (`check_copy`): what was opened
    wrongly is wrong in the cut and in the masked model alike.

    Args:
        model: the model before the cut, or its `ChannelGraph`.
        cut: `prune_channels(model, keep_masks)`.
        keep_masks: the masks.
        inputs: a batch of inputs.

    Returns:
        The largest difference of an output relative to its largest entry: float.

    Raises:
        ValueError: if it exceeds 1e-5, or an uncut copy is not the model.

    Example:

    >>> error = check_cut(model, aip_tf.prune_channels(model, keep_masks), keep_masks, images)
    """
    return prove_cut(ChannelGraph.on(model, inputs), cut, keep_masks, inputs)


def check_copy(model, copy, inputs):
    """Law 9 on a batch: an uncut copy computes what the model does, in inference mode.

    Args:
        model: a `keras.Model` or its `ChannelGraph`.
        copy: `prune_channels(model, {})`.
        inputs: a batch of inputs.

    Returns:
        The largest difference of an output relative to its largest entry: float.

    Raises:
        ValueError: if it exceeds 1e-5; names the first layer that differs.

    Example:

    >>> error = check_copy(model, aip_tf.prune_channels(model, {}), images)
    """
    return prove_copy(ChannelGraph.on(model, inputs), copy, inputs)

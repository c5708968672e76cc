"""`ChannelGraph`: a traced model to hold."""

import functools
import itertools
from collections.abc import Mapping

import numpy as np
from keras import tree

from aip_tf import _keras
from aip_tf.arguments import shown
from aip_tf.channels.ancestry import note_descent
from aip_tf.channels.groups import group_channels
from aip_tf.channels.kept import Kept
from aip_tf.channels.masking import MaskedModel
from aip_tf.channels.rebuild import rebuild
from aip_tf.channels.trace import trace


class ChannelGraph:
    """A model and the channels that flow through it: traced once, asked as often as needed.

    What asks about channels, costs and cuts, `summary` and `measure_layers` take a `ChannelGraph`
    in place of a model, and then trace nothing. The graph speaks of the model as it was traced:
    weights may change behind it, layers may not.

    Args:
        model: a built `keras.Model`: Functional, Sequential or subclassed. Layers made of layers
            and subclassed models are opened: what is inside of them is traced and can be cut.
        input_shape: shape of the input without batch size, where the model leaves sizes open or
            is subclassed and was never called; for several inputs a list or dict of shapes.

    Attributes:
        model: the model.
        groups: list of `ChannelGroup`, in the order of the network.
        trace: the `Trace` behind them.

    Raises:
        ValueError: if the model is not built, a subclassed model cannot be opened, or a size is
            open.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"),
    ...     keras.layers.Flatten(), keras.layers.Dense(2),
    ... ])
    >>> graph = ChannelGraph(model)
    >>> smaller = graph.prune({"conv": np.array([True, False, True, True])})
    >>> smaller.count_params(), model.count_params()
    (302, 402)
    """

    def __init__(self, model, input_shape=None):
        self.model = model
        self.trace = trace(model, input_shape)
        self.groups, self._classes = group_channels(self.trace)

    @classmethod
    def of(cls, model, input_shape=None):
        """The graph of `model`; `model` itself if it is a `ChannelGraph`."""
        return model if isinstance(model, cls) else cls(model, input_shape)

    @classmethod
    def on(cls, model, inputs):
        """The graph of `model`, traced on a batch of inputs where it leaves sizes open; `model`
        itself if it is a `ChannelGraph`."""
        if isinstance(model, cls):
            return model
        _check_batch(inputs)
        graph = _keras.graph_inside(model)
        if graph is None:
            return cls(model, tree.map_structure(_size, inputs))
        if all(None not in x.shape[1:] for x in graph.inputs):
            return cls(model)
        given = _keras.flat_inputs(graph, inputs)
        # An optional input that is not given is as large as its symbol.
        pairs = itertools.zip_longest(given, graph.inputs[: len(given)])
        sized = [symbol if x is None else x for x, symbol in pairs]
        return cls(model, list(map(_size, sized)))

    def prune(self, keep_masks):
        """See `prune_channels`."""
        kept = self.kept(keep_masks)
        smaller = rebuild(self.model, self.trace, kept)
        note_descent(self.model, smaller, self.trace, kept)
        return smaller

    def mask(self, keep_masks):
        """See `mask_channels`."""
        return MaskedModel(self.model, self.trace, self.kept(keep_masks))

    def recast(self, dtype):
        """The graph of a copy of the model that computes in `dtype`, such as "float64"."""
        shapes = self.input_shapes
        return ChannelGraph(rebuild(self.model, self.trace, self.kept({}), dtype), shapes)

    @functools.cached_property
    def plain_model(self):
        """The model, or if something in it was opened, an uncut copy without composite layers."""
        plain = _keras.is_graph(self.model) and not self.trace.opened
        return self.model if plain else self.prune({})

    @property
    def input_shapes(self):
        """Shapes of the inputs without batch size, as they were traced: list of tuples."""
        return [x.shape[1:] for x in self.trace.input_arrays]

    def layer(self, path):
        """The layer or operation at a path such as "outer/inner".

        Raises:
            ValueError: if nothing is called by that path.
        """
        for call in self.trace.calls:
            if call.path == path:
                return call.operation
        return _keras.layer_at(self.model, path)

    def classes_of(self, name):
        """Numbers in `trace.class_of` of the channels of a group: int array."""
        return self._classes[name]

    def kept(self, keep_masks):
        """`Kept` for keep masks by group name; groups that are not named are kept whole.

        Raises:
            ValueError: for an unknown name, or a mask of another length, type, or all False.
        """
        if not isinstance(keep_masks, Mapping):
            raise ValueError(
                f"Received keep masks of type {type(keep_masks).__name__}. Expected a dictionary "
                "{name of a channel group: bool array}; an empty one keeps everything."
            )
        keep = np.ones(len(self.trace.pinned), bool)
        known = {g.name: g for g in self.groups}
        for name, mask in keep_masks.items():
            mask = _checked(known, name, mask)
            if known[name].prunable:
                keep[self._classes[name]] = mask
        return Kept(self.trace.class_of, keep)


def _size(x):
    return tuple(x.shape[1:])


def _check_batch(inputs):
    found = tree.flatten(inputs)
    if inputs is None or not all(x is None or hasattr(x, "shape") for x in found):
        raise ValueError(
            f"Received the batch of inputs {shown(inputs)}. Expected arrays or tensors, in the "
            "structure in which the model takes them."
        )


def _checked(known, name, mask):
    if name not in known:
        raise ValueError(
            f"Received a keep mask for the channel group {name!r}, which the model does not have. "
            f"Expected names out of `find_channel_groups(model)`: {', '.join(list(known)[:8])} ..."
        )
    group = known[name]
    try:
        mask = np.asarray(mask)
    except ValueError:  # lists of unequal lengths
        mask = np.asarray(mask, object)
    if mask.dtype != bool or mask.shape != (group.num_channels,):
        raise ValueError(
            f"Received for the channel group {name!r} a keep mask of shape {mask.shape} and type "
            f"{mask.dtype}. Expected a bool array of shape ({group.num_channels},), True = keep."
        )
    if not mask.any():
        raise ValueError(
            f"Received for the channel group {name!r} a keep mask that keeps nothing. Expected at "
            f"least one True: a layer without channels is none."
        )
    if not mask.all() and not group.prunable:
        raise ValueError(
            f"Received a keep mask that removes channels of {name!r}. Expected to keep them all: "
            f"{group.reason}."
        )
    return mask


def find_channel_groups(model, input_shape=None):
    """Find which channels of a model must be cut together.

    Args:
        model: a `keras.Model` or its `ChannelGraph`.
        input_shape: see `ChannelGraph`.

    Returns:
        List of `ChannelGroup` in the order of the network, those that cannot be pruned included,
        with the reason.

    Raises:
        ValueError: see `ChannelGraph`.

    Example:

    >>> model = keras.applications.MobileNetV2(weights=None)
    >>> [group.name for group in aip_tf.find_channel_groups(model) if group.prunable][:2]
    ['Conv1', 'expanded_conv_project']
    """
    return ChannelGraph.of(model, input_shape).groups

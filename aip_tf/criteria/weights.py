"""Criteria that look at weights alone."""

import zlib

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.arguments import check, integer
from aip_tf.channels.members import (
    by_channel,
    channel_rows,
    producer_kernels,
    rows_of,
    variable_of,
)
from aip_tf.criteria.base import Criterion


class Magnitude(Criterion):
    """The norm of the weights that make a channel: "l1" (Li et al. 2017) and "l2".

    score_c = (sum |w|^order over the producer's kernel entries of channel c) ^ (1 / order); biases
    are left out.

    Args:
        order: 1 or 2.
        **options: as for `Criterion`.

    Raises:
        ValueError: for another order.
    """

    def __init__(self, order=1, **options):
        super().__init__(**options)
        if order not in (1, 2):
            raise ValueError(f"`order` is {order!r}; expected 1 (L1 norm) or 2 (L2 norm).")
        self.order = order

    def score(self, model, group, observed):
        powers = [
            sum(
                by_channel(self._scale(model, path, m, observed) * self._sums(model, m), m, group)
                for m in kernels
            )
            for path, kernels in producer_kernels(model, group).items()
        ]
        return [power ** (1 / self.order) for power in powers]

    def _sums(self, model, member):
        return np.sum(np.abs(rows_of(model, member)) ** self.order, axis=1)

    def _scale(self, model, path, member, observed):
        return 1.0


class ScaledMagnitude(Magnitude):
    """The criterion "l1_bn": `Magnitude` times the scale of the BatchNormalization that follows.

    score_c = norm_c * |gamma_c|. Producers that no BatchNormalization follows directly have factor
    1. The variance is left out on purpose: with |gamma| / sqrt(variance) a CIFAR ResNet-20 at half
    the MACs had 32% accuracy instead of 52% before recovery (one network, statistics re-estimated).
    """

    def observe(self, model, groups, data):
        return {
            path: _scale_of(_keras.layer_at(model, follower)) ** self.order
            for path, follower in _followers(model).items()
        }

    def _scale(self, model, path, member, observed):
        scale = along_axis(observed.get(path), model, member)
        return 1.0 if scale is None else scale[member.indices]


class NormalizationScale(Criterion):
    """The criterion "bn_scale": |gamma| of the group's normalisations.

    Network Slimming (Liu et al. 2017, arXiv 1708.06519). Groups without a gamma are scored by
    `Magnitude`.
    """

    def score(self, model, group, observed):
        gammas = [m for m in group.members if m.role == "channelwise" and m.variable == "gamma"]
        if not gammas:
            return Magnitude().score(model, group, None)
        return [by_channel(np.abs(rows_of(model, m))[:, 0], m, group) for m in gammas]


class GeometricMedian(Criterion):
    """The criterion "fpgm": distance to all other filters of the layer.

    score_c = sum over d of ||w_c - w_d||_2 (He et al. 2019, arXiv 1811.00250). A filter near the
    geometric median can be replaced by the others, however large it is.
    """

    def score(self, model, group, observed):
        return [
            _distances(np.concatenate([channel_rows(model, m, group) for m in kernels], axis=1))
            for kernels in producer_kernels(model, group).values()
        ]


class Random(Criterion):
    """The criterion "random": uniform scores in [0, 1); equal seeds and names give equal scores.

    Args:
        seed: int.
    """

    def __init__(self, seed=0):
        super().__init__(normalize="none")
        self.seed = check({"seed": integer(0)}, locals())["seed"]

    def score(self, model, group, observed):
        name = zlib.crc32(group.name.encode())
        return [np.random.default_rng((self.seed, name)).random(group.num_channels)]


def _distances(rows):
    """For each row the sum of its Euclidean distances to the others."""
    squares = np.sum(rows**2, axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)).sum(axis=1)


def along_axis(values, model, member):
    """Values of output channels at the positions of a kernel's axis; None if they are unrelated."""
    size = variable_of(model, member).shape[member.axis]
    if values is None or size == len(values):
        return values
    has_gates = isinstance(_keras.layer_at(model, member.layer), keras.layers.RNN)
    if has_gates and size % len(values) == 0:  # they stand side by side, each over all channels
        return np.tile(values, size // len(values))
    return None


def _followers(model):
    """{path of an operation: path of the BatchNormalization that reads its output directly}."""
    followers = {}

    def call(node, args, kwargs, path):
        operation = node.operation
        if isinstance(operation, keras.layers.BatchNormalization) and isinstance(args[0], str):
            followers[args[0]] = path
        # In place of tensors, the name of what made them flows through the graph.
        return [path for _ in node.outputs]

    _keras.run_graph(_keras.graph_of(model), ["" for _ in model.inputs], call)
    return followers


def _scale_of(layer):
    """|gamma| of a BatchNormalization: (channels,); 1 where it has none."""
    if layer.gamma is None:
        return np.ones(layer.moving_variance.shape)
    return np.abs(keras.ops.convert_to_numpy(layer.gamma))

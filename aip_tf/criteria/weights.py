"""Criteria that look at weights alone."""

import zlib

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.criteria.base import Criterion
from aip_tf.criteria.members import by_channel, channel_rows, producer_kernels, rows_of


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
                by_channel(self._scale(path, m, observed) * self._sums(model, m), m, group)
                for m in kernels
            )
            for path, kernels in producer_kernels(model, group).items()
        ]
        return [power ** (1 / self.order) for power in powers]

    def _sums(self, model, member):
        return np.sum(np.abs(rows_of(model, member)) ** self.order, axis=1)

    def _scale(self, path, member, observed):
        return 1.0


class FoldedMagnitude(Magnitude):
    """ "l1_bn": `Magnitude` of the kernel with the following BatchNormalization folded in.

    score_c = norm_c * |gamma_c| / sqrt(variance_c + epsilon). Behind a normalisation the norm of a
    kernel means nothing by itself (scale it and nothing changes); folded in, it does. Producers
    that no BatchNormalization follows directly have factor 1.
    """

    def observe(self, model, groups, data):
        return {
            path: _folded_scale(_keras.layer_at(model, follower)) ** self.order
            for path, follower in _followers(model).items()
        }

    def _scale(self, path, member, observed):
        return observed[path][member.indices] if path in observed else 1.0


class NormalizationScale(Criterion):
    """ "bn_scale": |gamma| of the group's normalisations (Network Slimming, arXiv 1708.06519).

    Groups without a gamma are scored by `Magnitude`.
    """

    def score(self, model, group, observed):
        gammas = [m for m in group.members if m.role == "channelwise" and m.variable == "gamma"]
        if not gammas:
            return Magnitude().score(model, group, None)
        return [by_channel(np.abs(rows_of(model, m))[:, 0], m, group) for m in gammas]


class GeometricMedian(Criterion):
    """ "fpgm": distance to all other filters of the layer (He et al. 2019, arXiv 1811.00250).

    score_c = sum over d of ||w_c - w_d||_2. A filter near the geometric median can be replaced by
    the others, however large it is.
    """

    def score(self, model, group, observed):
        return [
            _distances(np.concatenate([channel_rows(model, m, group) for m in kernels], axis=1))
            for kernels in producer_kernels(model, group).values()
        ]


class Random(Criterion):
    """ "random": uniform scores in [0, 1), the baseline; equal seeds and names, equal scores.

    Args:
        seed: int.
    """

    def __init__(self, seed=0):
        super().__init__(normalize="none")
        self.seed = seed

    def score(self, model, group, observed):
        name = zlib.crc32(group.name.encode())
        return [np.random.default_rng((self.seed, name)).random(group.num_channels)]


def _distances(rows):
    """For each row the sum of its Euclidean distances to the others."""
    squares = np.sum(rows**2, axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)).sum(axis=1)


def _followers(model):
    """{path of an operation: path of the BatchNormalization that reads its output directly}."""
    followers = {}

    def call(operation, args, kwargs, path):
        if isinstance(operation, keras.layers.BatchNormalization) and isinstance(args[0], str):
            followers[args[0]] = path
        # In place of tensors, the name of what made them flows through the graph.
        return keras.tree.map_structure(lambda _: path, operation.output)

    _keras.run_graph(model, ["" for _ in model.inputs], call)
    return followers


def _folded_scale(layer):
    """|gamma| / sqrt(variance + epsilon) of a BatchNormalization: (channels,)."""
    variance = keras.ops.convert_to_numpy(layer.moving_variance)
    gamma = 1.0 if layer.gamma is None else np.abs(keras.ops.convert_to_numpy(layer.gamma))
    return gamma / np.sqrt(variance + layer.epsilon)

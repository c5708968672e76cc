"""The algebra of leaving inputs out: pure numpy, no network in sight.

A linear layer puts out y = W^T x. Without some of its inputs, and with the weights of the others
refitted by least squares, its error is a formula in the covariance H of the inputs alone:

* the best weights on the kept inputs k are (H_kk)^-1 H_k: W (He et al. 2017, arXiv 1707.06168);
* without the inputs c the squared error grows by W_c^T ((H^-1)_cc)^-1 W_c (Optimal Brain Surgeon,
  Hassibi & Stork 1993, on blocks instead of single weights).
"""

import numpy as np

_STEPS = 64  # channels leave one by one up to this width, in so many portions above it


def refit(covariance, cross, kernel, ridge):
    """The weights V on inputs z that come closest to what a layer should put out, y.

    They minimise E|V^T z - y|^2 + ridge |V - W|^2: the ridge pulls them to their old values, not to
    zero. Usually z is a part of the layer's old inputs; behind other cuts it is what is left of it.

    Args:
        covariance: float (inputs, inputs), of z.
        cross: float (inputs, outputs), of z with y.
        kernel: W, float (inputs, outputs).
        ridge: float > 0.

    Returns:
        float (inputs, outputs).
    """
    stiff = covariance + ridge * np.eye(len(covariance))
    return np.linalg.solve(stiff, cross + ridge * kernel)


class System:
    """One layer while channels leave it, one after the other, and the rest is refitted each time.

    Args:
        covariance: float (inputs, inputs), positive definite.
        kernel: float (inputs, outputs); columns that count more are scaled up.
        owner: int (inputs,), the channel that each input belongs to, -1 for inputs that stay.
    """

    def __init__(self, covariance, kernel, owner):
        self._inverse = np.linalg.inv(covariance)
        self._kernel = _fewer_columns(kernel)
        self._owner = owner

    def costs(self, channels):
        """What each of `channels` would cost if it went alone: float (channels,)."""
        places = _places(self._owner, channels)
        absent = places < 0
        blocks = self._inverse[places[:, :, None], places[:, None, :]]
        blocks = np.where(absent[:, :, None] | absent[:, None, :], np.eye(places.shape[1]), blocks)
        rows = np.where(absent[:, :, None], 0.0, self._kernel[places])
        if places.shape[1] == 1:
            return np.sum(rows[:, 0] ** 2, axis=1) / blocks[:, 0, 0]
        return np.sum(rows * np.linalg.solve(blocks, rows), axis=(1, 2))

    def remove(self, channels):
        """Leave `channels` out and refit the others; returns what all of them cost together."""
        gone = np.isin(self._owner, channels)
        inverse, kernel, left = self._inverse, self._kernel, ~gone
        block, cross = inverse[np.ix_(gone, gone)], inverse[np.ix_(gone, left)]
        size = kernel.shape[1]
        solved = np.linalg.solve(block, np.concatenate([kernel[gone], cross], axis=1))
        cost = float(np.sum(kernel[gone] * solved[:, :size]))
        self._kernel = kernel[left] - cross.T @ solved[:, :size]
        self._inverse = inverse[np.ix_(left, left)] - cross.T @ solved[:, size:]
        self._owner = self._owner[left]
        return cost


def removal_order(systems, num_channels):
    """The channels from the least to the most missed, when each time the others make up for it.

    Args:
        systems: list of `System`s that read the channels; they are used up.
        num_channels: number of channels, 0 .. num_channels - 1.

    Returns:
        `(order, errors)`: int (num_channels,), and the error that each adds as it goes, float
        (num_channels,), in this order.
    """
    alive, order, errors = np.arange(num_channels), [], []
    portion = -(-num_channels // _STEPS)
    while len(alive):
        costs = np.sum([system.costs(alive) for system in systems], axis=0)
        worst = np.argsort(costs, kind="stable")[:portion]
        together = sum(system.remove(alive[worst]) for system in systems)
        shares = np.maximum(costs[worst], 0) + np.finfo(float).tiny
        order.extend(alive[worst])
        errors.extend(together * shares / shares.sum())
        alive = np.delete(alive, worst)
    return np.array(order), np.array(errors)


def _fewer_columns(kernel):
    """Costs depend on W W^T alone: a matrix with the same product and no more columns than rows."""
    if kernel.shape[1] <= kernel.shape[0]:
        return kernel
    return np.linalg.qr(kernel.T, mode="r").T


def _places(owner, channels):
    """The inputs of each channel: int (channels, most), -1 where one has fewer."""
    inputs = np.flatnonzero(np.isin(owner, channels))
    inputs = inputs[np.argsort(owner[inputs], kind="stable")]
    row = np.searchsorted(channels, owner[inputs])
    counts = np.bincount(row, minlength=len(channels))
    starts = np.cumsum(counts) - counts
    places = np.full((len(channels), max(1, counts.max(initial=0))), -1)
    places[row, np.arange(len(inputs)) - starts[row]] = inputs
    return places

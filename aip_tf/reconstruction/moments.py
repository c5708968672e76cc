"""What readers see: means and covariances of their inputs, in one pass over unlabelled data."""

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.reconstruction import solving

_ROUNDING = 1e-12  # of squares: a float32 is wrong by 4e-15 of its own
_AT_ONCE = 1000  # samples
_SHRINKAGE = 100.0  # the ridge grows by so much per input and sample


class Moments:
    """Sums of what one reader sees: `add` inputs, then ask for mean and covariance of its cells."""

    def __init__(self):
        self.count, self._sum, self._products = 0, 0.0, _Products()

    def add(self, inputs):
        """Add samples: float64 (cells, samples, inputs)."""
        self.count += inputs.shape[1]
        self._sum = self._sum + inputs.sum(axis=1)
        self._products.add(inputs)

    @property
    def mean(self):
        """(cells, inputs)."""
        return self._sum / self.count

    def covariance(self, cell, around_mean):
        """(inputs, inputs) of one cell; around zero where no constant can make up for the mean."""
        products = self._products.total()[cell] / self.count
        return products - _outer(self.mean[cell], self.mean[cell], around_mean)

    def variances(self, around_mean):
        """The diagonals of the covariances: (cells, inputs)."""
        squares = np.stack(list(map(np.diag, self._products.total()))) / self.count
        return squares - self.mean**2 if around_mean else squares

    @property
    def num_cells(self):
        return len(self._sum)


class CrossMoments(Moments):
    """Sums of what a reader sees in a cut network next to what it should put out there."""

    def __init__(self):
        super().__init__()
        self._target_sum, self._cross = 0.0, _Products()

    def add_pair(self, inputs, target):
        """Add samples: float64 (cells, samples, inputs) and (cells, samples, outputs)."""
        self.add(inputs)
        self._target_sum = self._target_sum + target.sum(axis=1)
        self._cross.add(inputs, target)

    @property
    def target_mean(self):
        """(cells, outputs)."""
        return self._target_sum / self.count

    def cross(self, cell, around_mean):
        """(inputs, outputs) of one cell."""
        products = self._cross.total()[cell] / self.count
        return products - _outer(self.mean[cell], self.target_mean[cell], around_mean)


class _Products:
    """The sum of the products of two arrays (cells, samples, ...), or of one with itself.

    Samples wait until there are many: every sum is a way through memory, 170 MB for 4,608 inputs,
    and a slice of four images has some hundreds of them.
    """

    def __init__(self):
        self._waiting, self._total = [], None

    def add(self, *arrays):
        self._waiting.append(arrays)
        if sum(first.shape[1] for first, *_ in self._waiting) >= _AT_ONCE:
            self.total()

    def total(self):
        """(cells, entries of the first, entries of the last)."""
        if not self._waiting:
            return self._total
        arrays = [_joined(parts) for parts in zip(*self._waiting, strict=True)]
        left, right, self._waiting = arrays[0], arrays[-1], []
        if self._total is None:
            self._total = np.zeros((len(left), left.shape[-1], right.shape[-1]))
        for cell, a, b in zip(self._total, left, right, strict=True):
            cell += a.T @ b  # of an array with itself BLAS does half of the work
        return self._total


def _joined(parts):
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _outer(a, b, around_mean):
    return np.outer(a, b) if around_mean else 0.0


def stiffness(ridge, moments, around_mean):
    """What is added to variances: `ridge` times their mean, growing with inputs per sample.

    Few samples know little of how inputs vary together: `1 + 100 * inputs / samples` times as much.
    What varies less than numbers are rounded is not looked at: next to a large mean that is noise.
    """
    variance, square = (float(np.mean(moments.variances(c))) for c in (around_mean, False))
    growth = 1 + _SHRINKAGE * moments.mean.shape[-1] / moments.count
    return max(ridge * growth * variance, _ROUNDING * square, float(np.finfo(np.float32).tiny))


class Fit:
    """The least-squares problems of one reader, out of its moments.

    Args:
        model: the network of the reader.
        reader: the `Reader`.
        moments: its `Moments`.
        ridge: see `stiffness`.
    """

    def __init__(self, model, reader, moments, ridge):
        self.reader, self.moments = reader, moments
        self._matrix = reader.matrix()
        self._kernels = reader.cells(self._matrix)
        self._centered = bool(reader.constant)
        self._ridge = stiffness(ridge, moments, self._centered)
        self._importance = _importance(model, reader, self._matrix)

    def systems(self, group_name):
        """A `solving.System` for every cell, for the channels of one group."""
        owner, scales = self.reader.owner(group_name), np.sqrt(self._scales())
        for cell, kernel in enumerate(self._kernels):
            scaled = kernel * scales[cell]
            yield solving.System(self._with_ridge(cell), scaled, owner)

    def refitted(self, keep_masks):
        """The kernel without the inputs that the masks remove, and the constant that makes up.

        Returns:
            `(kernel, constant)`: the kernel in the layer's shape, zero where inputs are gone, and
            float (blocks, outputs) to be added to the layer's outputs; zero without `constant`.
        """
        keep = self.reader.kept_inputs(keep_masks)
        kernels = np.zeros_like(self._kernels)
        for cell, kernel in enumerate(self._kernels):
            among, ridge = self._covariance(cell)[keep], self._ridge
            kernels[cell, keep] = solving.refit(among[:, keep], among @ kernel, kernel[keep], ridge)
        gap = np.einsum("ci,cio->co", self.moments.mean, self._kernels - kernels)
        return self.reader.as_weights(kernels, gap)

    def _covariance(self, cell):
        return self.moments.covariance(cell, self._centered)

    def _with_ridge(self, cell):
        covariance = self._covariance(cell)
        covariance[np.diag_indices_from(covariance)] += self._ridge
        return covariance

    def _scales(self):
        """How much a squared error of each output counts: (cells, outputs).

        Behind a normalisation an error is divided by the standard deviation and multiplied by
        gamma. Without one it counts relative to the size of all outputs.
        """
        cells_per_block = len(self.reader.arrangement)
        if self._importance is not None:
            return np.repeat(self._importance, cells_per_block, axis=0)
        energies = [
            np.sum(kernel * (self._covariance(cell) @ kernel))
            for cell, kernel in enumerate(self._kernels)
        ]
        size = len(self._matrix) * self._matrix.shape[-1]
        energy = max(float(sum(energies)), float(np.finfo(np.float32).tiny))
        return np.full((len(self._kernels), 1), size / energy)


def _importance(model, reader, matrix):
    """gamma^2 / variance of the normalisation behind a reader: (blocks, outputs), or None."""
    if not reader.normalization:
        return None
    layer = _keras.layer_at(model, reader.normalization)
    variance = keras.ops.convert_to_numpy(layer.moving_variance).astype(np.float64)
    gamma = 1.0 if layer.gamma is None else keras.ops.convert_to_numpy(layer.gamma)
    return (gamma**2 / (variance + layer.epsilon)).reshape(len(matrix), -1)


def observe(model, readers, batches):
    """`{path: Moments}` of the readers `{path: Reader}`, in one pass over `batches` of inputs."""
    moments = {path: Moments() for path in readers}
    random = np.random.default_rng(0)

    def see(operation, path, args, outputs):
        if path in readers:
            moments[path].add(readers[path].inputs(args[0], random))

    for batch in batches:
        _keras.observe(model, batch, see)
    return moments

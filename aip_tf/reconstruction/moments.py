"""What readers see: means and covariances of their inputs, in one pass over unlabelled data."""

import keras
import numpy as np

from aip_tf import _keras
from aip_tf.reconstruction import solving

_SHRINKAGE = 100.0  # the ridge grows by so much per input and sample


class Moments:
    """Sums of what one reader sees: `add` inputs, then ask for mean and covariance of its cells."""

    def __init__(self):
        self.count, self._sum, self._products = 0, 0.0, 0.0

    def add(self, inputs):
        """Add samples: float64 (cells, samples, inputs)."""
        self.count += inputs.shape[1]
        self._sum = self._sum + inputs.sum(axis=1)
        self._products = self._products + np.stack([x.T @ x for x in inputs])  # BLAS: half the work

    @property
    def mean(self):
        """(cells, inputs)."""
        return self._sum / self.count

    def covariance(self, cell, around_mean):
        """(inputs, inputs) of one cell; around zero where no constant can make up for the mean."""
        products = self._products[cell] / self.count
        mean = self.mean[cell]
        return products - np.outer(mean, mean) if around_mean else products

    @property
    def num_cells(self):
        return len(self._sum)


class Fit:
    """The least-squares problems of one reader, out of its moments.

    Args:
        model: the network of the reader.
        reader: the `Reader`.
        moments: its `Moments`.
        ridge: what is added to every variance, relative to their mean. Few samples know little of
            how inputs vary together, so it grows: `ridge * (1 + 100 * inputs / samples)`.
    """

    def __init__(self, model, reader, moments, ridge):
        self.reader, self.moments = reader, moments
        self._matrix = reader.matrix()
        self._kernels = reader.cells(self._matrix)
        self._centered = bool(reader.constant)
        variances = [np.trace(self._covariance(c)) for c in range(moments.num_cells)]
        growth = 1 + _SHRINKAGE * reader.num_inputs / moments.count
        mean = np.sum(variances) / (len(variances) * reader.num_inputs)
        self._ridge = max(ridge * growth * mean, np.finfo(np.float32).tiny)
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
        kernels = np.stack(
            [
                solving.refit(self._with_ridge(cell), kernel, keep)
                for cell, kernel in enumerate(self._kernels)
            ]
        )
        matrix = self.reader.joined(kernels)
        num_blocks = len(matrix)
        gap = np.einsum("ci,cio->co", self.moments.mean, self._kernels - kernels)
        constant = gap.reshape(num_blocks, -1, gap.shape[-1]).sum(axis=1)
        linear = self.reader.linear
        shape = (num_blocks, *linear.matrix(_kernel_of(linear)).shape[1:])
        return linear.kernel(matrix.reshape(shape)), constant * self._centered

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
        energy = sum(
            np.sum(kernel * (self._covariance(cell) @ kernel))
            for cell, kernel in enumerate(self._kernels)
        )
        size = len(self._matrix) * self._matrix.shape[-1]
        return np.full((len(self._kernels), 1), size / max(energy, np.finfo(np.float32).tiny))


def _importance(model, reader, matrix):
    """gamma^2 / variance of the normalisation behind a reader: (blocks, outputs), or None."""
    if not reader.normalization:
        return None
    layer = _keras.layer_at(model, reader.normalization)
    variance = keras.ops.convert_to_numpy(layer.moving_variance).astype(np.float64)
    gamma = 1.0 if layer.gamma is None else keras.ops.convert_to_numpy(layer.gamma)
    return (gamma**2 / (variance + layer.epsilon)).reshape(len(matrix), -1)


def _kernel_of(linear):
    return keras.ops.convert_to_numpy(getattr(linear.layer, linear.variable))


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

"""Criteria that look at what the network does with data."""

import copy
import operator

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.arguments import check, integer
from aip_tf.channels.members import (
    by_channel,
    entries_of,
    gate_members,
    producer_kernels,
    variable_of,
)
from aip_tf.criteria.base import Criterion, known
from aip_tf.criteria.weights import Magnitude, along_axis
from aip_tf.task import Task

_KINDS = {"num_samples": integer(1)}
_SLICE = 32


class FeatureMagnitude(Criterion):
    """The criterion "feature_magnitude": size of the producer's output F, before normalisation.

    AIP (arXiv 2108.13591) scores s_c = sum over h, w of |mean over samples of F[:, h, w, c]|,
    divided by the layer's maximum; GBIP takes the absolute value first. The mean runs over all
    samples of all batches. A producer with `activation=` is seen behind it.

    A layer whose output channels are not those of its kernel (attention heads), or that a wrapper
    holds, is scored by `Magnitude` instead.

    Args:
        absolute: "after_mean" (AIP) or "before_mean" (GBIP).
        num_samples: how many samples of `data` to look at.
        normalize, aggregate: as for `Criterion`; "max" is the paper's.

    Raises:
        ValueError: for other arguments; when called without data.
    """

    def __init__(self, absolute="after_mean", num_samples=512, normalize="max", aggregate="mean"):
        super().__init__(normalize, aggregate)
        self.absolute = known(absolute, ("after_mean", "before_mean"), "absolute")
        self.num_samples = check(_KINDS, locals())["num_samples"]

    def observe(self, model, groups, data):
        paths = {path for group in groups for path in producer_kernels(model, group)}
        totals = {}  # {path: {size: total}}: a shared layer may be called on several sizes

        def see(operation, path, tensors, outputs):
            if path in paths:
                total, sizes = self._sum_of_samples(operation, outputs), totals.setdefault(path, {})
                sizes[total.shape] = sizes.get(total.shape, 0) + total

        for inputs, _ in _slices(self, data, self.num_samples):
            _keras.observe(model, inputs, see)
        return {
            path: sum(np.abs(total).sum(axis=0) for total in sizes.values())
            for path, sizes in totals.items()
        }

    def _sum_of_samples(self, layer, outputs):
        """Sum over the samples: (positions, channels)."""
        features = keras.ops.cast(keras.tree.flatten(outputs)[0], "float32")
        if self.absolute == "before_mean":
            features = keras.ops.abs(features)
        total = np.asarray(keras.ops.sum(features, axis=0), np.float64)
        if getattr(layer, "data_format", None) == "channels_first":
            total = np.moveaxis(total, 0, -1)
        return total.reshape(-1, total.shape[-1])

    def score(self, model, group, observed):
        weights = None
        vectors = []
        for index, (path, kernels) in enumerate(producer_kernels(model, group).items()):
            features = along_axis(observed.get(path), model, kernels[0])
            if features is None:
                weights = weights or Magnitude().score(model, group, None)
                vectors.append(weights[index])
            else:
                vectors.append(by_channel(features[kernels[0].indices], kernels[0], group))
        return vectors


class Taylor(Criterion):
    """The criterion "taylor": first-order change of the loss if the channel went.

    Cutting a channel sets it to zero where it is consumed. With a gate z_c on it there, the loss
    changes by dL/dz_c = sum of w * dL/dw over the consumers' kernel entries that read channel c:
    exact for any graph, from the gradient of the weights alone (after Molchanov et al. 2019, arXiv
    1906.10771). score_c = mean over slices of 32 samples of |dL/dz_c|, the network in inference
    mode. To first order these scores add up, as `per_cost=True` supposes.

    Args:
        loss: as for `compile`; by default that of the task (in `prune`) or of the compiled model,
            else the cross-entropy that fits outputs and labels, see `Task`.
        num_samples: how many samples of `data` to look at, 32 for one gradient.
        normalize, aggregate: as for `Criterion`; by default scores are compared as they are.

    Raises:
        ValueError: when called without labelled data, or with data that does not fit the loss.
    """

    def __init__(self, loss=None, num_samples=512, normalize="none", aggregate="mean"):
        super().__init__(normalize, aggregate)
        self.loss, self.num_samples = loss, check(_KINDS, locals())["num_samples"]
        self._task = Task(loss=loss)

    def for_task(self, task):
        told = copy.copy(self)
        told._task = task if self.loss is None else self._task
        return told

    def observe(self, model, groups, data):
        task = self._task
        members = {group.name: gate_members(model, group) for group in groups}
        wanted = {
            (m.layer, m.variable): variable_of(model, m) for ms in members.values() for m in ms
        }
        totals, count = {group.name: np.zeros(group.num_channels) for group in groups}, 0
        for inputs, labels in _slices(self, data, self.num_samples, labelled=True):
            task = task if task.outputs else task.read(model, (inputs, labels))
            products = self._products(model, task, inputs, labels, wanted)
            size = len(keras.tree.flatten(inputs)[0])
            count += size
            for group in groups:
                gates = [
                    by_channel(entries_of(products[m.layer, m.variable], m).sum(axis=1), m, group)
                    for m in members[group.name]
                ]
                totals[group.name] += size * np.abs(np.sum(gates, axis=0))
        return {name: total / count for name, total in totals.items()}

    def _products(self, model, task, inputs, labels, wanted):
        """w * dL/dw for every wanted variable."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in wanted.values():
                tape.watch(variable.value)
            loss = task.loss_of(task.convert(labels), model(inputs, training=False))
        gradients = tape.gradient(loss, [variable.value for variable in wanted.values()])
        return {
            key: np.zeros(variable.shape)
            if gradient is None
            else np.asarray(variable) * np.asarray(tf.convert_to_tensor(gradient))
            for (key, variable), gradient in zip(wanted.items(), gradients, strict=True)
        }

    def score(self, model, group, observed):
        return [observed[group.name]]


def _slices(criterion, data, num_samples, labelled=False):
    """The first samples of `data` as pairs (inputs, labels) of at most 32; labels may be None."""
    seen = 0
    for inputs, labels in _batches(criterion, data, labelled):
        size = len(keras.tree.flatten(inputs)[0])
        for start in range(0, min(size, num_samples - seen), _SLICE):
            part = operator.itemgetter(slice(start, min(start + _SLICE, num_samples - seen)))
            yield (
                keras.tree.map_structure(lambda x: keras.ops.convert_to_tensor(part(x)), inputs),  # noqa: B023
                None if labels is None else keras.tree.map_structure(part, labels),
            )
        seen += size
        if seen >= num_samples:
            return
    if not seen:
        name = type(criterion).__name__
        raise ValueError(f"{name} received data without a single batch; expected at least one.")


def _batches(criterion, data, labelled):
    """Pairs (inputs, labels) out of whatever the user gave."""
    name = type(criterion).__name__
    if data is None:
        raise ValueError(
            f"{name} scores channels on data and received data=None; expected a tf.data.Dataset of "
            "(inputs, labels) batches or a tuple of arrays. Weight criteria need none."
        )
    for batch in data if isinstance(data, tf.data.Dataset) else [data]:
        inputs, labels = (*batch, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
        if labelled and labels is None:
            raise ValueError(
                f"{name} needs labels and received data without; expected (inputs, labels)."
            )
        yield inputs, labels

"""Criteria that look at what the network does with data."""

import operator

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.criteria.base import Criterion, known
from aip_tf.criteria.members import (
    by_channel,
    entries_of,
    gate_members,
    producer_kernels,
    variable_of,
)


class FeatureMagnitude(Criterion):
    """ "feature_magnitude": size of the raw output F of the producer, before normalisation.

    AIP (arXiv 2108.13591) scores s_c = sum over h, w of |mean over samples of F[:, h, w, c]|,
    divided by the layer's maximum; GBIP takes the absolute value first. The mean runs over all
    samples of all batches. A producer with `activation=` is seen behind it.

    Args:
        absolute: "after_mean" (AIP) or "before_mean" (GBIP).
        num_batches: batches of `data` to look at.
        normalize, aggregate: as for `Criterion`; "max" is the paper's.

    Raises:
        ValueError: for other arguments; when called without data.
    """

    def __init__(self, absolute="after_mean", num_batches=8, normalize="max", aggregate="mean"):
        super().__init__(normalize, aggregate)
        self.absolute = known(absolute, ("after_mean", "before_mean"), "absolute")
        self.num_batches = num_batches

    def observe(self, model, groups, data):
        paths = {path for group in groups for path in producer_kernels(model, group)}
        tapped, totals = _keras.TappedModel(model, paths), {}
        for inputs, _ in _batches(self, data, self.num_batches):
            _, features = tapped(inputs, training=False)
            for path, value in features.items():
                totals[path] = totals.get(path, 0) + self._sum(_keras.layer_at(model, path), value)
        return {path: np.abs(total).sum(axis=0) for path, total in totals.items()}

    def _sum(self, layer, features):
        """Sum over samples: (positions, channels)."""
        features = keras.ops.convert_to_numpy(features).astype(np.float64)
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            features = np.moveaxis(features, 1, -1)
        if self.absolute == "before_mean":
            features = np.abs(features)
        return features.sum(axis=0).reshape(-1, features.shape[-1])

    def score(self, model, group, observed):
        # Kernels of one layer (an LSTM has two, four gates each) share its output channels.
        return [
            by_channel(_at_outputs(observed[path], kernels[0], path), kernels[0], group)
            for path, kernels in producer_kernels(model, group).items()
        ]


class Taylor(Criterion):
    """ "taylor": first-order change of the loss if the channel went (arXiv 1906.10771).

    Cutting a channel sets it to zero where it is consumed. With a gate z_c on it there, the loss
    changes by dL/dz_c = sum of w * dL/dw over the consumers' kernel entries that read channel c:
    exact for any graph, from the gradient of the weights alone.
    score_c = mean over batches of |dL/dz_c|. The network runs in inference mode.

    Args:
        loss: name, function or `keras.losses.Loss`; by default that of a compiled model, else
            cross-entropy (integer or one-hot labels; logits or probabilities are recognised).
        num_batches: batches of `data` to look at.
        **options: as for `Criterion`; by default scores are compared as they are.

    Raises:
        ValueError: when called without labelled data.
    """

    def __init__(self, loss=None, num_batches=8, normalize="none", **options):
        super().__init__(normalize=normalize, **options)
        self.loss, self.num_batches = loss, num_batches

    def observe(self, model, groups, data):
        members = {group.name: gate_members(model, group) for group in groups}
        wanted = {
            (m.layer, m.variable): variable_of(model, m) for ms in members.values() for m in ms
        }
        totals, count = {group.name: np.zeros(group.num_channels) for group in groups}, 0
        for inputs, labels in _batches(self, data, self.num_batches, labelled=True):
            products = self._products(model, inputs, labels, wanted)
            count += 1
            for group in groups:
                gates = [
                    by_channel(entries_of(products[m.layer, m.variable], m).sum(axis=1), m, group)
                    for m in members[group.name]
                ]
                totals[group.name] += np.abs(np.sum(gates, axis=0))
        return {name: total / count for name, total in totals.items()}

    def _products(self, model, inputs, labels, wanted):
        """w * dL/dw for every wanted variable."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in wanted.values():
                tape.watch(variable.value)
            loss = keras.ops.mean(_loss(self.loss, model, labels, model(inputs, training=False)))
        gradients = tape.gradient(loss, [variable.value for variable in wanted.values()])
        return {
            key: np.zeros(variable.shape)
            if gradient is None
            else np.asarray(variable) * np.asarray(tf.convert_to_tensor(gradient))
            for (key, variable), gradient in zip(wanted.items(), gradients, strict=True)
        }

    def score(self, model, group, observed):
        return [observed[group.name]]


def _loss(loss, model, labels, outputs):
    if loss is None and getattr(model, "loss", None) is not None:
        loss = model.loss
    if loss is not None and not isinstance(loss, (dict, list, tuple)):
        return keras.losses.get(loss)(labels, outputs)
    if loss is not None or not keras.ops.is_tensor(outputs):
        raise ValueError(
            "Taylor needs one loss over one output and received a model with several; give "
            "`loss=`, a function (labels, outputs) -> scalar."
        )
    return _cross_entropy(labels, outputs)


def _cross_entropy(labels, outputs):
    labels, outputs = keras.ops.convert_to_tensor(labels), keras.ops.cast(outputs, "float32")
    sums = np.asarray(keras.ops.sum(outputs, axis=-1))
    is_probability = np.asarray(outputs).min() >= 0 and np.allclose(sums, 1, atol=1e-3)
    options = {"from_logits": not is_probability}
    if labels.shape == outputs.shape and outputs.shape[-1] > 1:
        return keras.losses.categorical_crossentropy(labels, outputs, **options)
    return keras.losses.sparse_categorical_crossentropy(labels, outputs, **options)


def _batches(criterion, data, num_batches, labelled=False):
    """The first batches of `data` as pairs (inputs, labels); labels may be None."""
    name = type(criterion).__name__
    if data is None:
        raise ValueError(
            f"{name} scores channels on data and received data=None; expected a tf.data.Dataset of "
            "(inputs, labels) batches or a tuple of arrays. Weight criteria need none."
        )
    if isinstance(data, tf.data.Dataset):
        batches = data.take(num_batches)
    else:
        batches = _slices(data if isinstance(data, (tuple, list)) else (data,), num_batches)
    is_empty = True
    for batch in batches:
        inputs, labels = (*batch, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
        if labelled and labels is None:
            raise ValueError(
                f"{name} needs labels and received data without; expected (inputs, labels)."
            )
        is_empty = False
        yield keras.tree.map_structure(keras.ops.convert_to_tensor, inputs), labels
    if is_empty:
        raise ValueError(f"{name} received data without a single batch; expected at least one.")


def _slices(arrays, num_batches, batch_size=32):
    length = len(keras.tree.flatten(arrays)[0])
    for start in range(0, min(length, num_batches * batch_size), batch_size):
        part = slice(start, start + batch_size)
        yield tuple(keras.tree.map_structure(operator.itemgetter(part), list(arrays)))


def _at_outputs(features, member, path):
    """Values of a layer's output channels at a member's kernel positions (gates repeat them)."""
    if max(member.indices) < len(features):
        return features[member.indices]
    if member.variable in ("kernel", "recurrent_kernel"):
        return features[member.indices % len(features)]
    raise ValueError(
        f"FeatureMagnitude cannot relate the outputs of layer {path!r} to the channels of its "
        f"{member.variable}; use a weight criterion such as 'l1' or 'taylor'."
    )

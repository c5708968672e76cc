"""How much a channel matters: importance scores, higher = keep.

A criterion is any callable `(model, groups, data) -> {group name: float32 (num_channels,)}`. The
ones here differ in what they look at (weights, normalisation, outputs, gradients) and share how
their numbers are made comparable: a group with several producers (a residual sum) has one vector
of scores from each; each vector is *normalised*, then they are *aggregated*. Normalising is what
lets one ranking run over groups of different size ("global" selection, thresholds).
"""

import zlib

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras

_AGGREGATIONS = {"max": np.max, "mean": np.mean, "sum": np.sum}


def _lamp(scores):
    """Each squared score over the sum of the squares that are not smaller: in (0, 1], last = 1."""
    squares = np.square(scores)
    order = np.argsort(squares, kind="stable")
    not_smaller = np.cumsum(squares[order][::-1])[::-1]
    result = np.empty_like(squares)
    result[order] = squares[order] / np.maximum(not_smaller, 1e-30)
    return result


_NORMALIZATIONS = {
    "lamp": _lamp,
    "max": lambda scores: scores / max(np.max(scores), 1e-30),
    "mean": lambda scores: scores / max(np.mean(scores), 1e-30),
    "none": lambda scores: scores,
}


class Criterion:
    """Base of the criteria: subclass it and override `score` (and `observe`, to look at data).

    Args:
        normalize: what each producer's scores are divided by: "none"; "max" (scores in [0, 1], for
            thresholds); "mean" (an average channel has score 1); "lamp" (the square over the sum of
            all squares not smaller: layer-adaptive, Lee et al. 2021, arXiv 2010.07611).
        aggregate: how the vectors of several producers become one: "mean", "max" or "sum".

    Raises:
        ValueError: for another `normalize` or `aggregate`.
    """

    def __init__(self, normalize="mean", aggregate="mean"):
        self.normalize = _known(normalize, _NORMALIZATIONS, "normalize")
        self.aggregate = _known(aggregate, _AGGREGATIONS, "aggregate")

    def observe(self, model, groups, data):
        """Look at the model (and data) once; the result is handed to every `score`."""
        return None

    def score(self, model, group, observed):
        """Scores of one group: a list of arrays (num_channels,), >= 0, one from each producer."""
        raise NotImplementedError(f"{type(self).__name__} must override `score`.")

    def __call__(self, model, groups, data=None):
        """Score the prunable groups.

        Args:
            model: the `keras.Model` that the groups were found in; not changed.
            groups: list of `ChannelGroup`; those not prunable are left out.
            data: None, a `tf.data.Dataset` of (inputs, labels) batches, or a tuple of arrays.

        Returns:
            {group name: float32 (num_channels,)}.
        """
        groups = [group for group in groups if group.prunable]
        observed = self.observe(model, groups, data)
        return {group.name: self._combine(self.score(model, group, observed)) for group in groups}

    def _combine(self, vectors):
        vectors = [_NORMALIZATIONS[self.normalize](vector) for vector in vectors]
        return _AGGREGATIONS[self.aggregate](vectors, axis=0).astype(np.float32)


# From weights ------------------------------------------------------------------------------------


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
                _by_channel(self._scale(path, m, observed) * self._sums(model, m), m, group)
                for m in kernels
            )
            for path, kernels in _producer_kernels(model, group).items()
        ]
        return [power ** (1 / self.order) for power in powers]

    def _sums(self, model, member):
        return np.sum(np.abs(_rows(model, member)) ** self.order, axis=1)

    def _scale(self, path, member, observed):
        return 1.0


class FoldedMagnitude(Magnitude):
    """ "l1_bn": `Magnitude` of the kernel with the following BatchNormalization folded in.

    score_c = norm_c * |gamma_c| / sqrt(variance_c + epsilon). Behind a normalisation the norm of a
    kernel means nothing by itself (scale it and nothing changes); folded in, it does. Producers that
    no BatchNormalization follows directly have factor 1.
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
        return [_by_channel(np.abs(_rows(model, m))[:, 0], m, group) for m in gammas]


class GeometricMedian(Criterion):
    """ "fpgm": distance to all other filters of the layer (He et al. 2019, arXiv 1811.00250).

    score_c = sum over d of ||w_c - w_d||_2. A filter near the geometric median can be replaced by
    the others, however large it is.
    """

    def score(self, model, group, observed):
        return [
            _distances(np.concatenate([_channel_rows(model, m, group) for m in kernels], axis=1))
            for kernels in _producer_kernels(model, group).values()
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


# From data ---------------------------------------------------------------------------------------


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
        self.absolute = _known(absolute, ("after_mean", "before_mean"), "absolute")
        self.num_batches = num_batches

    def observe(self, model, groups, data):
        paths = {path for group in groups for path in _producer_kernels(model, group)}
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
            _by_channel(_at_outputs(observed[path], kernels[0], path), kernels[0], group)
            for path, kernels in _producer_kernels(model, group).items()
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
        batch_size: samples per gradient; small ones show more of what single images need.
        **options: as for `Criterion`; by default scores are compared as they are.

    Raises:
        ValueError: when called without labelled data.
    """

    def __init__(self, loss=None, num_batches=8, batch_size=None, normalize="none", **options):
        super().__init__(normalize=normalize, **options)
        self.loss, self.num_batches, self.batch_size = loss, num_batches, batch_size

    def observe(self, model, groups, data):
        members = {group.name: _gate_members(model, group) for group in groups}
        wanted = {(m.layer, m.variable): _variable(model, m) for ms in members.values() for m in ms}
        totals, count = {group.name: np.zeros(group.num_channels) for group in groups}, 0
        for inputs, labels in _batches(self, data, self.num_batches, labelled=True):
            products = self._products(model, inputs, labels, wanted)
            count += 1
            for group in groups:
                gates = [
                    _by_channel(_rows_of(products[m.layer, m.variable], m).sum(axis=1), m, group)
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
    count = 0
    for count, batch in enumerate(batches, start=1):
        inputs, labels = (*batch, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
        if labelled and labels is None:
            raise ValueError(
                f"{name} needs labels and received data without; expected (inputs, labels)."
            )
        yield keras.tree.map_structure(keras.ops.convert_to_tensor, inputs), labels
    if not count:
        raise ValueError(f"{name} received data without a single batch; expected at least one.")


def _slices(arrays, num_batches, batch_size=32):
    length = len(keras.tree.flatten(arrays)[0])
    for start in range(0, min(length, num_batches * batch_size), batch_size):
        stop = start + batch_size
        yield keras.tree.map_structure(lambda array: array[start:stop], tuple(arrays))  # noqa: B023


# Members of groups -------------------------------------------------------------------------------


def _producer_kernels(model, group):
    """{layer path: its producer members without biases}, in the order of the members."""
    members = [member for member in group.members if member.role == "producer"]
    kernels = [m for m in members if len(_variable(model, m).shape) > 1] or members
    layers = dict.fromkeys(member.layer for member in kernels)
    return {path: [m for m in kernels if m.layer == path] for path in layers}


def _gate_members(model, group):
    """Weights whose product with their gradient is that of a gate on the channel."""
    consumers = [m for m in group.members if m.role == "consumer"]
    return consumers or [m for m in group.members if m.role == "producer"]


def _variable(model, member):
    layer = _keras.layer_at(model, member.layer)
    inside = f"{layer.name}/"
    return next(v for v in layer.variables if v.path.rsplit(inside, 1)[-1] == member.variable)


def _rows(model, member):
    """The weights of a member as (positions, entries)."""
    return _rows_of(keras.ops.convert_to_numpy(_variable(model, member)), member)


def _rows_of(values, member):
    values = np.moveaxis(values.astype(np.float64), member.axis, 0)
    return values.reshape(len(values), -1)[member.indices]


def _channel_rows(model, member, group):
    """The weights of a member as (num_channels, entries): a channel's positions side by side."""
    order = np.argsort(member.channels, kind="stable")
    return _rows(model, member)[order].reshape(group.num_channels, -1)


def _by_channel(values, member, group):
    """Sum values (positions,) over the positions of each channel."""
    return np.bincount(member.channels, weights=values, minlength=group.num_channels)


def _distances(rows):
    """For each row the sum of its Euclidean distances to the others."""
    squares = np.sum(rows**2, axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)).sum(axis=1)


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


# Names -------------------------------------------------------------------------------------------


def _known(value, known, name):
    if value not in known:
        choices = ", ".join(repr(choice) for choice in sorted(known))
        raise ValueError(f"`{name}` is {value!r}; expected one of {choices}.")
    return value


_CRITERIA = {
    "bn_scale": NormalizationScale,
    "feature_magnitude": FeatureMagnitude,
    "fpgm": GeometricMedian,
    "l1": Magnitude,
    "l1_bn": FoldedMagnitude,
    "l2": lambda: Magnitude(order=2),
    "random": Random,
    "taylor": Taylor,
}


def get(identifier):
    """Look a criterion up: a name, a `Criterion` (object or class) or any callable.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    >>> get("l2").order
    2
    """
    if isinstance(identifier, str) and identifier in _CRITERIA:
        return _CRITERIA[identifier]()
    if isinstance(identifier, type) and issubclass(identifier, Criterion):
        return identifier()
    if callable(identifier):
        return identifier
    known = ", ".join(repr(name) for name in _CRITERIA)
    raise ValueError(
        f"Unknown criterion {identifier!r}; expected one of {known}, or a callable "
        "(model, groups, data) -> {group name: scores}."
    )

"""What a model costs: parameters, multiply-accumulates, peak activation memory.

All three are formulas in the numbers of kept channels, so the cost of a cut is known without
rebuilding anything. MACs are those of convolutions, dense layers, attention, recurrent layers and
tensor products for one sample; biases, normalisations and activations are not counted. The FLOPs
of the pruning literature are MACs; FLOPs in the strict sense are twice that.
"""

import math

import numpy as np

from aip_tf.channels import ChannelGraph


class Cost:
    """What a model costs, also under keep masks: by formula, nothing is rebuilt.

    Args:
        model: a `keras.Model` or its `ChannelGraph`.
        reference: the original (model, graph or `Cost`) if `model` was cut before, with the same
            layer names; by default `model` is the original.
        input_shape: see `ChannelGraph`.

    Attributes:
        graph: the `ChannelGraph`.
        model: the model.
        groups: its channel groups.
        original: the `Cost` of the reference; the object itself if there is none.
        unknown_macs: paths of the layers whose multiply-accumulates cannot be known; `macs` counts
            them as 0.

    Example:

    >>> cost = Cost(model)
    >>> cost.macs({"conv1": keep}) / cost.macs()
    0.87
    """

    def __init__(self, model, reference=None, input_shape=None):
        self.graph = ChannelGraph.of(model, input_shape)
        self.model = self.graph.model
        self.groups = self.graph.groups
        trace = self.graph.trace
        counter = _Counter(trace.class_of)
        self._macs = _Terms(counter, _mac_terms(trace))
        self._macs_of = [call.path for call in trace.calls for _ in call.products]
        self._calls_of = [i for i, call in enumerate(trace.calls) for _ in call.products]
        self._parameters = _Terms(counter, _parameter_terms(trace))
        self._tensors = _Terms(counter, _tensor_terms(trace))
        self._lifetimes = _lifetimes(trace)
        self.unknown_macs = [call.path for call in trace.calls if call.is_of_unknown_cost]
        same = reference is None or reference in (model, self.model)
        self.original = self if same else _cost_of(reference, input_shape)

    def macs(self, keep_masks=None):
        """Multiply-accumulates for one sample, with the groups cut by `keep_masks`: int."""
        return self._macs.total(self.graph.kept(keep_masks or {}))

    def padded_macs(self, keep_masks=None, lanes=16):
        """`macs` as a device counts them that makes `lanes` output channels at a time: int.

        XNNPACK, which runs float32 files of LiteRT on a CPU, makes 8, 16 or 32 at once: 41 channels
        take the time of 48.
        """
        return self._macs.total(self.graph.kept(keep_masks or {}), lanes)

    def layer_macs(self, keep_masks=None):
        """The same of every layer that multiplies: {path: int}, in the order of the network."""
        found = {}
        values = self._macs.values(self.graph.kept(keep_masks or {}))
        for path, value in zip(self._macs_of, values, strict=True):
            found[path] = found.get(path, 0) + round(float(value))
        return found

    def call_macs(self, keep_masks=None, lanes=1):
        """`padded_macs` of every call of `graph.trace.calls`: float array."""
        values = self._macs.values(self.graph.kept(keep_masks or {}), lanes)
        return np.bincount(self._calls_of, values, len(self.graph.trace.calls))

    def tensor_bytes(self, keep_masks=None):
        """Bytes of every array of `graph.trace.tensors()`, for one sample: float array."""
        return self._tensors.values(self.graph.kept(keep_masks or {}))

    def parameters(self, keep_masks=None):
        """Number of weights, trainable or not, with the groups cut by `keep_masks`: int."""
        return self._parameters.total(self.graph.kept(keep_masks or {}))

    def num_channels(self, keep_masks=None):
        """Number of channels of all groups that are kept: int."""
        masks = keep_masks or {}
        return sum(
            int(np.count_nonzero(masks[g.name])) if g.name in masks else g.num_channels
            for g in self.groups
        )

    def peak_memory(self, keep_masks=None):
        """Bytes of the activations that are alive at the worst moment, for one sample: int.

        Operations run in topological order; a tensor lives from its making to its last reading;
        nothing is computed in place.
        """
        sizes = self.tensor_bytes(keep_masks)
        changes = np.zeros(self._lifetimes.max() + 2)
        np.add.at(changes, self._lifetimes[:, 0], sizes)
        np.add.at(changes, self._lifetimes[:, 1] + 1, -sizes)
        return int(np.cumsum(changes).max())

    def layer(self, path):
        """The layer at a path such as "outer/inner"."""
        return self.graph.layer(path)

    def original_width(self, group):
        """The width that `group` (of the current model) had in the original, in its channels.

        Told by layer names, because the identity of groups may change with a cut: in filters of the
        group's first producer. A producer with several groups (a convolution split into branches)
        is told apart by group name or, failing that, divided in proportion.

        Returns:
            float, at least `group.num_channels`.

        Raises:
            ValueError: if the reference has no such layer.
        """
        if self.original is self or not group.producers:
            return float(group.num_channels)
        producer = group.producers[0]
        before = [g for g in self.original.groups if producer in g.producers]
        if not before:
            raise ValueError(
                f"The reference has no channels made by layer {producer!r}, which the model has; "
                "expected the original network, whose layer names a cut does not change."
            )
        named = [g for g in before if g.name == group.name]
        now = [group] if named else [g for g in self.groups if producer in g.producers]
        lost = _num_filters(named or before, producer) / _num_filters(now, producer)
        return group.num_channels * max(1.0, lost)


def _cost_of(reference, input_shape):
    return reference if isinstance(reference, Cost) else Cost(reference, input_shape=input_shape)


def _num_filters(groups, producer):
    """How many filters of the layer `producer` make channels of the groups."""
    members = (m for g in groups for m in g.members if m.layer == producer)
    counts = {}
    for member in members:
        if member.role == "producer":
            key = member.variable, member.axis
            counts[key] = counts.get(key, 0) + len(member.indices)
    return max(counts.values())


class _Counter:
    """How many identities of each registered vector are kept, all in one vectorised step."""

    def __init__(self, class_of):
        self._class_of = class_of
        self._places = {}
        self._vectors = []

    def place(self, ids):
        """Number of the vector `ids`; equal vectors share one."""
        key = self._class_of[ids].tobytes()
        if key not in self._places:
            self._places[key] = len(self._vectors) + 1
            self._vectors.append(np.asarray(ids))
        return self._places[key]

    def counts(self, kept):
        """Kept entries of every vector; entry 0 is 1, for terms with fewer factors."""
        if not self._vectors:
            return np.ones(1)
        starts = np.cumsum([0, *(len(v) for v in self._vectors[:-1])])
        flat = kept(np.concatenate(self._vectors)).astype(np.int64)
        return np.concatenate([[1], np.add.reduceat(flat, starts)]).astype(float)


class _Terms:
    """Terms `factor x product of counts`; the first count of a product is that of its output."""

    def __init__(self, counter, terms):
        self._counter = counter
        width = max((len(vectors) for _, vectors in terms), default=0)
        self._factors = np.array([factor for factor, _ in terms], float)
        places = [[counter.place(v) for v in vectors] for _, vectors in terms]
        self._places = np.array([p + [0] * (width - len(p)) for p in places], int)
        self._may_vary = np.array([bool(v) and len(v[0]) > 1 for _, v in terms], bool)

    def values(self, kept, lanes=1):
        """Every term, the first count rounded up to a multiple of `lanes`: float array."""
        if not self._factors.size:
            return np.zeros(0)
        counts = self._counter.counts(kept)[self._places]
        padded = np.ceil(counts[:, 0] / lanes) * lanes
        counts[:, 0] = np.where(self._may_vary, padded, counts[:, 0])
        return self._factors * counts.prod(axis=1)

    def total(self, kept, lanes=1):
        """The sum of the terms: int."""
        return round(float(self.values(kept, lanes).sum()))


def _mac_terms(trace):
    terms = []
    for call in trace.calls:
        for product in call.products:
            line, repeats = trace.vector(product.array)
            terms.append((product.factor * repeats, [line, *product.ids]))
    return terms


def _parameter_terms(trace):
    terms = []
    for variable in _weights(trace):
        weight = trace.weights.get(id(variable))
        axes = weight.axes if weight else []
        rest = math.prod(s for i, s in enumerate(variable.shape) if i not in {a.axis for a in axes})
        terms.append((rest, [a.ids for a in axes]))
    return terms


def _tensor_terms(trace):
    size = {id(x): 4 for x in trace.input_arrays}
    for call in trace.calls:
        for x, dtype in zip(call.outputs, call.dtypes, strict=True):
            size.setdefault(id(x), _bytes_of(dtype))
    terms = []
    for array in trace.tensors():
        line, repeats = trace.vector(array)
        terms.append((size[id(array)] * repeats, [line]))
    return terms


def _bytes_of(dtype):
    return 1 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit())) // 8


def _lifetimes(trace):
    """First and last call at which each tensor of `trace.tensors()` is alive: int (tensors, 2)."""
    order = {id(x): i for i, x in enumerate(trace.tensors())}
    lifetimes = np.zeros((len(order), 2), int)
    for time, call in enumerate(trace.calls, 1):
        for x in call.inputs:
            if id(x) in order:
                lifetimes[order[id(x)], 1] = time
        for x in call.outputs:
            if lifetimes[order[id(x)], 0] == 0 and not any(x is y for y in trace.input_arrays):
                lifetimes[order[id(x)], 0] = time
            lifetimes[order[id(x)], 1] = max(time, lifetimes[order[id(x)], 1])
    return lifetimes


def _weights(trace):
    """Every variable of the operations that were traced, once."""
    variables = {}
    for call in trace.calls:
        for variable in getattr(call.operation, "weights", ()):
            variables[id(variable)] = variable
    return list(variables.values())


def count_macs(model, input_shape=None):
    """Multiply-accumulates of `model` for one sample: int. FLOPs are twice that.

    Args:
        model: a `keras.Model` or its `ChannelGraph`.
        input_shape: see `ChannelGraph`.

    Example:

    >>> count_macs(keras.applications.MobileNet(weights=None))
    568740352
    """
    return Cost(model, input_shape=input_shape).macs()


def count_parameters(model):
    """Number of weights of a `keras.Model` or `ChannelGraph`, trainable or not: int."""
    return getattr(model, "model", model).count_params()


def whole_layers(cost):
    """The layers of which nothing can be cut, though they have weights or a cost.

    Args:
        cost: a `Cost`.

    Returns:
        list of `(path, parameters, macs or None where it is unknown, reason)`.
    """
    trace, found = cost.graph.trace, {}
    seen = set()
    for call in trace.calls:
        weights = getattr(call.operation, "weights", ())
        reason = _reason_of(trace, call, weights)
        macs = sum(p.factor * p.array.size * math.prod(map(len, p.ids)) for p in call.products)
        count = sum(math.prod(w.shape) for w in weights if id(w) not in seen)
        seen |= {id(w) for w in weights}
        if reason and (count or macs or call.is_of_unknown_cost):
            found[call.path] = (count, None if call.is_of_unknown_cost else macs, reason)
    return [(path, *values) for path, values in found.items()]


def _reason_of(trace, call, weights):
    """Why no channel of these variables can be removed; None if one can."""
    ids = [a.ids for w in weights if id(w) in trace.weights for a in trace.weights[id(w)].axes]
    classes = [trace.class_of[i] for i in ids]
    if any((~trace.pinned[c]).any() for c in classes):
        return None
    made = [trace.class_of[np.asarray(x).reshape(-1)[:1]] for x in call.outputs if x.size]
    for c in [*reversed(classes), *made]:
        if len(c) and trace.pinned[c[0]]:
            return trace.reason_of(c[0])
    return None

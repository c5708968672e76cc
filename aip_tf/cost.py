"""What a model costs: parameters, multiply-accumulates, peak activation memory.

All three are formulas in the numbers of kept channels, so the cost of a cut is known without
rebuilding anything. MACs are those of convolutions, dense layers, attention, recurrent layers and
tensor products for one sample; biases, normalisations and activations are not counted. The FLOPs
of the pruning literature are MACs; FLOPs in the strict sense are twice that.
"""

import math

import numpy as np

from aip_tf.channels.groups import partition


class CostModel:
    """Costs of a model, and of that model under keep masks, by formula.

    Args:
        model: a Functional or built Sequential `keras.Model`.
        input_shape: see `find_channel_groups`.

    Attributes:
        groups: the model's channel groups.

    Example:

    >>> cost = CostModel(model)
    >>> cost.macs({"conv1": keep}) / cost.macs()
    0.87
    """

    def __init__(self, model, input_shape=None):
        self._partition = partition(model, input_shape)
        self.groups = self._partition.groups
        trace = self._partition.trace
        self._counter = _Counter(trace.class_of)
        self._macs = _Terms(self._counter, _mac_terms(trace))
        self._parameters = _Terms(self._counter, _parameter_terms(model, trace))
        self._tensors = _Terms(self._counter, _tensor_terms(trace))
        self._lifetimes = _lifetimes(trace)

    def macs(self, keep_masks=None):
        """Multiply-accumulates for one sample, with the groups cut by `keep_masks`: int."""
        return self._macs.total(self._keep(keep_masks))

    def parameters(self, keep_masks=None):
        """Number of weights, trainable or not, with the groups cut by `keep_masks`: int."""
        return self._parameters.total(self._keep(keep_masks))

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
        sizes = self._tensors.values(self._keep(keep_masks))
        changes = np.zeros(self._lifetimes.max() + 2)
        np.add.at(changes, self._lifetimes[:, 0], sizes)
        np.add.at(changes, self._lifetimes[:, 1] + 1, -sizes)
        return int(np.cumsum(changes).max())

    def _keep(self, keep_masks):
        return self._partition.kept(keep_masks or {})


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
    """A list of terms `factor x product of counts`."""

    def __init__(self, counter, terms):
        self._counter = counter
        width = max((len(vectors) for _, vectors in terms), default=0)
        self._factors = np.array([factor for factor, _ in terms], float)
        places = [[counter.place(v) for v in vectors] for _, vectors in terms]
        self._places = np.array([p + [0] * (width - len(p)) for p in places], int)

    def values(self, kept):
        """Every term: float array."""
        if not self._factors.size:
            return np.zeros(0)
        return self._factors * self._counter.counts(kept)[self._places].prod(axis=1)

    def total(self, kept):
        """The sum of the terms: int."""
        return round(float(self.values(kept).sum()))


def _mac_terms(trace):
    terms = []
    for call in trace.calls:
        for product in call.products:
            line, repeats = trace.vector(product.array)
            terms.append((product.factor * repeats, [line, *product.ids]))
    return terms


def _parameter_terms(model, trace):
    terms = []
    for variable in model.weights:
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


def count_macs(model, input_shape=None):
    """Multiply-accumulates of `model` for one sample: int. FLOPs are twice that.

    Args:
        model: a Functional or built Sequential `keras.Model`.
        input_shape: see `find_channel_groups`.

    Example:

    >>> count_macs(keras.applications.MobileNet(weights=None))
    568740352
    """
    return CostModel(model, input_shape).macs()


def count_parameters(model):
    """Number of weights of `model`, trainable or not: int."""
    return model.count_params()


def summary(model, input_shape=None):
    """A table of the model's channel groups, and its cost.

    Args:
        model: a Functional or built Sequential `keras.Model`.
        input_shape: see `find_channel_groups`.

    Returns:
        str: one line for each channel group (channels, whether they can be pruned or why not, the
        producers), and a line with parameters, MACs and the share of the MACs that a cut of all
        prunable groups down to one channel would leave.
    """
    cost = CostModel(model, input_shape)
    rows = [("channel group", "channels", "prunable", "producers")]
    for g in cost.groups:
        verdict = "yes" if g.prunable else f"no: {g.reason}"
        rows.append((g.name, str(g.num_channels), verdict, ", ".join(g.producers)))
    widths = [min(60, max(len(row[i]) for row in rows)) for i in range(3)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row[:3], widths, strict=True)), row[3]]).rstrip()
        for row in rows
    ]
    least = {g.name: np.arange(g.num_channels) == 0 for g in cost.groups if g.prunable}
    lines.append(
        f"{cost.parameters():,} parameters, {cost.macs():,} MACs; one channel in every prunable "
        f"group would leave {cost.macs(least) / max(1, cost.macs()):.1%} of the MACs"
    )
    return "\n".join(lines)

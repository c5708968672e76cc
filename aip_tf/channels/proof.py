"""What is checked on every run: an uncut copy is the model, a cut model is its masked twin."""

import collections

import ml_dtypes
import numpy as np
import tensorflow as tf
from keras import tree

from aip_tf import _keras
from aip_tf.channels.graph import ChannelGraph

TOLERANCE = 1e-5  # relative to the largest entry of each output, in float32
_RECAST_TOLERANCE = 1e-3  # float32 rounding on the way through a deep network
# A layer rounds its weights, its products, each of its steps: random errors of half an epsilon add
# up to 16 of them in 256 roundings. From layer to layer they may grow without bound.
_ROUNDINGS = 16


def prove_cut(graph, cut, keep_masks, inputs):
    """The relative difference of a cut model from its masked twin; see `check_cut`.

    Where rounding leaves a doubt, copies of both that compute in float64 decide.

    Args:
        graph: `ChannelGraph` of the model before the cut.
        cut: the model after it.
        keep_masks: the masks.
        inputs: a batch of inputs.
    """
    if graph.plain_model is not graph.model:  # twin and cut follow what was opened, right or wrong
        prove_copy(graph, graph.plain_model, inputs)
    error = difference(graph.mask(keep_masks), cut, inputs)
    if error <= TOLERANCE:
        return error
    wide = _widened(graph, inputs, error)
    smaller = _widened(ChannelGraph(cut, graph.input_shapes), inputs, error)
    doubled = tree.map_structure(_in_float64, inputs)
    masked = wide.mask(_renamed(keep_masks, graph.groups, wide.groups))
    error = difference(masked, smaller.model, doubled)
    if error <= TOLERANCE:
        return error
    raise ValueError(
        f"The cut of {graph.model.name!r} is not exact: its output differs from the masked "
        f"model's by {error:.1e} (relative). Expected at most {TOLERANCE:.0e}. The model was "
        "not replaced. A layer with a wrong channel rule is the usual cause: keep it whole by "
        "`ignore=` in the selection, and please report it."
    )


def _renamed(keep_masks, groups, others):
    """Keep masks by the names of the same groups in a copy: another producer may be first there.

    Groups of the same producers (heads and outputs of an attention) come in the same order.
    """
    names = collections.defaultdict(list)
    for group in others:
        names[frozenset(group.producers)].append(group.name)
    found = {g.name: names[frozenset(g.producers)].pop(0) for g in groups}
    return {found[name]: mask for name, mask in keep_masks.items()}


def _widened(graph, inputs, error):
    """The graph of a copy in float64 that computes the same function; `error` left the doubt."""
    try:
        wide = graph.recast("float64")
        if difference(graph.model, wide.model, inputs) <= _RECAST_TOLERANCE:
            return wide
        # Rounding adds up on the way through a network: one layer after another tells.
        first = first_difference(graph, wide.model, inputs, _rounding_of(graph.model))
        if first is None:
            return wide
        obstacle = f"is another function, first at {first!r}"
    except (TypeError, ValueError, tf.errors.OpError) as failure:
        obstacle = f"cannot be computed ({str(failure).splitlines()[0]})"
    raise ValueError(
        f"The cut of {graph.model.name!r} is in doubt: its output differs from the masked model's "
        f"by {error:.1e} (relative), more than {TOLERANCE:.0e}, and whether that is rounding "
        f"cannot be told, because a copy in float64 {obstacle}. The model was not replaced. "
        "Expected layers that compute in the dtype that their policy names."
    )


def prove_copy(graph, copy, inputs):
    """The relative difference of an uncut copy from its model; see `check_copy`."""
    error = difference(graph.model, copy, inputs)
    if error <= TOLERANCE:
        return error
    first = first_difference(graph, copy, inputs)
    first = "its outputs" if first is None else repr(first)
    raise ValueError(
        f"A copy of {graph.model.name!r} does not compute what the model does: their outputs "
        f"differ by {error:.1e} (relative) on the same batch, first at {first}. Expected at most "
        f"{TOLERANCE:.0e}. A layer whose call depends on chance or on a state that is no variable "
        "cannot be copied: make it deterministic in inference mode."
    )


def first_difference(graph, copy, inputs, tolerance=TOLERANCE):
    """The path of the first operation that a copy computes otherwise than the model, or None.

    Each operation of the copy is given what the model's own was given: no error is handed on.
    """
    outputs_at, differing = collections.defaultdict(list), []

    def record(node, args, kwargs, path):
        outputs = _keras.run_operation(node, args, kwargs, training=False)
        if not isinstance(node.operation, _keras.Held):  # the copy has several layers for it
            outputs_at[path].append(outputs)
        return outputs

    def compare(node, args, kwargs, path):
        outputs = _keras.run_operation(node, args, kwargs, training=False)
        if not outputs_at[path]:  # what the copying added
            return outputs
        expected = outputs_at[path].pop(0)
        if _relative(_arrays(expected), _arrays(_rounded(outputs, expected))) > tolerance:
            differing.append(path)
        return _rounded(expected, outputs)

    traced = graph.trace
    for walked, inside, call in (
        (traced.graph, traced.openings.inside, record),
        (_keras.graph_of(copy), _keras.graph_inside, compare),
    ):
        _keras.run_graph(walked, _keras.standardized(walked, inputs), call, inside)
    return differing[0] if differing else None


def _rounded(values, like):
    """Tensors in the types of others, as far as both have the same structure."""
    try:
        return tree.map_structure(_as_type, values, like)
    except ValueError:
        return values


def _as_type(x, like):
    if x is None or like is None:
        return x
    return _keras.with_mask_of(x, tf.cast(x, like.dtype))


def difference(expected, actual, inputs):
    """The largest difference of two models' outputs relative to each one's largest entry: float."""
    return _relative(*(_arrays(_keras.answer(model, inputs)) for model in (expected, actual)))


def _rounding_of(model):
    """How far a layer may be from its copy in float64: by the coarsest type of its model."""
    types = {x.compute_dtype for x in [model, *_keras.all_layers(model)]}
    epsilons = [ml_dtypes.finfo(t).eps for t in types if "float" in t]
    return max(_RECAST_TOLERANCE, *(_ROUNDINGS * float(e) / 2 for e in epsilons))


def _arrays(outputs):
    """Outputs by their places in the structure; those that are None have no value."""
    found = tree.flatten_with_path(outputs)
    return {path: np.asarray(x, np.float64) for path, x in found if x is not None}


def _relative(expected, actual):
    """Difference over the largest entry of an output, of several the worst; infinite where
    structures or shapes differ or only one is finite."""
    shapes = [{path: x.shape for path, x in found.items()} for found in (expected, actual)]
    if shapes[0] != shapes[1]:
        return np.inf
    pairs = [(x, actual[path]) for path, x in expected.items() if x.size]
    if any((np.isfinite(a) != np.isfinite(b)).any() for a, b in pairs):
        return np.inf
    pairs = [(np.where(np.isfinite(a), a, 0), np.where(np.isfinite(b), b, 0)) for a, b in pairs]
    return float(max((_error(a, b) for a, b in pairs), default=0.0))


def _error(expected, actual):
    return np.abs(expected - actual).max() / max(np.finfo(np.float32).tiny, np.abs(expected).max())


def _in_float64(x):
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float64) if x.dtype.is_floating else x

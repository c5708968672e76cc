"""What is checked on every run: an uncut copy is the model, a cut model is its masked twin."""

import ml_dtypes
import numpy as np
import tensorflow as tf
from keras import tree

from aip_tf import _keras

TOLERANCE = 1e-5  # relative to the largest output, in float32
_RECAST_TOLERANCE = 1e-3  # float32 rounding on the way through a deep network
_ROUNDINGS = 16  # what 256 layers in a row amount to, each rounding to half an epsilon at random


def prove_cut(graph, cut, keep_masks, inputs):
    """The relative difference of a cut model from its masked twin; see `check_cut`.

    Args:
        graph: `ChannelGraph` of the model before the cut.
        cut: the model after it.
        keep_masks: the masks.
        inputs: a batch of inputs.
    """
    error = difference(graph.mask(keep_masks), cut, inputs)
    if error <= TOLERANCE:
        return error
    wide = graph.recast("float64")
    apart, rounding = difference(graph.model, wide.model, inputs), _rounding_of(graph.model)
    if apart <= rounding:
        doubled = tree.map_structure(_in_float64, inputs)
        smaller = wide.prune(keep_masks)
        error = difference(wide.mask(keep_masks), smaller, doubled)
        drift = difference(smaller, cut, inputs)
        if error <= TOLERANCE and drift <= rounding:
            return error
        error = max(error, drift)
    raise ValueError(
        f"The cut of {graph.model.name!r} is not exact: its output differs from the masked "
        f"model's by {error:.1e} (relative). Expected at most {TOLERANCE:.0e}. The model was "
        "not replaced. A layer with a wrong channel rule is the usual cause: keep it whole by "
        "`ignore=` in the selection, and please report it."
    )


def prove_copy(graph, copy, inputs):
    """The relative difference of an uncut copy from its model; see `check_copy`."""
    error = difference(graph.model, copy, inputs)
    if error <= TOLERANCE:
        return error
    first = first_difference(graph, copy, inputs)
    raise ValueError(
        f"A copy of {graph.model.name!r} does not compute what the model does: their outputs "
        f"differ by {error:.1e} (relative) on the same batch, first at {first}. Expected at most "
        f"{TOLERANCE:.0e}. A layer whose call depends on chance or on a state that is no variable "
        "cannot be copied: make it deterministic in inference mode."
    )


def first_difference(graph, copy, inputs):
    """The path of the first layer whose output differs in a copy, or "its outputs"."""
    before, after = {}, {}
    traced = graph.trace
    _record(traced.graph, inputs, traced.openings.inside, before)
    _record(_keras.graph_of(copy), inputs, _keras.graph_inside, after)
    for path, expected in before.items():
        if path in after and _relative(expected, after[path]) > TOLERANCE:
            return repr(path)
    return "its outputs"


def _record(graph, inputs, inside, found):
    def call(node, args, kwargs, path):
        outputs = _keras.run_operation(node, args, kwargs, training=False)
        found.setdefault(path, _arrays(outputs))
        return outputs

    _keras.run_graph(graph, _keras.standardized(graph, inputs), call, inside)


def difference(expected, actual, inputs):
    """The largest difference of two models' outputs relative to the largest output: float."""
    return _relative(*(_arrays(m(inputs, training=False)) for m in (expected, actual)))


def _rounding_of(model):
    """How far a model may be from its copy in float64: by the coarsest type that it computes in."""
    types = {x.compute_dtype for x in [model, *_keras.all_layers(model)]}
    epsilons = [ml_dtypes.finfo(t).eps for t in types if "float" in t]
    return max(_RECAST_TOLERANCE, *(_ROUNDINGS * float(e) / 2 for e in epsilons))


def _arrays(outputs):
    """Outputs by their places in the structure; those that are None have no value."""
    found = tree.flatten_with_path(outputs)
    return {path: np.asarray(x, np.float64) for path, x in found if x is not None}


def _relative(expected, actual):
    """Difference over the largest entry; infinite where structures or shapes differ or only one is
    finite."""
    shapes = [{path: x.shape for path, x in found.items()} for found in (expected, actual)]
    if shapes[0] != shapes[1]:
        return np.inf
    pairs = [(x, actual[path]) for path, x in expected.items() if x.size]
    if any((np.isfinite(a) != np.isfinite(b)).any() for a, b in pairs):
        return np.inf
    pairs = [(np.where(np.isfinite(a), a, 0), np.where(np.isfinite(b), b, 0)) for a, b in pairs]
    largest = max([np.finfo(np.float32).tiny, *(np.abs(a).max() for a, _ in pairs)])
    return float(max((np.abs(a - b).max() for a, b in pairs), default=0.0) / largest)


def _in_float64(x):
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float64) if x.dtype.is_floating else x

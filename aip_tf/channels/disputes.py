"""What is kept because two calls, or two layers, need it and cannot both be served."""

import collections

import keras
import numpy as np

from aip_tf import _keras


def keep_disputed(tracer):
    """Keep what the calls of a layer do not agree on, and what a layer reads of another.

    A layer called twice is cut for both calls or for none: where one call has no use for an edit of
    the other (as its channels lie on another axis), it would break. So would a layer that stays
    whole and reads a kernel of another, such as an embedding that turns vectors back into words.

    Args:
        tracer: the `Tracer`, at the end of its walk.
    """
    calls_of = collections.defaultdict(list)
    for call in tracer.calls:
        if isinstance(call.operation, keras.layers.Layer):
            calls_of[id(call.operation)].append(call)
    for calls in calls_of.values():
        if any(call.places.keys() != calls[0].places.keys() for call in calls):
            for call in calls:
                for ids in call.places.values():
                    call.pin(ids, f"calls of the shared layer {call.path} differ")
        _keep_what_is_read(tracer, calls)


def _keep_what_is_read(tracer, calls):
    """Keep the variables that rules of other layers would cut, but for those of layers inside."""
    layer, path = calls[0].operation, calls[0].path
    known = set().union(*(call.known_variables for call in calls))
    inside = {id(x) for x in _keras.all_layers(layer)}
    for variable in tracer.openings.read_by(layer):
        weight = tracer.weights.get(id(variable))
        if weight is None or weight.layer is layer:
            continue
        if id(variable) not in known or id(weight.layer) not in inside:
            for axis in weight.axes:
                tracer.identities.pin(np.asarray(axis.ids), f"{path} reads {variable.path}")

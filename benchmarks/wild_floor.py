"""What opening costs at least: one call of the layers that were opened, by Keras alone.

Opening runs what a layer's call does on symbols, at least twice, and holds the runs against each
other. `floor_seconds` is the processor's time of a single such run without anything of ours.
"""

import contextlib
import gc
import time

from aip_tf import _keras
from aip_tf._keras.sizes import placeholders

REPEATS = 3
BATCHES = (None, 2)  # some calls have to know the batch size


def floor_seconds(graph):
    """Seconds of one call of everything that was opened in a `ChannelGraph`, the best of three.

    None where Keras alone cannot call it on symbols, as where a layer multiplies by its variable.
    """
    for batch in BATCHES:
        with contextlib.suppress(Exception):
            return min(_seconds(graph, batch) for _ in range(REPEATS))
    return None


def is_slow(row):
    """Whether opening a model takes more than twice the tracing without opening."""
    return bool(row.get("opened_seconds")) and row["trace_seconds"] > 3 * row["opened_seconds"]


def is_bound(row):
    """Whether two calls by Keras alone take more than that."""
    return is_slow(row) and (row.get("floor_seconds") or 0) > row["opened_seconds"]


def _seconds(graph, batch):
    inside, root = graph.trace.openings.inside, graph.trace.graph
    calls = list(_outermost(root, inside))
    layers = list(_opened(root, inside))
    if not _keras.is_graph(graph.model):
        calls = [(graph.model, (root.structure,), {})]
        layers.append(graph.model)
    calls = [(layer, *placeholders(args, kwargs, batch)[:2]) for layer, args, kwargs in calls]
    gc.collect()
    with _called_through(layers):
        start = time.process_time()
        for layer, args, kwargs in calls:
            layer(*args, **kwargs)
        return time.process_time() - start


def _outermost(graph, inside):
    """(layer, args, kwargs) of the calls of opened layers that no opened layer makes."""
    for node in graph.nodes:
        nested = inside(node.operation)
        if nested and not _keras.is_graph(node.operation):
            yield node.operation, node.arguments.args, node.arguments.kwargs
        elif nested:
            yield from _outermost(nested, inside)


def _opened(graph, inside):
    """Every opened layer, those inside of others, too; some more than once."""
    for node in graph.nodes:
        if nested := inside(node.operation):
            if not _keras.is_graph(node.operation):
                yield node.operation
            yield from _opened(nested, inside)


@contextlib.contextmanager
def _called_through(layers):
    """For a while a call on symbols runs a layer's own `call`, where Keras would ask for sizes."""
    for layer in layers:
        vars(layer)["symbolic_call"] = layer.call
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("symbolic_call", None)

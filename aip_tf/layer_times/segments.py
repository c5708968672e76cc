"""Layers that a runtime fuses, taken out of their network: what is timed."""

import collections
import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.deploy.source import quiet
from aip_tf.latency import measure_latency
from aip_tf.layer_times.conversion import converted

_RUNS, _WARM_UP = 15, 2
# What of a configuration the time does not depend on.
_IDLE = ("name", "dtype", "trainable", "seed", "registered_name", "build_config")
_IDLE_ENDS = ("initializer", "regularizer", "constraint")


@dataclasses.dataclass(frozen=True)
class Segment:
    """Calls in a row, of which one at most multiplies: a convolution with what is fused to it.

    Attributes:
        calls: the `Call`s of a `Trace`.
        places: where they stand in it, with the calls inside of theirs.
        inputs, outputs: `[(symbolic tensor, identity array)]` at its ends.
    """

    calls: tuple
    places: tuple
    inputs: tuple
    outputs: tuple

    @property
    def paths(self):
        """Paths of the layers, which a cut does not change."""
        return tuple(call.path for call in self.calls)

    @property
    def path(self):
        """The path of the layer that multiplies, else of the first."""
        return next((call.path for call in self.calls if call.products), self.paths[0])

    @property
    def what(self):
        """Kinds and shapes, for people."""
        kinds = "+".join(type(call.operation).__name__ for call in self.calls)
        sides = (
            " ".join(str(a.shape[1:]) for _, a in side) for side in (self.inputs, self.outputs)
        )
        return f"{kinds} {' -> '.join(sides)}"

    @property
    def key(self):
        """What its time depends on, as a digest."""
        parts = [[_described(call) for call in self.calls], self.what]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:20]

    def measure(self):
        """Milliseconds of the processor for one sample, by LiteRT on one thread.

        Raises:
            ValueError: if LiteRT cannot run it.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segment.tflite"
            try:
                path.write_bytes(self._converted())
                with quiet():
                    found = measure_latency(path, runs=_RUNS, warm_up=_WARM_UP, num_threads=1)
            except Exception as error:  # of any kind: the converter's are not documented
                raise ValueError(str(error).strip().splitlines()[0][:200]) from error
        return found.processor_ms

    def _converted(self):
        graph = _keras.Graph(
            [x for x, _ in self.inputs],
            [call.node for call in self.calls],
            [x for x, _ in self.outputs],
        )

        def run(*values):
            return _keras.walk(graph, list(values), _keras.run_operation)

        specs = [tf.TensorSpec(array.shape, x.dtype) for x, array in self.inputs]
        weights = [v for call in self.calls for v in getattr(call.operation, "variables", ())]
        return converted(run, specs, variables=weights)


def find(trace):
    """The segments of a traced network, in order.

    A call joins the one before if nobody else reads what that gives, and not both multiply.
    """
    calls = [call for call in trace.calls if not call.is_inside]
    readers = collections.Counter(key for call in calls for key in _tensors(call))
    readers.update(id(x) for x in keras.tree.flatten(trace.graph.outputs))
    rows, last = [], {}
    for call in calls:
        row = _row_before(call, last, readers)
        if row is None or (_multiplies(row) and call.products):
            row = []
            rows.append(row)
        row.append(call)
        last.update((id(x), row) for x in call.node.outputs)
    places = _places(trace)
    return [_segment(row, places) for row in rows]


def _tensors(call):
    """{id: symbolic tensor} of what a call reads, each once."""
    return {id(x): x for x in call.node.input_tensors}


def _row_before(call, last, readers):
    """The calls that this one may join, or None."""
    read = list(_tensors(call))
    row = last.get(read[0]) if len(read) == 1 and readers[read[0]] == 1 else None
    is_end = row is not None and len(row[-1].node.outputs) == 1
    return row if is_end and id(row[-1].node.outputs[0]) == read[0] else None


def _multiplies(row):
    return any(call.products for call in row)


def _places(trace):
    """{id of a call: where it and the calls inside of it stand}."""
    found, inside = {}, []
    for place, call in enumerate(trace.calls):
        inside.append(place)
        if not call.is_inside:
            found[id(call)], inside = inside, []
    return found


def _segment(row, places):
    made = {id(x) for call in row for x in call.node.outputs}
    inputs = {
        id(x): (x, array)
        for call in row
        for x, array in zip(call.node.input_tensors, call.inputs, strict=False)
        if id(x) not in made
    }
    outputs = tuple(zip(row[-1].node.outputs, row[-1].outputs, strict=False))
    own = tuple(place for call in row for place in places[id(call)])
    return Segment(tuple(row), own, tuple(inputs.values()), outputs)


def _described(call):
    """What the time of a call depends on, as plain values."""
    operation = call.operation
    try:
        config = operation.get_config()
    except Exception:  # of any kind: not every operation can say what it is
        config = {}
    shapes = [list(w.shape) for w in getattr(operation, "weights", ())]
    arguments = call.node.arguments
    given = [x for x in keras.tree.flatten((arguments.args, arguments.kwargs)) if _is_plain(x)]
    return [type(operation).__name__, _without_idle(config), shapes, given]


def _is_plain(value):
    return isinstance(value, bool | int | float | str)


def _without_idle(value):
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _IDLE and not k.endswith(_IDLE_ENDS)}
        return {key: _without_idle(each) for key, each in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_idle(each) for each in value]
    return value if _is_plain(value) or value is None else np.shape(value)

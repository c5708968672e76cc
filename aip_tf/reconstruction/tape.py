"""A network that runs on all data side by side and stops where asked; it keeps what is needed."""

import dataclasses

import keras

from aip_tf import _keras
from aip_tf.reconstruction.batches import num_inputs_of


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Stands for a tensor in the recorded arguments of a call."""

    number: int


@dataclasses.dataclass
class Step:
    """One recorded call.

    Attributes:
        node: of the graph.
        path: of the operation.
        args, kwargs: of the call, with a stand-in for each tensor.
        outputs: numbers of the tensors that it makes.
        last: numbers of the tensors that nobody reads behind it.
    """

    node: object
    path: str
    args: tuple
    kwargs: dict
    outputs: list
    last: list = dataclasses.field(default_factory=list)

    def slots(self):
        """Numbers of the tensors that go in, in the order of the arguments."""
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [x.number for x in flat if isinstance(x, _Slot)]

    def run(self, values):
        """Run the call on `{number: tensor}`; tensors come and go."""
        values.update(zip(self.outputs, self.call(values), strict=True))
        for number in self.last:
            values.pop(number, None)

    def call(self, values):
        """What the call returns: list of tensors."""
        args, kwargs = keras.tree.map_structure(
            lambda x: values[x.number] if isinstance(x, _Slot) else x, (self.args, self.kwargs)
        )
        return keras.tree.flatten(_keras.run_operation(self.node, args, kwargs, training=False))


class Tape:
    """The calls of a network, run side by side on several batches up to one place after another.

    What layers do may be changed between two stops; what ran stays as it ran.

    Args:
        model: a Functional or built Sequential `keras.Model`.
        sample: a small batch of inputs, to record the calls with.

    Attributes:
        steps: the calls in order, `Step`s.
        place: the next of them.
        values: the tensors there that are still needed, for each batch: `{number: tensor}`.
        outputs: numbers of the tensors that the network puts out.
    """

    def __init__(self, model, sample):
        self._graph, self._sizes = _keras.graph_of(model), {}
        self.steps, self.place, self.values = [], 0, []
        self._inputs = self._record(sample)

    def _record(self, sample):
        numbers, alive = {}, []

        def number_of(x):
            alive.append(x)  # an id is that of a tensor only while the tensor lives
            number = numbers.setdefault(id(x), len(numbers))
            self._sizes[number] = x.dtype.size * int(keras.ops.size(x)) / num_inputs_of(sample)
            return number

        def stand_in(x):
            return _Slot(numbers[id(x)]) if id(x) in numbers else x

        def call(node, args, kwargs, path):
            outputs = _keras.run_operation(node, args, kwargs, training=False)
            given = keras.tree.map_structure(stand_in, (args, kwargs))
            made = [number_of(x) for x in keras.tree.flatten(outputs)]
            self.steps.append(Step(node, path, *given, made))
            return outputs

        inputs = _keras.standardized(self._graph, sample)
        first = [number_of(x) for x in inputs]
        outputs = _keras.run_graph(self._graph, inputs, call)
        self.outputs = {numbers[id(x)] for x in keras.tree.flatten(outputs)}
        ends = {n: i for i, step in enumerate(self.steps) for n in [*step.outputs, *step.slots()]}
        for number, i in ends.items():
            self.steps[i].last.append(number)
        return first

    def paths(self):
        """Paths of the calls, in the order of the first of each: list."""
        return list(dict.fromkeys(step.path for step in self.steps))

    def bytes_at(self, paths):
        """The most bytes that one input takes while the network waits at one of `paths`."""
        alive, most = sum(self._sizes[n] for n in self._inputs), 0
        for step in self.steps:
            if step.path in paths:
                most = max(most, alive)
            alive += sum(self._sizes[n] for n in set(step.outputs) - set(step.slots()))
            alive -= sum(self._sizes[n] for n in step.last)
        return most

    def start(self, batches):
        """Begin with these batches of inputs."""
        self.place = 0
        inputs = [_keras.standardized(self._graph, batch) for batch in batches]
        self.values = [dict(zip(self._inputs, x, strict=True)) for x in inputs]

    def inputs_at(self, path):
        """Go on to the layer at `path`: what it is called on first, for each batch.

        None if that is past.
        """
        stop = self._next(path)
        if stop is None:
            return None
        for values in self.values:
            for step in self.steps[self.place : stop]:
                step.run(values)
        self.place = stop
        first = self.steps[stop].slots()[0]
        return [values[first] for values in self.values]

    def inputs_ahead(self, path):
        """The same, one batch after the other, while the network waits where it is.

        Nothing if that is past.
        """
        stop = self._next(path)
        for values in self.values if stop is not None else ():
            values = dict(values)
            for step in self.steps[self.place : stop]:
                step.run(values)
            yield values[self.steps[stop].slots()[0]]

    def _next(self, path):
        ahead = (i for i in range(self.place, len(self.steps)) if self.steps[i].path == path)
        return next(ahead, None)

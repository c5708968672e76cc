"""Datasets that know how often they were iterated, so that a resumed run sees what it would have.

`tf.data` shuffles anew for every iterator: the order of pass n follows from the seed and from n
alone, but how many passes there were is hidden, and forgotten when the process ends. Here passes
are counted; a resumed process makes as many iterators as there were and goes on with the next.
"""

import functools

import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.datasets.adapt import first_batch
from aip_tf.identity import digest


class Passes:
    """Counts the passes over a dataset.

    Args:
        source: a `tf.data.Dataset`.

    Attributes:
        dataset: the same elements; each time it is iterated, and something is read, counts.
        count: passes so far, whoever made them.

    >>> passes = Passes(tf.data.Dataset.range(100).shuffle(100, seed=1))
    >>> first, second = list(passes.dataset), list(passes.dataset)
    >>> again = Passes(tf.data.Dataset.range(100).shuffle(100, seed=1))
    >>> again.wind(1)
    >>> list(again.dataset) == second != first
    True
    """

    def __init__(self, source):
        self._source = source
        self._counter = counter = _Counter()

        def begin(_):
            with tf.control_dependencies([tf.numpy_function(counter, [], tf.int64)]):
                return source

        dataset = tf.data.Dataset.from_tensors(0).flat_map(begin)
        if (size := int(source.cardinality())) >= 0:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(size))
        self.dataset = dataset.with_options(source.options())
        self.dataset.stream = getattr(source, "stream", None)  # see `looks.looking`

    @property
    def count(self):
        return self._counter.count

    @functools.cached_property
    def identity(self):
        """What tells these data from others, as plain values.

        The sum of the first batch belongs to it where the pipeline is known to draw from seeds.
        """
        first = "drawn without a seed"
        if _keras.is_seeded(self._source):
            batch = first_batch(self.dataset, "data")
            first = digest(tf.nest.flatten(batch, expand_composites=True))
        return {
            "elements": str(tf.nest.map_structure(_words, self.dataset.element_spec)),
            "batches": int(self.dataset.cardinality()),
            "first batch": first,
        }

    def wind(self, count):
        """Go forward to where `count` passes were made; making iterators takes next to no time."""
        for _ in range(self.count, count):
            iter(self._source)
            self._counter()


def _words(spec):
    shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
    return str(spec) if dtype is None else f"{dtype.name} {shape}"


class Replay:
    """A dataset whose passes can be had again, as far as they were read; what was read is held.

    Args:
        source: a `tf.data.Dataset`, iterated once for each pass.

    Attributes:
        dataset: the same elements; it begins with the first pass, and again after `rewind`.

    >>> replay = Replay(tf.data.Dataset.range(100).shuffle(100))
    >>> first, second = list(replay.dataset), list(replay.dataset)
    >>> replay.rewind()
    >>> list(replay.dataset) == first, list(replay.dataset) == second
    (True, True)
    """

    def __init__(self, source):
        self._source, self._passes, self._next = source, [], 0
        self.dataset = tf.data.Dataset.from_generator(
            self._elements, output_signature=source.element_spec
        )

    def rewind(self):
        """Let the next pass be the first one again."""
        self._next = 0

    def forget(self):
        """Let go of what is held: TensorFlow keeps the functions behind a dataset for good."""
        self._passes, self._source = [], None

    def _elements(self):
        if self._next == len(self._passes):
            self._passes.append(([], iter(self._source)))
        seen, rest = self._passes[self._next]
        self._next += 1
        yield from seen
        for element in rest:
            seen.append(element)
            yield element


class _Counter:
    """Apart from the dataset, because TensorFlow keeps Python functions for good."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return np.int64(self.count)


def counted(dataset):
    """The `Passes` of a dataset: one for each dataset, however often it is asked for."""
    if not hasattr(dataset, "passes"):
        passes = Passes(dataset)
        dataset.passes = passes.dataset.passes = passes
    return dataset.passes

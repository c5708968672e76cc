"""Data as `fit` takes it, as a `tf.data.Dataset` of batches whose number is known."""

import itertools
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.arguments import shown
from aip_tf.datasets.data import name_some
from aip_tf.datasets.looks import looking
from aip_tf.failures import words

_BATCH_SIZE = 32
_REMEDY = (
    "Expected what `fit` takes: a tf.data.Dataset of (inputs, labels) batches, a tuple of arrays "
    "(inputs, labels), a keras.utils.PyDataset, or a generator with a number of batches."
)
# Where the number of batches is given, for messages.
_STEPS = {
    "train_data": "give Recovery(steps_per_epoch=...)",
    "validation_data": "give Recovery(validation_steps=...)",
}


def as_dataset(data, steps=None, *, shuffle=True, restart=False, role="train_data"):
    """Training or validation data as a dataset of batches, of known number.

    Args:
        data: a `tf.data.Dataset` of batches; a tuple (inputs,), (inputs, labels) or (inputs,
            labels, sample_weights) of arrays, or of lists or dictionaries of arrays, which are put
            in batches of 32; a `keras.utils.PyDataset`, or anything else of batches with a length
            (a PyTorch DataLoader); a generator of batches.
        steps: batches in an epoch; needed where the data do not end or do not say how many they
            are. An epoch goes on where the one before it ended, and starts over at the data's end.
        shuffle: whether arrays, and the order of a PyDataset's batches, are shuffled in every
            epoch, from a fixed seed.
        restart: whether each epoch of `steps` batches shows the same ones, as a validation should;
            those of a generator are kept in memory.
        role: what the data are called in messages.

    Raises:
        ValueError: for anything else, arrays of unequal length, no data at all, or data of unknown
            or infinite length without `steps`.

    >>> data = as_dataset((np.zeros((40, 8)), {"a": np.zeros(40), "b": np.ones(40)}))
    >>> int(data.cardinality())
    2
    """
    if isinstance(data, tf.data.Dataset):
        dataset = _dense(data, role)
    elif isinstance(data, tuple) and len(data) in (1, 2, 3):
        dataset = _from_arrays(data, shuffle, role)
    elif isinstance(data, keras.utils.PyDataset):
        dataset = _from_py_dataset(data, shuffle, role)
    elif isinstance(data, Iterator):
        dataset = (_kept_from if restart else _from_iterator)(data, steps, role)
    elif hasattr(data, "__len__") and hasattr(data, "__iter__") and not _is_arrays(data):
        first = _first(lambda: next(iter(data), None), role)
        dataset = _generated(lambda: iter(data), len(data), first, role)
    else:
        raise ValueError(f"Received {role} of type {type(data).__name__}. {_hint(data)}{_REMEDY}")
    if steps is not None and steps != int(dataset.cardinality()):
        dataset = dataset.repeat().take(steps) if restart else _stream(dataset, steps)
    return _known(dataset, steps, role)


def _dense(dataset, role):
    """A dataset whose batches are arrays, as fit takes them."""
    for spec in tf.nest.flatten(dataset.element_spec):
        if not isinstance(spec, tf.TensorSpec):
            raise ValueError(
                f"Received {role} whose batches hold {type(spec).__name__.removesuffix('Spec')}s. "
                "Expected dense ones: map them by `tf.sparse.to_dense`, or pad them by `to_tensor`."
            )
        if spec.shape.rank is None:
            raise ValueError(
                f"Received {role} whose batches have no known number of axes. Expected it: a "
                "function of numpy or Python does not tell, so call `set_shape` behind it."
            )
    return dataset


def weighted(dataset, class_weight):
    """`dataset` with a sample weight for each label, as `fit(class_weight=...)` gives it.

    Args:
        dataset: batches (inputs, labels) with class numbers or one-hot rows, of one output.
        class_weight: {class number: weight}; 1 for classes that are not named. None: as it is.

    Raises:
        ValueError: for labels of several outputs or positions, or with sample weights already.
    """
    if class_weight is None:
        return dataset
    spec = dataset.element_spec
    if (
        not isinstance(spec, tuple)
        or len(spec) != 2
        or tf.nest.is_nested(spec[1])
        or len(spec[1].shape) > 2
    ):
        raise ValueError(
            f"Received class_weight={shown(class_weight)} with data {shown(spec)}. Expected "
            "(inputs, labels) with one class for each sample; otherwise give the weights with the "
            "data: (inputs, labels, sample_weights)."
        )
    size = max(class_weight, default=-1) + 1
    table = tf.constant([float(class_weight.get(i, 1.0)) for i in range(size)] + [1.0])

    def weigh(inputs, labels):
        if len(labels.shape) == 2:
            is_one_hot = labels.shape[1] != 1
            classes = tf.argmax(labels, -1) if is_one_hot else tf.squeeze(labels, -1)
        else:
            classes = labels
        return inputs, labels, tf.gather(table, tf.minimum(tf.cast(classes, tf.int32), size))

    weighed = dataset.map(weigh)
    weighed.stream = getattr(dataset, "stream", None)
    return weighed


def first_batch(dataset, role="train_data"):
    """The first batch of a dataset.

    Raises:
        ValueError: if there is none, or it cannot be loaded.
    """
    try:
        with looking(dataset):
            batch = next(iter(dataset.take(1)), None)
    except tf.errors.OpError as error:
        raise ValueError(
            f"Received {role} whose first batch failed: {_keras.essence(error)} Expected every "
            "batch to load."
        ) from error
    if batch is None:
        raise ValueError(
            f"Received {role} without a single batch, of {int(dataset.cardinality())} that it says "
            "to have. Expected at least one."
        )
    return batch


def at_hand(data):
    """All inputs and labels of data given as a tuple of arrays, each in its structure; None where
    they are not at hand."""
    if not isinstance(data, tuple) or len(data) not in (1, 2, 3):
        return None, None
    return tuple(None if part is None else _leaves(part) for part in (*data, None)[:2])


# --- arrays ---------------------------------------------------------------------------------------


def _from_arrays(parts, shuffle, role):
    parts = tuple(_leaves(part) for part in parts if part is not None)
    sizes = {name: len(x) for name, x in _named(parts)}
    if len(set(sizes.values())) > 1:
        listed = name_some([f"{size} {name}" for name, size in sizes.items()], most=8)
        raise ValueError(
            f"Received {role} of unequal length: {listed}. Expected as many labels (and weights) "
            "as inputs."
        )
    size = next(iter(sizes.values()), 0)
    if size == 0:
        raise ValueError(f"Received {role} without a single sample. Expected at least one.")
    samples = tf.data.Dataset.from_tensor_slices(parts)
    samples = samples.shuffle(size, seed=0) if shuffle else samples
    return samples.batch(_BATCH_SIZE)


def _leaves(part):
    """Lists of arrays as tuples, which `tf.data` keeps apart; arrays as numpy has them.

    Lists of lists of numbers are arrays.
    """
    if isinstance(part, dict):
        return {name: _leaves(x) for name, x in part.items()}
    if isinstance(part, list | tuple) and any(map(np.ndim, keras.tree.flatten(part))):
        return tuple(_leaves(x) for x in part)
    try:
        array = np.asarray(part)
    except ValueError as error:
        raise ValueError(
            f"Received lists of unequal length, {shown(part)}. Expected arrays, one entry for each "
            "sample; several inputs or labels are a list of arrays."
        ) from error
    if array.dtype == object:
        kinds = sorted({type(x).__name__ for x in array.flat})
        raise ValueError(
            f"Received arrays that hold {name_some(kinds, most=3)}. Expected numbers, in arrays of "
            "one size: leave samples without a value out; a RaggedTensor is padded by `to_tensor`."
        )
    return array.astype("float32") if array.dtype == np.float64 else array


def _named(parts):
    for what, part in zip(("inputs", "labels", "weights"), parts, strict=False):
        for path, x in keras.tree.flatten_with_path(part):
            if np.ndim(x) == 0:
                raise ValueError(
                    f"Received {what} that are a single number, {shown(x)}. Expected an array with "
                    "one entry for each sample."
                )
            yield " ".join(map(str, (what, *path))), x


# --- batches --------------------------------------------------------------------------------------


def _from_py_dataset(data, shuffle, role):
    if data.num_batches == 0:
        raise ValueError(f"Received {role} without a single batch. Expected at least one.")

    generator = np.random.default_rng(0)

    def epoch():
        data.on_epoch_begin()
        if data.num_batches is None:
            yield from (_item(data, index) for index in itertools.count())
        order = np.arange(data.num_batches)
        for index in generator.permutation(order) if shuffle else order:
            yield _item(data, int(index))
        data.on_epoch_end()

    return _generated(epoch, data.num_batches, _first(lambda: _item(data, 0), role), role)


def _item(data, index):
    try:
        return data[index]
    except Exception as error:  # whatever code of the user's may raise; TensorFlow hides where
        raise RuntimeError(
            f"{type(data).__name__}[{index}]: {type(error).__name__}: {error}"
        ) from error


def _first(get, role):
    """What `get()` returns; code of the user's that fails is named."""
    try:
        return get()
    except Exception as error:
        text = (
            words(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        )
        raise ValueError(
            f"Received {role} whose first batch failed: {text}. Expected every batch to load."
        ) from error


def _from_iterator(batches, steps, role):
    first = _first(lambda: next(batches, None), role)
    stream = _Stream(batches, [] if first is None else [first], steps)
    dataset = _generated(stream.epoch, steps, first, role)
    dataset.stream = stream
    return dataset


class _Stream:
    """What a generator yields, once: an epoch goes on where the one before it ended.

    A look gives back what it read. Behind the end of the generator it sees what the last one saw.
    """

    def __init__(self, batches, ahead, steps):
        self._batches, self._ahead, self._steps = batches, ahead, steps
        self._seen = list(ahead)
        self.is_looked_at = False

    def epoch(self):
        return self._look() if self.is_looked_at else self._pass()

    def _next(self):
        """The batches of one epoch, or those that are left."""
        for _ in range(self._steps) if self._steps else itertools.count():
            batch = self._ahead.pop(0) if self._ahead else next(self._batches, None)
            if batch is None:
                return
            yield batch

    def _look(self):
        read = []
        try:
            for batch in self._next():
                read.append(batch)
                yield batch
            again = itertools.cycle(read or self._seen)
            yield from itertools.islice(again, (self._steps or len(read)) - len(read))
        finally:
            self._ahead[:0] = read
            self._seen = read or self._seen

    def _pass(self):
        """A pass that ends behind its first batch was a look, too, of whoever did not say so."""
        number = -1
        for number, batch in enumerate(self._next()):
            try:
                yield batch
            except GeneratorExit:
                if number == 0 and self._steps != 1:
                    self._ahead.insert(0, batch)
                raise
        if self._steps and number + 1 < self._steps:
            raise RuntimeError(
                f"the generator ended after {number + 1} of {self._steps} batches of an epoch; it "
                "must yield epochs x steps_per_epoch batches in all"
            )


def _kept_from(batches, steps, role):
    """The first batches of a generator, kept in memory: the same ones in every epoch."""
    if steps is None:
        raise ValueError(_unknown_length(role, "unknown"))
    kept = _first(lambda: list(itertools.islice(batches, steps)), role)
    return _generated(lambda: iter(kept), len(kept), next(iter(kept), None), role)


def _generated(epoch, size, first, role):
    """A dataset of the batches that `epoch()` yields."""
    if first is None:
        raise ValueError(f"Received {role} without a single batch. Expected at least one.")
    if not isinstance(first, tuple | list):
        raise ValueError(
            f"Received {role} whose batches are {type(first).__name__}. Expected tuples: (inputs, "
            "labels), or (inputs,) where there are none."
        )

    def batches():
        for batch in epoch():
            yield tuple(_leaves(part) for part in batch)

    parts = tuple(_leaves(part) for part in first)
    dict(_named(parts))  # no single values
    spec = tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), parts)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    if size is None:
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(size))


def _stream(dataset, steps):
    """Epochs of `steps` batches, each going on where the one before it ended."""
    batches = iter(dataset.repeat())
    epoch = tf.data.Dataset.range(steps).map(lambda _: batches.get_next())
    return epoch.apply(tf.data.experimental.assert_cardinality(steps))


def _known(dataset, steps, role):
    size = int(dataset.cardinality())
    if size == 0:
        raise ValueError(f"Received {role} without a single batch. Expected at least one.")
    if size < 0 and steps is None:
        kind = "infinite" if size == tf.data.INFINITE_CARDINALITY else "unknown"
        raise ValueError(_unknown_length(role, kind))
    return dataset


def _unknown_length(role, kind):
    remedy = _STEPS.get(role, "make a tf.data.Dataset of it that ends, by take(...)")
    return (
        f"Received {role} of {kind} length. Expected a known number of batches: {remedy}, or apply "
        "tf.data.experimental.assert_cardinality."
    )


# --- words ----------------------------------------------------------------------------------------


def _is_arrays(data):
    return isinstance(data, str | dict | list | tuple) or hasattr(data, "shape")


def _hint(data):
    if hasattr(data, "train") and hasattr(data, "test"):
        return "Give data.train and data.test. "
    if hasattr(data, "shape") or isinstance(data, list | dict | tuple):
        return (
            "Give inputs and labels as one tuple, prune(model, (x, y), (x_test, y_test)), or "
            "inputs without labels as a tuple of one, prune(model, (x,)). "
        )
    if callable(data):
        return "Call it: it may make what is expected. "
    return ""

"""Reading data outside of `fit`: looks that use nothing up, and batches that cannot be loaded."""

import contextlib

import tensorflow as tf

from aip_tf import _keras


@contextlib.contextmanager
def looking(dataset):
    """Passes inside are looks: they take nothing from a generator, whose batches come but once.

    Args:
        dataset: of `as_dataset`, or the `dataset` of its `Passes`.
    """
    stream = getattr(dataset, "stream", None)
    if stream is None or stream.is_looked_at:
        yield
        return
    stream.is_looked_at = True
    try:
        yield
    finally:
        stream.is_looked_at = False


@contextlib.contextmanager
def reading(dataset, role="train_data"):
    """Names the batch that cannot be loaded, where data are read outside of `fit`.

    Args:
        dataset: what is read.
        role: what it is called in messages.

    Raises:
        ValueError: in place of TensorFlow's own errors about data.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if "IteratorGetNext" not in str(error):
            raise
        raise ValueError(
            f"Received {role} that failed{_failing_batch(dataset)}: {_keras.essence(error)} "
            "Expected every batch to load, as often as it is asked for."
        ) from error


def _failing_batch(dataset):
    """Where a dataset fails, found by reading it once more; a stream of batches comes but once."""
    if getattr(dataset, "stream", None) is not None:
        return ""
    loaded = 0
    try:
        for _ in dataset:
            loaded += 1
    except tf.errors.OpError:
        return f" at batch {loaded + 1}"
    return ""

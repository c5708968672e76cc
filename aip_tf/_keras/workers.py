"""Several processes that train together, and what is said when one of them is gone."""

import re

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

# What collective operations end with where another process is gone.
OF_WORKERS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def worker_lost(error):
    """One paragraph about a collective operation that failed: which worker is gone, what to do."""
    names = sorted(set(re.findall(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", str(error.message))))
    lost = ", ".join(f"task:{index} ({job} {index})" for job, index in names) or "a worker"
    return (
        f"Received no sign of life from {lost}: {essence(error)} "
        "Expected every worker until the end of the run: see what ended it in its own output, then "
        "start all of them again with the same command; the run goes on from its last snapshot."
    )


def essence(error):
    """What happened, out of TensorFlow's story of where it happened."""
    story = ("Graph execution error", "Detected at", "File ", "<stack", "[[", "Traceback", "(0)")
    text = re.sub(r"(\w+Error:\s+)?\{\{function_node [^}]*\}\}|\[Op:.*", "", error.message)
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(story)]
    return told[0].rstrip(".") + "." if told else f"{type(error).__name__}."


def is_multi_worker(strategy):
    """Whether `strategy` spans several processes, each with its own data pipeline."""
    return _collective_all_reduce_multi_worker(strategy)


def multi_worker_strategy(check_seconds):
    """A MultiWorkerMirroredStrategy that looks at the other workers every `check_seconds`.

    TensorFlow looks every 30 seconds and asks four times, 10 seconds each, before it gives up: a
    dead machine could go unnoticed for longer than a minute.
    """
    CollectiveAllReduceExtended._check_health_interval = check_seconds
    return tf.distribute.MultiWorkerMirroredStrategy()

"""Which strategy a run uses, how its data is shared out, and which process writes files."""

import json
import os

import tensorflow as tf

from aip_tf import _keras

STRATEGIES = ("none", "mirrored", "multi_worker")

# Seconds between two looks at the other workers.
_HEALTH_CHECK_SECONDS = 10


def strategy_from(name):
    """The `tf.distribute` strategy called `name`; build models and optimizers in its `scope()`.

    Call it before anything else touches TensorFlow: `"multi_worker"` starts a server. One strategy
    per process.

    Args:
        name: `"none"` (one device), `"mirrored"` (every GPU, or every logical CPU, of this
            machine) or `"multi_worker"` (the machines named in the environment variable TF_CONFIG;
            a worker that dies is an error on the others within a minute).

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: for another name, or `"multi_worker"` without a usable TF_CONFIG.

    >>> with strategy_from("none").scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    """
    check_strategy(name)
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return _mirrored()
    return _keras.multi_worker_strategy(_HEALTH_CHECK_SECONDS)


def check_strategy(name):
    """Whether a strategy can be had; nothing is started.

    Raises:
        ValueError: for another name, or `"multi_worker"` without a usable TF_CONFIG.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Received strategy={name!r}. Expected one of {list(STRATEGIES)}.")
    if name == "multi_worker":
        _check_tf_config()


def is_chief(strategy=None):
    """Whether this process writes checkpoints and reports: always, except in workers 1, 2, ...

    Args:
        strategy: None: the one in scope.
    """
    strategy = strategy or tf.distribute.get_strategy()
    resolver = strategy.cluster_resolver
    if not _keras.is_multi_worker(strategy) or resolver is None:
        return True
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def share_batches(dataset):
    """`dataset` marked so that workers split every batch between them, never files.

    TensorFlow splits by file where it can, which leaves workers without data if there are fewer
    files than workers, and with different numbers of steps otherwise. Every worker must make the
    same batches: shuffle with a seed (`keras.utils.set_random_seed` sets one for all).

    Args:
        dataset: a batched `tf.data.Dataset`; its batch size is the global one.

    Returns:
        The same elements as a `tf.data.Dataset`.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def _mirrored():
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _check_tf_config():
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        cluster, task = config["cluster"], config["task"]
        address = cluster[task["type"]][int(task["index"])]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"Received the strategy 'multi_worker' with TF_CONFIG={text!r}. Expected JSON that "
            'names all workers and this one, such as {"cluster": {"worker": ["host0:2222", '
            '"host1:2222"]}, "task": {"type": "worker", "index": 0}}.'
        ) from error
    if not isinstance(address, str) or ":" not in address:
        raise ValueError(
            f"Received the address {address!r} for this worker in TF_CONFIG. Expected host:port."
        )

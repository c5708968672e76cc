"""Training under every strategy: replica steps, compiled losses, workers."""

import keras
import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker
from keras.src.losses.loss import unscale_loss_for_distribution
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended


def compiled_loss_and_metrics(model):
    """The loss and the list of metrics that `model` was compiled with; None each without."""
    if not model.compiled:
        return None, None
    return model.loss, model._compile_metrics and model._compile_metrics._user_metrics


class ReplicaModel(keras.Model):
    """A built keras.Model with custom steps that run under every `tf.distribute` strategy.

    Plain Keras 3 cannot run MultiWorkerMirroredStrategy (keras#20585): it builds from a batch that
    it reduced wrongly, and averages metrics over axis 0 of a scalar.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = self.distribute_strategy
        if iterator is None or not is_multi_worker(strategy):
            return super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        _, _, batches = next(iter(iterator))
        batch = tree.map_structure(
            lambda x: strategy.experimental_local_results(x)[0], next(batches)
        )
        with strategy.scope():
            self._symbolic_build(data_batch=batch)

    def loss_parts(self, y, y_pred, sample_weight):
        """The compiled loss (None without one) and the losses of layers and regularisers.

        Both are divided by the number of replicas already, as gradients are summed over them.
        """
        compiled = self._compile_loss
        labels = None if compiled is None else compiled(y, y_pred, sample_weight)
        return labels, [self._aggregate_additional_loss(loss) for loss in self.losses]

    def record_loss(self, loss, num_samples):
        """Add a loss that is divided by the number of replicas to the log entry `loss`."""
        self._loss_tracker.update_state(
            unscale_loss_for_distribution(loss), sample_weight=num_samples
        )

    def shape_logs(self, logs):
        """`logs` as `fit` can average them over replicas: of shape (1,) on several machines."""
        if not is_multi_worker(self.distribute_strategy):
            return logs
        return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}


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

"""Training under every strategy: replica steps, compiled losses and metrics, workers."""

import keras
import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from aip_tf._keras.graph import graph_of, input_structure, is_graph


def compile_arguments(model):
    """The losses and metrics that `model` was compiled with, as `compile` takes them; {} without.

    What was not given is left out: "loss", "loss_weights", "metrics", "weighted_metrics".
    """
    if not model.compiled:
        return {}
    loss, metrics = model._compile_loss, model._compile_metrics
    given = {
        "loss": model.loss,
        "loss_weights": loss and loss._user_loss_weights,
        "metrics": metrics and metrics._user_metrics,
        "weighted_metrics": metrics and metrics._user_weighted_metrics,
    }
    return {name: value for name, value in given.items() if value is not None}


def output_specs(model, inputs):
    """Symbolic outputs of `model`, in the structure of its answers, for a batch of inputs."""
    if is_graph(model):
        return model.compute_output_spec(input_structure(model, graph_of(model).inputs))
    symbols = tree.map_structure(
        lambda x: keras.KerasTensor((None, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)),
        inputs,
    )
    return model.compute_output_spec(symbols)


def names_of_outputs(model, answers):
    """A name for each of the flattened `answers` of `model`, those that `fit` logs under."""
    if isinstance(answers, dict) and not is_graph(model):
        return sorted(answers)
    count = len(tree.flatten(answers))
    given = list(getattr(model, "output_names", None) or [])
    if len(given) == count:
        return given
    last = [x.name for x in getattr(model, "layers", [])[-1:]]
    return last if count == 1 and last else [f"output_{i}" for i in range(count)]


def joined_loss(loss, loss_weights, output_names):
    """`loss(labels, outputs, sample_weight) -> scalar`, as a model compiled with these has it."""
    return CompileLoss(loss, loss_weights, output_names=output_names)


def fresh_metric(metric):
    """A new metric like `metric`; itself if it is a name, a function, or cannot be made again."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except (TypeError, ValueError, NotImplementedError):
        return metric


def metric_directions(metrics, weighted_metrics, output_names, labels, outputs):
    """{name as `fit` logs it: whether more is better}, in order; by name if Keras has no word."""
    compiled = CompileMetrics(metrics, weighted_metrics, output_names=output_names)
    compiled.build(labels, outputs)
    directions = {}
    for group in compiled._flat_metrics + compiled._flat_weighted_metrics:
        for metric in group.metrics if group else ():
            prefix = f"{group.output_name}_" if group.output_name else ""
            rises = {"up": True, "down": False}.get(getattr(metric, "_direction", None))
            directions[prefix + metric.name] = (
                not metric.name.endswith(("loss", "error")) if rises is None else rises
            )
    return directions


def build_metrics(model, elements):
    """Make the variables of a compiled model's metrics, which Keras makes at its first batch.

    Args:
        model: the compiled model.
        elements: the specification of a batch, as `dataset.element_spec` gives it.
    """
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=elements)


class ReplicaModel(keras.Model):
    """Trains and evaluates a built keras.Model with the labels alone, under every strategy.

    Everything that Keras reads speaks of `student`. Plain Keras 3 cannot run
    MultiWorkerMirroredStrategy (keras#20585): it builds from a batch that it reduced wrongly, and
    averages metrics over axis 0 of a scalar.

    Args:
        student: the model; its layers and variables are used, its compile state is not touched.
        name: the name of this one.
    """

    def __init__(self, student, name=None):
        super().__init__(name=name, dtype=student.dtype_policy)
        self.autocast = False
        self.student = student
        self.built = True

    def call(self, inputs, training=None):
        """The student's answer."""
        return self.student(inputs, training=training)

    def test_step(self, data):
        """The student alone, under the compiled loss and metrics."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.student(x, training=False)
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=False)
        self.record_loss(loss, num_samples(x))
        return self.shape_logs(self.compute_metrics(x, y, y_pred, sample_weight))

    @property
    def trainable_variables(self):
        return self.student.trainable_variables

    @property
    def trainable_weights(self):
        return self.student.trainable_weights

    @property
    def losses(self):
        return self.student.losses

    @property
    def output_names(self):
        return getattr(self.student, "output_names", None)

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


def num_samples(x):
    """How many samples a batch of inputs has."""
    return tf.shape(next(v for v in tree.flatten(x) if v is not None))[0]


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

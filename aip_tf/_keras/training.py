"""Training under every strategy: replica steps, guards, workers."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.losses.loss import unscale_loss_for_distribution

from aip_tf._keras.compiled import loss_of_some
from aip_tf._keras.functions import forget_gradients, forgetting_gradients
from aip_tf._keras.shares import add, share_of
from aip_tf._keras.workers import OF_WORKERS, essence, is_multi_worker, worker_lost


def build_metrics(model, elements):
    """Make the variables of a compiled model's metrics, which Keras makes at its first batch.

    Args:
        model: the compiled model.
        elements: the specification of a batch, as `dataset.element_spec` gives it.
    """
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=elements)


_INPUTS = "inputs_seen"  # not for the log
_TRAINING, _MEASURING = "the epoch", "the validation data"  # whose batch it is
TOTAL = "total_loss"  # what is minimised, where that is more than `loss`


def _of_student(name):
    """A property of a model that is its student's."""
    return property(lambda self: getattr(self.student, name))


class ReplicaModel(keras.Model):
    """Trains and evaluates a built keras.Model with the labels alone, under every strategy.

    Everything that Keras reads, and everything that callbacks save or restore, is of `student`.
    Plain Keras 3 cannot run MultiWorkerMirroredStrategy (keras#20585), nor a batch that replicas do
    not divide: it builds from a batch that it reduced wrongly, averages metrics over axis 0 of a
    scalar, and takes replicas as alike. Here a batch gives what it gives on one device.

    Args:
        student: the model; its layers and variables are used, its compile state is not touched.
        name: the name of this one.
    """

    def __init__(self, student, name=None):
        super().__init__(name=name, dtype=student.dtype_policy)
        self.autocast = False
        self.student = student
        # Out of Keras' sight: what is no metric of the log.
        self._seen = SimpleNamespace(
            batches=0, first_bad=None, inputs=keras.metrics.Mean(name="inputs")
        )
        self.built = True

    # --- steps ----------------------------------------------------------------------------------

    def compile(self, optimizer="sgd", loss=None, jit_compile=False, **kwargs):
        """As `keras.Model.compile`; XLA is off unless asked for: no strategy runs it on a CPU."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        steps = kwargs.get("steps_per_execution", 1)
        if replicas > 1 and steps != 1:  # Keras' loop of steps does not run on several either
            raise ValueError(
                f"Received steps_per_execution={steps!r} under a strategy of {replicas} replicas. "
                "Expected 1: Keras runs several steps at once on a single replica only."
            )
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)

    def call(self, inputs, training=None):
        """The student's answer."""
        outputs = self.student(inputs, training=training)
        if in_symbolic_scope():  # Keras looks at shapes, and drops the graph
            forget_gradients()
        return outputs

    def train_step(self, data):
        """One step of the student, which hears the labels alone."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        share = share_of(x)
        with tf.GradientTape() as tape:
            y_pred = share.cut(self.student(share.pad(x), training=True))
            labels, others = self.loss_parts(y, y_pred, sample_weight)
            loss = add([share.scale(labels), *others])
            scaled_loss = self.optimizer.scale_loss(loss)
        self.descend(tape, scaled_loss)
        self.record(x, loss, share)
        return self.train_logs(self.compute_metrics(x, y, y_pred, sample_weight))

    def test_step(self, data):
        """The student alone, under the compiled loss and metrics."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        share = share_of(x)
        y_pred = share.cut(self.student(share.pad(x), training=False))
        labels, others = self.loss_parts(y, y_pred, sample_weight)
        if labels is not None or others:
            self.record_loss(add([share.scale(labels), *others]), share)
        return self.shape_logs(self.compute_metrics(x, y, y_pred, sample_weight))

    def predict_step(self, data):
        """The student's answers."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        share = share_of(x)
        return share.cut(self.student(share.pad(x), training=False))

    def descend(self, tape, loss):
        """Move the student's weights down the gradient of a loss."""
        variables = self.student.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def loss_parts(self, y, y_pred, sample_weight):
        """The compiled loss (None without one) and the losses of layers and regularisers.

        Both are divided by the number of replicas already, as gradients are summed over them.
        """
        compiled = self._compile_loss
        labels = None if compiled is None else compiled(y, y_pred, sample_weight)
        return labels, [self._aggregate_additional_loss(loss) for loss in self.losses]

    def loss_of_some(self, places, y, y_pred, sample_weight):
        """The compiled loss of some outputs, over all replicas; whether no other output has one."""
        self._compile_loss(y, y_pred, sample_weight)  # the first call builds it
        lost, is_whole = loss_of_some(self._compile_loss, places, y, y_pred, sample_weight)
        return lost * self.distribute_strategy.num_replicas_in_sync, is_whole

    def record(self, x, loss, share):
        """Note a training step: its loss, and whether its inputs were finite."""
        self.record_loss(loss, share)
        floats = [v for v in tree.flatten(x) if v is not None and v.dtype.is_floating]
        for value in floats:
            # A sum is not finite if one entry is not; Mean keeps it until the epoch ends.
            self._seen.inputs.update_state(tf.reduce_sum(tf.cast(value, tf.float32)))

    def record_loss(self, loss, share, tracker=None):
        """Add a loss that is divided by the number of replicas to a log entry; None: `loss`."""
        tracker = self._loss_tracker if tracker is None else tracker
        tracker.update_state(unscale_loss_for_distribution(loss), sample_weight=share.mean_samples)

    def train_logs(self, logs):
        """The logs of a training step, with what `_check_finite` looks at."""
        return self.shape_logs({**logs, _INPUTS: self._seen.inputs.result()})

    def shape_logs(self, logs):
        """`logs` as `fit` can average them over replicas: of shape (1,) on several machines."""
        if not is_multi_worker(self.distribute_strategy):
            return logs
        return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}

    def _get_metrics_result_or_logs(self, logs):
        """The metrics over all replicas; Keras gives the mean of theirs if some are not shown."""
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = self.distribute_strategy
        if iterator is None or strategy.num_replicas_in_sync == 1:
            return super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        _, _, batches = next(iter(iterator))
        batch = tree.map_structure(
            lambda x: strategy.experimental_local_results(x)[0], next(batches)
        )
        with strategy.scope():
            self._symbolic_build(data_batch=batch)

    def _make_function(self, step_function):
        return super()._make_function(forgetting_gradients(step_function))

    # --- guards ---------------------------------------------------------------------------------

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """As `keras.Model.fit`; it ends when a loss or a weight is no longer a number.

        A stretch that starts at a later epoch goes on in the files of its CSVLoggers.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [_FiniteWeights(), *tree.flatten(callbacks or [])]
            for callback in callbacks:
                if isinstance(callback, keras.callbacks.CSVLogger) and kwargs.get("initial_epoch"):
                    callback.append = True
        return super().fit(x, *args, callbacks=callbacks, **kwargs)

    def make_train_function(self, force=False):
        """As in Keras; the function also looks whether the loss is finite, and names bad data."""
        if self.train_function is None or force:
            super().make_train_function(force)
            step = self.train_function
            self.train_function = lambda iterator: self._check_finite(
                self._run(step, iterator, _TRAINING)
            )
        return self.train_function

    def make_test_function(self, force=False):
        """As in Keras; the function also names bad data."""
        if self.test_function is None or force:
            super().make_test_function(force)
            step = self.test_function
            self.test_function = lambda iterator: self._run(step, iterator, _MEASURING)
        return self.test_function

    def _run(self, step, iterator, what):
        try:
            logs = step(iterator)
        except tf.errors.OpError as error:
            if is_multi_worker(self.distribute_strategy) and isinstance(error, OF_WORKERS):
                raise ValueError(worker_lost(error)) from error
            if isinstance(error, tf.errors.OutOfRangeError):  # the end of the data
                raise
            if "IteratorGetNext" not in str(error):
                raise self._explained(error, what) from error
            raise ValueError(
                f"Received data that failed at batch {self._seen.batches + 1} of {what}: "
                f"{essence(error)} Expected every batch to load, as often as it is asked for."
            ) from error
        self._seen.batches += self.steps_per_execution
        return logs

    def _explained(self, error, what):
        """An error of the step itself: on purpose if the batch is to blame."""
        if not isinstance(error, tf.errors.InvalidArgumentError | tf.errors.InternalError):
            return error
        return ValueError(
            f"Received batch {self._seen.batches + 1} of {what}, which the model cannot be "
            f"trained or measured on: {essence(error)} Expected at least one sample, labels in the "
            "range of the outputs, and the sizes that the model was built for."
        )

    def _check_finite(self, logs):
        inputs = math.isfinite(float(logs.pop(_INPUTS)))
        if not inputs and self._seen.first_bad is None:
            self._seen.first_bad = self._steps_done()
        if all(math.isfinite(float(logs[n])) for n in ("loss", TOTAL) if n in logs):
            return logs
        names = [n for n, v in logs.items() if not math.isfinite(float(v))]
        bad, cause = self._seen.first_bad, "the inputs are finite"
        if bad is not None:  # weights that a batch spoils may show at the next one
            cause = f"the inputs at training step {bad} hold NaN or infinity"
        raise ValueError(
            f"Received a batch at training step {self._steps_done()} that leaves no finite "
            f"{', '.join(names)}; {cause}. Expected finite values: check inputs, labels and "
            "weights of that batch, lower the learning rate, or clip gradients. Training has "
            f"stopped; the weights of {self.student.name!r} are no longer usable, earlier "
            "checkpoints are."
        )

    def check_weights(self):
        """Raise a ValueError if a trained weight is no longer a number."""
        broken = [v.path for v in self.trainable_variables if not np.isfinite(v.numpy()).all()]
        if broken:
            bad, remedy = self._seen.first_bad, "lower the learning rate, or clip gradients"
            if bad is not None:
                remedy = f"the inputs at training step {bad} hold NaN or infinity, check the data"
            raise ValueError(
                f"Received NaN or infinity in {len(broken)} weights of {self.student.name!r} after "
                f"training step {self._steps_done()}, first in {broken[0]!r}. Expected finite "
                f"weights: {remedy}. Earlier checkpoints are usable."
            )

    def _steps_done(self):
        return int(self.optimizer.iterations.numpy())

    def reset_metrics(self):
        super().reset_metrics()
        self._seen.batches = 0
        self._seen.inputs.reset_state()

    # --- Keras and its callbacks read these: they speak of the student --------------------------

    variables = _of_student("variables")
    trainable_variables = _of_student("trainable_variables")
    non_trainable_variables = _of_student("non_trainable_variables")
    weights = _of_student("weights")
    trainable_weights = _of_student("trainable_weights")
    non_trainable_weights = _of_student("non_trainable_weights")
    losses = _of_student("losses")
    layers = _of_student("layers")
    input = _of_student("input")
    inputs = _of_student("inputs")
    input_shape = _of_student("input_shape")
    output = _of_student("output")
    outputs = _of_student("outputs")
    output_shape = _of_student("output_shape")

    @property
    def output_names(self):
        return getattr(self.student, "output_names", None)

    @property
    def trainable(self):
        return self.student.trainable

    @trainable.setter
    def trainable(self, value):
        self.student.trainable = value

    def count_params(self):
        return self.student.count_params()

    def get_config(self):
        return self.student.get_config()

    def to_json(self, **kwargs):
        return self.student.to_json(**kwargs)

    def quantize(self, *args, **kwargs):
        self.student.quantize(*args, **kwargs)

    def export(self, *args, **kwargs):
        self.student.export(*args, **kwargs)

    def get_layer(self, name=None, index=None):
        return self.student.get_layer(name, index)

    def summary(self, *args, **kwargs):
        return self.student.summary(*args, **kwargs)

    def get_weights(self):
        return self.student.get_weights()

    def set_weights(self, weights):
        self.student.set_weights(weights)

    def save(self, *args, **kwargs):
        """The student, a plain keras.Model, to a file; as `keras.Model.save`."""
        self.student.save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        self.student.save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        self.student.load_weights(*args, **kwargs)

    # --- to go on later ---------------------------------------------------------------------------

    def save_state(self, path):
        """Everything that training changes, to one file `*.weights.h5`: student and optimizers."""
        self._state().save_weights(path, overwrite=True)

    def load_state(self, path):
        """The counterpart of `save_state`, for a model built and compiled like the saved one.

        Raises:
            ValueError: if the file is of another model or optimizer.
        """
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        try:
            self._state().load_weights(path)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"Received the state '{path}', which does not fit {self.student.name!r}: "
                f"{str(error).splitlines()[0]} Expected that of the same model and optimizer."
            ) from error

    def _state(self):
        """A model that holds what `save_state` keeps, to be saved by Keras."""
        state = keras.Model(name="state")
        state.built = True
        state.student = self.student
        state.optimizer = self.optimizer
        return state


class _FiniteWeights(keras.callbacks.Callback):
    """Looks at the weights once an epoch: the last update comes behind the last loss."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.check_weights()

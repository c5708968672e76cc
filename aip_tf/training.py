"""Training that may be interrupted at any instant, and goes on as if it had not been."""

import logging

import keras
import numpy as np

from aip_tf import _keras, files, interruption
from aip_tf.distribution import is_chief
from aip_tf.progress import Progress, numbers_in
from aip_tf.recovery import Following

_log = logging.getLogger("aip_tf")


def trained_variables(model):
    """Everything that training a compiled model changes; of a game's teacher, what its random
    layers draw next.

    Args:
        model: a `keras.Model` or an `AdversarialDistiller`, its optimizers built.
    """
    networks = [getattr(model, "student", model), *getattr(model, "discriminators", ())]
    optimizers = [model.optimizer, *getattr(model, "discriminator_optimizers", ())]
    found = getattr(model, "found_variables", ())
    drawn = _keras.random_states(model.teacher) if hasattr(model, "teacher") else ()
    return [*(v for owner in (*networks, *optimizers) for v in owner.variables), *found, *drawn]


def train(model, data, status, state, epochs, *, validation=None, callbacks=(), on_epoch=None):
    """`fit` from where `status` stands until `epochs` epochs are finished, with snapshots.

    Where `interruption.noted`, a signal ends it after the current batch, with a snapshot.

    Args:
        model: compiled, in the state that `status` describes.
        data: `tf.data.Dataset` of batches, of known number; its passes are counted by `state`.
        status: the `Status`, kept up to date.
        state: the `RunState` that takes the snapshots.
        epochs: epochs in all when it ends; a callback may end it earlier.
        validation: the same for validation, or None.
        callbacks: further Keras callbacks.
        on_epoch: None, or `on_epoch(logs)`, called before the snapshot of an epoch.

    Raises:
        KeyboardInterrupt: if a signal came.
    """
    _keras.build_metrics(model, data.element_spec)  # made in a graph they would keep it alive
    if status.step:
        _skip_batches(model, status.step, state.metrics())
    keeper = _Keeper(status, state, on_epoch or (lambda logs: None))
    model.fit(
        data,
        validation_data=validation,
        initial_epoch=epochs if status.stopped else status.epoch,
        epochs=epochs,
        shuffle=False,  # the dataset shuffles
        verbose=0,
        callbacks=[*callbacks, keeper, interruption.answering()],
    )


class _Keeper(keras.callbacks.Callback):
    """Takes a snapshot after every epoch, and after the batch at hand when a signal came."""

    def __init__(self, status, state, on_epoch):
        super().__init__()
        self.status, self.state, self.on_epoch = status, state, on_epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.passes = [passes.count for passes in self.state.data]

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 < self.status.step:
            return  # of the batches that pass by; the last snapshot is further
        try:
            interruption.answer()
        except KeyboardInterrupt:
            self.status.step = batch + 1
            metrics = [variable.numpy() for variable in self.model.metrics_variables]
            self._save(self.passes, metrics)  # the pass under way is made again
            raise

    def on_epoch_end(self, epoch, logs=None):
        status = self.status
        status.epoch, status.step = epoch + 1, 0
        status.stopped = bool(self.model.stop_training)
        status.history.append({"epoch": epoch, **numbers_in(logs)})
        self.model.check_weights()  # a callback may have spoilt them
        self.on_epoch(status.history[-1])
        self._save([passes.count for passes in self.state.data])

    def _save(self, passes, metrics=()):
        self.status.passes = passes
        self.state.save(self.status, trained_variables(self.model), metrics)


def _skip_batches(model, number, metrics):
    """Let the first `number` batches of `fit` pass by: they were trained on before a snapshot.

    As a part of `fit`, because what Keras does at the end of one (callbacks, averaged weights) must
    not happen in the middle of an epoch.
    """
    model.make_train_function()
    step = model.train_function
    left = [number]

    def skip(iterator):
        for _ in range(model.steps_per_execution):
            next(iterator)
        left[0] -= model.steps_per_execution
        if left[0] > 0:
            return {}
        model.train_function = step
        for variable, value in zip(model.metrics_variables, metrics, strict=True):
            variable.assign(value)
        return model.get_metrics_result()

    model.train_function = skip


class Best:
    """The weights of the best epoch of a stretch, or of before it, by the task's main metric.

    Args:
        task: the `Task`.
        status: the `Status`, which remembers how good they are.
        path: file for them; None: they are kept in memory alone.
    """

    def __init__(self, task, status, path):
        self.task, self.status, self.path = task, status, path
        self.values = None

    def note(self, metrics, model):
        """Look at the metrics after an epoch, and keep the weights of `model` if it is the best."""
        best = self.status.records.get("best")
        if not self.task.is_better(metrics, best and best["metrics"]):
            return
        self.values = [keras.ops.convert_to_numpy(v) for v in model.variables]
        best = {"metrics": metrics, "epoch": self.status.epoch, "sha256": None}
        if self.path is not None and is_chief():
            best["sha256"] = files.write(self.path, lambda path: np.savez(path, *self.values))
        self.status.records["best"] = best

    def put_back(self, model):
        """Give `model` the best weights; a file of them that was damaged is named and left out."""
        best = self.status.records.get("best")
        if self.values is None and best is not None:
            if not files.is_whole(self.path, best["sha256"]):
                _log.warning("'%s' is damaged or missing; the last epoch is kept.", self.path)
                return
            with np.load(self.path) as found:
                self.values = [found[name] for name in found.files]
        for variable, value in zip(model.variables, self.values or (), strict=True):
            variable.assign(value)


def recover(student, assignment, status, state):
    """One stretch of the game, to the next cut or to the end; the statistics are measured anew.

    Args:
        student: the `keras.Model`, trained in place.
        assignment: the `Assignment`.
        status: the `Status`, kept up to date.
        state: the `RunState` that takes the snapshots; one that waits is of this stretch.
    """
    recovery, length = assignment.recovery, assignment.lengths[status.round]
    num_batches = int(assignment.train.cardinality())
    game = recovery.distiller(assignment.graph.plain_model, student, length * num_batches)
    keeps_best = recovery.keep == "best" and status.round == len(assignment.cuts)
    best = Best(recovery.task, status, state.path("best.npz")) if keeps_best else None
    if state.is_waiting:
        state.restore(trained_variables(game))
    else:
        game.balance(assignment.inputs, *assignment.labels)
        if keeps_best and status.round:
            best.note(status.records["rounds"][-1]["metrics_before"], student)

    def note(logs):
        metrics = {name[4:]: v for name, v in logs.items() if name.startswith("val_")}
        if recovery.task.main_metric not in metrics:  # a task may measure more than `fit` does
            metrics = assignment.evaluate(student)
        best.note(metrics, student)

    train(
        game,
        assignment.train,
        status,
        state,
        status.begin + length,
        validation=assignment.validation,
        callbacks=[
            Following(student, num_batches),
            *recovery.callbacks,
            Progress(recovery.epochs),
            *_events(state),
        ],
        on_epoch=note if keeps_best else None,
    )
    if keeps_best:
        best.put_back(student)
    # Behind everything that may have changed the weights: averages, early stopping, callbacks.
    assignment.recalibrate(student)


def _events(state):
    """Logs for TensorBoard."""
    if state.folder is not None and is_chief():
        yield _Events(str(state.path("events")))


class _Events(keras.callbacks.TensorBoard):
    """As of Keras; what other callbacks add to the logs need not be numbers."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, numbers_in(logs))

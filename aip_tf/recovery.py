"""How a student is trained between two cuts: everything `prune` hands to `fit`."""

import dataclasses

import keras

from aip_tf import _keras, decays
from aip_tf.arguments import Kind, check, choice, instance, integer, number, shown
from aip_tf.game import AdversarialDistiller
from aip_tf.game.recipe import check_transfers, default_transfers
from aip_tf.task import Task
from aip_tf.task.wishes import check_wishes


def _are_class_weights(value):
    return (
        isinstance(value, dict)
        and all(map(_CLASS.accepts, value))
        and all(map(_WEIGHT.accepts, value.values()))
    )


_CLASS = integer(0)
_WEIGHT = number("a number >= 0", 0)
_FEWEST = 9  # batches: of fewer moving statistics take a third of each
_KINDS = {
    "epochs": integer(0, 10**6),
    "steps_per_epoch": integer(1, or_none=True),
    "validation_steps": integer(1, or_none=True),
    "recalibration_batches": integer(0),
    "keep": choice("last", "best"),
    "class_weight": Kind(
        lambda value: value is None or _are_class_weights(value),
        "{class number: weight >= 0}, such as {0: 1.0, 1: 2.5}, or None",
    ),
    "task": instance(Task, "a Task object, such as Task(main_metric='loss')", or_none=True),
}


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How to train between cuts. Optimizer and learning rate start afresh after every cut.

    Attributes:
        epochs: epochs of the whole run, all cuts included. With 0 there is one cut, the layers
            behind it refitted where the criterion can, else statistics measured anew: minutes.
        optimizer: a Keras optimizer (copied for every stretch between cuts, with all that its
            methods were told), its name, "sgd": SGD at 0.02 with Nesterov momentum 0.9, weight
            decay 5e-4 and gradients of length 10 at most, or "auto": "sgd", Lamb at 0.01 for
            networks without batch normalization, or Lamb at 0.005 for regressions ("sgd" for
            either in float16), see `decays.suited_optimizer`.
        decay: how the learning rate falls from one cut to the next: "cosine", "constant",
            "step_decay" or a callable, see `aip_tf.schedules`. An optimizer that brings its own
            schedule keeps it.
        loss: the supervised loss; None: that of the task, of the compiled model, or else the
            cross-entropy that fits the model's output and the labels.
        metrics: list of metrics; None: those of the task, of the compiled model, or else accuracy,
            where the loss is a cross-entropy of Keras' own that ignores no class.
        transfers: what the teacher hands over; None: the full method, see `AdversarialDistiller`;
            an empty list: plain fine-tuning.
        supervised_weight: weight of the supervised loss beside the transfers; None: labels count
            like the teacher's answers, see `AdversarialDistiller`.
        callbacks: Keras callbacks, several or one. There is one `fit` for every stretch between
            cuts, so `on_train_begin` comes once a stretch, and what a callback resets there (the
            patience of EarlyStopping, say) starts afresh; CSVLogger goes on in its file.
            `self.model.student` is the student, which ModelCheckpoint writes. Those that set the
            learning rate need `decay="constant"`.
        steps_per_epoch, validation_steps: batches in an epoch, and in a validation, of data that do
            not end or do not say how many they are, see `datasets.as_dataset`. The stream of such
            data starts anew where a run is resumed.
        class_weight: {class number: weight} of the samples of a class in the loss, as in `fit`.
        keep: which weights of the last stretch are returned: "last", or "best" by the task's main
            metric, which needs validation data: those of an epoch, or of straight after the cut.
        task: a `Task`, where the model and its data do not say all of it: the metric that counts,
            say, or `detection.DetectionTask`. None: read from the model.
        recalibration_batches: after training, before the next cut and at the end, the statistics of
            BatchNormalization are measured anew on so many training batches; 0: they stay. Moving
            averages (momentum 0.99) lag behind a stretch of few steps. Likewise after a cut whose
            layers were not refitted.

    Raises:
        ValueError: if a number is out of range, or optimizer, decay and callbacks do not fit
            together.

    Example:

    >>> recovery = aip_tf.Recovery(epochs=12, optimizer=keras.optimizers.Adam(1e-3))
    """

    epochs: int = 30
    optimizer: object = "auto"
    decay: object = "cosine"
    loss: object = None
    metrics: object = None
    transfers: list | None = None
    supervised_weight: float | None = None
    callbacks: tuple = ()
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    class_weight: dict | None = None
    keep: str = "last"
    recalibration_batches: int = 20
    task: Task | None = None

    def __post_init__(self):
        plain = check(_KINDS, vars(self))
        check_wishes(self.loss, self.metrics)
        transfers = default_transfers() if self.transfers is None else self.transfers
        check_transfers(transfers, self.supervised_weight)
        is_auto = isinstance(self.optimizer, str) and self.optimizer == "auto"
        optimizer = "sgd" if is_auto else self.optimizer
        plain["callbacks"] = decays.check(optimizer, self.decay, self.callbacks)
        vars(self).update(plain)  # the fields of a frozen object

    def for_model(self, model, batch, opened=None):
        """This recovery with its task read from a model and a batch of the data, see `Task.read`.

        Raises:
            ValueError: if model, data, loss and metrics do not fit together.
        """
        task = self.asked_of(model).read(model, batch, opened)
        return dataclasses.replace(self, task=task, loss=None, metrics=None)

    def asked_of(self, model):
        """The `Task` as far as it is told: here, or else by what the model was compiled with."""
        wishes = {"loss": self.loss, "metrics": self.metrics}
        wishes = {name: value for name, value in wishes.items() if value is not None}
        return dataclasses.replace(self.task or Task(), **wishes).completed(model)

    def without_labels(self, task):
        """This recovery for data without labels: transfers teach, the teacher's answers judge.

        Args:
            task: of `task.answers.Answers`.

        Raises:
            ValueError: for wishes that need labels, or if nothing is left to learn from.
        """
        needing = ("loss", "metrics", "task", "supervised_weight", "class_weight")
        given = [name for name in needing if getattr(self, name) is not None]
        if given or (self.transfers is not None and not self.transfers):
            what = ", ".join(f"Recovery({name}=...)" for name in given) or "Recovery(transfers=[])"
            raise ValueError(
                f"Received training data without labels, and {what}. Expected labels for it: a "
                "batch of (inputs, labels). Without them the student learns from its teacher "
                "alone: leave it out."
            )
        return dataclasses.replace(self, task=task, supervised_weight=0.0)

    def optimizer_for(self, student):
        """The optimizer (or "sgd") that trains `student`, what "auto" means decided."""
        if self.optimizer != "auto":
            return self.optimizer
        return decays.suited_optimizer(student, self.task.forms if self.task else ())

    def compile(self, model, steps=None, teacher=None):
        """Compile a student or distiller for a stretch of `steps` training steps; None: no end.

        What the optimizer's weight decay was told to spare in `teacher` it spares in the model.
        """
        student = model.student if isinstance(model, AdversarialDistiller) else model
        optimizer = decays.decayed_optimizer(self.optimizer_for(student), self.decay, steps)
        if teacher is not None:
            _keras.carry_exclusions(optimizer, teacher.variables, model.trainable_variables)
        self.task.compile(model, optimizer)
        model.optimizer.build(model.trainable_variables)  # perhaps one that Keras wrapped around it

    def distiller(self, teacher, student, steps):
        """The compiled `AdversarialDistiller` of one stretch of `steps` training steps."""
        distiller = AdversarialDistiller(
            teacher, student, self.transfers, self.supervised_weight, forms=self.task.forms or None
        )
        self.compile(distiller, steps, teacher)
        return distiller


def recovery_from(recovery):
    """A `Recovery`, with everything by default for None.

    Raises:
        ValueError: for anything else.
    """
    if recovery is None:
        return Recovery()
    if not isinstance(recovery, Recovery):
        raise ValueError(
            f"Received recovery={shown(recovery)}. Expected a Recovery, such as "
            "Recovery(epochs=30)."
        )
    return recovery


class Following(keras.callbacks.Callback):
    """Lets moving statistics follow an epoch of few batches, so that its metrics speak of its end.

    While a BatchNormalization trains it looks at the batch alone. What it hands on for inference
    follows at its own pace, most of the way in some hundred steps; here it follows three times as
    far within an epoch, but never a single batch alone. Between batches, as for what a callback
    saves, the pace is the layer's own.

    Args:
        model: the student.
        num_batches: of an epoch.
    """

    def __init__(self, model, num_batches):
        super().__init__()
        self._normalizations = [(x, x.momentum) for x in _keras.batch_normalizations(model)]
        self._most = 1.0 - 3.0 / max(num_batches, _FEWEST)

    def on_train_batch_begin(self, batch, logs=None):
        for layer, momentum in self._normalizations:
            layer.momentum = min(momentum, self._most)

    def on_train_batch_end(self, batch, logs=None):
        for layer, momentum in self._normalizations:
            layer.momentum = momentum


def recalibrate(model, data, num_batches):
    """Measure the moving statistics of every trainable BatchNormalization anew; in place.

    A cut changes the distributions that the moving statistics describe, and so does training, which
    they follow with a delay of some hundred steps. They become the plain average over batches
    (by their samples: the last may be small), which is what momentum approximates.

    Args:
        model: the student.
        data: `tf.data.Dataset` of (inputs, ...) batches.
        num_batches: number of batches, at least 1, or 0 to leave the statistics alone.
    """
    normalizations = [(x, x.momentum) for x in _keras.batch_normalizations(model)]
    if not normalizations:
        return
    run, seen = _keras.quiet(model), 0
    try:
        for inputs, *_ in data.take(num_batches):
            size = len(keras.tree.flatten(inputs)[0])
            for layer, _ in normalizations:
                layer.momentum = seen / (seen + size)
            run(inputs)
            seen += size
    finally:
        for layer, momentum in normalizations:
            layer.momentum = momentum

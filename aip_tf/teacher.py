"""Teachers: load one from a file, build one by name, or train one with resume."""

import os
import re
from pathlib import Path

import keras
import tensorflow as tf

from aip_tf import _keras, interruption, schedules, zoo
from aip_tf.channels import prune_channels
from aip_tf.game import AdversarialDistiller
from aip_tf.game.distribution import share_batches
from aip_tf.progress import Progress
from aip_tf.recovery import decayed_optimizer
from aip_tf.task import Task
from aip_tf.zoo.weights import load_weights

__all__ = ["load_model", "train_teacher"]

_CHECKPOINT = re.compile(r"epoch_(\d+)\.weights\.h5")


def load_model(source, weights=None, **arguments):
    """Loads or builds a network to be pruned.

    Args:
        source: one of
            - a path to a `.keras` or `.h5` model (`arguments` go to `keras.saving.load_model`),
            - a SavedModel directory that has one `.keras` file in it or beside it: Keras cannot
              train a SavedModel, so that twin is loaded,
            - a name from `aip_tf.zoo` ("resnet56") or `keras.applications` ("MobileNetV2"),
            - a builder, called with `arguments`,
            - a `keras.Model`.
        weights: None or a file, `.weights.h5`, `.keras` or `.npz` (PyTorch state dictionary);
            for `keras.applications` also "imagenet".
        **arguments: for the builder or the loader.

    Returns:
        A `keras.Model`. Networks built by name take RGB in `[0, 1]` and give logits.

    Raises:
        ValueError: if nothing answers to `source`, or the weights do not fit.

    >>> load_model("resnet20", num_classes=100).output_shape
    (None, 100)
    """
    if isinstance(source, keras.Model):
        return load_weights(source, weights)
    if callable(source):
        name = getattr(source, "__name__", "")
        if getattr(keras.applications, name, None) is source:
            return zoo.application(name, weights=weights, **arguments)
        return load_weights(source(**arguments), weights)
    if not isinstance(source, str | Path):
        raise ValueError(
            "source must be a path, a name, a builder or a keras.Model, received "
            f"{type(source).__name__}."
        )
    if str(source) in zoo.builder_names():
        return getattr(zoo, str(source))(weights=weights, **arguments)
    if str(source) in zoo.application_names():
        return zoo.application(str(source), weights=weights, **arguments)
    return load_weights(_load_file(Path(source).expanduser(), arguments), weights)


def train_teacher(
    model,
    data,
    epochs=20,
    *,
    optimizer="sgd",
    decay="cosine",
    checkpoint_dir=None,
    callbacks=(),
):
    """Trains `model` on `data.train` and returns it compiled, ready to be the teacher of `prune`.

    A compiled model keeps its loss and metrics; otherwise the cross-entropy that fits output and
    labels and "accuracy" are used. The model returned is compiled with a fresh optimizer at its
    starting learning rate.

    Args:
        model: a Keras classifier; trained in place.
        data: `aip_tf.datasets.Data`, or anything with `train` and `test` datasets of batches.
        epochs: epochs in all, those of an interrupted run included.
        optimizer: a Keras optimizer, its name, or "sgd": SGD at 0.1, Nesterov momentum 0.9,
            weight decay 5e-4.
        decay: how the learning rate falls over the run: "cosine", "constant", "step_decay" or a
            callable, see `aip_tf.schedules`. An optimizer that brings its own schedule keeps it.
        checkpoint_dir: directory for one checkpoint, replaced after every epoch; a run killed at
            any instant goes on from its last finished epoch, a finished one is loaded without
            training. None keeps nothing on disk.
        callbacks: further Keras callbacks.

    Raises:
        ValueError: if an argument is out of range or the checkpoint is of another run.

    >>> from aip_tf import datasets, zoo
    >>> keras.utils.disable_interactive_logging()     # or watch Keras' progress bar
    >>> train_teacher(zoo.digits_resnet(width=4), datasets.digits(), epochs=1).compiled
    True
    """
    _check_arguments(model, data, epochs, decay)
    if optimizer == "sgd":
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    optimizer = keras.optimizers.get(optimizer)
    task = Task().read(model, next(iter(data.train.take(1))))
    steps = epochs * int(data.train.cardinality())
    trainer = _trainer(model)
    task.compile(trainer, decayed_optimizer(optimizer, decay, steps))
    checkpoint = _Checkpoint(checkpoint_dir, epochs) if checkpoint_dir is not None else None
    finished = checkpoint.restore(trainer) if checkpoint else 0
    if finished < epochs:
        trainer.fit(
            share_batches(task.prepare(data.train)),
            validation_data=share_batches(task.prepare(data.test)),
            epochs=epochs,
            initial_epoch=finished,
            callbacks=[
                *callbacks,
                Progress(epochs),
                *([checkpoint] if checkpoint else []),
                interruption.answering(),
            ],
            shuffle=False,  # the dataset shuffles
            verbose=0,
        )
    fresh = type(optimizer).from_config(optimizer.get_config())
    task.compile(model, fresh)
    return model


def _trainer(model):
    """What trains a model: itself, or on several machines, which plain Keras 3 cannot use
    (keras#20585), a game without transfers, whose steps are the same."""
    if not _keras.is_multi_worker(tf.distribute.get_strategy()):
        return model
    return AdversarialDistiller(prune_channels(model, {}), model, transfers=[])


def _load_file(path, arguments):
    if path.is_dir():
        path = _keras_twin(path)
    if not path.is_file():
        raise ValueError(
            f"no model '{path}': there is no such file, and neither aip_tf.zoo "
            f"({', '.join(zoo.builder_names())}) nor keras.applications has that name."
        )
    try:
        return keras.saving.load_model(path, **arguments)
    except (TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"Keras cannot load '{path}': {error}\nCustom layers, losses and metrics must be "
            "given as custom_objects={...}; compile=False leaves losses and metrics out."
        ) from error


def _keras_twin(directory):
    """The one `.keras` file in a SavedModel's directory or in the directory around it."""
    for place in (directory, directory.parent):
        twins = sorted(place.glob("*.keras"))
        if len(twins) == 1:
            return twins[0]
        if twins:
            break
    raise ValueError(
        f"'{directory}' is a directory, and Keras loads only .keras files; found "
        f"{len(twins)} of them in or beside it: give the path of one."
    )


class _Checkpoint(keras.callbacks.Callback):
    """Keeps weights and optimizer of the last finished epoch in one file, named by the epoch."""

    def __init__(self, directory, epochs):
        super().__init__()
        self.directory = Path(directory).expanduser()
        self.epochs = epochs

    def restore(self, model):
        """Loads the last checkpoint into the compiled `model`; returns how many epochs it ends."""
        finished, path = max(self._found(), default=(0, None))
        if finished > self.epochs:
            raise ValueError(
                f"'{self.directory}' holds a teacher trained for {finished} epochs, received "
                f"epochs={self.epochs}; ask for at least {finished}, or give another directory."
            )
        if path is not None:
            model.optimizer.build(model.trainable_variables)
            try:
                model.load_weights(path)
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"the checkpoint '{path}' does not fit {model.name}: {error}\n"
                    "It is of another model or optimizer: give another directory, or delete it."
                ) from error
        return finished

    def on_epoch_end(self, epoch, logs=None):
        """Writes the new checkpoint under a temporary name, renames it, then drops the old one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        old = self._found()
        path = self.directory / f"epoch_{epoch + 1:04d}.weights.h5"
        # Several workers may share the directory; what they write is the same.
        temporary = self.directory / f"unfinished_{os.getpid()}.weights.h5"
        self.model.save_weights(temporary, overwrite=True)
        temporary.replace(path)
        for _, found in old:
            if found != path:
                found.unlink(missing_ok=True)

    def _found(self):
        matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in self._files())
        return [(int(match[1]), path) for match, path in matches if match]

    def _files(self):
        return sorted(self.directory.iterdir()) if self.directory.is_dir() else []


def _check_arguments(model, data, epochs, decay):
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"model must be a keras.Model, received {type(model).__name__}; "
            "call the builder first: train_teacher(zoo.resnet20(), data)."
        )
    if not hasattr(data, "train") or not hasattr(data, "test"):
        raise ValueError(
            "data must have `train` and `test` datasets, received "
            f"{type(data).__name__}; aip_tf.datasets.from_arrays makes one from arrays."
        )
    if int(data.train.cardinality()) <= 0:
        raise ValueError(
            "data.train must be finite and of known cardinality, received "
            f"{int(data.train.cardinality())}; apply tf.data.experimental.assert_cardinality."
        )
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a positive integer, received {epochs!r}.")
    schedules.get(decay)

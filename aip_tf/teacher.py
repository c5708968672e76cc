"""Teachers: load one from a file, build one by name, or train one with resume."""

import inspect
from pathlib import Path

import keras
import tensorflow as tf

from aip_tf import _keras, decays, files, identity, zoo
from aip_tf.arguments import FLAG, OPTIONAL_FUNCTION, integer
from aip_tf.arguments import check as check_kinds
from aip_tf.assignment import check_data
from aip_tf.datasets.adapt import as_dataset, first_batch
from aip_tf.datasets.passes import counted
from aip_tf.distribution import is_chief, share_batches
from aip_tf.progress import Progress
from aip_tf.run_state import RunState, Status
from aip_tf.task import Task
from aip_tf.task.batches import check_model, check_weights
from aip_tf.task.wishes import described
from aip_tf.training import train, trained_variables
from aip_tf.zoo.weights import load_weights

__all__ = ["load_model", "train_teacher"]

# Learning rate of the optimizer "sgd": for networks that start from nothing.
_RATE = 0.1
_KINDS = {
    "epochs": integer(1, 10**6),
    "check": OPTIONAL_FUNCTION,
    "overwrite": FLAG,
    "check_only": FLAG,
}
_ASKED = ("loss", "metrics", "loss_weights", "weighted_metrics")  # what trains and is reported


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
        return load_weights(_built(source, **arguments), weights)
    if not isinstance(source, str | Path):
        raise ValueError(
            "source must be a path, a name, a builder or a keras.Model, received "
            f"{type(source).__name__}."
        )
    if str(source) in zoo.builder_names():
        return _built(getattr(zoo, str(source)), weights=weights, **arguments)
    if str(source) in zoo.application_names():
        return zoo.application(str(source), weights=weights, **arguments)
    return load_weights(_load_file(files.expand(source), arguments), weights)


def train_teacher(
    model,
    data,
    epochs=20,
    *,
    optimizer="sgd",
    decay="cosine",
    checkpoint_dir=None,
    callbacks=(),
    overwrite=False,
    check=None,
    check_only=False,
):
    """Trains `model` on `data.train` and returns it compiled, ready to be the teacher of `prune`.

    A compiled model keeps its loss and metrics; otherwise the cross-entropy that fits output and
    labels and "accuracy" are used. The model returned is compiled with a fresh optimizer at its
    starting learning rate.

    Args:
        model: a Keras model; trained in place, by its loss and not by a `train_step` of its own.
        data: `aip_tf.datasets.Data`, or anything with `train` and `test`: what `fit` takes, of
            known length, see `datasets.as_dataset`.
        epochs: epochs in all, those of an interrupted run included.
        optimizer: a Keras optimizer, its name, or "sgd": SGD at 0.1, Nesterov momentum 0.9,
            weight decay 5e-4, gradients of length 10 at most.
        decay: how the learning rate falls over the run: "cosine", "constant", "step_decay" or a
            callable, see `aip_tf.schedules`. An optimizer that brings its own schedule keeps it.
        checkpoint_dir: folder for snapshots; a training killed at any instant goes on from the
            last one and ends as it would have, a finished one is loaded without training, see
            docs/runs.md. None keeps nothing on disk.
        callbacks: further Keras callbacks, several or one.
        overwrite: whether the training of another model, on other data or with other settings in
            that folder may be dropped; otherwise it is refused.
        check: None, or `check(model)`, called before anything trains; it may raise a ValueError.
        check_only: whether to return the model as it is, once all arguments are checked. Data of
            None then are left out of that.

    Raises:
        ValueError: if an argument is out of range, model and data do not fit together, the folder
            is that of another training, or the loss or a weight is no longer a number: no snapshot
            is taken of that.

    >>> from aip_tf import datasets, zoo
    >>> keras.utils.disable_interactive_logging()     # or watch Keras' progress bar
    >>> train_teacher(zoo.digits_resnet(width=4), datasets.digits(), epochs=1).compiled
    True
    """
    check_model(model)
    epochs = check_kinds(_KINDS, locals())["epochs"]
    callbacks = decays.check(optimizer, decay, callbacks)
    if checkpoint_dir is not None:
        files.check_folder(checkpoint_dir)
    if data is None and check_only:
        return model
    task, passes = _read(model, data, callbacks)
    if check is not None:
        check(model)
    if check_only:
        return model
    steps = epochs * int(passes[0].dataset.cardinality())
    trainer = _keras.ReplicaModel(model)
    jit_compile = False if tf.distribute.has_strategy() else "auto"
    stretch = decays.decayed_optimizer(optimizer, decay, steps, _RATE)
    task.compile(trainer, stretch, jit_compile=jit_compile)
    asked = described(task, [output.name for output in task.outputs])
    settings = {
        "epochs": epochs,
        "optimizer": identity.describe(optimizer),
        "decay": identity.describe(decay),
        **{name: asked[name] for name in _ASKED if asked[name] is not None},
    }
    with files.Lock(checkpoint_dir if is_chief() else None, "training"):
        state = RunState(
            checkpoint_dir,
            _identity(model, passes, settings),
            passes,
            overwrite=overwrite,
            what="teacher",
        )
        shared = [task.prepare(share_batches(x.dataset)) for x in passes]
        _train(model, trainer, *shared, epochs, state, callbacks)
    task.compile(model, decays.decayed_optimizer(optimizer, decay, None, _RATE))
    return model


def _read(model, data, callbacks):
    """The task of a model on `data`, which fit together, and the passes over training and test."""
    if not hasattr(data, "train") or not hasattr(data, "test"):
        raise ValueError(
            "data must have `train` and `test` datasets, received "
            f"{type(data).__name__}; aip_tf.datasets.from_arrays makes one from arrays."
        )
    train_data = as_dataset(data.train, role="data.train")
    test_data = as_dataset(data.test, shuffle=False, role="data.test")
    check_weights(model)
    batch = first_batch(train_data, "data.train")
    task = Task().read(model, batch)
    check_data(task, model, "training data", data.train, batch)
    check_data(task, model, "test data", data.test, first_batch(test_data, "data.test"))
    for dataset in (train_data, test_data):
        measured = task.rehearse(model, task.prepare(dataset).element_spec)
    decays.check_monitors(callbacks, measured, measured)
    return task, [counted(train_data), counted(test_data)]


def _train(model, trainer, train_data, validation, epochs, state, callbacks):
    """Train from where `state` stands; a finished teacher only gets its weights."""
    status = state.status or Status()
    if status.recovered:
        state.restore(model.variables)
        return
    if state.status is not None:
        trainer.optimizer.build(trainer.trainable_variables)
        state.restore(trained_variables(trainer))
    train(
        trainer,
        train_data,
        status,
        state,
        epochs,
        validation=validation,
        callbacks=[*callbacks, Progress(epochs)],
    )
    status.recovered, status.passes = True, [passes.count for passes in state.data]
    state.save(status, model.variables, place="trained")


def _identity(model, passes, settings):
    """What makes a training the same: its start, too, where a seed makes that known."""
    of_model = identity.of_model(model)
    if _keras.explicit_seed() is None:
        of_model["weights"] = "drawn without a seed"
    data = {"training data": passes[0].identity, "test data": passes[1].identity}
    return {"model": of_model, **data, "settings": settings}


def _built(builder, **arguments):
    parameters = inspect.signature(builder).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_any and (unknown := sorted(set(arguments) - set(parameters))):
        raise ValueError(
            f"Received {', '.join(unknown)} for {getattr(builder, '__name__', 'the builder')}. "
            f"Expected the arguments that it takes: {', '.join(parameters)}."
        )
    return builder(**arguments)


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

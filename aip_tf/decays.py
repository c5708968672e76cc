"""How a learning rate falls over a stretch of training, and which optimizer makes it fall."""

import inspect
import math

import keras

from aip_tf import _keras, schedules
from aip_tf.arguments import shown
from aip_tf.failures import words

_TABLE_SIZE = 2000
# Without a bound features at twice their usual weight threw a ResNet-56 to chance, and a network
# without normalization lost more in its recovery than in the cut (benchmarks/choices.md).
_SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "global_clipnorm": 10.0}
_LAMB_RATE = 0.01  # a step changes a tensor by so much of its length
_RATE_OF_VALUES = 0.005
_TERMS = ("_loss", "_accuracy", "learning_rate")  # what a game adds to the logs, and a callback
_NO_VALIDATION = "validation data, or the name of what training measures, such as 'loss'"
_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


def decayed_optimizer(optimizer, decay, steps, default_rate=0.02):
    """A fresh optimizer like `optimizer`; its learning rate falls by `decay` over `steps` steps.

    Args:
        optimizer: a Keras optimizer (copied, see `_keras.fresh_optimizer`), its name, or "sgd": SGD
            at `default_rate` with Nesterov momentum 0.9, weight decay 5e-4, gradients no longer
            than 10.
        decay: see `aip_tf.schedules.get`. With "constant" the rate stays a plain variable, which
            callbacks may set; an optimizer that brings its own schedule keeps it.
        steps: length of the stretch; None: the rate stays.
        default_rate: learning rate of "sgd".
    """
    if optimizer == "sgd":
        optimizer = keras.optimizers.SGD(default_rate, name="sgd", **_SGD)
    factor = schedules.get(decay)

    def decayed(rate):
        if steps is None or factor is schedules.constant:
            return rate
        size = min(steps, _TABLE_SIZE)
        return LearningRateTable([rate * factor(i / size) for i in range(size)], steps)

    return _keras.fresh_optimizer(keras.optimizers.get(optimizer), decayed)


def suited_optimizer(model, forms=()):
    """What "auto" means: "sgd", Lamb at 0.01 where little is normalized, or at 0.005 for values.

    Behind a BatchNormalization the length of a kernel is of no account, and SGD leaves the student
    nearer to its teacher (ResNet-20). Elsewhere steps have to suit the weights: Lamb (You et al.
    2020, arXiv 1904.00962) measures them by the length of each tensor. So have they in front of
    values, whose kernel is as short as their unit is large: with SGD a regression may forget all
    within an epoch (benchmarks/choices.md).

    Args:
        model: the student. With a trainable BatchNormalization for every second of its kernels, of
            convolutions and dense layers alike, it is for SGD.
        forms: what its outputs answer, as `Output.form` of a `Task`.
    """
    if any(variable.dtype == "float16" for variable in model.trainable_variables):
        return "sgd"  # what Lamb keeps, squares of gradients, is below what float16 has
    if "values" in forms:
        return keras.optimizers.Lamb(_RATE_OF_VALUES)
    num_kernels = sum(len(variable.shape) > 1 for variable in model.trainable_variables)
    if 2 * len(_keras.batch_normalizations(model)) >= num_kernels:
        return "sgd"
    return keras.optimizers.Lamb(_LAMB_RATE)


def check(optimizer, decay, callbacks=()):
    """Whether optimizer, decay and callbacks can work together; makes no variable.

    Args:
        optimizer, decay: see `decayed_optimizer`.
        callbacks: as `fit` takes them: several, a single one, or None.

    Returns:
        The callbacks as a tuple.

    Raises:
        ValueError: for an unknown optimizer or decay, or a callback that cannot do its work.
    """
    falls = schedules.get(decay) is not schedules.constant
    _check_decay(decay)
    _check_optimizer(optimizer)
    callbacks = _as_tuple(callbacks)
    for callback in callbacks:
        if isinstance(callback, _SETTERS) and (falls or _keras.has_schedule(optimizer)):
            raise ValueError(
                f"Received the callback {type(callback).__name__} with decay={decay!r} and the "
                f"optimizer {_named(optimizer)}. Expected one thing to set the learning rate: give "
                'decay="constant" and an optimizer whose rate is a number, or leave the callback '
                "out."
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "Received the callback BackupAndRestore. Expected a run that keeps its own "
                "checkpoints: give run_dir (a teacher: checkpoint_dir), and the same call goes on."
            )
        if isinstance(callback, keras.callbacks.SwapEMAWeights) and not _has_average(optimizer):
            raise ValueError(
                "Received the callback SwapEMAWeights with the optimizer "
                f"{_named(optimizer)}, which averages no weights. Expected one with "
                "use_ema=True, or no such callback."
            )
    return callbacks


def check_monitors(callbacks, trained, measured=()):
    """Whether callbacks that wait for a metric will find it.

    Args:
        callbacks: as `check` returns them. Those of the user's may add to the logs what they want:
            then nothing is known.
        trained: names of what is measured while an epoch trains; the terms of a game come on top.
        measured: names of what a validation measures; empty without one.

    Raises:
        ValueError: for a ModelCheckpoint that would never write, or an EarlyStopping or
            ReduceLROnPlateau that would never act or could not tell better from worse.
    """
    validated = [f"val_{name}" for name in measured]
    if any(_is_of_the_user(callback) for callback in callbacks):
        return
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is None or not getattr(callback, "save_best_only", True):
            continue
        is_validated = monitor.startswith("val_")
        known = validated if is_validated else trained
        is_term = not is_validated and monitor.endswith(_TERMS)
        if monitor not in known and is_term and callback.mode not in ("min", "max"):
            raise ValueError(
                f"Received the callback {type(callback).__name__} with monitor={monitor!r} and "
                f"mode={callback.mode!r}. Expected mode='min' or mode='max': of a term of the game "
                "Keras does not know which is better."
            )
        if monitor not in known and not is_term:
            raise ValueError(
                f"Received the callback {type(callback).__name__} with monitor={monitor!r}, which "
                f"is not measured. Expected {', '.join(map(repr, known)) or _NO_VALIDATION}."
            )


def _is_of_the_user(callback):
    is_own = not type(callback).__module__.startswith("keras.")
    return is_own or isinstance(callback, keras.callbacks.LambdaCallback)


def _has_average(optimizer):
    if isinstance(optimizer, dict):
        optimizer = keras.optimizers.get(optimizer)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    return any(getattr(x, "use_ema", False) for x in getattr(optimizer, "optimizers", [optimizer]))


def _as_tuple(callbacks):
    if callbacks is None or isinstance(callbacks, keras.callbacks.Callback):
        callbacks = () if callbacks is None else (callbacks,)
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                f"Received {shown(callback)} among the callbacks. Expected a "
                "keras.callbacks.Callback object: make one, Name(...)."
            )
    return tuple(given)


def _check_decay(decay):
    """A function of the user's is asked once: what it cannot answer costs no training."""
    if isinstance(decay, keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            f"Received decay={type(decay).__name__}(...), a schedule of the rate itself. Expected "
            "a factor of it; the schedule belongs to the optimizer, which then keeps it: "
            "Recovery(optimizer=keras.optimizers.SGD(schedule))."
        )
    if not callable(decay):
        return
    try:
        factor = decay(0.0)
        fits = math.isfinite(factor) and factor >= 0
    except Exception as error:  # whatever code of the user's may raise
        raise ValueError(
            f"Received decay={shown(decay)}, which fails with {type(error).__name__}: {error}. "
            "Expected a function of the progress in [0, 1) that gives the factor of the learning "
            "rate, such as aip_tf.schedules.cosine."
        ) from error
    if not fits:
        raise ValueError(
            f"Received decay={shown(decay)}, which gives {shown(factor)} at the progress 0. "
            "Expected the factor of the learning rate, a finite number >= 0."
        )


def _check_optimizer(optimizer):
    known = {
        name.lower(): name
        for name, item in vars(keras.optimizers).items()
        if isinstance(item, type) and issubclass(item, keras.optimizers.Optimizer)
        if _needs_nothing(item)
    }
    if isinstance(optimizer, keras.optimizers.Optimizer):
        _check_rate(optimizer)
        return
    if isinstance(optimizer, dict):
        _check_configuration(optimizer)
        return
    is_name = isinstance(optimizer, str)
    if not is_name or not (
        optimizer.lower() in known or keras.saving.get_registered_object(optimizer)
    ):
        raise ValueError(
            f"Received optimizer={shown(optimizer)}. Expected a keras.optimizers.Optimizer object, "
            f"Name(...), or a name: {', '.join(sorted(known.values()))}; Recovery takes 'auto' too."
        )


def _needs_nothing(optimizer_class):
    """Whether a class makes an optimizer of its name alone: no base class, no wrapper of others."""
    parameters = inspect.signature(optimizer_class).parameters.values()
    return optimizer_class is not keras.optimizers.Optimizer and all(
        p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    )


def _check_configuration(optimizer):
    try:
        keras.optimizers.get(optimizer)
    except Exception as error:  # Keras has many words for it
        raise ValueError(
            f"Received optimizer={shown(optimizer)}, of which Keras makes none: {words(error)} "
            "Expected a configuration as keras.optimizers.serialize gives it."
        ) from error


def _check_rate(optimizer):
    if _keras.has_schedule(optimizer):
        return
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    if not (math.isfinite(rate) and rate >= 0):
        raise ValueError(
            f"Received the optimizer {type(optimizer).__name__} with the learning rate {rate}. "
            "Expected a finite number >= 0, such as 0.01."
        )


def _named(optimizer):
    return repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__


@keras.saving.register_keras_serializable("aip_tf")
class LearningRateTable(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rates by progress through a stretch of training; the last one holds behind it.

    Args:
        rates: list of learning rates, evenly spread over the stretch.
        steps: number of training steps of the stretch.
    """

    def __init__(self, rates, steps):
        self.rates = list(rates)
        self.steps = int(steps)

    def __call__(self, step):
        place = keras.ops.cast(step, "float32") * (len(self.rates) / self.steps)
        index = keras.ops.minimum(keras.ops.cast(place, "int32"), len(self.rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates, "float32"), index)

    def get_config(self):
        return {"rates": self.rates, "steps": self.steps}

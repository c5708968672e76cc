"""How a learning rate falls over a stretch of training, and which optimizer makes it fall."""

import keras

from aip_tf import _keras, schedules

_TABLE_SIZE = 2000
_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


def decayed_optimizer(optimizer, decay, steps, default_rate=0.02):
    """A fresh optimizer like `optimizer`; its learning rate falls by `decay` over `steps` steps.

    Args:
        optimizer: a Keras optimizer (copied, see `_keras.fresh_optimizer`), its name, or "sgd": SGD
            at `default_rate` with Nesterov momentum 0.9 and weight decay 5e-4.
        decay: see `aip_tf.schedules.get`. With "constant" the rate stays a plain variable, which
            callbacks may set; an optimizer that brings its own schedule keeps it.
        steps: length of the stretch; None: the rate stays.
        default_rate: learning rate of "sgd".
    """
    if optimizer == "sgd":
        settings = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        optimizer = keras.optimizers.SGD(default_rate, **settings)
    factor = schedules.get(decay)

    def decayed(rate):
        if steps is None or factor is schedules.constant:
            return rate
        size = min(steps, _TABLE_SIZE)
        return LearningRateTable([rate * factor(i / size) for i in range(size)], steps)

    return _keras.fresh_optimizer(keras.optimizers.get(optimizer), decayed)


def check(optimizer, decay, callbacks=()):
    """Whether optimizer, decay and callbacks can work together; makes no variable.

    Raises:
        ValueError: for an unknown optimizer or decay, or a callback that cannot do its work.
    """
    falls = schedules.get(decay) is not schedules.constant
    _check_optimizer(optimizer)
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                f"Received {callback!r} among the callbacks. Expected a keras.callbacks.Callback "
                "object: make one, Name(...)."
            )
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


def _check_optimizer(optimizer):
    known = {
        name.lower(): name
        for name, item in vars(keras.optimizers).items()
        if isinstance(item, type) and issubclass(item, keras.optimizers.Optimizer)
    }
    if isinstance(optimizer, keras.optimizers.Optimizer | dict):
        return
    is_name = isinstance(optimizer, str)
    if not is_name or not (
        optimizer.lower() in known or keras.saving.get_registered_object(optimizer)
    ):
        raise ValueError(
            f"Received optimizer={optimizer!r}. Expected a keras.optimizers.Optimizer or a name: "
            f"{', '.join(sorted(known.values()))}."
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

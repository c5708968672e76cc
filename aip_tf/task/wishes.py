"""What a user may ask for in a task: losses and metrics that Keras knows, as `compile` has them."""

import difflib

import keras

from aip_tf import identity
from aip_tf.arguments import shown

# Names that `compile` knows and the registries of Keras do not.
_SHORT = ("crossentropy", "ce", "accuracy", "acc")


def check_wishes(loss=None, metrics=None, weighted_metrics=None):
    """Whether a loss and metrics are such as `compile` takes; None is no wish.

    Raises:
        ValueError: for an unknown name, or another form.
    """
    _check_each("loss", loss, keras.losses, "mean_squared_error")
    for name, value in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
        if not (value is None or isinstance(value, list | tuple | dict)):
            raise ValueError(
                f"Received {name}={shown(value)}. Expected a list, or a dictionary by outputs: "
                f"{name}=[{shown(value) if isinstance(value, str) else '...'}]."
            )
        _check_each(name, value, keras.metrics, "accuracy")


def described(task, names):
    """What a task asks, as plain values; outputs by number, as Keras chooses their names anew.

    Args:
        task: a `Task`.
        names: names of the model's outputs.
    """
    numbers = {name: f"output {number}" for number, name in enumerate(names)}
    wishes = identity.describe({k: v for k, v in vars(task).items() if k != "outputs"})
    return {
        wish: {numbers.get(k, k): v for k, v in x.items()} if isinstance(x, dict) else x
        for wish, x in wishes.items()
    }


def _check_each(argument, value, room, example):
    """Look at each leaf of nested lists and dictionaries; a configuration of Keras' is a leaf."""
    if isinstance(value, dict) and "class_name" not in value:
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _check_each(argument, part, room, example)
        return
    if value is None or callable(value) or (isinstance(value, str) and value.lower() in _SHORT):
        return
    try:
        room.get(value)
    except Exception as error:  # Keras has many words for it
        raise ValueError(
            f"Received {shown(value)} in {argument}. Expected a name that Keras knows, such as "
            f"{_nearest(value, room, example)!r}, a function of labels and outputs, or an object "
            f"of {room.__name__}."
        ) from error


def _nearest(value, room, example):
    names = [name for name, item in vars(room).items() if callable(item)]
    return next(iter(difflib.get_close_matches(str(value), names, n=1)), example)

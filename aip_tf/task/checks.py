"""Whether labels, outputs and loss fit together: small rules, asked before anything trains.

Every message says what was received, what was expected, and how to mend it.
"""

import functools
import logging

import numpy as np

from aip_tf.task import labels
from aip_tf.task.batches import are_finite, are_numbers, type_of
from aip_tf.task.outputs import num_units

_log = logging.getLogger("aip_tf")

# How far above chance an accuracy must be, as a share of the way to 1.
_NEAR_CHANCE = 0.05


def asked(outputs, truth):
    """The outputs that a list of labels speaks of: all, or those with a loss."""
    with_loss = [output for output in outputs if output.loss is not None]
    return with_loss if len(truth) == len(with_loss) else outputs


def without_labels(outputs, truth):
    """Names of outputs that a dictionary of labels says nothing of."""
    return [x.name for x in outputs if x.name not in truth] if isinstance(truth, dict) else []


def check_labels(outputs, given):
    """Whether labels have the form and the range that the loss of each output wants."""
    for output, truth in zip(outputs, given, strict=True):
        if output.loss is None:
            continue
        check_given([output.name], [truth])
        if not output.labels:
            continue
        if not are_finite(truth):
            raise ValueError(
                f"Received labels that hold NaN or infinity for the output {output.name!r}. "
                "Expected finite numbers: leave those samples out."
            )
        form = labels.given_form(truth, output.shape)
        _check_form(output, form, truth)
        if form == "integer" and output.labels in ("integer", "one_hot"):
            _check_range(output, truth, output.shape[-1] - 1)
        elif output.labels in ("one_hot", "binary"):
            _check_range(output, truth, 1)


def check_sample_weights(outputs, batch):
    """Whether there is one for each sample, or for each position of an output.

    Keras takes as many axes as a loss has, one more or one less.
    """
    if len(batch) < 3 or batch[2] is None:
        return
    names = [output.name for output in outputs]
    for output, weights in zip(outputs, labels.spread(batch[2], names), strict=True):
        shape, rank = tuple(np.shape(weights)), len(output.shape)  # the batch's axis, no channels
        if weights is not None and output.labels and abs(len(shape) - rank) > 1:
            wanted = ("batch", *output.shape[:-1])
            raise ValueError(
                f"Received sample weights of shape {shape} for the output {output.name!r} of shape "
                f"{output.shape}. Expected ({', '.join(map(str, wanted))}): one for each position."
            )


def check_given(names, given):
    """Whether there are labels, and numbers, for each of the outputs in question."""
    for name, truth in zip(names, given, strict=True):
        if truth is None:
            raise ValueError(
                f"Received no labels for the output {name!r}. Expected labels for every output "
                "with a loss: add them, or give a dictionary of losses without it."
            )
        if not are_numbers(truth):
            raise ValueError(
                f"Received labels of type {type_of(truth)} for the output {name!r}. Expected "
                "numbers: number the classes from 0."
            )


def _check_form(output, form, truth):
    fits = {"integer": ("integer",), "one_hot": ("integer", "dense")}
    if form in fits.get(output.labels, ("dense",)):
        return
    remedy = "check the labels' shape, or the number of units of the last layer."
    if form == "dense" and output.labels == "integer":
        remedy = (
            "compile the model with CategoricalCrossentropy, which takes one-hot labels, or turn "
            "them into integers by argmax(-1)."
        )
    elif form == "integer" and output.labels == "values":
        remedy = "a cross-entropy takes class numbers; this loss takes a value for each unit."
    raise ValueError(
        f"Received labels of shape {tuple(np.shape(truth))} for the output {output.name!r} of "
        f"shape {(None, *output.shape)} with the loss {name_of(output.loss)}. Expected "
        f"{_EXPECTED[output.labels]}: {remedy}"
    )


_EXPECTED = {
    "integer": "one class number for each position",
    "one_hot": "class numbers, or rows as long as the output",
    "binary": "0 or 1 for each unit",
    "values": "a value for each unit",
}


def _check_range(output, truth, most):
    values = labels.counted(output.loss, truth)
    if not values.size:
        return
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= most):
        units = num_units(output.shape)
        is_single = units == 1 and high > 1
        raise ValueError(
            f"Received labels from {low:g} to {high:g} for the output {output.name!r} with {units} "
            f"units and the loss {name_of(output.loss)}. Expected 0 to {most}: "
            f"{'one unit tells two classes apart, ' if is_single else ''}number the classes from "
            "0, or give the last layer a unit for each class."
        )


def check_scales(outputs):
    """A line of warning where a cross-entropy takes logits for probabilities, or the reverse."""
    for output in outputs:
        takes_probabilities = labels.takes_probabilities(output.loss)
        gives_probabilities = output.kind != "logits"
        if takes_probabilities is None or takes_probabilities == gives_probabilities:
            continue
        made_by = "sigmoid" if output.kind == "sigmoid" else "softmax"
        _warn_once(
            f"The output {output.name!r} ends in "
            f"{'a ' + made_by if gives_probabilities else 'no softmax or sigmoid'}, but its "
            f"loss {name_of(output.loss)} takes "
            f"{'probabilities' if takes_probabilities else 'logits'}: compile the model with "
            f"from_logits={not gives_probabilities}, unless a layer of your own hides what it does."
        )


@functools.cache
def _warn_once(text):
    _log.warning(text)


def check_classes(outputs, num_classes, class_names=None):
    """Whether classifying outputs have a unit for each class of the data.

    Args:
        outputs: the `Output`s of a task.
        num_classes: number of classes of the data.
        class_names: their names, or None.

    Raises:
        ValueError: for fewer units than classes.
    """
    for output in outputs:
        if output.labels not in ("integer", "one_hot", "binary") or not output.num_classes:
            continue
        told = output.num_classes
        named = "" if not class_names else f" ({_listed(class_names)})"
        if told < num_classes:
            raise ValueError(
                f"Received data of {num_classes} classes{named} for the output {output.name!r} of "
                f"{output.shape[-1]} {_units(output)}, which tells {told} apart. Expected a unit "
                "for each class: build the network with num_classes="
                f"{num_classes}, or give data of its classes."
            )
        if told > num_classes:
            _warn_once(
                f"The output {output.name!r} tells {told} classes apart; the data have "
                f"{num_classes}{named}. The rest are never asked for."
            )


def count_classes(outputs, given):
    """A line of warning where an output has more units than all the labels have classes."""
    for output, truth in zip(outputs, given, strict=True):
        if output.loss is not None and labels.given_form(truth, output.shape) == "integer":
            check_classes([output], 1 + int(np.max(labels.counted(output.loss, truth), initial=-1)))


def check_class_weight(outputs, class_weight):
    """Whether the classes to be weighed are some that the output tells apart.

    Raises:
        ValueError: for a class that it does not have.
    """
    classes = [output.num_classes for output in outputs if output.num_classes]
    if class_weight and classes and max(class_weight) >= classes[0]:
        raise ValueError(
            f"Received a class_weight for the class {max(class_weight)}. Expected classes from 0 "
            f"to {classes[0] - 1}, which the output tells apart."
        )


def _units(output):
    return {"softmax": "probabilities", "sigmoid": "yes/no answers"}.get(output.kind, "logits")


def _listed(names, most=8):
    more = ", ..." if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def doubt(outputs, metrics):
    """One line about a model that hardly does better than chance, or cannot be measured, or None.

    Args:
        outputs: the `Output`s of a task.
        metrics: what `Task.evaluate` measured.
    """
    if lost := [name for name, value in metrics.items() if not np.isfinite(value)]:
        return (
            f"The teacher's {', '.join(lost)} on the validation data: no finite number. Do these "
            "data hold NaN or infinity? Nothing that is measured on them will tell."
        )
    for name, value in metrics.items():
        output = next(
            (x for x in outputs if name in ("accuracy", "acc", f"{x.name}_accuracy")), None
        )
        if output is None or not output.num_classes:
            continue
        chance = 1 / output.num_classes
        if value < chance + _NEAR_CHANCE * (1 - chance):
            return (
                f"The teacher's {name} is {value:.3f}, and {chance:.3f} would be chance: it has "
                "little to teach. Are its weights loaded, the pixels in its range, the classes in "
                "its order?"
            )
    return None


def name_of(loss):
    """What a loss or a metric is called."""
    return getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)

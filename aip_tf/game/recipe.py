"""What can be used together: teacher and student, transfers beside each other and the labels."""

import logging

import keras

from aip_tf.arguments import check, number, shown
from aip_tf.game.discriminator import AdversarialTransfer
from aip_tf.game.inner_transfers import AttentionTransfer, FeatureTransfer
from aip_tf.game.transfers import OutputTransfer, Transfer
from aip_tf.task.labels import FORMS

_log = logging.getLogger("aip_tf")
_KINDS = {"supervised_weight": number("a number >= 0", 0, or_none=True)}


def default_transfers(teacher=None, student=None):
    """The full method: what the teacher hands over where nothing else is asked for.

    Only what the two networks can compare: models without positions have no attention, students of
    another family no features, and no discriminator sees a class and a mask in one row.
    """
    others = [FeatureTransfer(), AttentionTransfer(), AdversarialTransfer(weight=0.1)]
    if teacher is not None:
        others = [t for t in others if _can_compare(t, teacher, student)]
    return [OutputTransfer(), *others]


def _can_compare(transfer, teacher, student):
    try:
        transfer.check(teacher, student)
    except ValueError as error:
        _log.info("The %s transfer is left out. %s", transfer.name, error)
        return False
    return True


def check_transfers(transfers, supervised_weight=None):
    """Whether transfers can be used beside each other and beside the labels.

    Raises:
        ValueError: for anything but a list of `Transfer`s of different names, for a weight "auto"
            without a transfer of answers to be as strong as, or a weight of the labels that is no
            finite number >= 0, or None.
    """
    is_list = isinstance(transfers, list | tuple)
    if not is_list or not all(isinstance(t, Transfer) for t in transfers):
        raise ValueError(
            f"Received transfers={shown(transfers)}. Expected a list of Transfer objects, such as "
            "[OutputTransfer()]; an empty one for plain fine-tuning."
        )
    names = [t.name for t in transfers]
    if len(set(names)) != len(names):
        raise ValueError(
            f"Received transfers named {names}. Expected different names: give the second one of "
            "a kind another `name`."
        )
    asked = [t.name for t in transfers if t.weight == "auto"]
    if asked and not any(t.is_of_answers and t.weight for t in transfers):
        raise ValueError(
            f"Received weight='auto' for the transfer {asked[0]!r} and no transfer of answers to "
            "be as strong as. Expected OutputTransfer beside it, or a number."
        )
    check(_KINDS, {"supervised_weight": supervised_weight})


def check_pair(teacher, student):
    """Raise a ValueError if two networks cannot be teacher and student."""
    for role, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(
                f"Received {model!r} as {role}. Expected a built keras.Model: call it on data or "
                "use keras.Input."
            )
    shared = {id(v) for v in teacher.variables} & {id(v) for v in student.variables}
    if shared:
        raise ValueError(
            f"Received a teacher and a student that share {len(shared)} variables. Expected two "
            "networks of their own: training the student would change its teacher."
        )
    for what in ("inputs", "outputs"):
        shapes = [
            [_shape(x) for x in keras.tree.flatten(getattr(m, what, None) or [])]
            for m in (teacher, student)
        ]
        if all(shapes) and shapes[0] != shapes[1]:
            raise ValueError(
                f"Received a teacher with {what} {shapes[0]} and a student with {shapes[1]}. "
                "Expected the same shapes: a student answers the question its teacher answers."
            )


def check_forms(forms, teacher):
    """Raise a ValueError if forms are not one that there is for each output of a teacher."""
    outputs = keras.tree.flatten(getattr(teacher, "outputs", None) or [])
    is_list = isinstance(forms, list | tuple) and set(forms) <= set(FORMS)
    if not is_list or len(forms) != (len(outputs) or len(forms)):
        raise ValueError(
            f"Received forms={forms!r} for a teacher with {len(outputs) or 'unknown'} outputs. "
            f"Expected one of {', '.join(map(repr, FORMS))} for each, or None."
        )


def _shape(x):
    return tuple(x.shape[1:])

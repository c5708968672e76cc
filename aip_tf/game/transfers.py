"""What the teacher hands over: small loss objects, each with its weight, each usable alone.

A new one subclasses `Transfer` and implements `loss`; the distiller needs no change.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from aip_tf import losses
from aip_tf.arguments import check, choice, number
from aip_tf.game.views import AnswerViews

PACKAGE = "aip_tf"
_WEIGHT = number("a number >= 0", 0)
_DIVERGENCES = {
    "classes": losses.output_loss,
    "yes/no": losses.binary_output_loss,
    "values": lambda teacher, student, _: losses.value_loss(teacher, student),
}
_OUTPUT_KINDS = {
    "temperature": number("a number > 0 (2 to 20 is usual)", above=0),
    "from_logits": choice("auto", True, False),
}


class Move(NamedTuple):
    """What a transfer contributes to one step.

    Attributes:
        loss: scalar, added to the student's loss with the transfer's weight.
        logs: {name: scalar}, shown in the training log.
        learn: called after the student's update; a transfer with a player of its own trains it.
    """

    loss: object
    logs: dict
    learn: Callable[[], None] | None = None


@keras.saving.register_keras_serializable(PACKAGE)
class Transfer:
    """Base class: a loss between what teacher and student say about the same batch.

    Args:
        weight: factor of the loss, >= 0; "auto": whatever makes its pull on the student as strong
            as that of the answers (`AdversarialDistiller.balance`), where a subclass offers it.
        name: names the log entry `<name>_loss`; unique within a distiller.

    Raises:
        ValueError: if the weight is negative.

    >>> class LogitMatching(Transfer):
    ...     def loss(self, teacher, student):
    ...         return ops.mean(ops.square(teacher.outputs[0] - student.outputs[0]))
    """

    usual_weight = None  # of one that may be "auto": where no pull can be measured
    is_of_answers = False  # whether it compares what the networks answer

    def __init__(self, weight=1.0, name="transfer"):
        if not (weight == "auto" and self.usual_weight) and not _is_weight(weight):
            auto = ", or 'auto'" if self.usual_weight else ""
            raise ValueError(
                f"Received weight={weight!r} for the transfer {name!r}. Expected a number >= 0"
                f"{auto}; leave the transfer out to do without it."
            )
        self.weight = weight if weight == "auto" else float(weight)
        self.name = name

    def bind(self, teacher, student):
        """A copy of this transfer for one pair of networks; checks that they fit.

        One object can so serve many rounds: state (a discriminator) belongs to the copy.
        """
        self.check(teacher, student)
        bound = copy.copy(self)
        bound.build(teacher, student)
        return bound

    def check(self, teacher, student):
        """Raise a ValueError if the pair does not fit.

        Where the budget tells what the last cut leaves, `prune` asks about it before it trains.
        """

    def build(self, teacher, student):
        """Prepare for a pair that fits; called once, before training starts."""

    def tell(self, forms, scales):
        """Hear what the outputs answer; called when the distiller compiles.

        Args:
            forms: `"classes"`, `"yes/no"` (each unit for itself) or `"values"` for every output.
            scales: {place of an output of values: its `views.Scale`}.
        """

    @property
    def taps(self):
        """Layer paths whose tensors are read in both networks, or {teacher's: student's}."""
        return ()

    @property
    def energies(self):
        """The same of which only the energy is read, which takes less memory."""
        return ()

    def comparisons(self, teacher):
        """What to ask of the student's tensors where they are made, which takes less memory.

        Args:
            teacher: its `Reading`.

        Returns:
            {teacher's path in `taps`: function of the student's tensor there, to `(batch,)`}; what
            it says is `student.compared[name][path]` in `loss`. It is called again for the
            gradient, so it must say the same each time, and has no trainable variables of its own:
            what needs them belongs into `loss`.
        """
        return {}

    @property
    def variables(self):
        """What it trains of its own, such as a player: `keras.Variable`s, made in `build`.

        They are part of the state that a run goes on from; whoever trains them does so by a `Move`.
        """
        return ()

    @property
    def log_names(self):
        """Names of the log entries that `play` returns."""
        return (f"{self.name}_loss",)

    def loss(self, teacher, student):
        """The scalar loss of one batch, from two `Reading`s; averaged over the batch."""
        raise NotImplementedError(f"{type(self).__name__} must override `loss`.")

    def play(self, teacher, student):
        """The `Move` of one step; called under the student's gradient tape."""
        loss = self.loss(teacher, student)
        return Move(loss, {f"{self.name}_loss": loss})

    def get_config(self):
        return {"weight": self.weight, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class OutputTransfer(Transfer):
    """The student learns the teacher's soft answers: T^2 KL(teacher || student).

    Hinton et al. 2015; AIP (arXiv 2108.13591) uses it with T = 20 and weight 0.3 to 0.5, the
    labels having the rest. Outputs that end in a softmax or sigmoid are recognised and turned back
    into logits first, so that nothing goes through a softmax twice. A single linear output counts
    as the logit of a yes/no answer; so does each of several by the loss that the distiller (or else
    the teacher) is compiled with, such as `BinaryCrossentropy(from_logits=True)`. Several outputs
    are summed; positions (segmentation) averaged.

    Outputs that are values by that loss, such as "mse", are compared by their squared difference
    instead, divided by the variance of the teacher's answers: the share of it that the student
    misses. A softmax would not see an offset that all of them have in common.

    Args:
        temperature: T > 0; larger is softer.
        weight: alpha; what the labels weigh is told elsewhere, see `AdversarialDistiller`.
        outputs: names or indices of the model's outputs to use; None: all.
        from_logits: `"auto"`, or True/False if the outputs cannot be recognised; no loss overrules
            that.
        name: see `Transfer`.

    Raises:
        ValueError: for a temperature <= 0 or a negative weight; when bound, for unknown outputs.
    """

    is_of_answers = True

    def __init__(
        self, temperature=4.0, weight=0.9, outputs=None, from_logits="auto", name="output"
    ):
        super().__init__(weight, name)
        check(_OUTPUT_KINDS, locals())
        self.temperature = float(temperature)
        self.outputs = outputs
        self.from_logits = from_logits

    def build(self, teacher, student):
        self._views = AnswerViews(teacher, student, self.outputs, self.from_logits)

    def tell(self, forms, scales):
        if self.from_logits == "auto":
            self._views.tell(forms, scales)

    def loss(self, teacher, student):
        views = self._views
        total = 0.0
        for form, *answers in zip(
            views.forms, views.of_teacher(teacher), views.of_student(student), strict=True
        ):
            total += ops.mean(_DIVERGENCES[form](*answers, self.temperature))
        return total

    def get_config(self):
        return super().get_config() | {
            "temperature": self.temperature,
            "outputs": self.outputs,
            "from_logits": self.from_logits,
        }


def _is_weight(value):
    return _WEIGHT.accepts(value)


def one_number(transfer, loss):
    """The loss of a transfer; a ValueError if it is not one number."""
    shape = tuple(ops.shape(loss))
    if shape:
        raise ValueError(
            f"Received a loss of shape {shape} from the transfer {transfer.name!r}. Expected one "
            "number: the mean over the batch, such as keras.ops.mean(loss)."
        )
    return loss

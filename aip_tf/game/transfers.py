"""What the teacher hands over: small loss objects, each with its weight, each usable alone.

A new one subclasses `Transfer` and implements `loss`; the distiller needs no change.
"""

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
from keras import ops

from aip_tf import losses
from aip_tf.arguments import Kind, check, choice, number
from aip_tf.channels.ancestry import kept_channels
from aip_tf.game import taps as taps_module
from aip_tf.game.views import AnswerViews

_PACKAGE = "aip_tf"
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


def _are_taps(taps):
    if isinstance(taps, Mapping):
        return _are_taps([*taps, *taps.values()])
    is_list = isinstance(taps, list | tuple | set) and len(taps) > 0
    return taps == "auto" or (is_list and all(isinstance(path, str) for path in taps))


_TAP_KINDS = {
    "taps": Kind(
        _are_taps,
        "'auto', a non-empty list of layer paths, or {teacher path: student path}",
    )
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


@keras.saving.register_keras_serializable(_PACKAGE)
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

    def tell(self, scales):
        """Hear which of the outputs are values; called when the distiller compiles.

        Args:
            scales: {place among the model's outputs: `views.Scale`}; the others are a classifier's.
        """

    @property
    def taps(self):
        """Layer paths whose tensors are read in both networks, or {teacher's: student's}."""
        return ()

    @property
    def energies(self):
        """The same of which only the energy is read, which takes less memory."""
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


@keras.saving.register_keras_serializable(_PACKAGE)
class OutputTransfer(Transfer):
    """The student learns the teacher's soft answers: T^2 KL(teacher || student).

    Hinton et al. 2015; AIP (arXiv 2108.13591) uses it with T = 20 and weight 0.3 to 0.5, the
    labels having the rest. Outputs that end in a softmax or sigmoid are recognised and turned back
    into logits first, so that nothing goes through a softmax twice. A single linear output counts
    as the logit of a yes/no answer. Several outputs are summed; positions (segmentation) averaged.

    Outputs that are values by the loss that the distiller (or else the teacher) is compiled with,
    such as "mse", are compared by their squared difference instead, divided by the variance of the
    teacher's answers: the share of it that the student misses. A softmax would not see an offset
    that all of them have in common.

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

    def tell(self, scales):
        if self.from_logits == "auto":
            self._views.tell(scales)

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


class _TapTransfer(Transfer):
    """A transfer that compares tensors inside two networks, pair by pair."""

    usual_weight = 10.0

    def __init__(self, taps, weight, name):
        super().__init__(weight, name)
        check(_TAP_KINDS, locals())
        self._taps = taps if taps == "auto" else taps_module.as_pairs(taps)
        self._pairs = {}

    def check(self, teacher, student):
        pairs = self._pairs_of(teacher, student)
        theirs = taps_module.tap_shapes(teacher, pairs)
        own = taps_module.tap_shapes(student, pairs.values())
        for path, other in pairs.items():
            self._compare(path, tuple(theirs[path][1:]), tuple(own[other][1:]))

    def build(self, teacher, student):
        self._pairs = self._pairs_of(teacher, student)

    def _pairs_of(self, teacher, student):
        is_auto = self._taps == "auto"
        return taps_module.pair_taps(teacher, student) if is_auto else self._taps

    def _compare(self, path, teacher_shape, student_shape):
        """Raise a ValueError if tensors of these shapes, without batch, cannot be compared."""
        raise NotImplementedError(f"{type(self).__name__} must override `_compare`.")

    def loss(self, teacher, student):
        return sum(
            ops.mean(self._distance(teacher, student, *pair)) for pair in self._pairs.items()
        )

    def _distance(self, teacher, student, path, other):
        """What the teacher's tap `path` and the student's `other` cost: `(batch,)`."""
        raise NotImplementedError(f"{type(self).__name__} must override `_distance`.")

    def get_config(self):
        taps = self._taps
        if taps != "auto" and all(path == other for path, other in taps.items()):
            taps = list(taps)
        return super().get_config() | {"taps": taps}


@keras.saving.register_keras_serializable(_PACKAGE)
class AttentionTransfer(_TapTransfer):
    """The student looks where the teacher looks: attention maps at the same taps.

    Each tap costs the sum over positions of (A_student - A_teacher)^2 (`losses.attention_loss`),
    between 0 and 2 at every resolution; taps are summed. The paper averages over the H W positions
    with weight 50, which is our weight 50 / (H W): 0.049, 0.2 and 0.78 for the three stages of a
    CIFAR ResNet (32x32, 16x16, 8x8), 0.016, 0.064 and 0.26 at 56, 28 and 14 pixels.

    Args:
        taps: `"auto"` (the last tensor of each spatial resolution, paired by resolution where the
            layers have other names, see `pair_taps`), layer paths that exist in both networks, or
            {teacher path: student path}; widths may differ, sizes must not.
        weight: "auto", see `AdversarialDistiller.balance`, or a number, see above. By search
            ResNet-20 on CIFAR-10 recovered best at 50, the demo on digits at 10 or less; "auto"
            found 32 and 9 (docs/method.md).
        name: see `Transfer`.

    Raises:
        ValueError: when bound, for taps that do not exist or differ in size, and for networks that
            are channels_first.
    """

    def __init__(self, taps="auto", weight: float | str = "auto", name="attention"):
        super().__init__(taps, weight, name)

    @property
    def energies(self):
        return self._pairs

    def check(self, teacher, student):
        for tensor in (*taps_module.list_tensors(teacher), *taps_module.list_tensors(student)):
            if getattr(tensor.operation, "data_format", None) == "channels_first":
                raise ValueError(
                    f"Received a network whose layer {tensor.path!r} is channels_first. Expected "
                    "channels_last: attention is summed over the last axis."
                )
        super().check(teacher, student)

    def _compare(self, path, teacher_shape, student_shape):
        sizes = teacher_shape[:-1], student_shape[:-1]
        if not sizes[0] or sizes[0] != sizes[1]:
            raise ValueError(
                f"Received the tap {path!r} of size {sizes[0]} in the teacher and {sizes[1]} "
                "in the student (batch and channels left out). Expected equal sizes with at "
                "least one spatial axis."
            )

    def _distance(self, teacher, student, path, other):
        return losses.attention_loss(teacher.energies[path], student.energies[other])


@keras.saving.register_keras_serializable(_PACKAGE)
class FeatureTransfer(_TapTransfer):
    """The student's features become the teacher's: channel by channel, those that were kept.

    A pruned student's channel *is* one of the teacher's channels, and which one is known from the
    cuts (`channels.ancestry`). Each tap costs |F_student - F_kept|^2 / |F_kept|^2 with the same
    channels of the teacher (`losses.feature_loss`); taps are summed. It says more than attention,
    which only sees where features are large. Not part of the paper.

    Args:
        taps: `"auto"` (where residual sums end, or else the last tensor of each resolution, see
            `find_feature_taps`), or as for `AttentionTransfer`.
        weight: "auto", see `AdversarialDistiller.balance`, or a number.
        kept: {teacher path: which of its channels (last axis) the student has there}, for students
            whose cuts are not known: loaded from a file, or made elsewhere. None: from the cuts.
        name: see `Transfer`.

    Raises:
        ValueError: when bound, for taps that do not exist or whose channels have no counterpart.

    >>> FeatureTransfer(["conv2_block3_out", "conv3_block4_out"], weight=4.0).name
    'feature'
    """

    def __init__(self, taps="auto", weight: float | str = "auto", kept=None, name="feature"):
        super().__init__(taps, weight, name)
        self.kept = kept and {path: [int(i) for i in indices] for path, indices in kept.items()}
        self._takes = {}

    @property
    def taps(self):
        return self._pairs

    def build(self, teacher, student):
        super().build(teacher, student)
        self._takes = self._takes_of(teacher, student)

    def check(self, teacher, student):
        self._takes = self._takes_of(teacher, student)
        super().check(teacher, student)

    def _pairs_of(self, teacher, student):
        paths = taps_module.find_feature_taps(teacher) if self._taps == "auto" else ()
        own = {tensor.path for tensor in taps_module.list_tensors(student)}
        if paths and own >= set(paths):
            return taps_module.as_pairs(paths)
        return super()._pairs_of(teacher, student)

    def _takes_of(self, teacher, student):
        """{teacher path: (axis, indices)} where the student has not all of the channels."""
        pairs = self._pairs_of(teacher, student)
        theirs = taps_module.tap_shapes(teacher, pairs)
        own = taps_module.tap_shapes(student, pairs.values())
        narrower = [path for path, other in pairs.items() if theirs[path] != own[other]]
        if self.kept is not None:
            return {path: (-1, self.kept[path]) for path in narrower if path in self.kept}
        same_paths = [path for path in narrower if pairs[path] == path]
        found = {path: kept_channels(teacher, student, path) for path in same_paths}
        return {path: take for path, take in found.items() if take is not None}

    def _compare(self, path, teacher_shape, student_shape):
        expected = list(teacher_shape)
        if path in self._takes:
            axis, indices = self._takes[path]
            expected[axis - 1 if axis > 0 else axis] = len(indices)
        if tuple(expected) != student_shape:
            raise ValueError(
                f"Received the tap {path!r} of shape {teacher_shape} in the teacher and "
                f"{student_shape} in the student (batch left out). Expected equal shapes, or a "
                "student whose cuts are known: name taps where no channel is cut, give "
                "kept={path: channels}, or use AttentionTransfer, which compares any widths."
            )

    def _distance(self, teacher, student, path, other):
        expected = teacher.taps[path]
        if path in self._takes:
            axis, indices = self._takes[path]
            expected = ops.take(expected, indices, axis=axis)
        return losses.feature_loss(expected, student.taps[other])

    def get_config(self):
        return super().get_config() | {"kept": self.kept}


def _is_weight(value):
    return _WEIGHT.accepts(value)

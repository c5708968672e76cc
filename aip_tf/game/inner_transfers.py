"""Transfers of what is inside of two networks: attention, and features channel by channel."""

import functools
from collections.abc import Mapping

import keras
from keras import ops

from aip_tf import losses
from aip_tf.arguments import Kind, check
from aip_tf.channels.ancestry import kept_channels
from aip_tf.game import taps as taps_module
from aip_tf.game.transfers import PACKAGE, Transfer


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


@keras.saving.register_keras_serializable(PACKAGE)
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


@keras.saving.register_keras_serializable(PACKAGE)
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

    def comparisons(self, teacher):
        return {path: self._comparison(teacher, path) for path in self._pairs}

    def _distance(self, teacher, student, path, other):
        compared = student.compared.get(self.name, {})
        if path in compared:
            return compared[path]
        return self._comparison(teacher, path)(student.taps[other])

    def _comparison(self, teacher, path):
        expected = teacher.taps[path]
        if path in self._takes:
            axis, indices = self._takes[path]
            expected = ops.take(expected, indices, axis=axis)
        return functools.partial(losses.feature_loss, expected)

    def get_config(self):
        return super().get_config() | {"kept": self.kept}

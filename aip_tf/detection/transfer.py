"""What a detector can hand over that a classifier cannot: answers where there is something."""

import keras
from keras import ops

from aip_tf import losses
from aip_tf.detection.loss import smooth_l1
from aip_tf.game import AdversarialTransfer, Transfer


@keras.saving.register_keras_serializable("aip_tf")
class DetectionTransfer(Transfer):
    """The student learns the teacher's classes and boxes at the anchors that matter.

    Nearly all of an SSD's anchors show background, on which both networks agree: a mean over all
    (`OutputTransfer(outputs="classes")`) says next to nothing. Here anchor a counts with
    `w_a = max(1 - p_teacher(background), 1 - p_student(background))`, so that objects the teacher
    sees and objects the student imagines both count, and the loss is
    `sum_a w_a [T^2 KL_a + smooth L1_a] / sum_a w_a`. The box term has the teacher's weight alone: a
    box is not worth learning where the teacher sees nothing. (Chen et al. 2017, "Learning Efficient
    Object Detection Models with Knowledge Distillation", weigh classes by hand instead.)

    For the game on detectors use `AdversarialDetectionTransfer` beside it.

    Args:
        temperature: T > 0 of the class term.
        box_weight: factor of the box term, >= 0.
        weight, name: see `Transfer`.

    Raises:
        ValueError: for a temperature <= 0 or a negative weight; when bound, if the networks do not
            have the outputs `boxes` and `classes`.
    """

    is_of_answers = True

    def __init__(self, temperature=2.0, box_weight=1.0, weight=1.0, name="detection"):
        super().__init__(weight, name)
        if not temperature > 0 or not box_weight >= 0:
            raise ValueError(
                f"Received temperature={temperature!r} and box_weight={box_weight!r}. Expected a "
                "temperature > 0 (2 to 4 is usual) and a weight >= 0."
            )
        self.temperature = float(temperature)
        self.box_weight = float(box_weight)

    def build(self, teacher, student):
        self._boxes, self._classes = _places(teacher, student)

    def loss(self, teacher, student):
        teacher_logits = ops.cast(teacher.outputs[self._classes], "float32")
        student_logits = ops.cast(student.outputs[self._classes], "float32")
        seen = _objectness(teacher_logits)
        either = ops.maximum(seen, ops.stop_gradient(_objectness(student_logits)))
        divergence = losses.output_loss(teacher_logits, student_logits, self.temperature)
        shift = smooth_l1(teacher.outputs[self._boxes], student.outputs[self._boxes])
        total = ops.sum(either * divergence) + self.box_weight * ops.sum(seen * shift)
        return total / (ops.sum(either) + 1e-6)

    def get_config(self):
        own = {"temperature": self.temperature, "box_weight": self.box_weight}
        return super().get_config() | own


@keras.saving.register_keras_serializable("aip_tf")
class AdversarialDetectionTransfer(AdversarialTransfer):
    """The game on the class scores of the positions that matter, against one discriminator.

    A discriminator that sees all anchors (`AdversarialTransfer(outputs="classes")`) sees little but
    background: of an SSD's thousands of anchors a handful hold objects. Here it sees, of every
    image, the `num_positions` anchors at which teacher or student is surest of an object, in both
    networks the same. It costs next to nothing, where with all anchors it computes as much as a
    small detector.

    Args:
        num_positions: anchors of each image, >= 1; all of them if there are fewer.
        weight, discriminator, optimizer, max_pull, name: see `AdversarialTransfer`.

    Raises:
        ValueError: for num_positions < 1, and as `AdversarialTransfer` does; when bound, if the
            networks do not have the outputs `boxes` and `classes`.
    """

    def __init__(
        self,
        num_positions=64,
        weight=1.0,
        discriminator=None,
        optimizer=None,
        max_pull=1.0,
        name="adversarial",
    ):
        super().__init__(weight, discriminator, optimizer, None, ["classes"], max_pull, name)
        if isinstance(num_positions, bool) or not num_positions >= 1:
            raise ValueError(f"Received num_positions={num_positions!r}. Expected at least 1.")
        self.num_positions = int(num_positions)

    def check(self, teacher, student):
        _places(teacher, student)
        super().check(teacher, student)

    def build(self, teacher, student):
        self._classes = _places(teacher, student)[1]
        super().build(teacher, student)

    def play(self, teacher, student):
        seen = [_objectness(reading.outputs[self._classes]) for reading in (teacher, student)]
        count = min(self.num_positions, seen[0].shape[1])
        places = ops.top_k(ops.maximum(*seen), count)[1][..., None]
        return super().play(self._only(teacher, places), self._only(student, places))

    def _only(self, reading, places):
        """The reading with the class scores of some anchors, (batch, count, 1), alone."""
        outputs = list(reading.outputs)
        outputs[self._classes] = ops.take_along_axis(outputs[self._classes], places, axis=1)
        return reading._replace(outputs=outputs)

    def get_config(self):
        config = super().get_config() | {"num_positions": self.num_positions}
        return {k: v for k, v in config.items() if k not in ("features", "outputs")}


def _places(teacher, student):
    """The places of `boxes` and `classes` among the outputs of both networks."""
    names = [list(getattr(model, "output_names", ())) for model in (teacher, student)]
    if names[0] != names[1] or sorted(names[0]) != ["boxes", "classes"]:
        raise ValueError(
            f"Received outputs named {names[0]} and {names[1]}. Expected 'boxes' and 'classes' "
            "in both networks, as ssd_vgg16 and multibox_heads make them."
        )
    return tuple(names[0].index(name) for name in ("boxes", "classes"))


def _objectness(logits):
    logits = ops.cast(logits, "float32")
    return 1.0 - ops.softmax(logits, axis=-1)[..., 0]

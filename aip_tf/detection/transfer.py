"""What a detector can hand over that a classifier cannot: answers where there is something."""

import keras
from keras import ops

from aip_tf import losses
from aip_tf.detection.loss import smooth_l1
from aip_tf.game import Transfer


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

    For the game on detectors use `AdversarialTransfer(outputs="classes")` beside it.

    Args:
        temperature: T > 0 of the class term.
        box_weight: factor of the box term, >= 0.
        weight, name: see `Transfer`.

    Raises:
        ValueError: for a temperature <= 0 or a negative weight; when bound, if the networks do not
            have the outputs `boxes` and `classes`.
    """

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
        names = [list(getattr(model, "output_names", ())) for model in (teacher, student)]
        if names[0] != names[1] or sorted(names[0]) != ["boxes", "classes"]:
            raise ValueError(
                f"Received outputs named {names[0]} and {names[1]}. Expected 'boxes' and 'classes' "
                "in both networks, as ssd_vgg16 and multibox_heads make them."
            )
        self._boxes, self._classes = (names[0].index(name) for name in ("boxes", "classes"))

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


def _objectness(logits):
    return 1.0 - ops.softmax(logits, axis=-1)[..., 0]

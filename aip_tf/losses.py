"""The terms of the game as pure functions of tensors; one value per sample, nothing is averaged.

Notation: F feature map of shape `(batch, *positions, channels)`, z logits, T temperature,
D(z) the discriminator's verdict (a logit: positive means "this is the teacher").
Sources: AIP (Chang et al. 2021, arXiv 2108.13591), which takes attention transfer from Zagoruyko
and Komodakis (2017, arXiv 1612.03928, equation 2), output transfer from Hinton et al. (2015,
arXiv 1503.02531, section 2) and the game from Goodfellow et al. (2014, arXiv 1406.2661, section 3).
"""

import math

import keras
from keras import ops

_TINY = 1e-7


def energy(features):
    """How strongly every position answers: the sum over channels of F^2.

    Args:
        features: `(batch, *positions, channels)`, any float type.

    Returns:
        float32 `(batch, *positions)`, >= 0.
    """
    return _sum_of_squares(ops.cast(features, "float32"), (-1,))


def _sum_of_squares(x, axes):
    """The sum of x^2 over some axes, whose gradient makes one tensor like x instead of three."""

    def plain(x):
        return ops.sum(ops.square(x), axis=axes, keepdims=True)

    @ops.custom_gradient
    def call(x):
        return plain(x), lambda slope: (2.0 * slope) * x

    found = plain(x) if isinstance(x, keras.KerasTensor) else call(x)
    return ops.squeeze(found, axis=axes)


def attention_map(energy):
    """Where a network looks: A = its energy, flattened, divided by its L2 norm.

    Dividing by the norm makes the sum and the mean over channels (the authors' form) the same, and
    networks of different width comparable.

    Args:
        energy: float32 `(batch, *positions)`, see `energy`.

    Returns:
        float32 `(batch, positions)`, each row of length 1, entries >= 0. A row of zeros (no
        activation anywhere) stays zero.

    >>> import numpy as np
    >>> maps = attention_map(energy(np.array([[[3.0], [4.0]]])))
    >>> np.asarray(maps * 337**0.5).round(3).tolist()  # |(9, 16)| = sqrt(337)
    [[9.0, 16.0]]
    """
    known = None not in energy.shape[1:]
    shape = (-1, math.prod(energy.shape[1:])) if known else (ops.shape(energy)[0], -1)
    flat = ops.reshape(energy, shape)
    return flat * ops.rsqrt(ops.maximum(ops.sum(ops.square(flat), -1, keepdims=True), 1e-12))


def attention_loss(teacher_energy, student_energy):
    """Sum over positions of (A_student - A_teacher)^2: 0 (equal) to 2 (nothing in common).

    The authors take the mean over the H W positions with weight 50; the sum with weight 50 / (H W)
    is the same: 0.049 at 32x32, 0.2 at 16x16, 0.78 at 8x8. The sum means the same at every
    resolution.

    Args:
        teacher_energy: `(batch, *positions)`, see `energy`.
        student_energy: the same shape.

    Returns:
        float32 `(batch,)`.
    """
    difference = attention_map(student_energy) - attention_map(teacher_energy)
    return ops.sum(ops.square(difference), axis=-1)


def feature_loss(teacher_features, student_features):
    """|F_student - F_teacher|^2 / |F_teacher|^2 over all positions and channels: 0 when equal.

    The hint of Romero et al. (2015, arXiv 1412.6550, equation 3), relative to the teacher's length,
    so that the term means the same at every depth; a student that says nothing costs 1.

    Args:
        teacher_features: `(batch, ...)`, any float type.
        student_features: the same shape.

    Returns:
        float32 `(batch,)`, >= 0; 0 where the teacher's features are all zero.
    """
    teacher, student = (ops.cast(x, "float32") for x in (teacher_features, student_features))
    axes = tuple(range(1, len(teacher.shape)))
    distance, length = (_sum_of_squares(x, axes) for x in (student - teacher, teacher))
    return ops.where(length > _TINY, distance / ops.maximum(length, _TINY), 0.0)


def output_loss(teacher_logits, student_logits, temperature=1.0):
    """T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)) over the last axis.

    T^2 keeps the size of the gradient independent of T (Hinton et al., section 2.1).

    Args:
        teacher_logits: `(batch, ..., classes)`.
        student_logits: the same shape.
        temperature: T > 0; larger is softer.

    Returns:
        float32 `(batch, ...)`, >= 0.
    """
    teacher = ops.log_softmax(ops.cast(teacher_logits, "float32") / temperature, axis=-1)
    student = ops.log_softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def binary_output_loss(teacher_logits, student_logits, temperature=1.0):
    """`output_loss` for independent yes/no outputs (sigmoid): summed over the last axis."""
    teacher = ops.cast(teacher_logits, "float32") / temperature
    student = ops.cast(student_logits, "float32") / temperature
    # KL of two Bernoulli distributions, from logits: p (t - s) + softplus(s) - softplus(t)
    divergence = ops.sigmoid(teacher) * (teacher - student)
    divergence = divergence + ops.softplus(student) - ops.softplus(teacher)
    return temperature**2 * ops.sum(divergence, axis=-1)


def value_loss(teacher_values, student_values):
    """The squared difference, averaged over the last axis: of outputs that are values.

    Args:
        teacher_values: `(batch, ..., units)`, any float type.
        student_values: the same shape.

    Returns:
        float32 `(batch, ...)`, >= 0. Of values on the teacher's scale (`game.views.Scale`) it is
        the share of the teacher's variance that the student misses: 1 for its mean alone.
    """
    teacher, student = (ops.cast(x, "float32") for x in (teacher_values, student_values))
    return ops.mean(ops.square(student - teacher), axis=-1)


def softmax_to_logits(probabilities):
    """Logits z with softmax(z) = `probabilities`, up to a constant per sample: their logarithm."""
    return ops.log(ops.clip(ops.cast(probabilities, "float32"), _TINY, 1.0))


def sigmoid_to_logits(probabilities):
    """Logits z with sigmoid(z) = `probabilities`."""
    p = ops.clip(ops.cast(probabilities, "float32"), _TINY, 1.0 - _TINY)
    return ops.log(p) - ops.log(1.0 - p)


def discriminator_loss(teacher_verdicts, student_verdicts):
    """What the discriminator minimises: -1/2 [log s(D(z_teacher)) + log(1 - s(D(z_student)))].

    s is the sigmoid; log 2 = 0.693 means it cannot tell the two apart.

    Args:
        teacher_verdicts: logits D(z), any shape.
        student_verdicts: logits D(z), the same shape.

    Returns:
        float32 of that shape.
    """
    teacher = ops.softplus(-ops.cast(teacher_verdicts, "float32"))
    student = ops.softplus(ops.cast(student_verdicts, "float32"))
    return 0.5 * (teacher + student)


def adversarial_loss(student_verdicts):
    """What the student minimises: -log s(D(z_student)), the non-saturating form.

    Unlike log(1 - s(D)), its gradient does not vanish when the discriminator is sure
    (Goodfellow et al., section 3).

    Args:
        student_verdicts: logits D(z), any shape.

    Returns:
        float32 of that shape, > 0.
    """
    return ops.softplus(-ops.cast(student_verdicts, "float32"))


def discriminator_accuracy(teacher_verdicts, student_verdicts):
    """Share of right verdicts per pair: 0, 0.5 or 1; 0.5 on average is what the student wants."""
    teacher = ops.cast(ops.greater(teacher_verdicts, 0), "float32")
    student = ops.cast(ops.less_equal(student_verdicts, 0), "float32")
    return 0.5 * (teacher + student)


def guarded_pull(pull, towards, max_ratio):
    """`pull` without what points away from the teacher, no longer than `max_ratio * towards`.

    With `towards` = softmax(z_teacher) - softmax(z_student), a step along the result never raises
    KL(teacher || student) of a sample to first order, whatever the pull was: that step's slope is
    -<towards, step> <= 0. And where the student already answers like its teacher, nothing pulls.

    Args:
        pull: `(rows, n)`, the step a discriminator asks of every row of logits.
        towards: `(rows, n)`, the step the teacher asks for.
        max_ratio: longest result, in lengths of `towards`.

    Returns:
        `(rows, n)`.
    """
    square = ops.maximum(ops.sum(ops.square(towards), axis=-1, keepdims=True), 1e-30)
    away = ops.minimum(ops.sum(pull * towards, axis=-1, keepdims=True), 0.0)
    sideways = pull - away / square * towards
    length = ops.sqrt(ops.maximum(ops.sum(ops.square(sideways), -1, keepdims=True), 1e-30))
    return sideways * ops.minimum(1.0, max_ratio * ops.sqrt(square) / length)

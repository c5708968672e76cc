"""The third player: a discriminator that tells the teacher's answers from the student's."""

import keras
import tensorflow as tf
from keras import ops

from aip_tf import _keras, losses
from aip_tf.arguments import Kind, check, instance, number
from aip_tf.game import taps as taps_module
from aip_tf.game.transfers import Move, Transfer
from aip_tf.game.views import AnswerViews


def _is_optimizer(value):
    known = [name.lower() for name, x in vars(keras.optimizers).items() if isinstance(x, type)]
    is_name = isinstance(value, str) and value.lower() in known
    return value is None or isinstance(value, keras.optimizers.Optimizer) or is_name


_KINDS = {
    "max_pull": number("a number > 0", above=0, or_none=True),
    "discriminator": instance(keras.Model, "a built keras.Model", or_none=True),
    "optimizer": Kind(_is_optimizer, "a keras.optimizers.Optimizer, its name, or None"),
}


def build_discriminator(num_inputs, widths=(128, 256, 128), name="discriminator"):
    """The paper's discriminator: an MLP `num_inputs`-128-256-128-1 with LeakyReLU, one logit out.

    arXiv 2108.13591, section 3.2; the authors' script has no activation between its layers and a
    sigmoid at the end. Always float32: it is small, and its loss is computed from logits.

    Args:
        num_inputs: number of logits (and features) it sees.
        widths: units of the hidden layers.
        name: the model's name.

    Returns:
        A built keras.Sequential: `(batch, num_inputs) -> (batch, 1)`.
    """
    # Names that every discriminator has: TensorFlow keeps 35 KB for each name of a variable.
    layers = [keras.Input((num_inputs,), dtype="float32")]
    for i, units in enumerate(widths):
        layers += [
            keras.layers.Dense(units, dtype="float32", name=f"hidden_{i}"),
            keras.layers.LeakyReLU(0.2, dtype="float32"),
        ]
    verdict = keras.layers.Dense(1, dtype="float32", name="verdict")
    return keras.Sequential([*layers, verdict], name=name)


@keras.saving.register_keras_serializable("aip_tf")
class AdversarialTransfer(Transfer):
    """The student learns to pass for the teacher: a game against a discriminator.

    Per step one call of the discriminator on both networks' logits (or values, brought to one
    scale: see `OutputTransfer`) gives its own loss
    (`losses.discriminator_loss`) and the student's (`losses.adversarial_loss`); both players move
    once. arXiv 2108.13591, section 3.2.

    What guards the student against a discriminator that wins outright. It sees answers without the
    questions, so "always the same confident answer" passes for a teacher; and once it is sure, its
    pull stays strong where that of the labels fades. Two rules, both measured (without them a
    student on digits fell from 62% to 10%):

    * The pull on a sample (the step its logits should take) loses its component away from the
      teacher's answer to the same question, and is never longer than `max_pull` times the teacher's
      own pull, softmax(z_teacher) - softmax(z_student): see `losses.guarded_pull`.
    * The whole term counts min(1, 2 (1 - accuracy)) times, with the discriminator's accuracy on the
      global batch: fully as long as it cannot tell the two apart, not at all when it always can.

    The discriminator itself trains undisturbed.

    Args:
        weight: factor of the student's adversarial loss; 1 in the paper.
        discriminator: a built keras.Model `(batch, inputs) -> (batch, 1)` that ends in a logit, or
            None: `build_discriminator`, a new one for every distiller. One of your own is not
            copied: every stretch trains it on, and a process that resumes a run between two of
            them begins with it as it is there.
        optimizer: the discriminator's, as an object or a name; every distiller uses a copy. None:
            Adam(1e-3, beta_1=0.5). The authors use the student's SGD; at rates that suit a student
            (0.05, momentum 0.9) a discriminator of raw logits diverges within an epoch.
        features: a layer path: the layer's output, averaged over its positions, is shown to the
            discriminator as well; its width must be the same in both networks.
        outputs: names or indices of the outputs it sees; None: all.
        max_pull: longest pull on a sample, in lengths of the teacher's, > 0; None: no guard, the
            plain gradient.
        name: see `Transfer`. Logs: `<name>_loss`, `discriminator_loss`, `discriminator_accuracy`
            (0.5: cannot tell them apart), the latter two behind the name if it is another one.

    Raises:
        ValueError: for a max_pull <= 0 or a negative weight; when bound, for a discriminator of the
            wrong size, features of unequal width, or outputs that cannot be shown together.
    """

    def __init__(
        self,
        weight=1.0,
        discriminator=None,
        optimizer=None,
        features=None,
        outputs=None,
        max_pull=1.0,
        name="adversarial",
    ):
        super().__init__(weight, name)
        check(_KINDS, locals())
        self.discriminator = discriminator
        self.optimizer, self.player_optimizer = optimizer, None
        self.features = features
        self.outputs = outputs
        self.max_pull = max_pull
        self._prefix = "" if name == "adversarial" else f"{name}_"

    @property
    def taps(self):
        return () if self.features is None else (self.features,)

    @property
    def variables(self):
        optimizer = self.player_optimizer.variables if self.player_optimizer else ()
        return [*self.discriminator.variables, *optimizer]

    @property
    def log_names(self):
        return (
            f"{self.name}_loss",
            f"{self._prefix}discriminator_loss",
            f"{self._prefix}discriminator_accuracy",
        )

    def check(self, teacher, student):
        widths = [self._feature_width(model) for model in (teacher, student)]
        if widths[0] != widths[1]:
            raise ValueError(
                f"Received features={self.features!r} with {widths[0]} channels in the teacher and "
                f"{widths[1]} in the student. Expected equal widths: a layer whose channels are "
                "not cut, such as one behind the last residual sum, or features=None."
            )
        self._check_shapes(AnswerViews(teacher, student, self.outputs))

    def build(self, teacher, student):
        self._views = AnswerViews(teacher, student, self.outputs)
        num_inputs = sum(self._views.num_units) + self._feature_width(teacher)
        if self.discriminator is None:
            self.discriminator = build_discriminator(num_inputs, name=f"{self.name}_discriminator")
        self._check_discriminator(num_inputs)

    def tell(self, forms, scales):
        self._views.tell(forms, scales)

    def compile(self, student_optimizer):
        """Give the discriminator its own optimizer, fresh; called when the distiller compiles.

        Raises:
            ValueError: if the two players were given one optimizer.
        """
        if self.optimizer is not None and self.optimizer is student_optimizer:
            raise ValueError(
                f"Received one optimizer for the student and for the transfer {self.name!r}. "
                "Expected two: an optimizer keeps state of the variables it trains. Give the "
                "discriminator its own, or None for the default."
            )
        self.player_optimizer = _fresh_optimizer(self.optimizer)
        self.player_optimizer.build(self.discriminator.trainable_variables)

    def play(self, teacher, student):
        teacher_parts = self._show(self._views.of_teacher(teacher), teacher)
        student_parts = self._show(self._views.of_student(student), student)
        student_view = ops.concatenate(student_parts, axis=-1)
        seen = ops.concatenate([ops.concatenate(teacher_parts, axis=-1), student_view], axis=0)
        seen = ops.stop_gradient(seen)
        share = _keras.share_of(student_view)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(seen)
            verdicts = ops.cast(self.discriminator(seen, training=True), "float32")
            teacher_verdicts, student_verdicts = ops.split(verdicts, 2, axis=0)
            loss = ops.mean(losses.discriminator_loss(teacher_verdicts, student_verdicts))
            num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
            own_loss = share.scale(loss) / num_replicas
        variables = self.discriminator.trainable_variables
        gradients = tape.gradient(own_loss, variables)
        slopes = ops.split(tape.gradient(verdicts, seen), 2, axis=0)[1]

        accuracy = ops.mean(losses.discriminator_accuracy(teacher_verdicts, student_verdicts))
        adversarial_loss = ops.mean(losses.adversarial_loss(student_verdicts))
        pull = ops.sigmoid(-student_verdicts) * slopes
        if self.max_pull is not None:
            towards = self._towards(teacher_parts, student_parts)
            pull = self._guard(pull, towards) * _fade(share.scale(accuracy))
        logs = dict(zip(self.log_names, (adversarial_loss, loss, accuracy), strict=True))
        return Move(
            _with_gradient(adversarial_loss, student_view, -pull),
            logs,
            lambda: self._learn(gradients, variables),
        )

    def _learn(self, gradients, variables):
        # An optimizer that scales losses divides gradients by what it would have multiplied.
        scale = self.player_optimizer.scale_loss(1.0)
        scaled = [gradient * scale for gradient in gradients]
        self.player_optimizer.apply_gradients(zip(scaled, variables, strict=True))

    def get_config(self):
        own = {
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "features": self.features,
            "outputs": self.outputs,
            "max_pull": self.max_pull,
        }
        return super().get_config() | own

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for key in ("discriminator", "optimizer"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)

    def _show(self, views, reading):
        """What the discriminator sees of one network: rows of answers, and pooled features."""
        parts = [ops.reshape(logits, (-1, logits.shape[-1])) for logits in views]
        if self.features is not None:
            features = ops.cast(reading.taps[self.features], "float32")
            axes = tuple(range(1, len(features.shape) - 1))
            parts.append(ops.mean(features, axis=axes) if axes else features)
        return parts

    def _towards(self, teacher_parts, student_parts):
        """Where the teacher pulls: the difference of the answers (and of the features)."""
        answers = [_PULLS[form] for form in self._views.forms]
        if self.features is not None:
            answers.append(lambda x: x)
        return [f(t) - f(s) for f, t, s in zip(answers, teacher_parts, student_parts, strict=True)]

    def _guard(self, pull, towards):
        guarded, start = [], 0
        for part in towards:
            end = start + part.shape[-1]
            own = pull[:, start:end]
            guarded.append(losses.guarded_pull(own, ops.stop_gradient(part), self.max_pull))
            start = end
        return ops.concatenate(guarded, axis=-1)

    def _feature_width(self, model):
        if self.features is None:
            return 0
        return taps_module.tap_shapes(model, self.taps)[self.features][-1]

    def _check_shapes(self, views):
        ranks = views.ranks
        if None in views.num_units:
            raise ValueError(
                f"Received outputs with {views.num_units} units for the transfer {self.name!r}. "
                "Expected a number of units that is not open (None), for a discriminator is as "
                "wide: choose one with outputs=[...]."
            )
        is_alone = len(ranks) == 1 and self.features is None
        if any(rank != 2 for rank in ranks) and not is_alone:
            raise ValueError(
                f"Received outputs with {ranks} axes for the transfer {self.name!r}. Expected "
                "outputs of shape (batch, classes), or a single output with positions and no "
                "features: choose one with outputs=[...]."
            )

    def _check_discriminator(self, num_inputs):
        model = self.discriminator
        shapes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
        if shapes != ((None, num_inputs), (None, 1)):
            raise ValueError(
                f"Received a discriminator {shapes[0]} -> {shapes[1]}. Expected "
                f"(None, {num_inputs}) -> (None, 1): it sees {num_inputs} values per sample (logits"
                f"{' and pooled features' if self.features else ''}) and answers with one logit."
            )


def _of_values(x):
    """Values as `losses.value_loss` pulls at them: the difference of two is its gradient."""
    return 2.0 / x.shape[-1] * x


_PULLS = {"classes": ops.softmax, "yes/no": ops.sigmoid, "values": _of_values}


def _with_gradient(value, x, gradient):
    """`value`, whose gradient with respect to the rows of `x` is `gradient` / number of rows."""
    slope = ops.mean(ops.sum(x * ops.stop_gradient(gradient), axis=-1))
    return ops.stop_gradient(value) + slope - ops.stop_gradient(slope)


def _fade(accuracy):
    """1 for a discriminator at chance, 0 for one that is always right, over all replicas."""
    context = tf.distribute.get_replica_context()
    accuracy = context.all_reduce(tf.distribute.ReduceOp.MEAN, accuracy)
    return ops.clip(2.0 * (1.0 - accuracy), 0.0, 1.0)


def _fresh_optimizer(optimizer):
    """A new optimizer like `optimizer`; its state belongs to one game."""
    if optimizer is None:
        return keras.optimizers.Adam(1e-3, beta_1=0.5, name="adam")
    return _keras.fresh_optimizer(keras.optimizers.get(optimizer))

"""The players of benchmarks/adversary.py: transfers beside those of the library."""

import keras
import tensorflow as tf

from aip_tf import losses
from aip_tf.channels.ancestry import kept_channels
from aip_tf.game import AdversarialTransfer, Move, OutputTransfer, Transfer

BLOCK = "layer2_2_relu2"  # whose features are judged, the end of the second stage
QUESTION = "layer2_1_relu2"  # what that block is asked
TRUNK_ENDS = "layer3_2_relu2"


class AdversarialTemperature(OutputTransfer):
    """The outputs' term at the temperature that is hardest for the student."""

    rate = 0.05  # of the temperature's own ascent

    def build(self, teacher, student):
        super().build(teacher, student)
        self.place = keras.Variable(-1.7, trainable=False, name="temperature")  # T = 4.1

    def play(self, teacher, student):
        expected = self._views.of_teacher(teacher)[0]
        found = self._views.of_student(student)[0]
        with tf.GradientTape() as tape:
            place = tf.convert_to_tensor(self.place)
            tape.watch(place)
            still = tf.stop_gradient(found)
            harder = tf.reduce_mean(losses.output_loss(expected, still, _temperature(place)))
        slope = tape.gradient(harder, place)
        temperature = tf.stop_gradient(_temperature(place))
        loss = tf.reduce_mean(losses.output_loss(expected, found, temperature))
        return Move(
            loss,
            {f"{self.name}_loss": loss},
            lambda: self.place.assign(place + self.rate * slope),
        )


def _temperature(place):
    return 1.0 + 20.0 * tf.sigmoid(place)


class Kept:
    """Features of a cut layer beside those of its teacher."""

    def __init__(self, teacher, student, tap):
        found = kept_channels(teacher, student, tap)
        width = teacher.get_layer(tap).output.shape[-1]
        self.indices = range(width) if found is None else found[1]
        self._places = tf.one_hot(self.indices, width)

    def of(self, features):
        """The channels of the teacher that the student has."""
        return tf.gather(features, self.indices, axis=-1)

    def widened(self, features):
        """The student's channels at their places among the teacher's, zeros at the others."""
        return tf.tensordot(features, self._places, 1)


class Tail(Transfer):
    """What the rest of the teacher answers to the student's features: T^2 KL to its own answers."""

    def __init__(self, tap=BLOCK, weight=0.9, temperature=4.0, name="tail"):
        super().__init__(weight, name)
        self.tap, self.temperature = tap, temperature

    @property
    def taps(self):
        return (self.tap,)

    def build(self, teacher, student):
        self._kept = Kept(teacher, student, self.tap)
        self._rest = keras.Model(teacher.get_layer(self.tap).output, teacher.outputs[0])

    def loss(self, teacher, student):
        found = self._rest(self._kept.widened(student.taps[self.tap]), training=False)
        return tf.reduce_mean(losses.output_loss(teacher.outputs[0], found, self.temperature))

    def get_config(self):
        return super().get_config() | {"tap": self.tap, "temperature": self.temperature}


class Critic(AdversarialTransfer):
    """A game about features: the student's step on them is what a critic asks for.

    Both players have hinge losses. How far a critic asks to go is a matter of its own scale, so it
    only says where: on each image the step is `share` times as long as that of FeatureTransfer at
    this tap, whose weight (found as for all that are "auto") makes it as strong as the answers.
    """

    usual_weight = 10.0
    rate = 1e-3  # of the critic's Adam

    def __init__(self, tap=BLOCK, share=0.1, name="critic"):
        learner = keras.optimizers.Adam(self.rate, beta_1=0.5)
        super().__init__("auto", optimizer=learner, name=name)
        self.tap, self.share = tap, share

    def build(self, teacher, student):
        self.kept = Kept(teacher, student, self.tap)
        self.discriminator = self.judge(teacher, student)

    def judge(self, teacher, student):
        """The model that learns: what `show` returns -> verdicts `(batch, ..., 1)`."""
        raise NotImplementedError(f"{type(self).__name__} must override `judge`.")

    def show(self, teacher, features):
        """What the judge sees of features at the tap, whosever they are."""
        raise NotImplementedError(f"{type(self).__name__} must override `show`.")

    def loss(self, teacher, student):
        expected, found = self.kept.of(teacher.taps[self.tap]), student.taps[self.tap]
        return tf.reduce_mean(losses.feature_loss(expected, found))

    def play(self, teacher, student):
        expected, found = self.kept.of(teacher.taps[self.tap]), student.taps[self.tap]
        with tf.GradientTape(persistent=True) as tape:
            still = tf.stop_gradient(found)
            tape.watch(still)
            seen = [self.show(teacher, x) for x in (expected, still)]
            verdicts = tf.split(self.discriminator(tf.concat(seen, 0), training=True), 2)
            of_teacher, of_student = verdicts
            loss = tf.reduce_mean(tf.nn.relu(1 - of_teacher) + tf.nn.relu(1 + of_student))
        variables = self.discriminator.trainable_variables
        gradients = tape.gradient(loss, variables)
        step = self._step(tape.gradient(of_student, still), expected, still)

        asked = -tf.reduce_mean(_per_image(found * step))  # whose gradient is the step, turned
        praise = -tf.reduce_mean(of_student)
        accuracy = tf.reduce_mean(losses.discriminator_accuracy(*verdicts))
        return Move(
            asked - tf.stop_gradient(asked),
            dict(zip(self.log_names, (praise, loss, accuracy), strict=True)),
            lambda: self.player_optimizer.apply_gradients(zip(gradients, variables, strict=True)),
        )

    def _step(self, wished, expected, found):
        length = self.share * 2 * _norm(expected - found) / tf.maximum(_norm(expected) ** 2, 1e-7)
        return tf.stop_gradient(wished / tf.maximum(_norm(wished), 1e-12) * length)

    def get_config(self):
        return {"tap": self.tap, "share": self.share, "name": self.name}


def _per_image(x):
    return tf.reduce_sum(x, axis=tuple(range(1, len(x.shape))), keepdims=True)


def _norm(x):
    return tf.sqrt(_per_image(x**2))


class PairCritic(Critic):
    """Sees what the teacher's block is asked, and an answer to it; one verdict for each patch."""

    @property
    def taps(self):
        return (QUESTION, self.tap)

    def judge(self, teacher, student):
        layers = keras.layers
        asked, answered = teacher.get_layer(QUESTION).output, student.get_layer(self.tap).output
        return keras.Sequential(
            [
                keras.Input((*asked.shape[1:-1], asked.shape[-1] + answered.shape[-1])),
                layers.BatchNormalization(center=False, scale=False),
                layers.Conv2D(32, 3, strides=2, padding="same", name="hidden_0"),
                layers.LeakyReLU(0.2),
                layers.Conv2D(32, 3, padding="same", name="hidden_1"),
                layers.LeakyReLU(0.2),
                layers.Conv2D(1, 1, name="verdict"),
            ]
        )

    def show(self, teacher, features):
        return tf.concat([teacher.taps[QUESTION], features], -1)


class TailCritic(Critic):
    """Sees what the teacher's next stage makes of features."""

    rate = 5e-3  # at 1e-3 it is right on 52% of the patches after 96 steps

    @property
    def taps(self):
        return (self.tap,)

    def judge(self, teacher, student):
        end = teacher.get_layer(TRUNK_ENDS).output
        self._trunk = keras.Model(teacher.get_layer(self.tap).output, end)
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input(end.shape[1:]),
                layers.BatchNormalization(center=False, scale=False),
                layers.Conv2D(32, 1, name="hidden_0"),
                layers.LeakyReLU(0.2),
                layers.Conv2D(1, 1, name="verdict"),
            ]
        )

    def show(self, teacher, features):
        return self._trunk(self.kept.widened(features), training=False)

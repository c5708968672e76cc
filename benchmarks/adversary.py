"""Does a game pay beside the teacher's own answers? ResNet-20, half of the MACs, two epochs.

    python benchmarks/adversary.py                 # held-out training images; goes on where it was
    python benchmarks/adversary.py --test          # test images, for what survived

Arms beside those of benchmarks/recovery.py, whose runs, lines and table these are:

    adversarial temperature   the full method, the temperature of the outputs' term trained by the
                              reversed gradient, between 1 and 21 (curriculum temperature, Li et al.
                              2023, arXiv 2211.16231, without its curriculum)
    teacher's tail            the full method; the rest of the teacher behind the second stage
                              answers to the student's features: divergence from the teacher's
                              answers, no game
    no game                   the full method without its discriminator
"""

import argparse

import keras
import recovery
import tensorflow as tf

from aip_tf import losses
from aip_tf.game import (
    AdversarialTransfer,
    AttentionTransfer,
    FeatureTransfer,
    Move,
    OutputTransfer,
    Transfer,
)

TAIL_BEGINS = "layer2_2_relu2"


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


class Tail(Transfer):
    """What the rest of the teacher answers to the student's features: T^2 KL to its own answers."""

    def __init__(self, tap, weight=0.9, temperature=4.0, name="tail"):
        super().__init__(weight, name)
        self.tap, self.temperature = tap, temperature

    @property
    def taps(self):
        return (self.tap,)

    def build(self, teacher, student):
        begin = teacher.get_layer(self.tap).output
        self._rest = keras.Model(begin, teacher.outputs[0])

    def loss(self, teacher, student):
        found = self._rest(student.taps[self.tap], training=False)
        return tf.reduce_mean(losses.output_loss(teacher.outputs[0], found, self.temperature))

    def get_config(self):
        return super().get_config() | {"tap": self.tap, "temperature": self.temperature}


def full(output, *more):
    inside = [FeatureTransfer(), AttentionTransfer(), AdversarialTransfer(0.1)]
    return {"transfers": [output, *inside, *more]}, {}


recovery.ARMS |= {
    "adversarial temperature": lambda: full(AdversarialTemperature()),
    "teacher's tail": lambda: full(OutputTransfer(), Tail(TAIL_BEGINS)),
}
ARMS = ("default", "no game", "adversarial temperature", "teacher's tail")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", action="store_true")
    is_test = parser.parse_args().test
    recovery.work_through([("resnet20", arm, 2, 0) for arm in ARMS], not is_test)


if __name__ == "__main__":
    main()

"""Cut once, then drive `AdversarialDistiller` like any keras.Model: compile, fit, callbacks.

python examples/distill_by_hand.py --epochs=20 --out=student.keras
"""

import argparse

import keras

import aip_tf
from aip_tf.game import AdversarialTransfer, AttentionTransfer, OutputTransfer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", default=20, type=int, help="of the teacher, and of the student")
parser.add_argument("--out", default="student.keras")
options = parser.parse_args()

data = aip_tf.datasets.digits()
fit = {"validation_data": data.test, "epochs": options.epochs}
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
teacher = aip_tf.zoo.digits_resnet()
teacher.compile("adam", loss, metrics=["accuracy"])
teacher.fit(data.train, **fit)
student = aip_tf.prune_channels(teacher, aip_tf.select_channels(teacher, 0.7))  # of the MACs
transfers = [OutputTransfer(temperature=4, weight=0.9), AttentionTransfer(), AdversarialTransfer()]
distiller = aip_tf.AdversarialDistiller(teacher, student, transfers)
distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
stop = keras.callbacks.EarlyStopping("val_accuracy", patience=10, restore_best_weights=True)
distiller.fit(data.train, callbacks=[stop], **fit)
student.save(options.out)

"""Prune a backbone of keras-hub under a classifier; the result loads without keras-hub.

python examples/prune_keras_hub.py --preset=resnet_18_imagenet --out=student.keras
"""

import argparse

import keras
import keras_hub

import aip_tf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--preset", help="a trained backbone, fetched once; without: small, untrained")
parser.add_argument("--epochs", default=20, type=int, help="of the teacher, and of the student")
parser.add_argument("--out", default="student.keras")
options = parser.parse_args()

data = aip_tf.datasets.digits()  # gray: repeated three times for a backbone that expects colours
resnet = keras_hub.models.ResNetBackbone
backbone = resnet.from_preset(options.preset) if options.preset else None
backbone = backbone or resnet([64], [3], [64, 64], [1, 1], [1, 2], "basic_block")
x = inputs = keras.Input(data.input_shape)
x = keras.layers.GlobalAveragePooling2D()(backbone(keras.layers.Concatenate()([x, x, x])))
teacher = keras.Model(inputs, keras.layers.Dense(data.num_classes)(x))
teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
teacher.fit(data.train, epochs=options.epochs)
recovery = aip_tf.Recovery(epochs=options.epochs)
student, report = aip_tf.prune(teacher, data.train, data.test, schedule=0.5, recovery=recovery)
student.save(options.out)

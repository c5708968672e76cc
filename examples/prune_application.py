"""Prune a network of keras.applications on a folder of images, one folder for each class.

python examples/prune_application.py photos --network=MobileNetV2 --run_dir=runs/photos
"""

import argparse

import keras

import aip_tf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("directory")
parser.add_argument("--network", default="MobileNetV2", help="a name of keras.applications")
parser.add_argument("--weights", default="imagenet", help="'imagenet', a file, or '' for none")
parser.add_argument("--size", default=224, type=int, help="pixels")
parser.add_argument("--epochs", default=20, type=int, help="of the teacher, and of the student")
parser.add_argument("--run_dir", help="the student and its report are written here")
options = parser.parse_args()

data = aip_tf.datasets.image_folder(options.directory, input_shape=(options.size,) * 2 + (3,))
top = {"include_top": False, "pooling": "avg", "input_shape": data.input_shape}
base = aip_tf.zoo.application(options.network, weights=options.weights or None, **top)
teacher = keras.Model(base.input, keras.layers.Dense(data.num_classes)(base.output))
teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
teacher.fit(data.train, validation_data=data.test, epochs=options.epochs)
recovery = aip_tf.Recovery(epochs=options.epochs)
run = {"schedule": 0.5, "recovery": recovery, "run_dir": options.run_dir}  # 50% of the MACs removed
student, report = aip_tf.prune(teacher, data.train, data.test, **run)
print(report.render())

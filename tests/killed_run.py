"""A whole experiment, killed by SIGKILL after a number of events; run by `test_killed.py`.

    python killed_run.py RUN_DIR NUM_EVENTS

An event is a training batch, or a file that reaches the disk or gets its name. Without a number it
runs to its end and prints how many events there were.
"""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from aip_tf import datasets, deploy, experiment, pruner, teacher

events = 0
last = int(sys.argv[2]) if len(sys.argv) > 2 else None


def counted(function):
    """`function`, each call of which is an event."""

    def call(*args, **kwargs):
        global events
        events += 1
        if events == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


def images():
    """Images whose class is their brightness; shuffled and augmented."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 48)
    pixels = (rng.normal(size=(48, 8, 8, 1)) + labels[:, None, None, None]).astype("float32")
    return datasets.from_arrays(
        (pixels, labels), (pixels, labels), batch_size=12, augment=datasets.augment.pad_crop(1)
    )


def network():
    """A CNN with all that draws at random or keeps a state."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(layers.GaussianNoise(0.1)(inputs))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, activation="relu")(layers.Dropout(0.2)(x))
    x = layers.Lambda(lambda values: values * 2.0)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def train(data, checkpoint_dir):
    """The teacher."""
    return teacher.train_teacher(network(), data, 3, checkpoint_dir=checkpoint_dir)


def prune(model, train_data, validation_data, run_dir):
    """Two cuts in four epochs, by the full method."""
    recovery = pruner.Recovery(epochs=4, optimizer="adam", keep="best")
    return pruner.prune(
        model, train_data, validation_data, schedule=0.75, recovery=recovery, run_dir=run_dir
    )


def export(model, directory, check_data, teacher):
    """The quickest export."""
    formats = ("tflite",)
    return deploy.export_model(
        model, directory, formats, check_data=check_data, teacher=teacher, runs=2
    )


keras.utils.disable_interactive_logging()
os.replace, os.fsync = counted(os.replace), counted(os.fsync)
keras.callbacks.CallbackList.on_train_batch_end = counted(
    keras.callbacks.CallbackList.on_train_batch_end
)
experiment.run(train, images, prune, export, seed=3, run_dir=sys.argv[1])
print(events)

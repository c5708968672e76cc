"""SavedModel: for TensorFlow, TensorFlow Serving, and whatever reads its folders."""

import dataclasses
import shutil

import tensorflow as tf

from aip_tf.deploy.formats.base import Format, Program


@dataclasses.dataclass(frozen=True)
class SavedModel(Format):
    """The folder `saved_model`, in the precision of the model."""

    name = "saved_model"
    file_name = "saved_model"
    runtime = "TensorFlow"

    def write(self, source, path):
        """See `Format.write`."""
        shutil.copytree(source.saved_model(), path)

    def open(self, path):
        """See `Format.open`."""
        loaded = tf.saved_model.load(str(path))
        function = loaded.signatures["serving_default"]

        def call(feeds):
            tensors = {name: tf.convert_to_tensor(x) for name, x in feeds.items()}
            answers = loaded.signatures["serving_default"](**tensors)  # `loaded` must outlive it
            return {name: tf.cast(x, tf.float64).numpy() for name, x in answers.items()}

        inputs = _pairs(function.structured_input_signature[1])
        outputs = _pairs(function.structured_outputs)
        return Program(call, inputs, outputs, next(iter(inputs.values()))[1][0])

    def timed(self, path, feeds):
        """See `Format.timed`."""
        loaded = tf.saved_model.load(str(path))
        tensors = {name: tf.convert_to_tensor(x) for name, x in feeds.items()}
        return lambda: [x.numpy() for x in loaded.signatures["serving_default"](**tensors).values()]


def _pairs(specs):
    return {name: (spec.dtype.name, tuple(spec.shape)) for name, spec in specs.items()}

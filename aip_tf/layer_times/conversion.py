"""Files for the stopwatch."""

import tensorflow as tf

from aip_tf.deploy.source import quiet


def converted(function, specs, tune=None):
    """A LiteRT file with the weights of a function, as bytes; a delivery has more to it.

    There is no SavedModel on the way, which would take most of ten seconds of a MobileNet.

    Args:
        function: of tensors, in any structure.
        specs: the list of its arguments, as `tf.TensorSpec`s of known shapes.
        tune: called with the `TFLiteConverter`, to set other options than those of float32.
    """
    with quiet():
        concrete = tf.function(function).get_concrete_function(*specs)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        converter.exclude_conversion_metadata = True  # the file would be read and written once more
        if tune is not None:
            tune(converter)
        return converter.convert()

"""Files for the stopwatch."""

import math

import keras
import tensorflow as tf

from aip_tf.deploy.source import quiet

_LARGE = 2**14  # entries


def converted(function, specs, tune=None, variables=()):
    """A LiteRT file of a function, as bytes; a delivery has more to it.

    There is no SavedModel on the way, which would take most of ten seconds of a MobileNet.

    Args:
        function: of tensors, in any structure.
        specs: the list of its arguments, as `tf.TensorSpec`s of known shapes.
        tune: called with the `TFLiteConverter`, to set other options than those of float32.
        variables: Keras variables whose values do not matter. Of the large ones the file has one
            number at all places: the converter copies weights a dozen times, which takes half a
            minute of VGG-16, and a single number costs it nothing.
    """
    with quiet():
        concrete = tf.function(_filled(function, variables)).get_concrete_function(*specs)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        converter.exclude_conversion_metadata = True  # the file would be read and written once more
        if tune is not None:
            tune(converter)
        return converter.convert()


def _filled(function, variables):
    """The function with a constant in place of each large variable."""

    def run(*values):
        large = [v for v in variables if "float" in v.dtype and math.prod(v.shape) >= _LARGE]
        constants = [(v, _constant(v, place)) for place, v in enumerate(large)]
        with keras.StatelessScope(state_mapping=constants):
            return function(*values)

    return run


def _constant(variable, place):
    """About the mean of what a channel reads, which neither grows nor dies away in deep networks.

    Each has a number of its own: the converter stores equal constants once.
    """
    number = (1 + place / 1024) / math.prod(variable.shape[:-1])
    return tf.constant(number, variable.dtype, variable.shape)

"""The state of everything that draws at random in this process."""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from keras.src.utils.rng_utils import get_random_seed
from tensorflow.python.ops import stateful_random_ops

from aip_tf._keras.layers import random_states


def explicit_seed():
    """The seed that `keras.utils.set_random_seed` was called with; None: it was not."""
    return get_random_seed()


def random_state():
    """The states of Python's, numpy's, Keras' and TensorFlow's generators: `{name: array}`.

    A generator that was not used yet does not appear.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": np.array([version, *words], np.uint64),
        "python_gauss": np.array([np.nan if gauss is None else gauss]),
        "numpy": np.asarray(keys),
        "numpy_rest": np.array([position, has_gauss, cached]),
    }
    generator = global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)
    if generator is not None:
        state["keras"] = keras.ops.convert_to_numpy(generator.state)
    if stateful_random_ops.global_generator is not None:
        state["tensorflow"] = stateful_random_ops.global_generator.state.numpy()
    return state


def set_random_state(state):
    """Go back to what `random_state` returned."""
    version, *words = (int(word) for word in state["python"])
    gauss = float(state["python_gauss"][0])
    if "keras" in state:
        seed_generator.global_seed_generator().state.assign(state["keras"])
    else:
        global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, None)
    if "tensorflow" in state:
        tf.random.set_global_generator(
            tf.random.Generator.from_state(state["tensorflow"], "philox")
        )
    random.setstate((version, tuple(words), None if np.isnan(gauss) else gauss))
    position, has_gauss, cached = state["numpy_rest"]
    np.random.set_state(("MT19937", state["numpy"], int(position), int(has_gauss), cached))


@contextlib.contextmanager
def keeping_random_states(model):
    """The random layers of `model` (if it is one) draw afterwards as if not asked inside."""
    states = random_states(model) if isinstance(model, keras.layers.Layer) else []
    values = [keras.ops.convert_to_numpy(state) for state in states]
    try:
        yield
    finally:
        for state, value in zip(states, values, strict=True):
            state.assign(value)

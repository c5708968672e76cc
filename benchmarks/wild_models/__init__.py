"""Models of other packages, and programs like keras.io's examples, at sizes that take seconds.

A builder is a function without arguments, registered by `@wild(source)`. It returns a model whose
inputs say their sizes, or `(model, inputs)` where `inputs` is a batch: for open sizes, for integers
with a meaning, and for subclassed models, which are called on it once.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BATCH_SIZE = 3  # no width or height is 3: see `laws.random_batch`
EXAMPLES = "keras.io-like"
ROOMS = (
    "hub_vision",
    "hub_dense",
    "hub_tasks",
    "hub_text",
    "packages",
    "packages_more",
    "examples_images",
    "examples_patches",
    "examples_pixels",
    "examples_sequences",
    "examples_other",
)


class Wild(NamedTuple):
    """A model of the benchmark: its name, the package that brings it, and how it is built."""

    name: str
    source: str
    build: Callable

    @property
    def is_installed(self):
        return self.source == EXAMPLES or importlib.util.find_spec(self.source) is not None


MODELS = {}


def wild(source, name=None):
    """Decorator: register a builder of a model of the package `source`."""

    def register(build):
        key = name or build.__name__
        if key in MODELS:
            raise ValueError(f"Received two builders named {key!r}. Expected one each.")
        MODELS[key] = Wild(key, source, build)
        return build

    return register


def load():
    """{name: `Wild`}, all rooms imported; a room imports its package only in its builders."""
    for room in ROOMS:
        importlib.import_module(f"wild_models.{room}")
    return MODELS


# --- batches -----------------------------------------------------------------------------------


def floats(*shape):
    return np.random.default_rng(1).normal(size=(BATCH_SIZE, *shape)).astype("float32")


def uniform(*shape):
    return np.random.default_rng(1).uniform(size=(BATCH_SIZE, *shape)).astype("float32")


def tokens(*shape, below=20):
    return np.random.default_rng(1).integers(1, below, (BATCH_SIZE, *shape)).astype("int32")


def ones(*shape):
    return np.ones((BATCH_SIZE, *shape), "int32")


def zeros(*shape):
    return np.zeros((BATCH_SIZE, *shape), "int32")


def padded(length):
    """A padding mask whose last two places are padding in the first sample."""
    mask = ones(length)
    mask[0, -2:] = 0
    return mask


def text(length=8, **more):
    """The inputs of a language model of keras-hub."""
    return {"token_ids": tokens(length), "padding_mask": padded(length), **more}


def called(model, inputs):
    """A subclassed model built by one call, and the batch."""
    model(inputs, training=False)
    return model, inputs

"""A model on its way to files, and what several formats need of it."""

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from aip_tf import _keras
from aip_tf.channels import ChannelGraph
from aip_tf.deploy import signature

OTHER_FLOATS = ("bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Source:
    """One model at one size of its inputs.

    Attributes:
        model: the `keras.Model`; not changed.
        input_shapes: {name of the symbolic input: shape with batch, None where open}.
        folder: for what formats share.
        calibration: list of {name in the signature: one sample, batch 1}, for 8 bits.
    """

    model: keras.Model
    input_shapes: dict
    folder: Path
    calibration: tuple = ()

    @property
    def batch_size(self):
        """The batch size that the model fixes, or None."""
        return next(iter(self.input_shapes.values()))[0]

    def specs(self, batch_size=None, in_float32=False):
        """The signature of the inputs: `tf.TensorSpec`s in the structure of the inputs."""
        names = signature.input_names(self.model)

        def spec(tensor):
            name = signature.name_of(tensor)
            first, *others = self.input_shapes[name]
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            dtype = "float32" if in_float32 and dtype in OTHER_FLOATS else dtype
            return tf.TensorSpec((first or batch_size, *others), dtype, names[name])

        return keras.tree.map_structure(spec, signature.input_structure(self.model))

    @functools.cached_property
    def float32_model(self):
        """The model; one that computes in another precision as a copy that does not."""
        if low_precision(self.model) is None:
            return self.model
        given = [self.input_shapes[signature.name_of(x)] for x in self.model.inputs]
        shapes = [tuple(s or 1 for s in shape[1:]) for shape in given]
        return (
            ChannelGraph(self.model, shapes if len(shapes) > 1 else shapes[0])
            .recast("float32")
            .model
        )

    def saved_model(self, batch_size=None, in_float32=False, without_loops=False):
        """Path of the SavedModel, written when it is first asked for.

        Args:
            batch_size: for a model that leaves it open; None: it stays open.
            in_float32: whether it must compute in float32.
            without_loops: whether recurrent layers are written step by step.
        """
        in_float32 = in_float32 and low_precision(self.model) is not None
        model = self.float32_model if in_float32 else self.model
        looping = [x for x in _loops(model) if without_loops]
        name = "_".join(map(str, (batch_size, "float32" if in_float32 else "own", len(looping))))
        path = self.folder / name
        if not path.exists():
            archive = keras.export.ExportArchive()
            archive.track(model)
            specs = [self.specs(batch_size, in_float32)]
            with _unrolled(looping):
                archive.add_endpoint("serve", serving(model), input_signature=specs)
                archive.write_out(str(path), verbose=False)
        return path

    def answer(self, feeds):
        """{name in the signature: the model's output} for one batch of its size, as float64."""
        inputs = signature.in_structure(self.model, feeds)
        outputs = signature.outputs_by_name(self.model(inputs, training=False))
        return {name: signature.as_float64(value) for name, value in outputs.items()}


def _loops(model):
    return [
        layer
        for layer in _keras.all_layers(model)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]


@contextlib.contextmanager
def _unrolled(layers):
    """Recurrent layers, traced without a loop inside."""
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def serving(model):
    """The function that is written: inputs to outputs by name."""
    return lambda inputs: signature.outputs_by_name(model(inputs, training=False))


def low_precision(model):
    """The dtype other than float32 that the model computes in, if any."""
    dtypes = {getattr(layer, "compute_dtype", None) for layer in _keras.all_layers(model)}
    return next((dtype for dtype in OTHER_FLOATS if dtype in dtypes), None)


def answer_in_parts(call, feeds, batch_size):
    """`call(feeds)` for a program that takes `batch_size` samples at once.

    The last part is filled up with its first samples, and their answers are dropped.

    Args:
        call: {name: array} to {name: array}.
        feeds: {name: array} of any number of samples.
        batch_size: None: any number.
    """
    size = len(next(iter(feeds.values())))
    if batch_size in (None, size):
        return call(feeds)
    parts = []
    for start in range(0, size, batch_size):
        part = {name: x[start : start + batch_size] for name, x in feeds.items()}
        missing = batch_size - len(next(iter(part.values())))
        parts.append(call({n: np.resize(x, (batch_size, *x.shape[1:])) for n, x in part.items()}))
        if missing:
            is_batch = {n: len(x) == batch_size for n, x in parts[-1].items() if x.ndim}
            parts[-1] = {n: x[:-missing] if is_batch.get(n) else x for n, x in parts[-1].items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def quiet():
    """Silences TensorFlow's converter, whose C++ half writes to the file descriptors."""
    logger, root = tf.get_logger(), logging.root
    level, handlers = logger.level, list(root.handlers)
    with contextlib.ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        nothing = stack.enter_context(open(os.devnull, "w"))
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(nothing.fileno(), descriptor)
        stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(contextlib.redirect_stderr(nothing))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.callback(logger.setLevel, level)
        stack.callback(setattr, root, "handlers", handlers)  # new ones write to what is closed
        logger.setLevel("ERROR")
        yield

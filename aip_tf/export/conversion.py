"""From a Keras model to SavedModel and LiteRT files."""

import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from aip_tf.export import signature

OTHER_FLOATS = ("bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes formats of one model to a folder; the LiteRT formats share a float32 SavedModel."""

    model: keras.Model
    names: dict[str, str]
    feeds: dict[str, np.ndarray]
    folder: Path

    def write(self, name: str) -> Path:
        """Returns the path of the new artefact; raises ValueError if it cannot be converted."""
        try:
            with quiet():
                return self._saved_model() if name == "saved_model" else self._tflite(name)
        except Exception as error:  # the converter raises many types
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            raise ValueError(
                f"Received a model that cannot be converted to {name!r} ({reason}). Expected "
                f"operations that this runtime knows. Leave {name!r} out of formats or replace "
                "the operation."
            ) from error

    def _saved_model(self, in_float32=False):
        as_it_is = not in_float32 or low_precision(self.model) is None
        path = self.folder / ("saved_model" if as_it_is else "float32")
        if not path.exists():
            model = self.model if as_it_is else _in_float32(self.model)
            archive = keras.export.ExportArchive()
            archive.track(model)
            archive.add_endpoint("serve", _serving(model), input_signature=self._specs(as_it_is))
            archive.write_out(str(path), verbose=False)
        return path

    def _specs(self, as_it_is):
        def spec(tensor):
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            dtype = "float32" if dtype in OTHER_FLOATS and not as_it_is else dtype
            return tf.TensorSpec((None, *tensor.shape[1:]), dtype, self.names[tensor.name])

        return [keras.tree.map_structure(spec, signature.input_structure(self.model))]

    def _tflite(self, name):
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(self._saved_model(in_float32=True))
        )
        if name != "tflite":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "tflite_float16":
            converter.target_spec.supported_types = [tf.float16]
        if name == "tflite_int8":
            converter.representative_dataset = self._samples
        path = self.folder / f"{name.replace('tflite', 'model')}.tflite"
        path.write_bytes(converter.convert())
        return path

    def _samples(self):
        for index in range(len(next(iter(self.feeds.values())))):
            yield {name: batch[index : index + 1] for name, batch in self.feeds.items()}


def _serving(model):
    return lambda inputs: signature.outputs_by_name(model(inputs, training=False))


def _in_float32(model):
    """Returns a copy that computes in float32; LiteRT has no kernels for much else."""

    def copy(layer):
        return type(layer).from_config(_without_policies(layer.get_config()))

    # Names of inputs may change in the copy: the exported signature takes the original's.
    recursive = not isinstance(model, keras.Sequential)
    copied = keras.models.clone_model(model, clone_function=copy, recursive=recursive)
    copied.set_weights(model.get_weights())
    return copied


def _without_policies(config):
    """Returns a layer's configuration with every dtype (policy) set to float32."""
    if isinstance(config, list | tuple):
        return type(config)(map(_without_policies, config))
    if not isinstance(config, Mapping):
        return config
    return {
        key: "float32"
        if key in ("dtype", "name") and str(value).removeprefix("mixed_") in OTHER_FLOATS
        else _without_policies(value)
        for key, value in config.items()
    }


def low_precision(model: keras.Model) -> str | None:
    """Returns the dtype other than float32 that the model computes in, if any."""
    dtypes = {operation.compute_dtype for operation in _layers(model)}
    return next((dtype for dtype in OTHER_FLOATS if dtype in dtypes), None)


def _layers(model):
    for layer in model.layers:
        yield layer
        yield from _layers(layer) if isinstance(layer, keras.Model) else ()


@contextlib.contextmanager
def quiet():
    """Silences TensorFlow's converter, whose C++ half writes to the file descriptors."""
    logger = tf.get_logger()
    level = logger.level
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
        logger.setLevel("ERROR")
        yield

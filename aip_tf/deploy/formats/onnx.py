"""ONNX, by Keras' own exporter."""

import contextlib
import dataclasses
import importlib.util

import keras
import tensorflow as tf

from aip_tf import _keras
from aip_tf.deploy import signature
from aip_tf.deploy.formats.base import Format, Program
from aip_tf.deploy.source import quiet

_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")  # the extra `onnx`: to write, and to prove


@dataclasses.dataclass(frozen=True)
class Onnx(Format):
    """`model.onnx`, float32."""

    name = "onnx"
    file_name = "model.onnx"
    runtime = "ONNX Runtime"

    def check(self):
        """See `Format.check`."""
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"Received the format 'onnx', for which {', '.join(missing)} is missing. Expected "
                "the extra to be installed: pip install 'aip_tf[onnx]', or from a checkout "
                "pip install '.[onnx]'."
            )

    def write(self, source, path):
        """See `Format.write`."""
        model = source.float32_model
        outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
        # Keras' exporter names outputs by the keys of a dictionary only.
        named = keras.Model(
            signature.input_structure(model), signature.outputs_by_name(outputs), name=model.name
        )
        specs = [source.specs(in_float32=True)]
        with quiet(), _arrays_in_place_of_tensors(model):
            named.export(path, "onnx", verbose=False, input_signature=specs)

    def open(self, path):
        """See `Format.open`."""
        session = _session(path)
        inputs = {x.name: (_dtype(x.type), _shape(x.shape)) for x in session.get_inputs()}
        outputs = {x.name: (_dtype(x.type), _shape(x.shape)) for x in session.get_outputs()}

        def call(feeds):
            return dict(zip(outputs, session.run(None, feeds), strict=True))

        return Program(call, inputs, outputs, next(iter(inputs.values()))[1][0])

    def timed(self, path, feeds):
        """See `Format.timed`."""
        session = _session(path)
        return lambda: session.run(None, feeds)


@contextlib.contextmanager
def _arrays_in_place_of_tensors(model):
    """Constants that layers hold, such as a given mean: tf2onnx takes tensors for inputs."""
    held = [
        (layer, name, value)
        for layer in _keras.all_layers(model)
        for name, value in vars(layer).items()
        if tf.is_tensor(value) and not isinstance(value, tf.Variable)
    ]
    try:
        for layer, name, value in held:
            setattr(layer, name, value.numpy())
        yield
    finally:
        for layer, name, value in held:
            setattr(layer, name, value)


def _session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _dtype(text):
    """ "tensor(float)" as "float32"."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _shape(sizes):
    return tuple(size if isinstance(size, int) else None for size in sizes)

"""LiteRT (TFLite): float32, and three ways to make it smaller."""

import dataclasses
import os
import re

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from aip_tf.deploy.formats.base import Format, Program
from aip_tf.deploy.source import quiet

_CONTROL_FLOW = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}
_LACKS = re.compile(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)|'(tf\.\w+)' op is neither")


@dataclasses.dataclass(frozen=True)
class TFLite(Format):
    """`model.tflite`: float32, also of a model in mixed precision.

    The batch size stays open where LiteRT can do that. Loops (LSTM, GRU) need it fixed: such a
    model takes one sample at a time, if its own batch size is open.
    """

    name = "tflite"
    file_name = "model.tflite"
    runtime = "LiteRT"

    def write(self, source, path):
        """See `Format.write`."""
        try:
            path.write_bytes(self._converted(source, None))
        except Exception:
            if source.batch_size is not None:
                raise
            path.write_bytes(self._converted(source, 1))

    def tune(self, converter, source):
        """Set what this format wants of a `TFLiteConverter`."""

    def _converted(self, source, batch_size):
        path = source.saved_model(batch_size, True, without_loops=self.needs_samples)
        if self.needs_samples:
            _check_no_loop(path)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
        self.tune(converter, source)
        try:
            return converter.convert()
        except Exception as error:
            lacking = sorted({x for pair in _LACKS.findall(str(error)) for x in pair if x})
            if not lacking:
                raise
            names = ", ".join(lacking)
            sizes = [tuple(shape[1:]) for shape in source.input_shapes.values()]
            hint = f" at the open sizes {sizes}; input_shapes=[those to deliver] may help"
            hint = hint if any(None in size for size in sizes) else ""
            raise ValueError(f"LiteRT has no operation for {names}{hint}") from error

    def open(self, path):
        """See `Format.open`."""
        from ai_edge_litert.interpreter import Interpreter

        with quiet():
            interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count() or 1)
            runner = interpreter.get_signature_runner("serving_default")
        takes, gives = runner.get_input_details(), runner.get_output_details()

        def call(feeds):
            with quiet():
                answers = runner(**{name: _quantized(feeds[name], takes[name]) for name in takes})
            return {name: _dequantized(x, gives[name]) for name, x in answers.items()}

        inputs, outputs = _pairs(takes), _pairs(gives)
        first = next(iter(inputs.values()), (None, (None,)))[1][0]
        return Program(call, inputs, outputs, first)


@dataclasses.dataclass(frozen=True)
class TFLiteFloat16(TFLite):
    """`model_float16.tflite`: weights in half the space; computes in float32 on a CPU."""

    tolerance: float = 1e-2

    name = "tflite_float16"
    file_name = "model_float16.tflite"

    def tune(self, converter, source):
        """See `TFLite.tune`."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]


@dataclasses.dataclass(frozen=True)
class TFLiteDynamic(TFLite):
    """`model_dynamic.tflite`: weights of 8 bits, activations quantized as they come."""

    tolerance: float = 0.1

    name = "tflite_dynamic"
    file_name = "model_dynamic.tflite"

    def tune(self, converter, source):
        """See `TFLite.tune`."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]


@dataclasses.dataclass(frozen=True)
class TFLiteInt8(TFLite):
    """`model_int8.tflite`: weights and activations of 8 bits, all computation in integers.

    Recurrent layers are written step by step: ranges cannot be measured inside of a loop. Of a long
    sequence that makes a large file.

    Attributes:
        integer_io: whether inputs and outputs are int8 too (for microcontrollers; scale and zero
            point are in the file); else they are float32.
        num_samples: how many training samples the ranges are measured on, at least 1.
    """

    tolerance: float = 0.2
    max_loss: float | None = 0.01
    integer_io: bool = False
    num_samples: int = 100

    name = "tflite_int8"
    file_name = "model_int8.tflite"
    needs_samples = True

    def __post_init__(self):
        super().__post_init__()
        number = self.num_samples
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"Received num_samples={number!r} for the format {self.name!r}. Expected an "
                "integer of at least 1. Correct it."
            )

    def tune(self, converter, source):
        """See `TFLite.tune`."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: iter(source.calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if self.integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8


def _check_no_loop(saved_model):
    """The calibration of TensorFlow 2.21 ends the process at a loop or branch: refuse them."""
    proto = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    functions = proto.meta_graphs[0].graph_def.library.function
    found = {node.op for function in functions for node in function.node_def} & _CONTROL_FLOW
    if found:
        raise ValueError(
            f"it has {', '.join(sorted(found))}, in which no ranges can be measured; recurrent "
            "layers with a fixed number of steps are unrolled, other loops cannot be"
        )


def _quantized(values, detail):
    """Floats as the numbers that a tensor of 8 bits holds; anything else as it is."""
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    if dtype.kind not in "iu" or values.dtype.kind != "f" or not scale:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantized(values, detail):
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float64) - zero_point) * scale if scale else values


def _pairs(details):
    return {
        name: (np.dtype(detail["dtype"]).name, tuple(_size(s) for s in detail["shape_signature"]))
        for name, detail in details.items()
    }


def _size(size):
    return None if size < 0 else int(size)

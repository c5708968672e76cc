"""The card beside delivered files: what they are, how good, how fast, and how to load them."""

import ast
import math
import platform
import time
from pathlib import Path

import numpy as np

from aip_tf import files
from aip_tf.cost import count_macs, count_parameters
from aip_tf.report.artefacts import milliseconds, times_faster
from aip_tf.text import markdown_table

NAME = "README.md"
_MARK = "<!-- written by aip_tf -->"
_PYTHON = {
    "LiteRT": """\
from ai_edge_litert.interpreter import Interpreter  # pip install ai-edge-litert

runner = Interpreter(model_path="{file}").get_signature_runner()
outputs = runner({arguments})
""",
    "ONNX Runtime": """\
import onnxruntime  # pip install onnxruntime

session = onnxruntime.InferenceSession("{file}")
outputs = session.run(None, {{{feeds}}})
""",
    "TensorFlow": """\
import tensorflow as tf

loaded = tf.saved_model.load("{file}")
outputs = loaded.signatures["serving_default"]({arguments})
""",
    "Keras": """\
import keras

model = keras.saving.load_model("{file}", compile=False)
outputs = model.predict({values})
""",
}
_KOTLIN = """\
// implementation("com.google.ai.edge.litert:litert:1.4.0")
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

fun buffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

fun main() {{
    val interpreter = Interpreter(File("{file}"))
    val inputs = mapOf<String, Any>({kotlin})  // fill them, then rewind()
    val outputs = mapOf<String, Any>({kotlin_outputs})
    interpreter.runSignature(inputs, outputs, "serving_default")
}}
"""
_CPP = """\
#include <memory>

#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"
#include "tensorflow/lite/signature_runner.h"

int main() {{
  auto model = tflite::FlatBufferModel::BuildFromFile("{file}");
  tflite::ops::builtin::BuiltinOpResolver resolver;
  std::unique_ptr<tflite::Interpreter> interpreter;
  tflite::InterpreterBuilder(*model, resolver)(&interpreter);
  tflite::SignatureRunner* runner = interpreter->GetSignatureRunner("serving_default");
  runner->AllocateTensors();
  char* input = runner->input_tensor("{first}")->data.raw;  // fill {first_bytes} bytes
  runner->Invoke();
  const char* output = runner->output_tensor("{first_output}")->data.raw;
  return input != nullptr && output != nullptr ? 0 : 1;
}}
"""


def check_free(directory, names):
    """Whether files of some names may be written: nothing has them, or an export left them here.

    Raises:
        ValueError: for files of the user's.
    """
    taken = [name for name in (NAME, *names) if (directory / name).exists()]
    if taken and not _is_ours(directory / NAME):
        raise ValueError(
            f"Received the folder '{directory}', in which there is {', '.join(taken)}, and no card "
            "that says that aip_tf wrote it. Expected a folder of its own for the files: name "
            "another, or remove what may go."
        )


def claim(directory):
    """Say that what comes now is ours, before it comes: whoever dies in between may go on."""
    if not (directory / NAME).exists():
        files.write_text(directory / NAME, f"{_MARK}\n")


def _is_ours(path):
    try:
        return _MARK in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def write(directory, model, teacher, artefacts, facts=()):
    """Write the card `README.md` of delivered files.

    Args:
        directory: their folder.
        model, teacher: the `keras.Model`s they came from; `teacher` may be None.
        artefacts: their `Artefact`s.
        facts: pairs (name, text) of what else is known: data, cuts.
    """
    parts = [
        f"# {model.name}",
        _describe(model, teacher),
        _facts(facts),
        "## Files",
        _table(artefacts),
        _machine(artefacts),
        *(f"**{x.format} failed**: {' '.join(x.faults)}" for x in artefacts if not x.passed),
        "## Signatures",
        *(_signature(x) for x in artefacts if x.signature),
        "## How to load them",
        *_snippets([x for x in artefacts if x.passed and x.signature]),
        "## Sums (sha256)",
        "\n".join(f"    {x.sha256}  {Path(x.path).name}" for x in artefacts),
        "The sum of a folder is that of the lines `sum  path` of its files, sorted by path.",
        _MARK,
    ]
    files.write_text(Path(directory) / NAME, "\n\n".join(filter(None, parts)) + "\n")


def _describe(model, teacher):
    text = f"A Keras model with {count_parameters(model):,} parameters{_macs(model)}"
    if teacher is None:
        return f"{text}, made into files by aip_tf."
    return (
        f"{text}, cut by aip_tf (structured pruning) out of {teacher.name} with "
        f"{count_parameters(teacher):,} parameters{_macs(teacher)}, and made into files. The files "
        "of that teacher are in the folder `teacher`."
    )


def _macs(model):
    try:
        return f" and {count_macs(model):,} multiply-accumulates for one sample"
    except ValueError:  # of open size
        return ""


def _facts(facts):
    return "\n".join(f"* {name}: {text}" for name, text in facts)


def _table(artefacts):
    metric = next((x.main_metric for x in artefacts if x.main_metric), "")
    header = ("file", "bytes", "the teacher's", metric or "metric", "the teacher's")
    header = (*header, "same answer", "difference", "milliseconds", "faster")
    rows = [
        (
            f"`{Path(x.path).name}`",
            f"{x.num_bytes:,}",
            f"{x.teacher['num_bytes']:,}" if x.teacher else "",
            _number(x.quality),
            _number(x.teacher.get("metrics", {}).get(metric)),
            _number(x.agreement),
            f"{x.max_relative_difference:.1e}",
            milliseconds(x.latency),
            times_faster(x.speed_up),
        )
        for x in artefacts
    ]
    return markdown_table(header, rows)


def _number(value):
    return "" if value is None else f"{value:.4f}"


def _machine(artefacts):
    first = artefacts[0]
    text = (
        f"Each file was run by its own runtime on {first.num_samples:,} samples. *Same answer*: "
        "share of the decisions that are the Keras model's; *difference*: the largest one from "
        "its outputs, relative to the largest output."
    )
    if any(x.latency for x in artefacts):
        threads = sorted({x.num_threads for x in artefacts if x.latency})
        text += (
            f" *Milliseconds*: median and quartiles, batch {first.batch_size}, "
            f"{' or '.join(map(str, threads))} thread(s), in turns with the teacher's file, on "
            f"{processor()}, {time.strftime('%Y-%m-%d')}."
        )
    return text


def processor():
    """What the machine's processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _signature(artefact):
    sides = [
        f"{side} " + ", ".join(f"`{name}` {text}" for name, text in tensors.items())
        for side, tensors in artefact.signature.items()
    ]
    return f"* {artefact.format}: {'; '.join(sides)}"


def _snippets(artefacts):
    """Python for each runtime, Kotlin and C++ for LiteRT."""
    by_runtime = {}
    for artefact in artefacts:
        by_runtime.setdefault(artefact.runtime, artefact)
    for runtime, artefact in by_runtime.items():
        words = _words(artefact)
        arrays = "import numpy as np\n"
        yield f"{runtime}, in Python:\n\n```python\n{arrays}{_PYTHON[runtime].format(**words)}```"
        if runtime == "LiteRT":
            yield f"In Kotlin, on Android:\n\n```kotlin\n{_KOTLIN.format(**words)}```"
            yield f"In C++:\n\n```cpp\n{_CPP.format(**words)}```"


def _words(artefact):
    """What stands in a snippet's place holders."""
    inputs, outputs = artefact.signature["inputs"], artefact.signature["outputs"]
    values = {name: _zeros(text) for name, text in inputs.items()}
    one = next(iter(values.values())) if len(values) == 1 else None
    pairs = ", ".join(f'"{name}": {value}' for name, value in values.items())
    return {
        "file": Path(artefact.path).name,
        "arguments": ", ".join(f"{name}={value}" for name, value in values.items()),
        "feeds": pairs,
        "values": one or f"{{{pairs}}}",
        "kotlin": _buffers(inputs),
        "kotlin_outputs": _buffers(outputs),
        "first": next(iter(inputs)),
        "first_bytes": _num_bytes(next(iter(inputs.values()))),
        "first_output": next(iter(outputs)),
    }


def _buffers(tensors):
    return ", ".join(f'"{name}" to buffer({_num_bytes(x)})' for name, x in tensors.items())


def _num_bytes(text):
    """Of one sample: "float32 (None, 8, 8, 1)" takes 256."""
    dtype, _, shape = text.partition(" ")
    sizes = ast.literal_eval(shape.replace("None", "1"))
    return math.prod(sizes) * np.dtype(dtype).itemsize


def _zeros(text):
    dtype, _, shape = text.partition(" ")
    return f'np.zeros({shape.replace("None", "1")}, "{dtype}")'

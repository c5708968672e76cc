"""The snippets on the card beside delivered files: whole programs that a compiler accepts."""

import re
import shutil
import subprocess

import pytest

from aip_tf.deploy import card
from aip_tf.report import Artefact

# What the snippet uses of LiteRT, with the types of its headers.
MODEL = """
#pragma once
#include <memory>
namespace tflite { struct FlatBufferModel {
static std::unique_ptr<FlatBufferModel> BuildFromFile(const char*); }; }
"""
RUNNER = """
#pragma once
union TfLitePtrUnion { char* raw; float* f; };
struct TfLiteTensor { TfLitePtrUnion data; };
namespace tflite { struct SignatureRunner {
[[nodiscard]] TfLiteTensor* input_tensor(const char*);
[[nodiscard]] const TfLiteTensor* output_tensor(const char*) const;
int AllocateTensors(); int Invoke(); }; }
"""
INTERPRETER = """
#pragma once
namespace tflite { struct SignatureRunner;
struct Interpreter { SignatureRunner* GetSignatureRunner(const char*); }; }
"""
REGISTER = """
#pragma once
#include <memory>
namespace tflite { struct Interpreter; struct FlatBufferModel;
namespace ops { namespace builtin { struct BuiltinOpResolver {}; } }
struct InterpreterBuilder { InterpreterBuilder(const FlatBufferModel&,
const ops::builtin::BuiltinOpResolver&); int operator()(std::unique_ptr<Interpreter>*); }; }
"""
HEADERS = {
    "model.h": MODEL,
    "signature_runner.h": RUNNER,
    "interpreter.h": INTERPRETER,
    "kernels/register.h": REGISTER,
}


@pytest.fixture
def snippets():
    """{language: program} for a file with two inputs."""
    signature = {
        "inputs": {"image": "float32 (None, 8, 8, 1)", "size": "int8 (1, 2)"},
        "outputs": {"output_0": "float32 (None, 10)"},
    }
    artefact = Artefact(format="tflite", path="m.tflite", runtime="LiteRT", signature=signature)
    text = "\n".join(card._snippets([artefact]))
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL))


def test_a_compiler_accepts_the_program_in_cpp(snippets, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    for name, text in HEADERS.items():
        path = tmp_path / "tensorflow" / "lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "main.cc").write_text(snippets["cpp"])
    command = [compiler, "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-I.", "main.cc"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_buffers_have_the_size_of_one_sample(snippets):
    assert '"image" to buffer(256), "size" to buffer(2)' in snippets["kotlin"]
    assert '"output_0" to buffer(40)' in snippets["kotlin"]
    assert "256 bytes" in snippets["cpp"]
    compile(snippets["python"], "card", "exec")

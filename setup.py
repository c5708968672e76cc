"""Package metadata. Lint and test settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "aip_tf/__init__.py").read_text())[1]

ONNX = ["onnx>=1.23", "onnxruntime>=1.32", "tf2onnx>=1.17"]

setup(
    name="aip_tf",
    version=VERSION,
    description="Make any Keras CNN smaller and faster: adversarial iterative pruning for Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The gin files live beside the package, where people look for them, and ship inside it.
    packages=[*find_packages(include=["aip_tf", "aip_tf.*"]), "aip_tf.gin"],
    package_dir={"aip_tf.gin": "gin"},
    package_data={"aip_tf.gin": ["*.gin", "*/*.gin"]},
    entry_points={"console_scripts": ["aip_run = aip_tf.cli:program"]},
    install_requires=[
        "absl-py>=1.4",
        "ai-edge-litert>=2.1",
        "gin-config>=0.5",
        "importlib_resources>=6",
        "keras>=3.12",
        "matplotlib>=3.10",
        "scikit-learn>=1.4.2",
        "tensorboard>=2.20",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-model-optimization>=0.8.1",
    ],
    extras_require={
        "onnx": ONNX,
        # ruff formats differently from one minor release to the next, hence the narrow range.
        "test": [
            *ONNX,
            "hypothesis>=6.100",
            "keras-hub>=0.32",
            "pycocotools>=2.0.11",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff~=0.17.6",
        ],
    },
)

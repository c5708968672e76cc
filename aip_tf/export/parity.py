"""Runs exported files and measures how far they are from the Keras model."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from aip_tf.export.conversion import quiet
from aip_tf.export.signature import as_float64


def run(name: str, path: Path, feeds: dict) -> dict[str, np.ndarray]:
    """Returns {name in the signature: output} of an artefact, as float64."""
    outputs = _run_saved_model(path, feeds) if name == "saved_model" else _run_litert(path, feeds)
    return {name: as_float64(value) for name, value in outputs.items()}


def _run_saved_model(path, feeds):
    loaded = tf.saved_model.load(str(path))  # must outlive its signature
    return loaded.signatures["serving_default"](
        **{name: tf.convert_to_tensor(batch) for name, batch in feeds.items()}
    )


def _run_litert(path, feeds):
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
        details = runner.get_input_details()
        return runner(**{name: feeds[name].astype(details[name]["dtype"]) for name in details})


def differences(expected: dict, actual: dict) -> tuple[float, float]:
    """Returns (largest absolute, largest relative) difference over all outputs."""
    pairs = [_difference(value, actual.get(name)) for name, value in expected.items()]
    return tuple(float(np.max(column)) for column in zip(*pairs, strict=True))  # NaN wins


def _difference(expected, actual):
    if actual is None or actual.shape != expected.shape:  # else NumPy might broadcast
        return np.inf, np.inf
    absolute = np.max(np.abs(actual - expected), initial=0.0)
    return absolute, absolute / max(np.max(np.abs(expected), initial=0.0), 1e-30)

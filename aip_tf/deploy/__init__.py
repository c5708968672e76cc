"""Files for other runtimes, and the proof that they compute what the Keras model computes."""

from aip_tf.deploy.comparing import FileComparison, compare_files
from aip_tf.deploy.delivery import ExportError, ExportReport, check_formats, export_model
from aip_tf.deploy.formats import (
    FORMATS,
    Format,
    KerasFile,
    Onnx,
    SavedModel,
    TFLite,
    TFLiteDynamic,
    TFLiteFloat16,
    TFLiteInt8,
)
from aip_tf.report.artefacts import Artefact

__all__ = [
    "FORMATS",
    "Artefact",
    "ExportError",
    "ExportReport",
    "FileComparison",
    "Format",
    "KerasFile",
    "Onnx",
    "SavedModel",
    "TFLite",
    "TFLiteDynamic",
    "TFLiteFloat16",
    "TFLiteInt8",
    "check_formats",
    "compare_files",
    "export_model",
]

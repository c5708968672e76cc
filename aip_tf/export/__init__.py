"""Files for other runtimes, and the proof that they compute what the Keras model computes."""

from aip_tf.export.exporter import Artefact, ExportReport, check_formats, export_model

__all__ = ["Artefact", "ExportReport", "check_formats", "export_model"]

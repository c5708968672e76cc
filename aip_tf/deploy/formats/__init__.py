"""The formats, one class for each, in the order of the documentation."""

from collections.abc import Iterable

from aip_tf.deploy.formats.base import Format, Program
from aip_tf.deploy.formats.keras_file import KerasFile
from aip_tf.deploy.formats.litert import TFLite, TFLiteDynamic, TFLiteFloat16, TFLiteInt8
from aip_tf.deploy.formats.onnx import Onnx
from aip_tf.deploy.formats.saved_model import SavedModel

FORMATS = {
    kind.name: kind
    for kind in (KerasFile, SavedModel, TFLite, TFLiteFloat16, TFLiteDynamic, TFLiteInt8, Onnx)
}

__all__ = ["FORMATS", "Format", "Program", "resolve", *(kind.__name__ for kind in FORMATS.values())]


def resolve(formats):
    """Formats by name, or as objects, as a tuple of `Format`s, each once, that can be written here.

    Raises:
        ValueError: for an unknown name, none at all, or a package that is missing.
    """
    given = list(formats or ()) if isinstance(formats, Iterable) else [formats]
    given = [formats] if isinstance(formats, str) else given
    unknown = [x for x in given if not isinstance(x, Format) and x not in list(FORMATS)]
    if unknown or not given:
        raise ValueError(
            f"Received formats={formats!r}. Expected one or more of {list(FORMATS)}, or objects "
            "such as deploy.TFLiteInt8(integer_io=True). Correct the names."
        )
    found = {x.name: x for x in (FORMATS[x]() if isinstance(x, str) else x for x in given)}
    for each in found.values():
        each.check()
    return tuple(found.values())

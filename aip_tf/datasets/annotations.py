"""VOC's XML annotations, read with distrust: what cannot be used is left out, and told.

A box is measured on the image itself, never on the size that its XML file claims: sizes of 0 and
sizes of another copy of the image are the commonest faults of such files.
"""

import os
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aip_tf.datasets.data import name_some

_EDGES = ("ymin", "xmin", "ymax", "xmax")
_HEAD = 2**16  # bytes; the header of nearly every JPEG file
_END_OF_JPEG = b"\xff\xd9"


class Example(NamedTuple):
    """One annotated image: `boxes` float32 (n, 4) in `[0, 1]`, `labels` int32, `difficult` bool."""

    path: str
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


class Fault(NamedTuple):
    """What was left out: the annotation file, why, and whether the whole image goes with it."""

    path: str
    reason: str
    is_image: bool


class _UnusableError(Exception):
    """An image or an object cannot be used; says why."""


def read_examples(folder, ids, class_names):
    """Read the annotated images of a `VOC<year>` folder.

    An image without objects is an example; one whose annotation or image file cannot be read is
    not. An object is left out if its class is unknown, or if its box is missing, has swapped
    corners or no area inside the image; a box that reaches beyond the image is clipped.

    Args:
        folder: `Path` that holds `Annotations/` and `JPEGImages/`.
        ids: names of files without suffix.
        class_names: the known classes; a label is an index into them.

    Returns:
        A list of `Example`s and a list of `Fault`s.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    examples, faults = [], []
    for name in ids:
        annotation = folder / "Annotations" / f"{name}.xml"
        image = folder / "JPEGImages" / f"{name}.jpg"
        try:
            objects, reasons = _read_objects(annotation, _image_size(image), labels)
        except _UnusableError as error:
            faults.append(Fault(str(annotation), str(error), is_image=True))
        else:
            examples.append(Example(str(image), *objects))
            faults += [Fault(str(annotation), reason, is_image=False) for reason in reasons]
    return examples, faults


def describe_faults(faults):
    """All faults in one line: how many of each kind, and the first few by name."""
    images = sum(fault.is_image for fault in faults)
    named = name_some([f"'{fault.path}' ({fault.reason})" for fault in faults])
    return f"{images} images and {len(faults) - images} objects are left out: {named}"


def _read_objects(path, size, labels):
    """The usable objects of an annotation file as three arrays, and why others are not."""
    try:
        items = ElementTree.parse(path).getroot().findall("object")
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise _UnusableError(f"not readable as XML: {error}") from error
    objects, reasons = [], []
    for item in items:
        try:
            objects.append(_read_object(item, size, labels))
        except _UnusableError as error:
            reasons.append(str(error))
    boxes, numbers, difficult = zip(*objects, strict=True) if objects else ((), (), ())
    arrays = (np.float32(boxes).reshape(-1, 4), np.int32(numbers), np.array(difficult, bool))
    return arrays, reasons


def _read_object(item, size, labels):
    """Box, label and difficult flag of one `<object>`; its `<part>`s have boxes of their own."""
    name = item.findtext("name", "").strip()
    if name not in labels:
        raise _UnusableError(f"an object of the unknown class {name!r}")
    corners = [item.findtext(f"bndbox/{edge}", "") for edge in _EDGES]
    try:
        box = np.clip(np.float64(corners) / [*size, *size], 0.0, 1.0)
    except (TypeError, ValueError) as error:
        raise _UnusableError(f"a {name} without a box of four numbers") from error
    if not (box[0] < box[2] and box[1] < box[3]):  # so is a box with a NaN
        edges = ", ".join(f"{edge} {text}" for edge, text in zip(_EDGES, corners, strict=True))
        height, width = size
        raise _UnusableError(
            f"a {name} at {edges}: no area inside the image of {width}x{height} pixels"
        )
    return box, labels[name], item.findtext("difficult", "0").strip() == "1"


def _image_size(path):
    """(height, width) of an image, from its header alone where the file looks complete."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(-min(2, len(head)), os.SEEK_END)
            is_complete = file.read() == _END_OF_JPEG
    except OSError as error:
        raise _UnusableError(f"no image '{path}': {error.strerror}") from error
    if is_complete:
        try:
            height, width, _ = tf.image.extract_jpeg_shape(head).numpy()
            return height, width
        except tf.errors.OpError:  # a long header, or no JPEG: decoding it all decides
            pass
    try:
        image = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        raise _UnusableError(f"the image '{path}' cannot be decoded") from error
    return image.shape[0], image.shape[1]

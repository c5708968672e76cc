"""A few photographs and what a detector finds on them, as plain values for the report."""

import base64

import numpy as np
import tensorflow as tf

_SURE = 0.3  # the lowest probability of a box that is shown


def illustrate(images, objects, found):
    """Photographs, the objects on them and those a model finds.

    Args:
        images: float32 (batch, height, width, 3) in [0, 1].
        objects: `{"boxes", "labels"}` as `ground_truth` makes them, of these images or more.
        found: the model's `Detections`.

    Returns:
        `{"photographs": [JPEG as a data URI], "truth": boxes, "found": boxes, "caption": text}`.
        Boxes are a list for each photograph of `[ymin, xmin, ymax, xmax, label, score]`: fractions
        of the image, the class from 0, a probability (1 for the truth).
    """
    boxes, labels = (objects[key][: len(images)].numpy() for key in ("boxes", "labels"))
    return {
        "photographs": [_data_uri(image) for image in images],
        "caption": f"Validation images, and what is found there above a probability of {_SURE}.",
        "truth": _rows(boxes, labels, np.ones(labels.shape), labels >= 0),
        "found": _rows(*map(np.asarray, (found.boxes, found.labels, found.scores))),
    }


def _rows(boxes, labels, scores, is_shown=None):
    """Boxes, class and score of each object to show, for each image."""
    is_shown = scores >= _SURE if is_shown is None else is_shown
    columns = np.concatenate([boxes, labels[..., None], scores[..., None]], axis=-1)
    return [
        [
            [*map(float, row[:4].round(4)), int(row[4]), round(float(row[5]), 3)]
            for row in rows[here]
        ]
        for rows, here in zip(columns, is_shown, strict=True)
    ]


def _data_uri(image):
    pixels = tf.image.convert_image_dtype(image, tf.uint8, saturate=True)
    encoded = base64.b64encode(tf.io.encode_jpeg(pixels, quality=90).numpy()).decode()
    return f"data:image/jpeg;base64,{encoded}"

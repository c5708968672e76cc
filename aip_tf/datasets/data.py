"""What every dataset function returns."""

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Data:
    """A dataset ready for `fit`: two `tf.data` pipelines and what a model must know of them.

    Attributes:
        train: batches `(images, labels)`, shuffled and augmented anew in every epoch, of finite
            cardinality; the last incomplete batch is dropped, so that every batch has one shape.
        test: batches `(images, labels)`, in fixed order, not augmented, nothing dropped.
        input_shape: `(height, width, channels)` of one image.
        num_classes: number of classes; labels are int32 in `[0, num_classes)`.
        class_names: one name for each class, or None where the source knows none.
        skipped: paths of the files that could not be read as images and were left out.

    Images are float32 in `[0, 1]`, channels last: the zoo's networks normalise inside the model.
    `datasets.voc` yields boxes in place of labels; its docstring gives their form.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()

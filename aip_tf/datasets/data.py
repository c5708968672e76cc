"""What every dataset function returns."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from aip_tf.arguments import check, number

_SHOWN_CLASSES = 20
_KINDS = {"validation_fraction": number("a share of the images, in (0, 1)", 0, 1 - 1e-9, above=0)}


class DataNotFoundError(ValueError):
    """The data are not on this machine; the message says where they were looked for."""


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
        class_counts: training examples of each class (objects, where images show several), or None
            where counting would take reading all of them.

    Images are float32 in `[0, 1]`, channels last: the zoo's networks normalise inside the model.
    `datasets.voc` yields boxes in place of labels; its docstring gives their form.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()
    class_counts: tuple[int, ...] | None = None

    def describe(self):
        """What there is, in one line: size, classes by name and number, batches.

        >>> labels = tf.data.Dataset.from_tensors(0)
        >>> Data(labels, labels, (8, 8, 1), 2, ("cat", "dog"), class_counts=(3, 4)).describe()
        'images (8, 8, 1), 2 classes (cat: 3, dog: 4), 1 training batches an epoch'
        """
        numbers = self.class_counts
        names = self.class_names or (range(self.num_classes) if numbers else ())
        if numbers:
            names = [f"{name}: {number}" for name, number in zip(names, numbers, strict=True)]
        shown = f" ({name_some(names, most=_SHOWN_CLASSES)})" if names else ""
        return (
            f"images {self.input_shape}, {self.num_classes} classes{shown}, "
            f"{int(self.train.cardinality())} training batches an epoch"
        )


def count_classes(labels, num_classes):
    """How many of the integer `labels` there are of each class, as `Data.class_counts`."""
    return tuple(np.bincount(labels, minlength=num_classes).tolist())


def name_some(names, most=5):
    """The first few names, and how many more there are.

    >>> name_some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def check_fraction(validation_fraction):
    """Raises `ValueError` unless a share of the images can be held out."""
    check(_KINDS, locals())


def hold_out(examples, validation_fraction, seed):
    """Splits a list: what is left to train on, and `validation_fraction` of it, at least one.

    >>> hold_out(list("abcdefgh"), 0.25, seed=0)
    (['a', 'b', 'c', 'd', 'f', 'h'], ['e', 'g'])
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    num_held_out = max(1, round(validation_fraction * len(examples)))
    held_out, train = sorted(order[:num_held_out]), sorted(order[num_held_out:])
    return [examples[index] for index in train], [examples[index] for index in held_out]

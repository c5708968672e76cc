"""Real samples, batch by batch, in the form that every runtime here takes."""

import dataclasses
import functools
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from aip_tf.datasets.adapt import as_dataset
from aip_tf.datasets.looks import reading
from aip_tf.deploy import signature

_NUM_RANDOM_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        feeds: {name in the signature: array}.
        truth: `(labels,)` or `(labels, sample_weights)` as `fit` takes them; empty: none are known.
        inputs: the inputs in the model's structure.
    """

    feeds: dict
    truth: tuple = ()
    inputs: object = None

    def __len__(self):
        return len(next(iter(self.feeds.values())))

    def first(self, number):
        """The batch's first `number` samples."""

        parts = self.feeds, self.truth, self.inputs
        return Batch(*(keras.tree.map_structure(lambda x: x[:number], part) for part in parts))


def batches(model, data, input_shapes, most=None):
    """Yields `Batch`es of `data`, at most `most` samples in all.

    Args:
        model: the model that they are for.
        input_shapes: {name of the symbolic input: shape with batch}; images of another size are
            resized.
        data: a `tf.data.Dataset` or PyDataset of inputs or (inputs, labels, ...) batches; a tuple
            (inputs,) or (inputs, labels) of arrays where the model has one input; arrays in the
            structure of the inputs, which are one batch.
        most: None: all of them.

    Raises:
        ValueError: if the data do not fit the model, or there are none.
    """
    seen = 0
    for element in _elements(model, data):
        inputs, *truth = element if isinstance(element, tuple) else (element,)
        given = signature.feeds_from(model, inputs)
        feeds = _resized(given, input_shapes)
        sizes = {x.shape[1:3]: feeds[name].shape[1:3] for name, x in given.items()}
        fitted = functools.partial(_of_pixels, sizes=sizes)
        truth = keras.tree.map_structure(fitted, tuple(truth))
        batch = Batch(feeds, truth, inputs)
        _check_lengths(len(batch), truth)
        if most is not None:
            batch = batch.first(most - seen)
        seen += len(batch)
        yield batch
        if seen == most:
            return
    if not seen:
        raise ValueError(
            "Received data without elements. Expected at least one batch. Check the filters and "
            "the files of the dataset, and whether it was used up."
        )


def _check_lengths(number, truth):
    sizes = {len(x) if x.ndim else 1 for x in keras.tree.flatten(truth)}
    if sizes - {number}:
        raise ValueError(
            f"Received {number} inputs with {sorted(sizes)} labels. Expected as many of each, in "
            "the same order."
        )


def _resized(feeds, input_shapes):
    """Images at the size that is delivered, where the model leaves theirs open."""
    wanted = {signature.identifier(name): shape for name, shape in input_shapes.items()}
    return {
        name: tf.image.resize(x, wanted[name][1:3]).numpy().astype(x.dtype)
        if x.ndim == 4 and None not in wanted[name][1:3] and x.shape[1:3] != wanted[name][1:3]
        else x
        for name, x in feeds.items()
    }


def _of_pixels(labels, sizes):
    """Labels for every pixel of images that were resized, at the new size: the nearest pixels'."""
    labels = np.asarray(labels)
    new = sizes.get(labels.shape[1:3]) if labels.ndim > 2 else None
    if new is None or new == labels.shape[1:3]:
        return labels
    for axis, (before, after) in enumerate(zip(labels.shape[1:3], new, strict=True), start=1):
        places = (np.arange(after) + 0.5) * before / after
        labels = np.take(labels, places.astype(int), axis)
    return labels


def _elements(model, data):
    """Elements as a dataset gives them: inputs, or a tuple that begins with them."""
    if isinstance(data, keras.utils.PyDataset):
        data = as_dataset(data, shuffle=False, role="the samples")
    if isinstance(data, tf.data.Dataset):
        return _loaded(data)
    if not isinstance(data, tuple) or len(data) not in (1, 2, 3):
        return [(data,)]
    is_structure = isinstance(data[0], dict | list | tuple)  # of inputs; labels stand behind it
    return [data] if is_structure or len(model.inputs) == 1 else [(data,)]


def _loaded(dataset):
    with reading(dataset, "samples"):
        yield from dataset


def random_batch(model, input_shapes, seed=0):
    """A seeded random `Batch`.

    Args:
        model: the model.
        input_shapes: {name of the symbolic input: shape with batch}.
        seed: of the generator.

    Raises:
        ValueError: where a size is open, or an input takes no numbers.
    """
    generator = np.random.default_rng(seed)
    values = keras.tree.map_structure(
        lambda tensor: _random_values(tensor, input_shapes[signature.name_of(tensor)], generator),
        signature.input_structure(model),
    )
    return Batch(signature.feeds_from(model, values), inputs=values)


def _random_values(tensor, shape, generator):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    shape = (shape[0] or _NUM_RANDOM_SAMPLES, *shape[1:])
    if None in shape or dtype == "string":
        raise ValueError(
            f"Received input {signature.name_of(tensor)!r} of shape {tuple(tensor.shape)} and type "
            f"{dtype}, for which no random batch can be made. Expected known sizes and numbers. "
            "Pass check_data=a batch of real samples, or input_shapes=[the sizes to deliver]."
        )
    if "float" in dtype:
        return generator.standard_normal(shape).astype(dtype)
    # Small integers are legal as pixels and as indices of any embedding.
    return generator.integers(0, 256 if dtype == "uint8" else 2, shape).astype(dtype)


def sized(model, input_shape):
    """{name of the symbolic input: shape with batch}, with open sizes as asked for.

    Args:
        model: the model.
        input_shape: shape of the input without batch size, for several inputs a mapping by name;
            None: as the model has it.

    Raises:
        ValueError: if it contradicts the model.
    """
    signature.input_names(model)  # refuses a model that has none
    own = {signature.name_of(tensor): tuple(tensor.shape) for tensor in model.inputs}
    if input_shape is None:
        return own
    asked = input_shape if isinstance(input_shape, Mapping) else {next(iter(own)): input_shape}
    for name, shape in asked.items():
        fits = name in own and len(shape) == len(own[name]) - 1
        if not fits or any(a not in (None, b) for a, b in zip(own[name][1:], shape, strict=True)):
            raise ValueError(
                f"Received the input shape {tuple(shape)} for {name!r}. Expected one that fits the "
                f"model's inputs, {own}, without batch size. Correct input_shapes."
            )
    return own | {name: (own[name][0], *shape) for name, shape in asked.items()}


@dataclasses.dataclass(frozen=True)
class Samples:
    """Where samples come from; see the arguments of `export_model`."""

    check_data: object
    calibration_data: object
    most: int | None

    def batches(self, model, input_shapes):
        """What files are run on: `Batch`es."""
        if self.check_data is None:
            return iter([random_batch(model, input_shapes)])
        return batches(model, self.check_data, input_shapes, self.most)

    def check(self, formats):
        """Whether there are samples for the formats that need some; they are not looked at.

        Raises:
            ValueError: if not.
        """
        has_any = self.check_data is not None or self.calibration_data is not None
        if not has_any and any(x.needs_samples for x in formats):
            raise ValueError(
                "Received the format 'tflite_int8' without samples. Expected real ones, because "
                "the ranges of 8 bits are measured on them. Pass calibration_data=training "
                "samples, or check_data."
            )

    def calibration(self, model, input_shapes, formats):
        """Single samples, as many as the formats ask for; see `Source`."""
        wanted = max((x.num_samples for x in formats if x.needs_samples), default=0)
        if not wanted:
            return ()
        self.check(formats)
        data = self.check_data if self.calibration_data is None else self.calibration_data
        found = [
            {name: x[index : index + 1] for name, x in batch.feeds.items()}
            for batch in batches(model, data, input_shapes, wanted)
            for index in range(len(batch))
        ]
        _check_finite(found)
        if len(found) < wanted:
            raise ValueError(
                f"Received {len(found)} samples to calibrate 'tflite_int8' on. Expected "
                f"{wanted}, for with fewer its ranges are cut off. Give more calibration_data, or "
                f"ask for fewer: formats=[deploy.TFLiteInt8(num_samples={len(found)})]."
            )
        return tuple(found)


def _check_finite(samples):
    arrays = [x for one in samples for x in one.values() if x.dtype.kind == "f"]
    if not all(np.isfinite(x).all() for x in arrays):
        raise ValueError(
            "Received samples to calibrate 'tflite_int8' on that hold NaN or infinity. Expected "
            "finite numbers, in the range that the model takes."
        )

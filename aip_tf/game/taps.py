"""Where a network is read: its outputs, and taps on tensors inside it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import tensorflow as tf

from aip_tf import _keras, losses
from aip_tf.task.outputs import trace

_MOST_FEATURE_TAPS = 9
SUMS = (keras.layers.Add, _keras.operation_type("Add"))  # as a layer, and as `x + y`
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    _keras.operation_type("Relu"),  # of keras.ops
    _keras.operation_type("ReLU"),  # of keras.activations
)


class Reading(NamedTuple):
    """What one forward pass of a network says.

    Attributes:
        outputs: list of the model's outputs, in the order of `model.outputs`.
        taps: {layer path: tensor} for the taps that were asked for.
        energies: {layer path: `losses.energy` of the tensor}, likewise.
    """

    outputs: list
    taps: dict = MappingProxyType({})
    energies: dict = MappingProxyType({})

    def cut(self, share):
        """The part of the reading that is of real samples, see `_keras.Share`."""
        outputs, taps, energies = map(
            share.cut, (self.outputs, dict(self.taps), dict(self.energies))
        )
        return Reading(outputs, taps, energies)


class Reader:
    """Reads outputs and taps of a model in one forward pass: `reader(x, training) -> Reading`.

    A plain object on purpose: Keras would track (and save) the model a second time otherwise.

    Args:
        model: a keras.Model; Functional or Sequential if there are taps.
        taps: layer paths (`"layer"`, `"nested/layer"`) whose outputs are read too.
        energies: layer paths of which only `losses.energy` is read. It is taken where the tensor
            is made, so that the tensor need not be kept.
        is_quiet: whether random layers of a graph are as at inference in training mode, too. Where
            there are taps they are.
    """

    def __init__(self, model, taps=(), energies=(), is_quiet=False):
        self.model = model
        self.taps, self.energies = taps, energies
        functions = {**dict.fromkeys(taps, _whole), **dict.fromkeys(energies, _with_energy)}
        is_run_here = functions or (is_quiet and _keras.is_graph(model))
        self.tapped = _keras.TappedModel(model, functions) if is_run_here else None

    def __call__(self, x, training):
        """Forward pass. Returns the outputs in the model's structure, and the `Reading`."""
        if self.tapped is None:
            outputs, found = self.model(x, training=training), {}
        else:
            outputs, found = self.tapped(x, training=training)
        taps = {path: found[path][0] for path in self.taps}
        energies = {path: found[path][1] for path in self.energies}
        return outputs, Reading(keras.tree.flatten(outputs), taps, energies)


def _whole(x):
    return x, (x, None)


def _with_energy(x):
    y, energy = _fork(x)
    return y, (x, energy)


@tf.custom_gradient
def _fork(x):
    """x and its energy, in an order that keeps few tensors alive.

    The network goes on only when the energy is known, so x may go as soon as the network has done
    with it; and the energy's gradient, as large as x, is made only when the network's is there to
    be added to. Left alone, TensorFlow makes those of all taps first and keeps them: a tenth more
    memory on a MobileNet (benchmarks/game.py).
    """
    energy = losses.energy(x)

    def gradient(of_x, of_energy):
        with tf.control_dependencies([of_x]):
            of_energy = tf.identity(of_energy)
        slope = 2.0 * of_energy[..., None]
        return of_x + tf.cast(slope * tf.cast(x, slope.dtype), x.dtype)

    with tf.control_dependencies([energy]):
        return (tf.identity(x), energy), gradient


def behind(known, values):
    """`values`, a structure of tensors, which are there only once the tensors `known` are.

    What follows from them is so computed behind what led to `known`. Left alone, TensorFlow runs
    both at once and keeps the tensors of both.
    """
    with tf.control_dependencies(known):
        return keras.tree.map_structure(lambda v: None if v is None else tf.identity(v), values)


def list_tensors(model):
    """Every tensor of `model`, nested models included, as `Tensor`s in the order of computation.

    Shared layers appear once per use. Open image sizes count as 224 pixels.
    """
    return trace(model)[0]


def find_taps(model):
    """Layer paths to read attention from: the last tensor of each spatial resolution.

    A resolution counts if a layer with weights works at it (padding alone makes no stage) and if
    it has more than one position (a 1x1 map looks the same everywhere).

    Args:
        model: a Functional or Sequential model of images, sequences or volumes.

    Returns:
        Layer paths, from the first resolution to the last.

    Raises:
        ValueError: if no tensor has positions.
    """
    paths = tuple(_stages(model).values())
    if not paths:
        raise ValueError(
            f"Received the model {model.name!r} without a tensor that has spatial positions. "
            "Expected convolutions over images or sequences; leave AttentionTransfer out, or name "
            "its taps."
        )
    return paths


def find_feature_taps(model):
    """Layer paths to compare features at: where residual sums end, at most 9 of them.

    A sum ends behind the activation that follows it at once. Of more than 9 sums 9 are taken,
    evenly spread, the last among them. A model without sums is read as for attention: `find_taps`.

    Args:
        model: a Functional or Sequential model.

    Returns:
        Layer paths in the order of computation.

    Raises:
        ValueError: see `find_taps`.
    """
    tensors = [t for t in list_tensors(model) if len(t.shape) > 2]
    ends = []
    for tensor, following in zip(tensors, [*tensors[1:], None], strict=True):
        if type(tensor.operation) in SUMS and tensor.num_read > 1:
            is_activation = following and type(following.operation) in _ACTIVATIONS
            ends.append(following.path if is_activation else tensor.path)
    count = min(len(ends), _MOST_FEATURE_TAPS)
    if not count:
        return find_taps(model)
    return tuple(ends[-1 - round(i * len(ends) / count)] for i in reversed(range(count)))


def _stages(model):
    """{spatial size: path of its last tensor}, in the order of computation."""
    last, weighted = {}, set()
    for tensor in list_tensors(model):
        size = tensor.shape[1:-1]
        if not size or all(n == 1 for n in size):
            continue
        last[size] = tensor.path
        if getattr(tensor.operation, "weights", ()):
            weighted.add(size)
    return {size: path for size, path in last.items() if size in weighted}


def pair_taps(teacher, student):
    """The taps of a teacher, each with the place in a student to compare it with.

    That is the layer of the same path if it has the same spatial size, or else the student's own
    tap of that size: two networks of different families are paired by resolution. Resolutions that
    the student does not have are left out.

    Returns:
        {teacher path: student path}, from the first resolution to the last.

    Raises:
        ValueError: if no tensor of the teacher has positions, or the two share no resolution.
    """
    find_taps(teacher)  # raises where there are none
    theirs = {tensor.path: tensor.shape[1:-1] for tensor in list_tensors(student)}
    stages = [_stages(model) for model in (teacher, student)]
    pairs = {
        path: path if theirs.get(path) == size else stages[1].get(size)
        for size, path in stages[0].items()
    }
    pairs = {path: other for path, other in pairs.items() if other is not None}
    if not pairs:
        raise ValueError(
            f"Received a teacher that works at the sizes {list(stages[0])} and a student at "
            f"{list(stages[1])}. Expected one in common; or name what belongs together: "
            "taps={teacher path: student path}."
        )
    return pairs


def as_pairs(taps):
    """Taps as {teacher path: student path}; paths alone are the same in both networks."""
    return dict(taps) if isinstance(taps, Mapping) else {path: path for path in taps}


def tap_shapes(model, paths):
    """{path: shape} of the tensors at `paths` (of the last use of a shared layer).

    Raises:
        ValueError: naming the paths that do not exist.
    """
    shapes = {tensor.path: tensor.shape for tensor in list_tensors(model)}
    missing = [path for path in paths if path not in shapes]
    if missing:
        raise ValueError(
            f"Received the taps {missing}, which are not in the model {model.name!r}. Expected "
            f"names of its operations (nested: 'outer/inner'), such as {list(shapes)[-8:]}."
        )
    return {path: shapes[path] for path in paths}

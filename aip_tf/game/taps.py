"""Where a network is read: its outputs, and taps on tensors inside it."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import tensorflow as tf

from aip_tf import _keras, losses
from aip_tf.task.outputs import trace

_MOST_FEATURE_TAPS = 9
_ENERGY = "energy"
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
        compared: what `Transfer.comparisons` said of the tensors: {name of the transfer:
            {teacher's path: (batch,)}}.
    """

    outputs: list
    taps: dict = MappingProxyType({})
    energies: dict = MappingProxyType({})
    compared: dict = MappingProxyType({})

    def cut(self, share):
        """The part of the reading that is of real samples, see `_keras.Share`."""
        return Reading(share.cut(self.outputs), *(share.cut(dict(x)) for x in self[1:]))


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
        is_run_here = taps or energies or (is_quiet and _keras.is_graph(model))
        self.tapped = _keras.TappedModel(model) if is_run_here else None

    def __call__(self, x, training, comparisons=MappingProxyType({})):
        """Forward pass. Returns the outputs in the model's structure, and the `Reading`.

        Args:
            x, training: as the model is called.
            comparisons: {name of a transfer: {teacher's path: (path of a tap, function)}}; the
                function is asked where the tensor is made, as for energies.
        """
        if self.tapped is None:
            outputs, found = self.model(x, training=training), {}
        else:
            asked = self._asked(comparisons)
            functions = {path: functools.partial(_read, each) for path, each in asked.items()}
            outputs, found = self.tapped(x, training=training, taps=functions)
        compared = {
            name: {path: found[tap][1][name, path] for path, (tap, _) in asked.items()}
            for name, asked in comparisons.items()
        }
        taps = {path: found[path][0] for path in self.taps}
        energies = {path: found[path][1][_ENERGY] for path in self.energies}
        return outputs, Reading(keras.tree.flatten(outputs), taps, energies, compared)

    def _asked(self, comparisons):
        """{path of a tap: {what is asked there: function of the tensor}}."""
        asked = {path: {} for path in (*self.taps, *self.energies)}
        for path in self.energies:
            asked[path][_ENERGY] = losses.energy
        for name, pairs in comparisons.items():
            for path, (tap, function) in pairs.items():
                asked.setdefault(tap, {})[name, path] = function
        return asked


def _read(asked, x):
    """x, and `(x, {what is asked: what its function says})`."""
    if not asked:
        return x, (x, {})
    y, *found = _fork(x, tuple(asked.values()))
    return y, (x, dict(zip(asked, found, strict=True)))


def _fork(x, functions):
    """x and what functions say of it, in an order that keeps few tensors alive.

    The network goes on only when they have said it, so x may go as soon as the network has done
    with it. Their gradients, as large as x, are made from x again, and only when the network's is
    there to be added to. Left alone, TensorFlow keeps what led to them, makes those of all taps
    first and keeps them, too (benchmarks/game.py).
    """

    @tf.custom_gradient
    def fork(x):
        found = [function(x) for function in functions]

        def gradient(of_x, *of_found):
            with tf.control_dependencies([of_x]), tf.GradientTape() as tape:
                again = tf.identity(x)
                tape.watch(again)
                answers = [function(again) for function in functions]
            slopes = tape.gradient(
                answers, again, output_gradients=list(of_found), unconnected_gradients="zero"
            )
            return of_x + slopes

        with tf.control_dependencies(found):
            return (tf.identity(x), *found), gradient

    return fork(x)


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

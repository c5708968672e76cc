"""The laws of CONTRIBUTING.md as functions, shared by the tests and the benchmarks.

A test that cannot fail proves nothing: `randomize` gives a model weights under which every channel
matters (fresh kernels, gamma, beta and biases; moving statistics calibrated on a batch, then
jittered), and `negative_control` swaps one kept channel for a removed one and says how far the
output moves.
"""

import itertools
from collections import Counter
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import aip_tf
from aip_tf.cost import Cost

TOLERANCE = 1e-5  # law 1, relative, float32
TOLERANCE_FLOAT64 = 1e-9  # decides where float32 fails
SENSITIVITY = 1e-3  # one wrong channel moves the output by at least this


# --- models whose channels all matter ----------------------------------------------------------


def all_layers(model):
    """Every layer at every level, models and wrappers included, depth first."""
    for layer in [*getattr(model, "layers", ()), getattr(model, "layer", None)]:
        if layer is not None:
            yield layer
            yield from all_layers(layer)


def random_batch(model, rng, batch_size=13):
    """Inputs of the model's structure: normal floats, or small integers for integer inputs.

    A batch size that equals a width or height is to be avoided: Keras 3.15's eager sum takes an
    operand (batch, 1, 1, 1) for a bias of that axis."""

    def fill(tensor):
        shape = (batch_size, *tensor.shape[1:])
        if tensor.dtype.startswith("int"):
            return rng.integers(0, 9, shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype("float32")

    is_sequential = isinstance(model, keras.Sequential)
    return keras.tree.map_structure(fill, model.inputs[0] if is_sequential else model.input)


def randomize(model, rng, batch):
    """Random weights, then moving statistics calibrated on `batch` and jittered. In place."""
    for variable in model.weights:
        variable.assign(_random_value(variable.path, variable.shape, variable.numpy(), rng))
    inside = {id(x): x for x in model._flatten_layers()}.values()  # composites' parts as well
    norms = [x for x in inside if isinstance(x, keras.layers.BatchNormalization)]
    if norms:
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.momentum = 0.0
        _forward(model)(batch, training=True)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            _jitter(layer, rng)
    return model


def _random_value(path, shape, old, rng):
    name = path.rsplit("/", 1)[-1]
    if name in ("mean", "variance", "count") or name.startswith("moving_"):
        return old
    if name in ("gamma", "scale"):
        return rng.uniform(0.5, 1.5, shape)
    if name in ("beta", "bias"):
        return rng.normal(0, 0.3, shape)
    if name == "alpha":  # PReLU
        return rng.uniform(0.1, 0.4, shape)
    fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
    return rng.normal(0, np.sqrt(2 / fan_in), shape)


def _jitter(layer, rng):
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    layer.moving_mean.assign(mean + 0.1 * np.sqrt(variance) * rng.normal(size=mean.shape))
    layer.moving_variance.assign(variance * rng.uniform(0.8, 1.25, variance.shape) + 1e-4)


def as_float64(model):
    """The same model and weights, every layer computing in float64."""

    def widen(node):
        if isinstance(node, dict):
            return {key: widen(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(widen(value) for value in node)
        halves = ("float32", "mixed_float16", "mixed_bfloat16")
        return "float64" if isinstance(node, str) and node in halves else node

    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        config = widen(keras.saving.serialize_keras_object(model))
        twin = keras.saving.deserialize_keras_object(config, safe_mode=False)
        if not twin.built:
            twin.build(model.input_shape)
        twin.set_weights(model.get_weights())
    finally:
        keras.config.set_floatx(floatx)
    return twin


def run(model, batch):
    """The outputs as a flat list of float64 arrays, in inference mode."""
    dtype = "float64" if model.layers[-1].compute_dtype == "float64" else "float32"
    batch = keras.tree.map_structure(
        lambda x: tf.constant(x, dtype if x.dtype.kind == "f" else None), batch
    )
    outputs = _forward(model)(batch, training=False)  # augmentation has True as its default
    return [np.asarray(y, "float64") for y in keras.tree.flatten(outputs)]


def _forward(model):
    """The model, compiled by XLA where a layer is channels_first: eager CPU kernels refuse it."""
    first = any(getattr(x, "data_format", None) == "channels_first" for x in all_layers(model))
    return tf.function(model.__call__, jit_compile=True) if first else model


def relative_error(actual, expected):
    """The largest difference over the largest entry, worst output of several."""
    errors = []
    for a, b in zip(actual, expected, strict=True):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"outputs {a.shape}, {b.shape} differ in shape or are not finite")
        errors.append(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
    return float(max(errors))


# --- masks -------------------------------------------------------------------------------------


def cuttable(groups):
    """The groups that can lose a channel."""
    return [g for g in groups if g.prunable and g.num_channels > 1]


def random_masks(groups, rng, amount=0.5):
    """Every cuttable group loses about `amount` of its channels: at least one goes, one stays."""
    masks = {}
    for group in cuttable(groups):
        n = group.num_channels
        num_kept = int(np.clip(round(n * (1 - amount)), 1, n - 1))
        mask = np.zeros(n, bool)
        mask[rng.permutation(n)[:num_kept]] = True
        masks[group.name] = mask
    return masks


def wrong_masks(masks, name, rng, num_tries=4):
    """`masks` with one kept channel of the group `name` swapped for a removed one, a few ways."""
    mask = masks[name]
    pairs = list(itertools.product(np.flatnonzero(mask), np.flatnonzero(~mask)))
    for index in rng.permutation(len(pairs))[:num_tries]:
        wrong = mask.copy()
        kept, removed = pairs[index]
        wrong[kept], wrong[removed] = False, True
        yield {**masks, name: wrong}


# --- laws --------------------------------------------------------------------------------------


def masked_is_cut(model, masks, batch):
    """Law 1. Returns (relative error, the cut model); float64 decides where float32 fails."""
    graph = aip_tf.ChannelGraph.of(model)
    cut = aip_tf.prune_channels(graph, masks)
    masked = aip_tf.mask_channels(graph, masks)
    error = relative_error(run(cut, batch), run(masked, batch))
    if error > TOLERANCE:
        wide = aip_tf.ChannelGraph(as_float64(graph.model))
        exact = relative_error(
            run(aip_tf.prune_channels(wide, masks), batch),
            run(aip_tf.mask_channels(wide, masks), batch),
        )
        error = exact if exact <= TOLERANCE_FLOAT64 else max(error, exact)
    return error, cut


def negative_control(model, masks, batch, expected, rng, names=None, num_tries=4):
    """{group name: how far one wrong channel moves the output}, until SENSITIVITY is met."""
    moved = {}
    for name in masks if names is None else names:
        moved[name] = 0.0
        for wrong in wrong_masks(masks, name, rng, num_tries):
            outputs = run(aip_tf.mask_channels(model, wrong), batch)
            moved[name] = max(moved[name], relative_error(outputs, expected))
            if moved[name] >= SENSITIVITY:
                break
    return moved


@dataclass(frozen=True)
class Verdict:
    """What `check_cut` found."""

    masks: dict
    costs: Cost
    cut: keras.Model
    error: float  # law 1, relative
    moved: float | None  # the negative control; None where nothing can be cut
    costs_agree: bool  # the costs by formula are those of the rebuilt model

    @property
    def problems(self):
        """One sentence for each law that is broken."""
        found = []
        if self.error > TOLERANCE:
            found.append(f"masked and cut differ by {self.error:.1e}")
        if self.moved is not None and self.moved < SENSITIVITY:
            found.append(f"a wrong channel moves the output by {self.moved:.1e} only")
        if not self.costs_agree:
            found.append("the costs by formula are not the rebuilt model's")
        return found


def check_cut(model, batch, rng, amount=0.5, num_controls=5):
    """Cut `amount` of every group at random and hold the laws against it."""
    graph = aip_tf.ChannelGraph(model)
    costs = Cost(graph)
    masks = random_masks(costs.groups, rng, amount)
    error, cut = masked_is_cut(graph, masks, batch)
    # Padded zeros (no producer) and channels that nothing reads cannot move the output.
    heard = [g.name for g in costs.groups if g.name in masks and g.producers and g.consumers]
    outputs = run(cut, batch)
    moved = any_control(graph, masks, batch, outputs, rng, heard, num_controls) if heard else None
    recount = Cost(cut)
    agree = costs.macs(masks) == recount.macs() and costs.parameters(masks) == cut.count_params()
    return Verdict(masks, costs, cut, error, moved, agree)


def any_control(model, masks, batch, expected, rng, names=None, num_groups=5):
    """The negative control of a big model: a few groups at random, until one moves enough."""
    moved = 0.0
    for name in rng.permutation(sorted(names or masks))[:num_groups]:
        found = negative_control(model, masks, batch, expected, rng, [name], num_tries=2)
        moved = max(moved, *found.values())
        if moved >= SENSITIVITY:
            break
    return moved


def least_masks(groups):
    """One channel in every prunable group."""
    return {g.name: np.arange(g.num_channels) == 0 for g in cuttable(groups)}


def zeroed_consumers(model, groups, masks, batch):
    """A second reference for law 1 that shares no code with `mask_channels`: where all consumers
    have kernels, a removed channel is one whose kernel entries are zero."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    for group in groups:
        for member in group.members:
            if group.name in masks and member.role == "consumer":
                variable = _variable(twin, member)
                value = np.moveaxis(variable.numpy(), member.axis, 0)
                value[member.indices[~masks[group.name][member.channels]]] = 0
                variable.assign(np.moveaxis(value, 0, member.axis))
    return run(twin, batch)


def _variable(model, member):
    layer = model
    for part in member.layer.split("/"):
        layer = layer.get_layer(part)
    return next(w for w in layer.weights if w.name == member.variable)


def snapshot(model):
    """All that law 4 protects, comparable with ==."""
    layers = list(all_layers(model))
    return {
        "names": [layer.name for layer in layers],
        "trainable": [layer.trainable for layer in layers],
        "dtypes": [layer.dtype_policy.name for layer in layers],
        "weights": [(w.path, w.trainable, w.numpy().tobytes()) for w in model.weights],
        "compiled": (model.compiled, id(getattr(model, "optimizer", None))),
        "inputs": [(x.name, x.shape) for x in model.inputs],
        "outputs": [(x.name, x.shape) for x in model.outputs],
    }


# --- groups written by hand --------------------------------------------------------------------


def expected_groups(text):
    """'conv1:8 conv2+conv3:4' as a multiset of (producers, channels); ' | ' gives alternatives."""

    def parse(part):
        producers, num_channels = part.split(":")
        return frozenset(producers.split("+")), int(num_channels)

    return [Counter(map(parse, alternative.split())) for alternative in text.split("|")]


def found_groups(model, groups):
    """The cuttable groups in the same terms: producers with weights, no depthwise layers."""
    found = Counter()
    for group in cuttable(groups):
        producers = frozenset(filter(None, (_producer(model, p) for p in group.producers)))
        if producers:
            found[producers, group.num_channels] += 1
    return found


def _producer(model, path):
    """A producer's name as the graphs write it: wrappers and attention layers stand for their
    inside ("mha/query" is "mha"); None for what has no weights or is depthwise."""
    parts, layer = [], model
    for part in path.split("/"):
        if isinstance(getattr(layer, "layer", None), keras.Model):  # TimeDistributed(model)
            layer = layer.layer
        names = {x.name: x for x in getattr(layer, "layers", ())}
        if part not in names:
            break
        parts.append(part)
        layer = names[part]
    is_producer = bool(getattr(layer, "weights", ())) and not parts[-1].startswith("dw")
    return "/".join(parts) if is_producer else None

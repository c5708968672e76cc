"""One call of one operation while a model is traced: all that a rule may ask and declare."""

import dataclasses

import keras
import numpy as np
from keras import tree

from aip_tf.channels.identities import IdentityArray, compact, line, long_axes, rows, spread
from aip_tf.channels.masking import run_masked


@dataclasses.dataclass
class Product:
    """A cost that is `factor` times the sizes left of `array` and of each of `ids`."""

    factor: int
    array: np.ndarray
    ids: tuple[np.ndarray, ...]


class Call:
    """One call of one operation while a model is traced: what a rule reads and what it declares.

    Attributes:
        operation: the layer or operation that is called.
        path: its name, behind the names of the models it is nested in.
        inputs, outputs: identity arrays of the tensors that go in and come out.
        shapes: shapes of the outputs, with the batch size (1) of the trace.
        dtypes: types of the outputs, such as "float32".
    """

    masked_call = None
    is_of_unknown_cost = False
    is_inside = False  # of a layer that is one call of the model

    def __init__(self, tracer, operation, path, inputs, shapes, node=None):
        self._tracer = tracer
        self._node = node
        self.operation = operation
        self.path = path
        self.inputs = inputs
        self.outputs = []
        self.shapes = _of_traced_batch(shapes, inputs, node)
        self.products = []
        self.constants = {}
        self.known_variables = set()
        self.places = {}  # of what changes with the channels of the layer: {place: ids}
        self._switched_off = {}
        self._declared = []

    # What a rule asks.

    @property
    def node(self):
        """The node of the call in Keras' graph."""
        return self._node

    @property
    def dtypes(self):
        return [x.dtype for x in self._node.outputs]

    @property
    def label(self):
        """How a reason names this call."""
        return f"{self.path} ({type(self.operation).__name__})"

    @property
    def unopened(self):
        """Why the layer that is called could not be opened: text, or None."""
        return self._tracer.openings.reasons.get(id(self.operation))

    def macs_inside(self):
        """Multiply-accumulates of a layer without a rule, if one can look inside; else 0.

        Then `is_of_unknown_cost` says whether the layer has any.
        """
        glimpse = self._tracer.openings.glimpse(self.operation)
        found = glimpse and self._tracer.macs_inside(glimpse, self)
        if found is None and isinstance(self.operation, keras.layers.Layer):
            stock = type(self.operation).__module__.startswith("keras.")
            self.is_of_unknown_cost = bool(self.operation.variables) or not stock
        return found or 0

    @property
    def declares(self):
        """Whether the rule declared channels, weights or changes of the configuration."""
        return bool(self._declared)

    @property
    def shape(self):
        """Shape of the first output."""
        return self.shapes[0]

    def are_kept(self, x):
        """Whether all channels of `x` are kept whole already."""
        return bool((self._tracer.identities.classes(compact(x)) == -1).all())

    def settle(self, x):
        """The one axis along which `x` may vary, or None; merges channels where there are two."""
        return self._tracer.close(x)

    def channels(self, x, axis=-1):
        """Rule R1: the identities of `x` along `axis`, after unifying entries that share an index.

        If the channels lie on another axis, the operation mixes them with each other: then they
        are kept whole.

        Returns:
            int array (size of the axis,).
        """
        axis = axis % x.ndim
        if long_axes(x) == [axis]:  # the usual case
            return line(x, axis)
        if self.settle(x) not in (None, axis):
            self.pin(x, f"{self.label} works along the axis on which these channels lie")
        table = rows(compact(x), axis)
        if table.shape[1] > 1:
            self.unify(table, table[:, :1])
        return np.broadcast_to(table[:, 0], (x.shape[axis],))

    def slots(self, ids, groups):
        """Rule R4: identities of one conv group, after unifying the same slot in every group."""
        table = ids.reshape(groups, -1)
        self.unify(table, table[:1])
        return table[0]

    # What a rule declares.

    def new(self, count):
        """Start `count` channels that this call produces: int array (count,)."""
        ids = self._tracer.identities.new(count)
        self._tracer.producers.append((self.path, ids))
        self._declared.append(ids)
        return ids

    def anonymous(self, shape):
        """Fresh identities for every entry of `shape`, which no layer produces."""
        return self._tracer.identities.new(int(np.prod(shape))).reshape(shape)

    def constant(self, value, key):
        """Identities for a constant of the graph; it is sliced with the channels it meets.

        Args:
            value: the constant, an array.
            key: its place among the arguments of the call: an index or a keyword.
        """
        ids = self.anonymous(np.shape(value)).view(IdentityArray)
        self.constants[key] = ids
        self.arguments(lambda kept, args, kwargs: _slice_constants(self, kept, args, kwargs))
        return ids

    def unify(self, a, b):
        """Make `a[i]` and `b[i]` one channel, for all i."""
        self._tracer.identities.union(np.asarray(a), np.asarray(b))

    def pin(self, x, reason):
        """Keep every channel in `x` whole and say why."""
        self._tracer.identities.pin(np.asarray(compact(x)), reason)

    def pinned(self, shape, reason):
        """An identity array of `shape` whose channels (last axis) are kept whole."""
        ids = self._tracer.identities.new(shape[-1] if shape else 1)
        self.pin(ids, reason)
        return spread(ids, shape) if shape else ids.reshape(())

    def weight(self, variable, axis, ids, role):
        """Slice `variable` along `axis` with the channels `ids`.

        A layer that owns a variable of which its rule says nothing is kept whole, see `known`.

        Args:
            variable: a variable of the layer; None is ignored, and so is a tensor that the layer
                computes from variables.
            axis: int.
            ids: int array (size of the axis,).
            role: "producer" (its values make the channels), "consumer" (they read them) or
                "channelwise" (one value for each channel that passes).
        """
        if isinstance(variable, keras.Variable):
            self.known_variables.add(id(variable))
            self.places[id(variable), axis % variable.ndim] = ids
            self._declared.append(ids)
            self._tracer.add_weight(self, variable, axis, ids, role)

    def known(self, *variables):
        """Say that these variables stay as they are, whichever channels are removed."""
        self.known_variables.update(map(id, variables))

    def keep(self, reason):
        """Keep everything that this call touches whole: its inputs and all that it declared."""
        for x in [*self.inputs, *self._declared]:
            self.pin(x, reason)

    def inside(self, layer, x, shape, **kwargs):
        """Run the rule of a layer that this layer calls, on the identity array `x`.

        Its costs, and what `masked_inside` switches off in it, count as this call's.

        Args:
            layer: the layer inside.
            x: the identity array that it is called on.
            shape: shape of its output, or a list of shapes.
            kwargs: further arguments of its call.

        Returns:
            The `Call` inside, with its `outputs`.
        """
        given = [v for v in tree.flatten((x, kwargs)) if isinstance(v, IdentityArray)]
        shapes = [shape] if isinstance(shape, tuple) else shape
        call = Call(self._tracer, layer, f"{self.path}/{layer.name}", given, shapes)
        call.outputs = tree.flatten(self._tracer.run_rule(call, (x,), kwargs))
        self.products += call.products
        self.known(*layer.variables)
        self._tracer.inner_inputs[id(layer)] = x
        self._declared += call._declared
        self.places |= call.places
        if call._switched_off:
            self._switch_off(call._switched_off)
        return call

    def inside_model(self, model, x):
        """Trace a model that this layer calls, on the identity array `x`.

        Returns:
            The identity arrays of its outputs, and a function `run(kept, inputs, training)` that
            runs the model in the masked twin.
        """
        outputs, calls = self._tracer.run_inside(model, x, f"{self.path}/{model.name}")
        self.known(*model.variables)
        openings = self._tracer.openings

        def run(kept, inputs, training):
            graph = openings.enter(model)
            return run_masked(graph, calls, kept, inputs, openings.inside, training)

        return outputs, run

    def config(self, key, ids, value=None, of=None):
        """Edit the operation's configuration: `key` becomes the number of `ids` that are kept.

        Args:
            key: name of the argument.
            ids: identity array on which the value depends. Where an operation is called several
                times, its arrays are unified, so that one value serves all calls.
            value: `value(kept) -> value` where it is not the count itself.
            of: a layer inside this one whose configuration it is, see `contains`.
        """
        operation = of or self.operation
        self.places[id(operation), key] = ids
        self._declared.append(ids)
        self._tracer.add_config(operation, key, ids, value)

    def contains(self, key, *layers, of=None):
        """Say that the argument `key` holds these layers, whose configurations are edited.

        Args:
            key: name of the argument: a layer, or a list of them where several are given.
            layers: layers inside this one.
            of: see `config`.
        """
        edits = self._tracer.config_edits
        ids = [np.ravel(ids) for x in layers for ids, _ in edits[id(x)].values()]

        def value(kept):
            found = [_serialized(x, self._tracer.edited(x, kept)) for x in layers]
            return found if len(layers) > 1 else found[0]

        if ids:
            self.config(key, np.concatenate(ids), value, of)

    def ids_of(self, variable, axis):
        """The identities along an axis of a variable, as declared so far; None if they are not."""
        weight = self._tracer.weights.get(id(variable))
        axes = weight.axes if weight else []
        return next((a.ids for a in axes if a.axis == axis % variable.ndim), None)

    def arguments(self, edit):
        """Edit the call's arguments: `edit(kept, args, kwargs) -> (args, kwargs)`."""
        self._tracer.argument_edits[id(self._node)] = edit

    def replace(self, edit):
        """Replace the call: `edit(kept, operation, args, kwargs) -> outputs`."""
        self._tracer.replacements[id(self._node)] = edit

    def macs(self, array, *ids, factor=1):
        """Declare multiply-accumulates: `factor` x entries left of `array` x each of `ids` left."""
        self.products.append(Product(factor, array, ids))

    def masked(self, function):
        """How the masked twin runs this call: `function(kept, operation, *args, **kwargs)`.

        Needed where zeroed inputs are not the same as absent channels: in a mean over channels, or
        where channels live inside a layer, see `masked_inside`.
        """
        self.masked_call = function

    def masked_inside(self, variable, ids, axis=0):
        """In the masked twin, entries of `variable` that read removed channels are zero.

        May be declared for several variables of the layer.

        Args:
            variable: a variable of the layer, or of one inside it.
            ids: int array (size of the axis,): the channels that the entries read.
            axis: int.
        """
        self._switch_off({id(variable): (variable, ids, axis)})

    def _switch_off(self, readers):
        self._switched_off |= readers

        def run(kept, layer, *args, **kwargs):
            values = [
                (variable, _without_rows(variable, kept(ids), axis))
                for variable, ids, axis in self._switched_off.values()
            ]
            with keras.StatelessScope(values):  # a call, so that masks travel as ever
                return layer(*args, **kwargs)

        self.masked(run)

    def residual(self, x):
        """Say that the channels of `x` meet others in a sum."""
        self._tracer.residuals.append(compact(x))


def _of_traced_batch(shapes, inputs, node):
    """`shapes` with the batch size of the trace where it is open, or where a model fixes it."""
    batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    sample = {None}
    if node and [s for s in shapes if s and s[0] is not None]:
        fixed = {x.shape[0] for x in node.input_tensors if x.shape}
        sample |= fixed if len(fixed) == 1 else set()
    return [(batch if s[0] in sample else s[0], *s[1:]) if s else () for s in shapes]


def _without_rows(variable, mask, axis):
    """The value of a variable in which the entries along an axis are zero where `mask` is False."""
    shape = [1] * len(variable.shape)
    shape[axis] = -1
    return variable.value * keras.ops.reshape(keras.ops.cast(mask, variable.dtype), shape)


def _serialized(layer, changes):
    """The configuration of a layer with `changes`, as one layer holds that of another."""
    serialized = keras.saving.serialize_keras_object(layer)
    serialized.pop("build_config", None)  # it has the shapes of before
    config = serialized["config"]
    for key, value in config.items():
        live = getattr(layer, key, None)
        if isinstance(value, str | dict) and callable(live):
            config[key] = live  # the object: its name may be registered nowhere
    return serialized | {"config": config | changes}


def _slice_constants(call, kept, args, kwargs):
    args, kwargs = list(args), dict(kwargs)
    for key, ids in call.constants.items():
        place = args if isinstance(key, int) else kwargs
        place[key] = kept.take(ids, place[key])
    return tuple(args), kwargs

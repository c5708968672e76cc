"""Recording what a composite layer calls: on symbols, with classes that tell of their calls."""

import collections
import contextlib
import copy
import re

import keras
from keras import tree
from keras.src.backend.common.keras_tensor import any_symbolic_tensors

from aip_tf._keras import masks
from aip_tf._keras.classes import of_classes
from aip_tf._keras.comparing import (
    BatchSizeError,
    are_alike,
    is_constant,
    open_batch,
    open_sizes,
)
from aip_tf._keras.copies import is_optional
from aip_tf._keras.graph import Graph
from aip_tf._keras.held import Given, Held, symbolic_class, why_not_held
from aip_tf._keras.layers import own_variables
from aip_tf._keras.modes import leave_to_mode
from aip_tf._keras.nodes import (
    Arguments,
    Call,
    CannotOpenError,
    check_calls,
    flat_arguments,
    nodes_up_to,
)
from aip_tf._keras.own_calls import computes_around
from aip_tf._keras.plain import Plain, is_symbol, stand_in, usual_mode
from aip_tf._keras.scopes import Watch, without_new_nodes
from aip_tf._keras.signatures import remember_signature
from aip_tf._keras.sizes import (
    can_infer,
    has_open_size,
    infer,
    open_reshapes,
    placeholders,
    takes_any_batch,
)
from aip_tf._keras.tape import Tape

CALLS_DIFFER = "its calls differ"
_OWN_CALL = "a class with a `__call__` of its own computes more than its `call`"
_TRIAL_BATCHES = (2, 3)  # where an open batch size fails: what follows it differs between the two
_MULTIPLE = 720  # of any number up to 6, and of most that layers take samples by


class Recording:
    """One call of a composite layer on symbols, and of the composite layers in it.

    Each runs twice, in inference and in training mode; see `Tape`.

    Args:
        is_composite: `is_composite(operation) -> bool`: what is to be recorded.
        sized: `{class or id of a layer: bool}`: whether its calls need the batch size; filled in
            for the recordings to come, as many layers of a model are of one class.
        classes: `Classes`, made once for many recordings.
        in_both_modes: False: in inference mode alone.

    Attributes:
        graphs: `{id(layer): Graph}` of every composite layer that was called.
        reasons: `{id(layer): text}`: why one of them must stay whole; it may have a graph all the
            same, to be looked at.
        layers: `{id(layer): layer}` of both.
        read: `{id(layer): variables}` that a call of it reads outside of the layer they belong to.
        tied: `[(layer, caller)]` of layers that return more than tensors, which Keras does not
            take: its caller is opened only with it.
    """

    def __init__(self, is_composite, sized, classes, in_both_modes=True):
        self._plain, self._sized, self._classes = Plain(), sized, classes
        self.graphs, self.reasons, self.layers, self.tied = {}, {}, {}, []
        self.read = collections.defaultdict(list)
        self._is_composite = is_composite
        self._running = []  # the composite layers that are being called, innermost last
        self._place = None  # a symbol of the innermost, while its own call runs
        self._tape = None  # and what it calls
        self._in_both_modes = in_both_modes
        self._wanting = set()  # ids of layers that fail otherwise where the batch size is known
        self._returned = {}
        self._explicit_mask = False
        self._lasting = set()
        self._symbolic = []  # (variable, its class, the class in which it is recorded)

    def run(self, layer, args, kwargs):
        """Call `layer` on symbols like those among `args` and `kwargs`."""
        if computes_around(layer, args, kwargs):
            self.fail(layer, CannotOpenError(_OWN_CALL))
            return
        if any(map(is_optional, tree.flatten((args, kwargs)))):  # it may be called without
            self.fail(layer, CannotOpenError("it is called on an optional input"))
            return
        args, kwargs, _ = placeholders(args, kwargs)
        inside = [layer, *layer._flatten_layers(include_self=False)]
        self._lasting = {id(x) for x in inside}
        composites = [x for x in inside if self._is_composite(x)]
        known = {id(x) for x in composites}
        leaves = [x for x in inside if id(x) not in known]
        with without_new_nodes(inside), self._swapped(composites, leaves), Watch(self):
            try:
                layer(*args, **(kwargs | {"training": False}))
            except Exception as error:
                self.fail(layer, error)

    def record(self, layer, args, kwargs):
        """Run the call of a composite layer on placeholders: symbols that stand for its outputs."""
        if reason := self._refusal(layer, args, kwargs):
            raise CannotOpenError(reason)
        graph, outputs = self._recorded(layer, args, kwargs)
        self._hold_variables(layer, graph)
        self._note(layer, graph)
        flat = [stand_in(x) if is_symbol(x) else x for x in tree.flatten(outputs)]
        if self._running and not all(map(is_symbol, flat)):
            self.tied.append((layer, self._running[-1]))
        self._returned[id(layer)] = tree.pack_sequence_as(outputs, flat)
        return [x for x in flat if is_symbol(x)]

    def _recorded(self, layer, args, kwargs):
        """The graph and the outputs of a call; the batch size is open if that will do.

        Where it fails, here or in a layer inside that this one gives more or fewer samples than it
        is given itself, Python may have to know the size.
        """
        if not takes_any_batch(args, kwargs):
            return self._graph(layer, args, kwargs, None)
        before, found, failure = self._known, None, None
        cls = type(layer).__mro__[1]  # the first is the one that records
        if self._sized.get(id(layer), self._sized.get(cls)):
            with contextlib.suppress(Exception):
                return self._for_any_batch(layer, args, kwargs)
            self._known = before
        try:
            found = self._graph(layer, args, kwargs, None)
            if self._wanting == before[-1]:
                self._sized[id(layer)] = False
                return found
        except Exception as error:
            failure = error
        after, self._known = self._known, before
        try:
            graph, outputs = self._for_any_batch(layer, args, kwargs)
            self._sized.update({id(layer): True, cls: True})
            return graph, outputs
        except Exception as error:
            if found:
                self._known = after
                return found
            reason = self.reasons.get(id(layer))  # whatever the batch size
            self._known = before
            if str(error) != str(failure):
                self._wanting.add(id(layer))
            told = error if isinstance(error, BatchSizeError) else failure
            raise (CannotOpenError(reason) if reason else told) from None

    @property
    def _known(self):
        """All that was found so far, to be taken back: nothing of what fails is known."""
        return dict(self.graphs), dict(self.reasons), set(self._wanting)

    @_known.setter
    def _known(self, known):
        self.graphs, self.reasons, self._wanting = map(copy.copy, known)

    def _note(self, layer, graph):
        self.layers[id(layer)] = layer
        before = self.graphs.setdefault(id(layer), graph)
        if before is not graph and not are_alike(before, graph):
            self.reasons.setdefault(id(layer), CALLS_DIFFER)
        elif before is not graph:
            open_sizes(before, graph)

    def _hold_variables(self, layer, graph):
        """Let a `Held` stand for each of the layer's own variables that is read or returned."""
        owned, held = {id(v) for v in own_variables(layer)}, {}

        def stand_in(x):
            if not isinstance(x, keras.Variable):
                return x
            if id(x) not in owned:
                self.note_read(x, layer)
            elif reason := why_not_held(x):
                self.reasons.setdefault(id(layer), reason)
            elif id(x) not in held:
                call = Call.of(Held(x, layer.dtype_policy), graph.inputs[0])
                held[id(x)] = call.outputs[0]
                graph.add(call)
            return held.get(id(x), x)

        for node in list(graph.nodes):
            if any(isinstance(x, keras.Variable) for x in flat_arguments(node)):
                given = (node.arguments.args, node.arguments.kwargs)
                node.arguments = Arguments(*tree.map_structure(stand_in, given))
        graph.outputs = tree.map_structure(stand_in, graph.outputs)

    def note_read(self, variable, layer=None):
        """A variable is read outside of a leaf: it would become a constant, so its reader stays."""
        for reader in (*self._running, layer):
            self.read[id(reader)].append(variable)
        if layer or self._running:
            layer = layer or self._running[-1]
            text = (
                f"its call reads the variable {variable.path!r} outside of the layer that owns it"
            )
            if "seed_generator_state" in variable.path:
                text = "its call draws random numbers"
            self.reasons.setdefault(id(layer), text)

    def note_assigned(self, variable):
        """A call changes a variable, which no graph does: its layer stays."""
        if self._running:
            text = f"its call assigns to the variable {variable.path!r}"
            self.reasons.setdefault(id(self._running[-1]), text)

    def _graph(self, layer, args, kwargs, batch):
        args, kwargs, symbols = placeholders(args, kwargs, batch)
        given = [*symbols, *own_variables(layer)]
        tape = Tape(given)
        outputs = self._call(layer, args, kwargs, symbols[0], tape)
        flat = [x for x in tree.flatten(outputs) if is_symbol(x)]
        if not flat:
            raise CannotOpenError("its call returns no tensor that depends on its inputs")
        nodes = nodes_up_to(flat, {id(x) for x in given})
        for node in nodes:
            remember_signature(type(node.operation))
        check_calls(nodes, given)
        reshapes = [] if batch else open_reshapes(nodes)
        if not all(map(can_infer, reshapes)) or any(has_open_size(x, "shape") for x in nodes):
            raise CannotOpenError("its call computes with a size that is open")
        if self._in_both_modes:
            self._call_again(layer, args, kwargs, symbols, tape, outputs)
        for node in reshapes:
            infer(node)
        is_quiet = any(usual_mode(x) is False for x in (*self._running, layer))
        for node in nodes:
            leave_to_mode(node, is_quiet)
        return Graph(symbols, nodes, outputs, is_passing=self._is_passing), outputs

    def _call(self, layer, args, kwargs, symbol, tape):
        self._running.append(layer)
        try:
            with self.placed(symbol, tape):
                return layer.call(*args, **kwargs)
        finally:
            self._running.pop()

    def _call_again(self, layer, args, kwargs, symbols, tape, outputs):
        """Note where the training mode differs from the inference mode.

        An open batch size is known this time: Python may have taken it for a number, as in
        `x.shape[0] or 1`. A layer may take several samples at a time: then a multiple is tried, and
        where neither will do it stays open.

        Raises:
            BatchSizeError: if another is done with a known size: two of them will tell.
        """
        if isinstance(kwargs.get("training"), bool):
            kwargs = kwargs | {"training": not kwargs["training"]}
        known = [_TRIAL_BATCHES[0], _MULTIPLE] if takes_any_batch(args, kwargs) else []
        for batch in [*known, None]:
            given, settings, sized = placeholders(args, kwargs, batch)
            tape.rewind(sized, symbols)
            try:
                tape.end(self._call(layer, given, settings, sized[0], tape), outputs)
                return
            except CannotOpenError as error:
                if batch:
                    raise BatchSizeError from error
                self.fail(layer, error)
            except Exception as error:
                if not batch:
                    self.fail(layer, error)

    @contextlib.contextmanager
    def placed(self, symbol, tape=None):
        """For a while constants are hung on `symbol`, and calls noted on a tape; None: what is
        called belongs to a layer."""
        before, self._place, self._tape = (self._place, self._tape), symbol, tape
        try:
            yield
        finally:
            self._place, self._tape = before

    def called(self, layer, args, kwargs, call, call_plainly):
        """The outputs of a call of a layer.

        Args:
            layer: the layer.
            args, kwargs: of the call.
            call: `call(*args, **kwargs)`: Keras' way.
            call_plainly: `call_plainly(layer, args, kwargs)`: the quick one; it may give None.
        """
        given, settings = self._with_symbols(layer, args, kwargs)
        if not any_symbolic_tensors(given, settings):
            return call(*args, **kwargs)
        tape, outputs = self._tape, None
        if tape and tape.runs_again:
            return tape.repeat(layer, args, kwargs)
        self._explicit_mask = masks.is_given(kwargs)
        with self.placed(None):
            if self._plain.takes(layer, given, settings):
                outputs = call_plainly(layer, given, settings)
            if outputs is None:
                self._note_own_call(layer, given, settings)
                outputs = call(*given, **settings)
        outputs = self._returned.pop(id(layer), outputs)
        if self._running and masks.is_doubtful(layer, outputs, self.reasons.get(id(layer))):
            self.reasons.setdefault(id(self._running[-1]), masks.DOUBTFUL.format(layer.name))
        if tape:
            tape.note(layer, args, kwargs, outputs)
        return outputs

    def _note_own_call(self, layer, args, kwargs):
        if self._running and computes_around(layer, args, kwargs):
            reason = f"it calls {layer.name!r}, and {_OWN_CALL}"
            self.reasons.setdefault(id(self._running[-1]), reason)

    def _with_symbols(self, layer, args, kwargs):
        """The arguments of a call; constants become symbols where there is none among them."""
        if any_symbolic_tensors(args, kwargs) or self._place is None or not layer.variables:
            return args, kwargs

        def hung(x):
            if not is_constant(x):
                return x
            x = layer.dtype_policy.convert_input(x, layer.autocast, layer.input_dtype)
            return Call.of(Given(), self._place, x).outputs[0]

        return tree.map_structure(hung, (args, kwargs))

    def _is_passing(self, operation):
        """Whether an operation was made by the call itself: a new one at every call."""
        return id(operation) not in self._lasting

    def _for_any_batch(self, layer, args, kwargs):
        """The graph from calls with two batch sizes: what follows the size is left open."""
        before, in_both_modes = dict(self.graphs), self._in_both_modes
        runs = []
        try:
            for batch in _TRIAL_BATCHES:
                self.graphs = dict(before)
                graph, outputs = self._graph(layer, args, kwargs, batch)
                found = {k: g for k, g in self.graphs.items() if k not in before}
                runs.append((graph, outputs, found))
                self._in_both_modes = False  # the second is held to the first
        finally:
            self._in_both_modes = in_both_modes
        (graph, outputs, inner), (other, _, others) = runs
        open_batch(graph, other)
        for key, found in inner.items():
            try:
                open_batch(found, others.get(key))
            except BatchSizeError as error:
                self.reasons.setdefault(key, str(error))
        self.graphs = before | inner
        return graph, outputs

    def _refusal(self, layer, args, kwargs):
        if computes_around(layer, args, kwargs):
            return _OWN_CALL
        if layer.activity_regularizer is not None:
            return "it has an activity regularizer"
        return masks.refusal(layer, args, kwargs, self._explicit_mask)

    def fail(self, layer, error):
        text = str(error)
        if not isinstance(error, CannotOpenError):
            text = f"its call on symbolic tensors fails ({type(error).__name__}: {_gist(text)})"
        self.layers[id(layer)] = layer
        self.reasons.setdefault(id(layer), text)

    @contextlib.contextmanager
    def _swapped(self, composites, leaves):
        """For a while layers, and variables of composites, are of classes that record."""
        variables = [v for x in composites for v in own_variables(x)]
        self._symbolic = [(v, type(v), symbolic_class(type(v))) for v in variables]
        recorded = [(x, type(x), self._classes.opened(type(x))) for x in composites]
        recorded += [(x, type(x), self._classes.leaf(type(x))) for x in leaves]
        with self._classes.telling(self), of_classes([*recorded, *self._symbolic]):
            yield

    def with_real_variables(self):
        """For a while the variables are what they are: Keras looks into a layer by itself."""
        return of_classes([(v, recording, real) for v, real, recording in self._symbolic])


def _gist(text):
    """What a message says, without the words and colors that Keras puts around it."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d+m", "", text).split("\n")]
    told = [x for x in lines if x and not x.startswith("Exception encountered when calling")]
    return (told or [""])[0][:160]

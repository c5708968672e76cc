"""A layer runs twice, and what it calls the second time is held to what it called at first."""

import dataclasses

from keras import tree

from aip_tf._keras.comparing import BatchSizeError, same, same_call, same_open_reshape
from aip_tf._keras.graph import with_mask_of
from aip_tf._keras.modes import is_modeless
from aip_tf._keras.nodes import Arguments, CannotOpenError, nodes_up_to
from aip_tf._keras.plain import has_open_batch, is_symbol, stand_in, without_mode

_ABSENT = object()
_DEPENDS = "what it does depends on `training` or on chance"


@dataclasses.dataclass(slots=True)
class _Called:
    layer: object
    arguments: Arguments
    outputs: object


class Tape:
    """The calls of layers during one call of a composite layer, in order.

    They are noted while the layer runs in inference mode. When it runs again, in training mode, no
    layer in it is called: each call has to be the one that is due, on the same arguments, and gives
    what it gave. So the second run costs little, and yet what Python does must be the same.

    Args:
        given: the symbols, placeholders and variables, that the layer may use.
    """

    def __init__(self, given):
        self._called = []
        self._given = given
        self._due = None
        self._twins = {}  # {id(symbol of the second run): that of the first}
        self._done = set()  # ids of what is given, and of all that was compared, of both runs
        self._alive = []  # keeps the ids of what only the second run knows

    @property
    def runs_again(self):
        """Whether this is the second run."""
        return self._due is not None

    def note(self, layer, args, kwargs, outputs):
        """A layer was called in the first run."""
        self._called.append(_Called(layer, Arguments(args, kwargs), outputs))

    def rewind(self, given, first):
        """The second run begins, or begins anew, on the symbols `given` in place of `first`."""
        self._due = iter(self._called)
        self._twins, self._done = {}, {id(x) for x in self._given}
        for x, then in zip(given, first, strict=True):
            self._pair(x, then)

    def repeat(self, layer, args, kwargs):
        """A layer is called in the second run: what it gave in the first.

        Raises:
            CannotOpenError: if it is another call; `BatchSizeError` if it is the same on samples of
                a known number, and what it gives then is not known.
        """
        called = next(self._due, None)
        if called is None or called.layer is not layer:
            raise CannotOpenError(_DEPENDS)
        then = called.arguments
        modes = [x.get("training", _ABSENT) for x in (then.kwargs, kwargs)]
        follows = modes == [False, True] or all(x is _ABSENT for x in modes)
        if not follows and (modes != [False, False] or not is_modeless(layer)):
            raise CannotOpenError(f"its call fixes `training` of {layer.name}")
        rest, rest_then = without_mode(kwargs), without_mode(then.kwargs)
        alike = len(args) == len(then.args) and all(map(self._is_twin, args, then.args))
        if rest or rest_then or not alike:
            self._match((args, rest), (then.args, rest_then))
        self._done.update(map(id, tree.flatten(called.outputs)))
        pairs = _symbols((args, rest), (then.args, rest_then))
        batch = next((x.shape[0] for x, y in pairs if has_open_batch(y)), None)
        outputs = called.outputs if batch is None else self._of_size(called.outputs, batch)
        if _is_open(outputs) and any(_has_samples_behind(x, y) for x, y in pairs):
            raise BatchSizeError  # along which axis of the outputs they lie, two known sizes tell
        return outputs

    def end(self, outputs, first):
        """The second run is over: its outputs and those of the first must be the same.

        Raises:
            CannotOpenError: if they are not.
        """
        self._match(outputs, first)
        if next(self._due, None) is not None:
            raise CannotOpenError(_DEPENDS)

    def _of_size(self, outputs, batch):
        """Outputs of the first run with a batch size that was open there."""

        def sized(x):
            if not has_open_batch(x):
                return x
            twin = with_mask_of(x, stand_in(x, batch))
            self._pair(twin, x)
            return twin

        return sized(outputs) if is_symbol(outputs) else tree.map_structure(sized, outputs)

    def _pair(self, x, then):
        self._twins[id(x)] = then
        self._done.add(id(x))
        self._alive.append(x)

    def _is_twin(self, x, then):
        return self._twins.get(id(x), x) is then

    def _match(self, structure, first):
        """Hold what the second run made to what the first made, and all operations behind it."""
        nodes = [
            nodes_up_to([x for x in tree.flatten(s) if is_symbol(x)], self._done)
            for s in (structure, first)
        ]
        self._alive += nodes[0]
        alike = len(nodes[0]) == len(nodes[1])
        for a, b in zip(*nodes, strict=False):
            alike = alike and (same_call(a, b, self._twins) or same_open_reshape(a, b, self._twins))
            self._twins.update((id(x), y) for x, y in zip(a.outputs, b.outputs, strict=False))
        if not alike or not same(structure, first, self._twins):
            raise CannotOpenError(_DEPENDS)


def _is_open(structure):
    """Whether the size of a symbol is open on any axis."""
    return any(None in x.shape for x in tree.flatten(structure) if is_symbol(x))


def _symbols(given, then):
    """Pairs of the symbols that a call is given and those that it was given in the first run."""
    pairs = zip(tree.flatten(given), tree.flatten(then), strict=True)
    return [(x, y) for x, y in pairs if is_symbol(x) and is_symbol(y)]


def _has_samples_behind(x, then):
    """Whether an axis behind the first was open and is not: samples were moved there."""
    return any(s != t and t is None for s, t in zip(x.shape[1:], then.shape[1:], strict=False))

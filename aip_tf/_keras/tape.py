"""A layer runs twice, and what it calls the second time is held to what it called at first."""

import dataclasses
import operator

from keras import tree

from aip_tf._keras.comparing import same, same_call
from aip_tf._keras.modes import is_modeless
from aip_tf._keras.nodes import Arguments, CannotOpenError, nodes_up_to
from aip_tf._keras.plain import is_symbol, without_mode

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
        self._due = None
        self._twins = {}  # {id(symbol of the second run): that of the first}
        self._done = {id(x) for x in given}  # and all that was compared, of both runs
        self._nodes = []  # keeps the ids of what only the second run knows

    @property
    def runs_again(self):
        """Whether this is the second run."""
        return self._due is not None

    def note(self, layer, args, kwargs, outputs):
        """A layer was called in the first run."""
        self._called.append(_Called(layer, Arguments(args, kwargs), outputs))

    def rewind(self):
        """The second run begins."""
        self._due = iter(self._called)

    def repeat(self, layer, args, kwargs):
        """A layer is called in the second run: what it gave in the first.

        Raises:
            CannotOpenError: if it is another call.
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
        alike = len(args) == len(then.args) and all(map(operator.is_, args, then.args))
        if rest or rest_then or not alike:
            self._match((args, rest), (then.args, rest_then))
        self._done.update(map(id, tree.flatten(called.outputs)))
        return called.outputs

    def end(self, outputs, first):
        """The second run is over: its outputs and those of the first must be the same.

        Raises:
            CannotOpenError: if they are not.
        """
        self._match(outputs, first)
        if next(self._due, None) is not None:
            raise CannotOpenError(_DEPENDS)

    def _match(self, structure, first):
        """Hold what the second run made to what the first made, and all operations behind it."""
        nodes = [
            nodes_up_to([x for x in tree.flatten(s) if is_symbol(x)], self._done)
            for s in (structure, first)
        ]
        self._nodes += nodes[0]
        alike = len(nodes[0]) == len(nodes[1])
        for a, b in zip(*nodes, strict=False):
            alike = alike and same_call(a, b, self._twins)
            self._twins.update((id(x), y) for x, y in zip(a.outputs, b.outputs, strict=False))
        if not alike or not same(structure, first, self._twins):
            raise CannotOpenError(_DEPENDS)

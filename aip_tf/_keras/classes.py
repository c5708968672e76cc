"""Classes of layers that tell a `Recording` of their calls on symbols."""

import contextlib
import functools

from keras import tree

from aip_tf._keras.graph import graph_inside, walk
from aip_tf._keras.nodes import Call, made_by_keras
from aip_tf._keras.plain import call_composite, call_leaf, is_symbol, stand_in


@contextlib.contextmanager
def of_classes(changes):
    """Objects are of another class for a while: list of (object, its class, the other)."""
    for x, _, other in changes:
        object.__setattr__(x, "__class__", other)
    try:
        yield
    finally:
        for x, cls, _ in changes:
            object.__setattr__(x, "__class__", cls)


class Classes:
    """Classes of layers that tell of their calls; each is made once, for one recording after
    another."""

    def __init__(self):
        self.recording = None
        self.opened = functools.cache(functools.partial(_opened_class, self))
        self.leaf = functools.cache(functools.partial(_leaf_class, self))

    @contextlib.contextmanager
    def telling(self, recording):
        """For a while calls are told to `recording`."""
        before, self.recording = self.recording, recording
        try:
            yield
        finally:
            self.recording = before


def _opened_class(classes, cls):
    """A subclass of `cls` whose calls on symbols are told to the recording."""

    class Opened(cls):
        def __call__(self, *args, **kwargs):
            call = super().__call__
            return classes.recording.called(self, args, kwargs, call, call_composite)

        def symbolic_call(self, *args, **kwargs):
            recording = classes.recording
            try:
                return recording.record(self, args, kwargs)
            except Exception as error:
                recording.fail(self, error)
            with recording.with_real_variables(), recording.placed(None):
                outputs = super().symbolic_call(*args, **kwargs)
            return _as_its_own(self, args, kwargs, outputs)

        def add_loss(self, loss):
            classes.recording.reasons.setdefault(id(self), "its call adds a loss")

    return _named_as(cls, Opened)


def _leaf_class(classes, cls):
    """A subclass of `cls` whose calls on constants leave a node, too."""

    class Leaf(cls):
        def __call__(self, *args, **kwargs):
            return classes.recording.called(self, args, kwargs, super().__call__, call_leaf)

        def symbolic_call(self, *args, **kwargs):
            try:
                return super().symbolic_call(*args, **kwargs)
            except ValueError:
                # Only symbols are held to the size on which a model inside was built.
                graph = graph_inside(self)
                if graph is None or len(args) != 1:
                    raise
            return tree.map_structure(stand_in, walk(graph, args[0], _spec))

    return _named_as(cls, Leaf)


def _as_its_own(layer, args, kwargs, outputs):
    """The outputs of a layer that stays whole; new ones where it gave symbols that another made.

    As a layer does that keeps a symbol from one call to the next.
    """
    makers = [made_by_keras(x) for x in tree.flatten(outputs) if is_symbol(x)]
    if any(maker not in (None, layer) for maker in makers):
        outputs = tree.map_structure(lambda x: stand_in(x) if is_symbol(x) else x, outputs)
        Call(layer, args, kwargs, outputs)
    return outputs


def _spec(node, args, kwargs):
    return node.operation.compute_output_spec(*args, **kwargs)


def _named_as(cls, new):
    new._is_recorded = True
    new.__name__, new.__qualname__, new.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return new

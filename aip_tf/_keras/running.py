"""Models that run the graph of another model and look at what passes."""

from types import MappingProxyType

import keras
from keras import tree

from aip_tf._keras.graph import (
    graph_inside,
    graph_of,
    run_graph,
    run_operation,
    standardized,
    with_mask_of,
)
from aip_tf._keras.layers import keeps_statistics


def answer(model, inputs):
    """The outputs of `model` in inference mode; its states stay, so that the next are the same."""
    with keras.StatelessScope():
        return model(inputs, training=False)


def observe(model, inputs, see):
    """Run `model` in inference mode and show every call: `see(operation, path, tensors, outputs)`.

    `tensors` is the flat list of what the operation was called on. Returns the model's outputs.
    """

    def call(node, args, kwargs, path):
        outputs = run_operation(node, args, kwargs, training=False)
        tensors = [x for x in tree.flatten((args, kwargs)) if keras.ops.is_tensor(x)]
        see(node.operation, path, tensors, outputs)
        return outputs

    graph = graph_of(model)
    return run_graph(graph, standardized(graph, inputs), call)


class GivenInputs(keras.Model):
    """A model whose `call` is given the inputs as they are: it converts them itself."""

    def __init__(self, name):
        super().__init__(name=name)
        self.built = True
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True


class TappedModel(GivenInputs):
    """`model`, whose call also returns what is read at some paths: `(outputs, {path: found})`.

    Called with `taps`, {path: function}: of `function(x) -> (y, found)` the model goes on with y,
    equal to x. (They belong to the call: several replicas may be in one at a time.)
    The layers are the model's own; no node is added to its graph. In training mode only those are
    that keep statistics, such as BatchNormalization: what draws random numbers is quiet.
    """

    def __init__(self, model):
        super().__init__(f"{model.name}_tapped")
        self.model = model

    def call(self, inputs, training=None, taps=MappingProxyType({})):
        found = {}

        def call(node, args, kwargs, path):
            mode = training and keeps_statistics(node.operation)
            x = run_operation(node, args, kwargs, mode)
            if path in taps:
                before = x
                x, found[path] = taps[path](x)
                x = with_mask_of(before, x)
            return x

        graph = graph_of(self.model)
        return run_graph(graph, standardized(graph, inputs), call), found


def quiet(model):
    """A function of inputs: the outputs of `model` in training mode, its random layers quiet."""
    if graph_inside(model) is None:
        return lambda inputs: model(inputs, training=True)
    tapped = TappedModel(model)
    return lambda inputs: tapped(inputs, training=True)[0]

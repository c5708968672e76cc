"""What a function computes: the operations that TensorFlow records when it is called."""

import functools

import keras
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry


def recorded_graph(function, rank, dtype):
    """The `tf.Graph` of `function(x)` for a tensor of open sizes: what it does to any `x`.

    No size is known while it is recorded, so a function that reads one as a number cannot be
    recorded. Operations of Keras and of TensorFlow are recorded alike.

    Args:
        function: takes and returns a tensor.
        rank: number of axes of `x`.
        dtype: its type, such as "float32".

    Returns:
        A graph whose `inputs` are `x` and the variables and constants that the function holds, and
        whose `outputs` are what it returns.
    """

    def call(x):
        with keras.StatelessScope(collect_losses=True):  # nothing is left behind in a layer
            return function(x)

    traced = tf.function(call, autograph=False)
    return traced.get_concrete_function(tf.TensorSpec([None] * rank, dtype)).graph


def called_graph(operation):
    """The graph that a recorded operation calls (a `tf.function` in a function), or None."""
    if operation.type not in ("PartitionedCall", "StatefulPartitionedCall"):
        return None
    name = operation.get_attr("f").name
    return getattr(operation.graph._get_function(name), "graph", None)


def forget_gradients():
    """Let the graph that is being recorded go once nothing calls it any more.

    Every `tf.custom_gradient` that is recorded (a sum over replicas, even over one, or swish) puts
    its gradient into a table of the process, with tensors of the graph, so the graph of every `fit`
    stays: 14 MB for a small ResNet. Only for graphs that nobody will differentiate from outside.
    """
    if tf.executing_eagerly():
        return
    for operation in tf.compat.v1.get_default_graph().get_operations():
        if operation.type == "IdentityN":  # what `tf.custom_gradient` ends in
            name = operation.node_def.attr["_gradient_op_type"].s.decode()
            gradient_registry._registry.pop(name, None)


def forgetting_gradients(step):
    """`step`, a function that a `tf.function` calls, with `forget_gradients` at its end."""

    @functools.wraps(step)
    def call(*args, **kwargs):
        outputs = step(*args, **kwargs)
        forget_gradients()
        return outputs

    return call

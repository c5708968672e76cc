"""Rules for layers of one's own that need one line: each makes a rule for `register_channel_rule`.

They take any further tensors and arguments of the layer's call, such as masks, as they are: use
them only where those do not depend on single channels.
"""

from aip_tf.channels.identities import IdentityArray, spread
from aip_tf.channels.rules.pointwise import broadcast


def elementwise():
    """A rule for layers that compute each entry from the entries at the same place.

    For instance activations, stochastic depth, noise, and layers that add or multiply several
    tensors of one shape, or of shapes that are broadcast. The layer may have no variables but
    single numbers.

    Returns:
        A rule for `register_channel_rule`.

    Example:

    >>> class DropPath(keras.layers.Layer):
    ...     def call(self, x, training=False):
    ...         if not training:
    ...             return x
    ...         shape = (keras.ops.shape(x)[0], *(1,) * (len(x.shape) - 1))
    ...         return x * keras.ops.cast(keras.random.uniform(shape) < 0.9, x.dtype) / 0.9
    >>> rule = aip_tf.register_channel_rule(DropPath)(aip_tf.channels.rules.elementwise())
    """

    def rule(call, *values, **settings):
        values = values[0] if isinstance(values[0], list | tuple) else values
        values = [x for x in values if isinstance(x, IdentityArray)]
        return values[0] if len(values) == 1 else broadcast(call, *values)

    return rule


def channelwise(*variables, arguments=(), axis=-1):
    """A rule for layers that treat every channel alone, with variables that hold a part for each.

    For instance a learnt scale, an own normalisation by stored statistics, a table of positions
    that is added. Spatial axes may change their sizes.

    Args:
        variables: names of the layer's attributes that are such variables. A channel lies on the
            last axis of each: shapes such as (channels,), (1, 1, channels), (steps, channels). An
            attribute that is None is passed over.
        arguments: names of the arguments of the layer's constructor that are the number of
            channels, such as "projection_dim"; `get_config` must have them.
        axis: the axis of the channels in the input and in the output.

    Returns:
        A rule for `register_channel_rule`.

    Raises:
        ValueError: when a model is traced, if the layer has no such attribute.

    Example:

    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones", name="gamma")
    ...     def call(self, x):
    ...         return x * self.gamma
    >>> rule = aip_tf.register_channel_rule(Scale)(aip_tf.channels.rules.channelwise("gamma"))
    """

    def rule(call, x, *others, **settings):
        ids = call.channels(x, axis)
        for name in variables:
            call.weight(_attribute(call.operation, name), -1, ids, "channelwise")
        for name in arguments:
            call.config(name, ids)
        return spread(ids, call.shape, axis)

    return rule


def moves_nothing(axis=-1):
    """A rule for layers without variables that leave every channel where it is.

    For instance reflection padding, blurring, resizing and cropping, which change the sizes of the
    other axes only.

    Args:
        axis: the axis of the channels in the input and in the output.

    Returns:
        A rule for `register_channel_rule`.

    Example:

    >>> class ReflectionPadding(keras.layers.Layer):
    ...     def call(self, x):
    ...         return keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    >>> rule = aip_tf.channels.rules.moves_nothing()
    >>> rule = aip_tf.register_channel_rule(ReflectionPadding)(rule)
    """
    return channelwise(axis=axis)


def _attribute(layer, name):
    if not hasattr(layer, name):
        raise ValueError(
            f"Received {name!r} as a variable of {type(layer).__name__} in `channelwise`, but the "
            f"layer {layer.name!r} has no such attribute. Expected the name of an attribute that "
            f"is a variable, as `gamma` in `self.gamma = self.add_weight(...)`."
        )
    return getattr(layer, name)

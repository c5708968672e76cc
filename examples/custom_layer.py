"""Teach the tracer a layer of one's own: its channels can then be cut like any others."""

import keras
import tensorflow as tf

import aip_tf


@keras.saving.register_keras_serializable("example")
class Swish(keras.layers.Layer):
    # In keras.ops it would need no rule: the tracer cannot look into functions of TensorFlow.
    def build(self, shape):
        self.slope = self.add_weight(shape=(shape[-1],), initializer="ones", name="slope")

    def call(self, x):
        return x * tf.sigmoid(self.slope * x)


first, last = (keras.layers.Conv2D(n, 3, name=name) for n, name in ((16, "first"), (8, "last")))
model = keras.Sequential([keras.Input((32, 32, 3)), first, Swish(), last])
print(aip_tf.summary(model))  # "first" is kept whole: Swish has no rule


@aip_tf.register_channel_rule(Swish)
def swish(call, x):
    call.weight(call.operation.slope, 0, call.channels(x), "channelwise")
    return x  # the channels that flow in flow out


print(aip_tf.summary(aip_tf.prune_channels(model, aip_tf.select_channels(model, 0.5))))

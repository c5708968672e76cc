"""Teach the tracer a layer of one's own: its channels can then be cut like any others."""

import keras

import aip_tf


@keras.saving.register_keras_serializable("example")
class Swish(keras.layers.Layer):
    """x * sigmoid(slope * x), with a slope learnt for each channel."""

    def build(self, shape):
        self.slope = self.add_weight(shape=(shape[-1],), initializer="ones", name="slope")

    def call(self, x):
        return x * keras.ops.sigmoid(self.slope * x)


conv = [keras.layers.Conv2D(16, 3, name="first"), Swish(), keras.layers.Conv2D(8, 3, name="last")]
model = keras.Sequential([keras.Input((32, 32, 3)), *conv, keras.layers.GlobalMaxPooling2D()])
print(aip_tf.summary(model))  # "first" is kept whole: Swish has no channel rule


@aip_tf.register_channel_rule(Swish)
def swish(call, x):
    call.weight(call.operation.slope, 0, call.channels(x), "channelwise")
    return x  # the channels that flow in flow out


print(aip_tf.summary(aip_tf.prune_channels(model, aip_tf.select_channels(model, 0.5))))

"""More steps of the random networks: composites, foreign activations, recurrent wrappers, masks."""

from random_graphs import step

FOREIGN = (
    "ops.gelu",
    "ops.hard_sigmoid",
    "tf.nn.leaky_relu",
    "tf.nn.silu",
    "tf.math.tanh",
    "partial(ops.leaky_relu, negative_slope=0.3)",
    "lambda x: ops.tanh(x) * x",
    "layers.LeakyReLU(negative_slope=0.2)",
)


def pick(w, accept=lambda h, v, c: True):
    """A tensor for a composite: after a product with an array Keras takes a tensor for sparse, and
    then cannot build one."""
    x = w.pick(accept)
    return w.new(f"layers.ReLU(negative_slope=0.5)({x})") if x and w.namespace[x].sparse else x


@step(3)
def composite(w):
    x = pick(w, lambda h, v, c: h * v <= 64)
    if x:
        n, m = w.filters(), w.filters()
        kind = w.choice(
            [
                f"Block({n}",
                f"Block({n}, activation={w.choice(FOREIGN[:-1])}",
                f"Block({w.shape(x)[-1]}",
                f"Twice({n}",
                "Squeeze(",
                f"Nest({n}",
                f"Scaled({n}",
                f"Jitter({n}",
            ]
        )
        w.keep(w.own(kind, x))
        if w.rng.random() < 0.3:
            a, b = w.name(), w.name()
            w.line(f"{a}, {b} = {w.own(f'Branches({n}, {m}', x)}")
            w.keep(a, b)


@step(0.7)
def joined(w):
    x = pick(w)
    y = w.conv(x, w.filters())
    w.keep(w.own(f"Join({w.filters()}", f"{x}, other={y}, scale=0.5"))


@step(0.7)
def tokens(w):
    x = pick(w, lambda h, v, c: h * v <= 16)
    if x:
        w.keep(w.own(f"Tokens({w.filters()}, {w.choice([2, 3])}", x))


@step(0.7)
def shared_composite(w):
    """One composite called twice."""
    x = pick(w, lambda h, v, c: c <= 8)
    if x:
        name = w.name("block")
        w.line(f'{name} = composites.Block({w.shape(x)[-1]}, name="{name}")')
        y = w.new(f"{name}({x})")
        w.keep(w.new(f"{name}({y})"))


@step(2)
def foreign_activation(w):
    x = w.pick()
    kind = w.choice([f"Conv2D({w.filters()}, 1, activation=", f"Dense({w.filters()}, activation="])
    w.keep(w.layer(kind + w.choice(FOREIGN), x))


@step(2)
def recurrent(w):
    x = w.pick(lambda h, v, c: h * v <= 36 and c <= 8)
    if x:
        h, v, c = w.shape(x)
        t = w.layer(f"Reshape(({h}, {v * c})", x)
        if w.rng.random() < 0.3:
            t = w.layer("Masking(0.5", w.new(f"ops.round({t})"))
        n, m = w.filters(), w.filters()
        inner = w.choice(["LSTM", "GRU", "SimpleRNN"])
        mode = w.choice(['"concat"', '"sum"', '"mul"', '"ave"'])
        kinds = [
            f"Bidirectional(layers.{inner}({n}, return_sequences=True), merge_mode={mode}",
            f"RNN([layers.LSTMCell({n}), layers.GRUCell({m})], return_sequences=True",
            f"RNN(layers.SimpleRNNCell({n}), return_sequences=True, go_backwards=True",
            f"TimeDistributed(layers.Dense({n}, activation=ops.sigmoid)",
        ]
        t = w.layer(w.choice(kinds), t)
        w.keep(w.layer(f"Reshape(({h}, 1, {w.namespace[t].shape[-1]})", t))


@step(0.7)
def states(w):
    """The last states of one layer are the first of another."""
    x = w.pick(lambda h, v, c: h * v <= 36 and c <= 8)
    if x:
        h, v, c = w.shape(x)
        t = w.layer(f"Reshape(({h}, {v * c})", x)
        n = w.filters()
        y, s = w.name(), w.name("state")
        w.line(f"{y}, {s} = layers.GRU({n}, return_state=True, return_sequences=True)({t})")
        z = w.new(f"layers.GRU({n}, return_sequences=True)({y}, initial_state={s})")
        w.keep(w.layer(f"Reshape(({h}, 1, {n})", z))


@step(0.5)
def convolutional_lstm(w):
    x = w.pick(lambda h, v, c: h * v <= 16 and c <= 8)
    if x:
        n = w.filters()
        w.keep(w.layer(f'ConvLSTM1D({n}, 3, padding="same", return_sequences=True', x))

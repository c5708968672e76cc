"""Random small networks, written as source code: a failing one can be read, run and cut down.

`build(seed)` draws a network of 6 to 14 steps and returns `(model, code)`; `exec(code)` gives the
same `model` again. Steps are the functions below: each takes a `Writer`, appends lines of code and
leaves new tensors for later steps; every tensor that nobody read ends in the head, so that each
channel can reach the output. Composite layers, foreign activations and recurrent wrappers are in
`random_layers.py`; now and then the whole network is put into a subclassed model.
"""

import keras
import laws
import numpy as np

HEADER = """import composites
import numpy as np
import tensorflow as tf
from functools import partial
from keras import Input, Model, Sequential, layers, ops
"""
MAX_CHANNELS, MAX_PIXELS = 16, 100
STEPS = []  # (step, weight)


class Writer:
    """The code so far, its tensors, and the dice."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.lines, self.namespace = [], {}
        self.num_names = 0
        self.live, self.unread = [], set()  # tensors (H, W, C) to draw from; those nobody read
        exec(HEADER, self.namespace)

    def line(self, text):
        exec(text, self.namespace)
        self.lines.append(text)

    def name(self, prefix="x"):
        self.num_names += 1
        return f"{prefix}{self.num_names}"

    def new(self, expression, prefix="x"):
        """A line `name = expression`; returns the name."""
        name = self.name(prefix)
        self.line(f"{name} = {expression}")
        return name

    def layer(self, constructor, *tensors):
        """A layer named like its output, applied to the tensors."""
        name = self.name(constructor.split("(")[0].lower())
        call = tensors[0] if len(tensors) == 1 else f"[{', '.join(tensors)}]"
        opened = constructor if constructor.endswith("(") else constructor + ", "
        self.line(f'{name} = layers.{opened}name="{name}")({call})')
        return name

    def own(self, constructor, arguments):
        """The same of a layer out of `composites`."""
        name = self.name(constructor.split("(")[0].lower())
        opened = constructor if constructor.endswith("(") else constructor + ", "
        self.line(f'{name} = composites.{opened}name="{name}")({arguments})')
        return name

    def keep(self, *names):
        """Offer tensors to later steps."""
        self.live.extend(names)
        self.unread.update(names)

    def shape(self, name):
        return tuple(self.namespace[name].shape[1:])

    def pick(self, accept=lambda h, w, c: True):
        """A live tensor that fits, recent ones preferred; None if there is none."""
        fitting = [n for n in self.live if accept(*self.shape(n))]
        if not fitting:
            return None
        weights = np.arange(1, len(fitting) + 1) ** 2.0
        name = self.choice(fitting, weights / weights.sum())
        self.unread.discard(name)
        return name

    def choice(self, options, p=None):
        return options[self.rng.choice(len(options), p=p)]

    def filters(self, multiple=1):
        return multiple * int(
            self.rng.integers(1 if multiple > 1 else 2, 1 + max(2, 8 // multiple))
        )

    def conv(self, x, filters, kernel=None, extra=""):
        """Convolution with a random activation, spatial size unchanged."""
        kernel = kernel or self.choice([1, 3])
        act = self.choice(["", ', activation="relu"', ', activation="sigmoid"'])
        return self.layer(f'Conv2D({filters}, {kernel}, padding="same"{act}{extra}', x)

    def twin(self, x):
        """Another tensor of x's shape: a live one, or a convolution of x."""
        shape = self.shape(x)
        other = self.pick(lambda *s: s == shape) if self.rng.random() < 0.5 else None
        return other if other not in (None, x) else self.conv(x, shape[-1])


def step(weight=1.0):
    def register(function):
        STEPS.append((function, weight))
        return function

    return register


def build(seed):
    """The network of this seed: (model, code)."""
    keras.utils.clear_session(free_memory=False)  # automatic names start again
    w = Writer(seed)
    size, channels = w.choice([4, 6, 8]), w.choice([2, 3, 4])
    w.line(f"image = Input(({size}, {size}, {channels}))")
    w.keep("image")
    w.keep(w.conv("image", w.filters()))
    weights = np.array([weight for _, weight in STEPS])
    for _ in range(w.rng.integers(6, 15)):
        w.choice(STEPS, weights / weights.sum())[0](w)
    _finish(w)
    return w.namespace["model"], HEADER + "\n".join(w.lines)


def check(seed):
    """Hold the laws against the network of this seed: (sentences about what is wrong, groups)."""
    try:
        model, _ = build(seed)
        rng = np.random.default_rng(seed)
        # Keras' eager sum takes a gate (batch, 1, 1, 1) for a bias where the batch size is also the
        # height, so the batch has a size that nothing else has.
        shape = getattr(model, "image_shape", None) or model.input_shape[1:]
        batch = rng.normal(size=(13, *shape)).astype("float32")
        verdict = laws.check_cut(laws.randomize(model, rng, batch), batch, rng, num_controls=10)
    except Exception as problem:
        return [repr(problem)], 0
    return verdict.problems, len(verdict.masks)


def explain(seed, problems):
    """What a failure prints: seed, problems, code."""
    return f"seed {seed}: {'; '.join(problems)}\n{build(seed)[1]}\n"


def _finish(w):
    outputs = []
    unread = [n for n in w.live if n in w.unread and n != "image"]
    if len(unread) > 1 and w.rng.random() < 0.15:
        outputs.append(unread.pop(0))
    parts = []
    for name in unread:
        flatten = np.prod(w.shape(name)) <= 64 and w.rng.random() < 0.5
        pooled = (
            "Flatten()"
            if flatten
            else w.choice(["GlobalAveragePooling2D()"] * 3 + ["GlobalMaxPooling2D()"])
        )
        parts.append(w.new(f"layers.{pooled}({name})"))
    x = w.layer("Concatenate(", *parts) if len(parts) > 1 else parts[0]
    if w.rng.random() < 0.3:
        x = w.layer(f'Dense({w.filters()}, activation="silu"', x)  # a relu may be dead: silence
    w.line(f'head = layers.Dense(3, name="head")({x})')
    w.line(f"model = Model(image, [{', '.join(['head', *outputs])}])")
    if w.rng.random() < 0.15:
        w.line("model = composites.Whole(model)")
        w.line("model(np.zeros((1, *model.image_shape)))")


def divisors(n):
    return [d for d in range(2, n + 1) if n % d == 0]


# --- layers ------------------------------------------------------------------------------------


@step(5)
def convolution(w):
    x = w.pick()
    stride = ", strides=2" if w.shape(x)[0] >= 4 and w.rng.random() < 0.25 else ""
    w.keep(w.conv(x, w.filters(), extra=stride))


@step(3)
def normalisation(w):
    x = w.pick()
    groups = w.choice([*divisors(w.shape(x)[-1]), 1, -1])
    norm = w.choice(
        ["BatchNormalization("] * 4
        + ["LayerNormalization(", "RMSNormalization(", f"GroupNormalization({groups}"]
    )
    w.keep(w.new(f"ops.{w.choice(['relu', 'sigmoid', 'silu'])}({w.layer(norm, x)})"))


@step(1.5)
def activation(w):
    x = w.pick()
    if w.rng.random() < 0.4:
        w.keep(w.layer(w.choice(["PReLU(shared_axes=[1, 2]", "PReLU("]), x))
    else:
        w.keep(w.new(f"ops.{w.choice(['tanh', 'gelu', 'abs', 'exp', 'square'])}({x} * 0.3)"))


@step(2)
def depthwise(w):
    x = w.pick(lambda h, v, c: c <= 8)
    if x:
        w.keep(
            w.layer(f'DepthwiseConv2D(3, padding="same", depth_multiplier={w.choice([1, 1, 2])}', x)
        )


@step(2)
def grouped(w):
    x = w.pick(lambda h, v, c: len(divisors(c)) > 0)
    groups = w.choice(divisors(w.shape(x)[-1]))
    w.keep(w.conv(x, w.filters(groups), extra=f", groups={groups}"))


@step()
def other_convolutions(w):
    x = w.pick(lambda h, v, c: h * v <= MAX_PIXELS / 4 and c <= 8)
    if x:
        n = w.filters()
        kind = w.choice(
            [
                f'SeparableConv2D({n}, 3, padding="same", depth_multiplier={w.choice([1, 2])}',
                f'Conv2DTranspose({n}, 3, strides=2, padding="same"',
                f"Dense({n}",
                f'EinsumDense("bhwc,cd->bhwd", (None, None, {n}), bias_axes="d"',
            ]
        )
        w.keep(w.layer(kind.replace("(None, None,", str(w.shape(x)[:2])[:-1] + ","), x))


@step(1.5)
def spatial(w):
    x = w.pick(lambda h, v, c: min(h, v) >= 4 and h * v <= 64)
    if x:
        kind = w.choice(
            [
                "MaxPooling2D(2",
                "AveragePooling2D(3, 1",
                "UpSampling2D(2" if w.shape(x)[0] <= 5 else "MaxPooling2D(2",
                "ZeroPadding2D(((0, 1), (1, 0))",
                "Cropping2D(((1, 0), (0, 1))",
            ]
        )
        w.keep(w.layer(kind, x))


# --- joins -------------------------------------------------------------------------------------


@step(3)
def concatenation(w):
    x = w.pick(lambda h, v, c: c <= MAX_CHANNELS // 2)
    if x:
        h, v, _ = w.shape(x)
        others = [w.pick(lambda a, b, c: (a, b) == (h, v) and c <= MAX_CHANNELS // 2)]
        if w.rng.random() < 0.5:
            others.append(w.conv(x, w.filters()))
        w.keep(w.layer("Concatenate(", x, *others))


@step(0.5)
def concatenated_rows(w):
    x = w.pick(lambda h, v, c: h * v <= MAX_PIXELS / 2)
    if x:
        w.keep(w.layer("Concatenate(axis=1", x, w.twin(x)))


@step(4)
def merge(w):
    x = w.pick()
    y = w.twin(x)
    if w.rng.random() < 0.7:
        kind = w.choice(["Add(", "Add(", "Multiply(", "Maximum(", "Average(", "Subtract("])
        w.keep(w.layer(kind, x, y))
    else:
        w.keep(
            w.new(
                w.choice(["{} * ops.sigmoid({})", "ops.maximum({}, {})", "{} - 0.5 * {}"]).format(
                    x, y
                )
            )
        )


@step(1.5)
def residual(w):
    x = w.pick()
    c = w.shape(x)[-1]
    w.keep(w.new(f"ops.relu({x} + {w.conv(w.conv(x, w.filters()), c)})"))


@step()
def constant(w):
    x = w.pick()
    c = w.shape(x)[-1]
    op = w.choice(["*", "+"])
    w.keep(w.new(f'{x} {op} np.linspace(0.5, 2.0, {c}, dtype="float32")'))


@step()
def stacked(w):
    x = w.pick()
    y = w.twin(x)
    axis = w.choice([-1, 1, 3])
    w.keep(w.new(f"ops.{w.choice(['max', 'mean', 'sum'])}(ops.stack([{x}, {y}], {axis}), {axis})"))


# --- gates -------------------------------------------------------------------------------------


@step(2)
def squeeze_excite(w):
    x = w.pick()
    c = w.shape(x)[-1]
    if w.rng.random() < 0.5:
        s = w.layer("GlobalAveragePooling2D(", x)
        s = w.layer(
            f'Dense({c}, activation="sigmoid"',
            w.layer(f'Dense({w.filters()}, activation="relu"', s),
        )
        s = w.new(
            w.choice(["layers.Reshape((1, 1, {c}))({s})", "{s}[:, None, None]"]).format(c=c, s=s)
        )
    else:
        s = w.new(f"ops.mean({x}, axis=(1, 2), keepdims=True)")
        s = w.new(f"ops.sigmoid({w.conv(w.conv(s, w.filters(), 1), c, 1)})")
    w.keep(w.new(w.choice(["layers.Multiply()([{}, {}])", "{} * {}", "{} + {}"]).format(x, s)))


@step()
def spatial_gate(w):
    x = w.pick()
    gate = w.choice(
        [
            w.conv(x, 1) if w.rng.random() < 0.7 else f"ops.sum({x}, axis=-1, keepdims=True) * 0.2",
            f"ops.max({x}, axis=1, keepdims=True)",
        ]
    )
    w.keep(w.new(f"{x} * ops.sigmoid({gate})"))


@step()
def gated_linear_unit(w):
    x = w.pick(lambda h, v, c: c % 2 == 0)
    if x:
        a, b = w.name(), w.name()
        w.line(f"{a}, {b} = ops.split({x}, 2, axis=-1)")
        w.keep(w.new(f"{a} * ops.sigmoid({b})"))


@step(0.7)
def attention(w):
    x = w.pick(lambda h, v, c: h * v <= 36)
    if x:
        h, v, _ = w.shape(x)
        n, m = w.filters(), w.filters()
        q, k, values = (w.layer(f"Reshape(({h * v}, {d})", w.conv(x, d, 1)) for d in (n, n, m))
        scores = w.new(f"ops.softmax(ops.matmul({q}, ops.transpose({k}, (0, 2, 1))), axis=-1)")
        w.keep(w.layer(f"Reshape(({h}, {v}, {m})", w.new(f"ops.matmul({scores}, {values})")))


@step(0.7)
def sequence_layer(w):
    x = w.pick(lambda h, v, c: h * v <= 36)
    if x:
        h, v, c = w.shape(x)
        if w.rng.random() < 0.5:
            t = w.layer(f"Reshape(({h * v}, {c})", x)
            t = w.layer(f"MultiHeadAttention({w.choice([2, 3])}, 2", f"{t}, {t}")
            w.keep(w.layer(f"Reshape(({h}, {v}, {c})", t))
        else:
            n = w.filters()
            t = w.layer(f"Reshape(({h}, {v * c})", x)
            t = w.layer(f"{w.choice(['LSTM', 'GRU'])}({n}, return_sequences=True", t)
            w.keep(w.layer(f"Reshape(({h}, 1, {n})", t))


# --- data that moves ---------------------------------------------------------------------------


@step(2)
def split(w):
    x = w.pick(lambda h, v, c: c >= 3)
    if x:
        c = w.shape(x)[-1]
        at = (
            w.choice([2, 2]) if c % 2 == 0 and w.rng.random() < 0.6 else [int(w.rng.integers(1, c))]
        )
        a, b = w.name(), w.name()
        w.line(f"{a}, {b} = ops.split({x}, {at}, axis=-1)")
        w.keep(a, b)


@step(1.5)
def slices(w):
    x = w.pick(lambda h, v, c: c >= 3)
    if x:
        h, v, c = w.shape(x)
        start = int(w.rng.integers(0, c - 1))
        stop = int(w.rng.integers(start + 1, c + 1))
        forms = [f"..., {start}:{stop}", "..., ::2", "..., ::-1", f"..., {start}:"]
        if min(h, v) >= 3:
            forms.append(f":, 1:, :-1, {start}:{stop}")
        w.keep(w.new(f"{x}[{w.choice(forms)}]"))


@step()
def moved_channels(w):
    x = w.pick(lambda h, v, c: c <= MAX_CHANNELS // 2)
    if x:
        c = w.shape(x)[-1]
        indices = w.rng.integers(0, c, w.rng.integers(1, c + 2)).tolist()
        forms = [
            f"ops.take({x}, {indices}, axis=-1)",
            f"ops.flip({x}, axis=-1)",
            f"ops.roll({x}, 1, axis=-1)",
            f"ops.repeat({x}, 2, axis=-1)",
            f"ops.tile({x}, [1, 1, 1, 2])",
        ]
        w.keep(w.new(w.choice(forms)))


@step(1.5)
def padded_channels(w):
    x = w.pick(lambda h, v, c: c <= MAX_CHANNELS // 2)
    if x:
        before, after = (int(n) for n in w.rng.integers(0, 3, 2))
        y = w.new(f"ops.pad({x}, [[0, 0], [0, 0], [0, 0], [{before}, {after}]])")
        w.keep(w.new(f"{y} + {w.conv(x, w.shape(y)[-1])}") if w.rng.random() < 0.6 else y)


@step(1.5)
def channel_shuffle(w):
    x = w.pick(lambda h, v, c: c >= 4 and c % 2 == 0)
    if x:
        h, v, c = w.shape(x)
        g = w.choice(divisors(c)[:-1])
        y = w.layer("Permute((1, 2, 4, 3)", w.layer(f"Reshape(({h}, {v}, {g}, {c // g})", x))
        w.keep(w.layer(f"Reshape(({h}, {v}, {w.choice([c, -1])})", y))


@step(1.2)
def pixel_shuffle(w):
    x = w.pick(lambda h, v, c: h * v <= MAX_PIXELS / 4 and c <= 4)
    if x:
        n = w.choice([1, 2, 3])
        x = w.conv(x, 4 * n)
        h, v, _ = w.shape(x)
        inner, order = w.choice([((2, 2, n), (0, 1, 3, 2, 4, 5)), ((n, 2, 2), (0, 1, 4, 2, 5, 3))])
        y = w.new(f"ops.transpose(ops.reshape({x}, (-1, {h}, {v}, *{inner})), {order})")
        w.keep(w.new(f"ops.reshape({y}, (-1, {2 * h}, {2 * v}, {n}))"))


@step()
def space_to_depth(w):
    x = w.pick(lambda h, v, c: h % 2 == 0 and v % 2 == 0 and c <= 4)
    if x:
        h, v, c = w.shape(x)
        y = w.layer(f"Reshape(({h // 2}, 2, {v // 2}, 2, {c})", x)
        y = w.layer("Permute((1, 3, 2, 4, 5)", y)
        w.keep(w.layer(f"Reshape(({h // 2}, {v // 2}, {4 * c})", y))


@step()
def flattened(w):
    x = w.pick(lambda h, v, c: h * v * c <= 200)
    if x:
        h, n = w.choice([1, 2, 3]), w.filters()
        y = w.layer(f'Dense({h * h * n}, activation="relu"', w.layer("Flatten(", x))
        w.keep(w.layer(f"Reshape(({h}, {h}, {n})", y))


@step(0.5)
def reshaped_askew(w):
    x = w.pick(lambda h, v, c: h * v * c <= 200)
    if x:
        total = int(np.prod(w.shape(x)))
        a = w.choice([d for d in divisors(total) if d <= MAX_CHANNELS])
        b = w.choice([d for d in [1, *divisors(total // a)] if d <= 10])
        if total // a // b <= MAX_PIXELS / b:
            w.keep(w.layer(f"Reshape(({b}, {total // a // b}, {a})", x))


@step(0.5)
def transposed(w):
    x = w.pick(lambda h, v, c: h <= MAX_CHANNELS and v <= MAX_CHANNELS)
    order = w.choice([(2, 1, 3), (2, 1, 3), (1, 3, 2), (3, 1, 2)])
    w.keep(w.layer(f"Permute({order}", x))


@step(0.7)
def expanded(w):
    x = w.pick()
    axis = w.choice([1, 3, 4])
    y = w.new(f"ops.tanh(ops.expand_dims({x}, {axis}))")
    w.keep(w.new(f"ops.squeeze({y}, {axis})"))


# --- sharing and nesting -----------------------------------------------------------------------


@step(1.5)
def shared(w):
    x = w.pick()
    c = w.shape(x)[-1]
    again = w.rng.random() < 0.3  # the layer reads its own output
    n = c if again else w.filters()
    name = w.name("shared")
    w.line(f'{name} = layers.Conv2D({n}, 3, padding="same", activation="relu", name="{name}")')
    y = w.new(f"{name}({x})")
    other = y if again else w.pick(lambda a, b, d: d == c) or x
    z = w.new(f"{name}({other})")
    w.keep(z) if again else w.keep(y, z)


@step(1.5)
def nested(w):
    x = w.pick()
    shape = w.shape(x)
    n, m = w.filters(), w.choice([shape[-1], w.filters()])
    name = w.name("block")
    parts = f'layers.Conv2D({n}, 3, padding="same", name="a"), layers.BatchNormalization()'
    last = f'layers.Conv2D({m}, 1, name="b")'
    if w.rng.random() < 0.5:
        w.line(f'{name} = Sequential([{parts}, {last}], name="{name}")')
    else:
        w.line(f"t = Input({shape})")
        w.line(f'u = Sequential([{parts}], name="inner")(t)')
        w.line(f'{name} = Model(t, layers.Concatenate()([{last}(u), t]), name="{name}")')
    y = w.new(f"{name}({x})")
    twice = w.shape(y) == shape and w.rng.random() < 0.5
    w.keep(w.new(f"{x} + {name}({y})") if twice else y)


import random_layers  # noqa: E402, F401  (registers more steps)

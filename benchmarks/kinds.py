"""Do the defaults suit other kinds of networks? CIFAR-10, half of the MACs, two epochs.

    python benchmarks/kinds.py                     # the queue; may be killed, goes on
    python benchmarks/kinds.py --only attention default
    python benchmarks/kinds.py --summary           # the table from the lines at hand

Small networks of this file's own, each trained here for eight epochs (unfinished teachers, 55 to
82%) on the first 45,000 training images, shifted and mirrored, and judged on the other 5,000, which
neither a teacher nor a student has seen. Students see mirrored images. Test images are not read.

`untrained` is `Recovery(epochs=0)`, `default` is `prune` with default arguments and two epochs,
`fine-tune` the same without transfers, `no attention` without that one, `l1` with that criterion.
results/kinds_earlier.jsonl has the lines of earlier defaults.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE)]

import keras  # noqa: E402
from keras import layers as L  # noqa: E402
from measured import cpu_seconds, read_lines, work_through  # noqa: E402
from recovery import NUM_HELD_OUT, compare, images  # noqa: E402

import aip_tf  # noqa: E402
from aip_tf import transfers  # noqa: E402
from aip_tf.datasets import augment  # noqa: E402

RESULTS = HERE / "results" / "kinds.jsonl"
WORK = HERE / "runs" / "kinds"
TEACHER_EPOCHS = 8
STEPS = (50_000 - NUM_HELD_OUT) // 128
ARMS = {
    "default": ({}, {}),
    "l1": ({}, {"criterion": "l1"}),
    "fine-tune": ({"transfers": []}, {}),
    "untrained": ({"epochs": 0}, {}),
    "no attention": (
        {
            "transfers": [
                transfers.OutputTransfer(),
                transfers.FeatureTransfer(),
                transfers.AdversarialTransfer(0.1),
            ]
        },
        {},
    ),
}


def plain(x):
    """Convolutions that nothing normalizes."""
    for place, width in enumerate((16, 16, 32, 32, 64, 64)):
        x = L.Conv2D(width, 3, padding="same", activation="relu")(x)
        if place % 2:
            x = L.MaxPooling2D()(x)
    return L.Dense(128, activation="relu")(L.Flatten()(x))


def vgg(x):
    """Convolutions with BatchNormalization, poolings, a dropout."""
    for place, width in enumerate((16, 16, 32, 32, 64, 64, 128, 128)):
        x = L.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
        if place % 2:
            x = L.MaxPooling2D()(x)
    return L.Dense(128, activation="relu")(L.Dropout(0.3)(L.Flatten()(x)))


def mobile(x):
    """Inverted residuals as in MobileNetV2."""

    def convolved(x, conv):
        return L.BatchNormalization()(conv(x))

    def pointwise(width):
        return L.Conv2D(width, 1, use_bias=False)

    x = L.ReLU(6)(convolved(x, L.Conv2D(16, 3, strides=2, padding="same", use_bias=False)))
    for width, count, stride in ((16, 1, 1), (24, 2, 2), (40, 2, 2), (64, 2, 2)):
        for place in range(count):
            strides = 1 if place else stride
            depthwise = L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)
            y = L.ReLU(6)(convolved(x, pointwise(4 * x.shape[-1])))
            y = L.ReLU(6)(convolved(y, depthwise))
            y = convolved(y, pointwise(width))
            x = L.Add()([x, y]) if y.shape == x.shape else y
    return L.GlobalAveragePooling2D()(L.ReLU(6)(convolved(x, pointwise(256))))


def convnext(x):
    """Depthwise convolutions, LayerNormalization and dense layers as in ConvNeXt."""
    x = L.LayerNormalization()(L.Conv2D(32, 4, strides=4)(x))
    for width, count in ((32, 2), (64, 3)):
        if width > 32:
            x = L.Conv2D(width, 2, strides=2)(L.LayerNormalization()(x))
        for _ in range(count):
            y = L.LayerNormalization()(L.DepthwiseConv2D(5, padding="same")(x))
            y = L.Dense(width)(L.Dense(4 * width, activation="gelu")(y))
            x = L.Add()([x, y])
    return L.LayerNormalization()(L.GlobalAveragePooling2D()(x))


def attention(x):
    """A small vision transformer: patches of four pixels, four blocks."""
    x = L.Reshape((64, 64))(L.Conv2D(64, 4, strides=4)(x))
    x = x + L.Embedding(64, 64)(keras.ops.arange(64))
    for _ in range(4):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(4, 16)(y, y)
        y = L.Dense(128, activation="gelu")(L.LayerNormalization()(x))
        x = x + L.Dense(64)(y)
    return L.GlobalAveragePooling1D()(L.LayerNormalization()(x))


def resnet(x):
    """Residual blocks as in the ResNets of CIFAR-10; 14 layers."""

    def convolved(x, width, stride=1):
        x = L.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        return L.BatchNormalization()(x)

    x = L.ReLU()(convolved(x, 16))
    for width, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        y = convolved(L.ReLU()(convolved(x, width, stride)), width)
        if y.shape != x.shape:
            x = L.BatchNormalization()(L.Conv2D(width, 1, strides=stride, use_bias=False)(x))
        x = L.ReLU()(L.Add()([x, y]))
    return L.GlobalAveragePooling2D()(x)


def dense(x):
    """Concatenations and bottlenecks as in DenseNet-BC, growth of 16."""

    def convolved(x, width, size, stride=1):
        x = L.ReLU()(L.BatchNormalization()(x))
        return L.Conv2D(width, size, strides=stride, padding="same", use_bias=False)(x)

    x = L.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(x)
    for stage in range(3):
        if stage:
            x = L.AveragePooling2D(2)(convolved(x, x.shape[-1] // 2, 1))
        for _ in range(4):
            x = L.Concatenate()([x, convolved(convolved(x, 64, 1), 16, 3)])
    return L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(x)))


def squeeze(x):
    """Inverted residuals, hard swish, squeeze and excitation as in MobileNetV3."""

    def convolved(x, conv):
        return L.BatchNormalization()(conv(x))

    def excited(x):
        y = L.GlobalAveragePooling2D(keepdims=True)(x)
        y = L.Conv2D(x.shape[-1] // 4, 1, activation="relu")(y)
        return L.Multiply()([x, L.Conv2D(x.shape[-1], 1, activation="hard_sigmoid")(y)])

    def swished(x):
        return L.Activation("hard_silu")(x)

    x = swished(convolved(x, L.Conv2D(16, 3, strides=2, padding="same", use_bias=False)))
    for width, count, stride in ((16, 1, 1), (24, 2, 2), (40, 3, 2)):
        for place in range(count):
            strides = 1 if place else stride
            depthwise = L.DepthwiseConv2D(5, strides=strides, padding="same", use_bias=False)
            y = swished(convolved(x, L.Conv2D(4 * x.shape[-1], 1, use_bias=False)))
            y = excited(swished(convolved(y, depthwise)))
            y = convolved(y, L.Conv2D(width, 1, use_bias=False))
            x = L.Add()([x, y]) if y.shape == x.shape else y
    x = swished(convolved(x, L.Conv2D(160, 1, use_bias=False)))
    return swished(L.Dense(128)(L.GlobalAveragePooling2D()(x)))


NETWORKS = {
    f.__name__: f for f in (plain, convnext, attention, vgg, mobile, resnet, dense, squeeze)
}
QUEUE = [(network, arm) for network in NETWORKS for arm in ARMS]


def teacher_of(network):
    """The trained network, from its file if it was trained before."""
    path = WORK / f"{network}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    features = NETWORKS[network](L.Rescaling(4.0, offset=-2.0)(inputs))
    model = keras.Model(inputs, L.Dense(10)(features))
    peak = 1e-3 if network == "plain" else 3e-3
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, (TEACHER_EPOCHS - 1) * STEPS, warmup_target=peak, warmup_steps=STEPS
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.02, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    shifted = images(seed=0, is_validation=True, augment=augment.pad_crop_flip())
    model.fit(shifted.train, epochs=TEACHER_EPOCHS, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def run(network, arm):
    """One run; returns what goes to its line."""
    teacher, data = teacher_of(network), images(seed=0, is_validation=True)
    options, others = ARMS[arm]
    keras.utils.set_random_seed(0)
    cpu = cpu_seconds()
    recovery = aip_tf.Recovery(**{"epochs": 2, **options})
    student, report = aip_tf.prune(teacher, data.train, recovery=recovery, **others)
    return {
        "teacher": compare(teacher, teacher, data.test)["accuracy"],
        **compare(teacher, student, data.test),
        "macs_kept": round(report.student.macs / report.teacher.macs, 4),
        "parameters_kept": round(report.student.parameters / report.teacher.parameters, 4),
        "cpu_seconds": round(cpu_seconds() - cpu),
    }


def summary():
    """A row for each network: accuracy, divergence and share of the parameters by arm."""
    lines = {(line["network"], line["arm"]): line for line in read_lines(RESULTS)}
    print("| network | teacher |", " | ".join(ARMS), "|")
    print("|---|---|" + "---|" * len(ARMS))
    for network in NETWORKS:
        found = [lines.get((network, arm)) for arm in ARMS]
        teachers = {f"{100 * line['teacher']:.2f}" for line in found if line}
        print(f"| {network} | {', '.join(teachers)} |", " | ".join(map(_cell, found)), "|")


def _cell(line):
    if line is None:
        return ""
    kept = f"{100 * line['parameters_kept']:.0f}%"
    return f"{100 * line['accuracy']:.2f}, {line['divergence']:.4f}, {kept}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--only", nargs=2, metavar=("NETWORK", "ARM"))
    arguments = parser.parse_args()
    if arguments.summary:
        summary()
        return
    queue = [arguments.only] if arguments.only else QUEUE
    work_through(RESULTS, [{"network": network, "arm": arm} for network, arm in queue], run)


if __name__ == "__main__":
    main()

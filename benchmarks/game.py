"""How fast is a step of the game, against the ideal and against keras.distillation.Distiller?

    python benchmarks/game.py            # all three networks, perhaps 25 minutes on 2 idle cores
    python benchmarks/game.py --quick    # ResNet-20 with few steps, about 3 minutes
    python benchmarks/game.py --network resnet20 --batch_size 512 --memory    # memory alone

Every arm is built once and timed in turn, round after round, in one process; the table shows
medians over the rounds and ratios of paired times, of the wall clock and (less disturbed by other
processes) of the processor time. `ideal` is the sum of the times of `teacher.predict` and
`student.fit`. The student is the teacher with half of every channel group cut. Memory is the growth
of the peak over the state with the models built, of fresh processes (median of 3; Linux).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf
from measured import kilobytes, restart_peak

from aip_tf import zoo
from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.game import (
    AdversarialDistiller,
    AdversarialTransfer,
    AttentionTransfer,
    OutputTransfer,
    find_taps,
)

NETWORKS = {
    "resnet20": (zoo.resnet20, (32, 32, 3), 10, 128),
    "resnet56": (zoo.resnet56, (32, 32, 3), 10, 128),
    "mobilenet": (lambda: _mobilenet(), (96, 96, 3), 10, 32),
}
ARMS = (
    "teacher predict",
    "student fit",
    "output",
    "full",
    "default",
    "peer logits",
    "peer features",
)


def _mobilenet():
    return keras.applications.MobileNet(
        (96, 96, 3), weights=None, classes=10, classifier_activation=None
    )


def cut_in_half(model):
    """The student: half of every channel group that may be cut."""
    masks = {
        group.name: np.arange(group.num_channels) % 2 == 0
        for group in find_channel_groups(model)
        if group.prunable
    }
    return prune_channels(model, masks)


def _optimizer():
    return keras.optimizers.SGD(1e-3, momentum=0.9)


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _peer(teacher, student, distillation_losses):
    return keras.distillation.Distiller(
        teacher, student, distillation_losses, student_loss_weight=0.1
    )


def _peer_features(teacher, student):
    """Feature losses at our taps; the peer cannot compare widths, so the squares are summed."""
    energy = SameEnergy()
    features = [
        keras.distillation.FeatureDistillation(energy, path, path) for path in find_taps(teacher)
    ]
    logits = keras.distillation.LogitsDistillation(temperature=4.0)
    return _peer(teacher, student, [logits, *features])


class SameEnergy(keras.losses.Loss):
    """Mean squared difference of the energy maps: what the peer needs for unequal widths."""

    def call(self, y_true, y_pred):
        def energy(x):
            return keras.ops.mean(keras.ops.square(x), axis=-1)

        return keras.ops.square(energy(y_true) - energy(y_pred))


def build(arm, name):
    """The callable that runs `arm` on a dataset, once, for network `name`.

    *Full* is the paper's game, *default* what `AdversarialDistiller` plays by itself.
    """
    teacher = NETWORKS[name][0]()
    if arm == "teacher predict":
        return lambda data: teacher.predict(data, verbose=0)
    student = cut_in_half(teacher)
    model = {
        "student fit": lambda: student,
        "output": lambda: AdversarialDistiller(teacher, student, [OutputTransfer()]),
        "full": lambda: AdversarialDistiller(
            teacher, student, [OutputTransfer(), AttentionTransfer(), AdversarialTransfer()]
        ),
        "default": lambda: AdversarialDistiller(teacher, student),
        "peer logits": lambda: _peer(
            teacher, student, [keras.distillation.LogitsDistillation(temperature=4.0)]
        ),
        "peer features": lambda: _peer_features(teacher, student),
    }[arm]()
    model.compile(_optimizer(), loss=_loss(), metrics=["accuracy"])
    return lambda data: model.fit(data, epochs=1, verbose=0)


def batches(name, num_steps, batch_size=None):
    _, shape, num_classes, usual = NETWORKS[name]
    batch_size = batch_size or usual
    generator = np.random.default_rng(0)
    images = generator.random((batch_size, *shape), dtype="float32")
    labels = generator.integers(0, num_classes, batch_size)
    return tf.data.Dataset.from_tensors((images, labels)).cache().repeat(num_steps)


def time_arms(name, num_steps, num_rounds):
    """{arm: (wall, processor) seconds per step in every round}; the first one warms up."""
    runs = {arm: build(arm, name) for arm in ARMS}
    data = batches(name, num_steps)
    seconds = {arm: [] for arm in ARMS}
    for round_ in range(num_rounds + 1):
        # Every other round backwards, so that no arm always follows the same one.
        for arm in ARMS if round_ % 2 else reversed(ARMS):
            start = _clocks()
            runs[arm](data)
            if round_:
                seconds[arm].append((_clocks() - start) / num_steps)
    return {arm: np.array(times) for arm, times in seconds.items()}


def _clocks():
    return np.array([time.perf_counter(), time.process_time()])


def peak_memory(arm, name, batch_size):
    """Growth of the peak resident memory over three steps, in MB: median of three processes."""
    command = [sys.executable, __file__, "--memory", arm, "--network", name]
    command += ["--batch_size", str(batch_size)] if batch_size else []
    grown = []
    for _ in range(3):  # one alone varies by 10%
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        grown.append(json.loads(result.stdout.splitlines()[-1]))
    return float(np.median(grown))


def _report_memory(arm, name, batch_size):
    run = build(arm, name)
    # ru_maxrss would count the parent's memory: a child inherits it. Linux resets its own mark.
    restart_peak()
    before = kilobytes("VmRSS")
    run(batches(name, 3, batch_size))
    sys.stdout.write(json.dumps((kilobytes("VmHWM") - before) / 1024) + "\n")


def report(name, seconds):
    """Print medians and the claims' ratios (rates: larger than 1 is faster)."""
    num_rounds = len(seconds["full"])
    print(f"\n{name}: median ms per step over {num_rounds} rounds (wall, processor)")
    for arm in ARMS:
        wall, processor = 1e3 * np.median(seconds[arm], axis=0)
        print(f"  {arm:16s} {wall:9.1f} {processor:9.1f}")
    claims = (
        (
            "full / ideal rate",
            seconds["teacher predict"] + seconds["student fit"],
            "full",
            ">= 0.95",
        ),
        (
            "default / ideal rate",
            seconds["teacher predict"] + seconds["student fit"],
            "default",
            "none",
        ),
        ("output / peer logits", seconds["peer logits"], "output", ">= 1.00"),
        ("full / peer logits", seconds["peer logits"], "full", ">= 0.95"),
        ("full / peer features", seconds["peer features"], "full", ">  1.00"),
    )
    for label, reference, arm, target in claims:
        ratios = reference / seconds[arm]
        wall, processor = np.median(ratios, axis=0)
        low, high = ratios[:, 0].min(), ratios[:, 0].max()
        print(
            f"  {label:22s} {wall:5.2f}  (rounds {low:.2f} to {high:.2f}; target {target}; "
            f"processor {processor:.2f})"
        )


def report_memory(name, batch_size=None):
    arms = "teacher predict", "student fit", "full", "default"
    predict, fit, *games = (peak_memory(arm, name, batch_size) for arm in arms)
    print(f"  memory: teacher predict {predict:.0f} MB, student fit {fit:.0f} MB")
    for arm, used in zip(arms[2:], games, strict=True):
        ratio = used / (predict + fit)
        print(f"  memory: {arm} {used:.0f} MB, {ratio:.2f} of both together (target <= 1.10)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ResNet-20, 3 rounds of 3 steps")
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch_size", type=int, help="for memory, instead of the usual one")
    parser.add_argument("--memory", nargs="?", const="all", help="no times, memory alone")
    args = parser.parse_args()
    if args.memory in ARMS:  # a process of its own, which `peak_memory` starts
        _report_memory(args.memory, args.network, args.batch_size)
        return
    names = [args.network] if args.network else list(NETWORKS)
    if args.memory:
        for name in names:
            print(name)
            report_memory(name, args.batch_size)
        return
    rounds, steps = args.rounds, args.steps
    if args.quick:
        names, rounds, steps = names[:1], 3, 3
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"keras {keras.__version__}, tensorflow {tf.__version__}; "
        f"{rounds} rounds of {steps} steps"
    )
    for name in names:
        report(name, time_arms(name, steps, rounds))
        report_memory(name, args.batch_size)


if __name__ == "__main__":
    main()

"""How quickly does a cut network recover? CIFAR-10, half of the MACs, everything by default.

    python benchmarks/recovery.py                  # the queue; may be killed, goes on
    python benchmarks/recovery.py --validation     # fine-tuning's rate: 45,000 training images,
                                                   # judged on the other 5,000; --only: any run
    python benchmarks/recovery.py --only resnet20 default 2 0      # one run of it
    python benchmarks/recovery.py --peer_python=VENV/bin/python    # Torch-Pruning, fine-tuned;
                                                   # VENV has torch and torch-pruning
    python benchmarks/recovery.py --summary        # table and chart from the lines at hand

A run is `aip_tf.prune(teacher, images)` with default arguments, but for what the arm says: of the
pretrained ResNet-20 (91.73%) or ResNet-56 (93.39%), batches of 128, half of the images mirrored.
Test images are read once, at its end. With 0 epochs nothing is trained.

One JSON line for each run goes to results/recovery.jsonl; lines that are there are not run again,
and a run that was killed goes on from its folder. results/recovery_earlier.jsonl has the lines of
earlier defaults (choices.md), on images that were shifted by up to four pixels as well.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from measured import read_lines, work_through  # noqa: E402

import aip_tf  # noqa: E402
from aip_tf import transfers  # noqa: E402
from aip_tf.datasets import augment, from_arrays  # noqa: E402

SHARED = HERE.parents[1] / "shared" / "data"
RESULTS = HERE / "results" / "recovery.jsonl"
CHART = HERE / "results" / "recovery.svg"
WORK = HERE / "runs" / "recovery"
NUM_HELD_OUT = 5000
TEACHERS = {"resnet20": 91.73, "resnet56": 93.39}


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


def fine_tune(rate):
    return {"transfers": [], "optimizer": sgd(rate)}, {}


# What differs from the defaults: arguments of Recovery, and of `prune`.
ARMS = {
    "default": lambda: ({}, {}),
    "output": lambda: ({"transfers": [transfers.OutputTransfer()], "supervised_weight": 0.1}, {}),
    "no game": lambda: (
        {
            "transfers": [
                transfers.OutputTransfer(),
                transfers.FeatureTransfer(),
                transfers.AttentionTransfer(),
            ]
        },
        {},
    ),
    "no attention": lambda: (
        {
            "transfers": [
                transfers.OutputTransfer(),
                transfers.FeatureTransfer(),
                transfers.AdversarialTransfer(0.1),
            ]
        },
        {},
    ),
    "the paper's": lambda: (
        {
            "transfers": [
                transfers.OutputTransfer(),
                transfers.AttentionTransfer(),
                transfers.AdversarialTransfer(0.1),
            ]
        },
        {},
    ),
    "l1": lambda: ({}, {"criterion": "l1"}),
}
# Without a teacher. Held-out images, which the pretrained network knows by heart, chose 0.01; on
# those of the test ResNet-20 does better at 0.05, so both are told.
RATES = {
    f"fine-tune, {rate}": lambda rate=rate: fine_tune(rate)
    for rate in (0.005, 0.01, 0.02, 0.05, 0.1)
}
CURVES = ["default", "output", "fine-tune, 0.01", "fine-tune, 0.05"]
EPOCHS = (1, 2, 5, 10)
SEEDS = (0, 1, 2)
QUEUE = [(network, arm, 2, seed) for network in TEACHERS for arm in CURVES for seed in SEEDS]
QUEUE += [(network, "default", 0, 0) for network in TEACHERS]
QUEUE += [(network, arm, n, 0) for network in TEACHERS for n in EPOCHS for arm in CURVES]
QUEUE += [("resnet20", arm, 2, 0) for arm in list(ARMS)[2:]]
PEER = {  # arms of recovery_peer.py; the first one's rate is the best of the others'
    "Torch-Pruning": {"importance": "group L1", "rate": 0.02},
    **{f"Torch-Pruning, {r}": {"importance": "group L1", "rate": r} for r in (0.01, 0.02, 0.05)},
}
PEER_QUEUE = [(network, "Torch-Pruning", 2, seed) for network in TEACHERS for seed in SEEDS]
PEER_QUEUE += [(network, "Torch-Pruning", n, 0) for network in TEACHERS for n in EPOCHS]
CHOICE = [("resnet20", arm, 2, 0) for arm in RATES]
PEER_CHOICE = [("resnet20", arm, 2, 0) for arm in list(PEER)[1:]]


def run(network, arm, epochs, seed, validation):
    """One run; returns what goes to its line."""
    keras.utils.set_random_seed(seed)
    teacher = keras.saving.load_model(SHARED / "models" / f"cifar10_{network}_akamaster.keras")
    data = images(seed, validation)
    options, others = (ARMS | RATES)[arm]()
    others = {
        "run_dir": WORK / "-".join(map(str, (network, arm, epochs, seed, validation)))
    } | others
    student, report = aip_tf.prune(
        teacher, data.train, recovery=aip_tf.Recovery(epochs=epochs, **options), **others
    )
    return {
        **compare(teacher, student, data.test),
        "macs_kept": round(report.student.macs / report.teacher.macs, 4),
        "parameters_kept": round(report.student.parameters / report.teacher.parameters, 4),
        "widths": [int(group.kept) for group in report.rounds[-1].groups],
        "seconds": round(report.seconds, 1),
    }


def run_peer(python, network, arm, epochs, seed, validation):
    """One run of recovery_peer.py; returns what goes to its line."""
    told = {**PEER[arm], "epochs": epochs, "seed": seed, "held_out": validation * NUM_HELD_OUT}
    script = HERE / "recovery_peer.py"
    command = [python, str(script), str(export(network)), json.dumps(told)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return told | json.loads(done.stdout.splitlines()[-1])


def export(network):
    """A file with all weights of a network, some of its answers, and CIFAR-10."""
    path = WORK / f"{network}.npz"
    if path.exists():
        return path
    model = keras.saving.load_model(SHARED / "models" / f"cifar10_{network}_akamaster.keras")
    parts = {part: cifar10_arrays(part) for part in ("train", "test")}
    arrays = {f"{part}_{i}": x for part, pair in parts.items() for i, x in enumerate(pair)}
    for layer in model.layers:
        arrays |= {f"{layer.name}/{i}": w for i, w in enumerate(layer.get_weights())}
    normalise = model.get_layer("normalise")
    arrays |= {"mean": np.ravel(normalise.mean), "variance": np.ravel(normalise.variance)}
    arrays["questions"] = arrays["train_0"][:64]
    arrays["answers"] = model(arrays["questions"] / np.float32(255), training=False).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def images(seed, is_validation, augment=augment.flip):
    """CIFAR-10, or with --validation its training images in two parts."""
    arrays = [cifar10_arrays(split) for split in ("train", "test")]
    if is_validation:
        first = slice(0, -NUM_HELD_OUT), slice(-NUM_HELD_OUT, None)
        arrays = [tuple(x[part] for x in arrays[0]) for part in first]
    return from_arrays(*arrays, augment=augment, seed=seed)


def cifar10_arrays(split):
    """Images and labels of one part, "train" or "test"."""
    import tensorflow_datasets as tfds

    where = SHARED / "tensorflow_datasets"
    options = {"data_dir": where, "download": False, "batch_size": -1, "as_supervised": True}
    return tfds.as_numpy(tfds.load("cifar10", split=split, **options))


def compare(teacher, student, data):
    """Accuracy, and the divergence of the student's answers from the teacher's in nats."""
    hits, divergences = [], []
    for x, y in data:
        expected, found = (tf.nn.log_softmax(m(x, training=False)) for m in (teacher, student))
        divergences.append(tf.reduce_sum(tf.exp(expected) * (expected - found), axis=-1))
        hits.append(np.argmax(found, -1) == y)
    accuracy, divergence = (float(np.mean(np.concatenate(x))) for x in (hits, divergences))
    return {"accuracy": round(accuracy, 4), "divergence": round(divergence, 4)}


# What the lines say -------------------------------------------------------------------------------


def summary():
    groups = {}
    for line in read_lines(RESULTS):
        key = line["network"], line["validation"], line["arm"], line["epochs"]
        groups.setdefault(key, []).append(line)
    print("| network | judged on | arm | epochs | seeds | accuracy | from, to | divergence", end="")
    print(" | parameters kept | CPU seconds |\n" + "|---" * 10 + "|")
    for (network, is_validation, arm, epochs), lines in sorted(groups.items()):
        where = "held out" if is_validation else "test"
        seeds = " ".join(sorted(str(line["seed"]) for line in lines))
        found = [100 * line["accuracy"] for line in lines]
        means = [_mean(lines, key) for key in ("divergence", "parameters_kept", "cpu_seconds")]
        print(
            f"| {network} | {where} | {arm} | {epochs} | {seeds} | {np.mean(found):.2f} "
            f"| {min(found):.2f}, {max(found):.2f} "
            "| {:.3f} | {:.0%} | {:,.0f} |".format(*means)
        )


def _mean(lines, key):
    return np.mean([line[key] for line in lines])


def chart():
    """Accuracy on test images over the epochs of recovery: an arm a line, its seeds dots."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "recovery"  # the same lines, the same file
    from matplotlib import pyplot

    lines = [line for line in read_lines(RESULTS) if not line["validation"]]
    networks = sorted({line["network"] for line in lines})
    figure, plots = pyplot.subplots(
        1, len(networks), figsize=(4.5 * len(networks), 3.5), squeeze=False, layout="constrained"
    )
    for network, axes in zip(networks, plots[0], strict=True):
        own = [line for line in lines if line["network"] == network]
        for arm in dict.fromkeys(line["arm"] for line in own):
            runs = sorted((x["epochs"], 100 * x["accuracy"]) for x in own if x["arm"] == arm)
            epochs = sorted({e for e, _ in runs})
            means = [np.mean([a for e, a in runs if e == epoch]) for epoch in epochs]
            (drawn,) = axes.plot(epochs, means, label=arm)
            axes.plot(*zip(*runs, strict=True), ".", color=drawn.get_color())
        axes.axhline(TEACHERS[network], color="#888888", linestyle=":", label="teacher")
        axes.set(title=f"{network}, half of the MACs", xlabel="epochs", ylabel="test accuracy, %")
        axes.set_xlim(-0.5, max(EPOCHS) + 0.5)
        axes.legend(frameon=False)
    figure.savefig(CHART, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--only", nargs=4, metavar=("NETWORK", "ARM", "EPOCHS", "SEED"))
    parser.add_argument("--peer_python", help="a Python with torch and torch-pruning")
    arguments = parser.parse_args()
    if arguments.summary:
        summary()
        chart()
        return
    queue, do = CHOICE if arguments.validation else QUEUE, run
    if arguments.peer_python:
        queue = PEER_CHOICE if arguments.validation else PEER_QUEUE
        do = functools.partial(run_peer, arguments.peer_python)
    if arguments.only:
        network, arm, epochs, seed = arguments.only
        queue = [(network, arm, int(epochs), int(seed))]
    names = "network", "arm", "epochs", "seed"
    keys = [dict(zip(names, one, strict=True), validation=arguments.validation) for one in queue]
    work_through(RESULTS, keys, do)


if __name__ == "__main__":
    main()

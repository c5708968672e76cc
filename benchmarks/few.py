"""Few images, with labels or without: what is left of a network, in minutes.

    python benchmarks/few.py                       # the queue; may be killed, goes on
    python benchmarks/few.py --only resnet20 1000 unlabelled default
    python benchmarks/few.py --summary             # the table of README from the lines at hand

    resnet20   CIFAR-10 (91.73%), half of the MACs; 100 to 5,000 training images, 10,000 to judge
    mobilenet  MobileNet 0.25 at 224 pixels, 30% of the MACs; 500 photographs, 500 to judge
    lite0      EfficientNet-Lite0 at 224 pixels, 30% of the MACs; 500 photographs, 500 to judge

`untrained` is `Recovery(epochs=0)`: one cut, the layers behind it refitted, statistics. `default`
is `prune` with default arguments, `fine-tune` the same without transfers. Images are drawn with the
seed of the run; those to judge are read once, at the end.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from measured import cpu_seconds, read_lines, work_through  # noqa: E402
from recovery import SHARED, cifar10_arrays  # noqa: E402

import aip_tf  # noqa: E402
from aip_tf.datasets import augment, from_arrays  # noqa: E402

RESULTS = HERE / "results" / "few.jsonl"
EPOCHS = {100: 60, 500: 40, 1000: 40, 5000: 10}
QUEUE = [("lite0", 500, "unlabelled", "untrained")]
QUEUE += [("mobilenet", 500, "unlabelled", how) for how in ("untrained", "default")]
QUEUE += [("resnet20", 1000, "unlabelled", how) for how in ("untrained", "default")]
QUEUE += [("resnet20", count, "unlabelled", "untrained") for count in (100, 500, 5000)]
QUEUE += [
    ("resnet20", count, *arm)
    for count in (1000, 100, 500, 5000)
    for arm in (("labelled", "fine-tune"), ("labelled", "default"), ("unlabelled", "default"))
]
QUEUE += [("mobilenet", 500, "labelled", how) for how in ("fine-tune", "default")]


def resnet20(count, seed):
    """Teacher, `Data` and amount."""
    teacher = keras.saving.load_model(SHARED / "models" / "cifar10_resnet20_akamaster.keras")
    train, test = map(cifar10_arrays, ("train", "test"))
    chosen = np.random.default_rng(seed).permutation(50_000)[:count]
    train = tuple(x[chosen] for x in train)
    return teacher, from_arrays(train, test, augment=augment.pad_crop_flip(), seed=seed), 0.5


def mobilenet(count, seed):
    teacher = keras.applications.MobileNet(
        alpha=0.25, weights=None, classifier_activation=None, input_shape=(224, 224, 3)
    )
    teacher.load_weights(SHARED / "models" / "imagenet_mobilenet_v1_0.25_224.weights.h5")
    return teacher, _photographs(count, seed, lambda x: x / 127.5 - 1), 0.3


def lite0(count, seed):
    path = SHARED / "models" / "imagenet_efficientnet_lite0.keras"
    teacher = keras.saving.load_model(path, compile=False)
    return teacher, _photographs(count, seed, lambda x: x), 0.3


def _photographs(count, seed, scaled):
    """Photographs, one of each of 1,000 classes; a mirrored one is as good."""
    folder = SHARED / "imagenet_sample"
    entries = json.loads((folder / "labels.json").read_text())
    load = keras.utils.load_img
    images = np.stack([np.asarray(load(folder / e["file"]), np.float32) for e in entries])
    images, truth = scaled(images), np.array([e["label"] for e in entries])
    order = np.random.default_rng(seed).permutation(len(entries))
    parts = [(images[i], truth[i]) for i in (order[:count], order[-500:])]
    return from_arrays(*parts, batch_size=32, augment=augment.flip, seed=seed)


def run(network, images, labels, how, seed=0):
    """One run; returns what goes to its line."""
    keras.utils.set_random_seed(seed)
    teacher, data, amount = globals()[network](images, seed)
    epochs = 0 if how == "untrained" else EPOCHS[images]
    train = data.train if labels == "labelled" else data.train.map(lambda x, y: x)
    options = {"transfers": []} if how == "fine-tune" else {}
    cpu = cpu_seconds()
    student, report = aip_tf.prune(
        teacher, train, schedule=amount, recovery=aip_tf.Recovery(epochs=epochs, **options)
    )
    return {
        "teacher": accuracy(teacher, data.test),
        "accuracy": accuracy(student, data.test),
        "epochs": epochs,
        "macs_kept": round(report.student.macs / report.teacher.macs, 4),
        "parameters_kept": round(report.student.parameters / report.teacher.parameters, 4),
        "cpu_seconds": round(cpu_seconds() - cpu),
    }


def accuracy(model, data):
    hits = [np.argmax(model(x, training=False), -1) == y for x, y in data.as_numpy_iterator()]
    return round(float(np.mean(np.concatenate(hits))), 4)


def summary():
    print("| network | images | labels | how | accuracy | of | parameters kept | CPU seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for line in sorted(read_lines(RESULTS), key=lambda x: (x["network"], x["images"], x["how"])):
        print(
            f"| {line['network']} | {line['images']:,} | {line['labels']} | {line['how']} "
            f"| {100 * line['accuracy']:.2f} | {100 * line['teacher']:.2f} "
            f"| {100 * line['parameters_kept']:.0f}% | {line['cpu_seconds']} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--only", nargs=4, metavar=("NETWORK", "IMAGES", "LABELS", "HOW"))
    arguments = parser.parse_args()
    if arguments.summary:
        summary()
        return
    queue = QUEUE
    if arguments.only:
        network, count, *rest = arguments.only
        queue = [(network, int(count), *rest)]
    names = "network", "images", "labels", "how"
    work_through(RESULTS, [dict(zip(names, one, strict=True)) for one in queue], run)


if __name__ == "__main__":
    main()

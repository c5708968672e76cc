"""Real networks on real images, on this machine.

    python benchmarks/runs.py                  # all that are not there yet, the cheap ones first
    python benchmarks/runs.py --only vww       # one

    vww        a deployed person detector (96x96): cut by half and export, no training
    mobilenet  MobileNet 0.25 on 1,000 photographs, one of each class: accuracy, 30% of the MACs
               cut, recovery on a seeded half, accuracy on the other half
    mobilenetv2-cut, resnet50-cut
               one cut by default (half of the MACs) at 224 pixels, random weights, nothing trained,
               512 photographs: seconds of the processor, peak memory beyond model and data
    memory     what twenty prunes in one process keep, and twenty fits: MB for each
    resnet20, resnet56, resnet20-features, resnet20-one-shot
               one cut to half of the MACs (the lines in the file: three), then epochs of the
               complete CIFAR-10, hours on two cores

One JSON line for each run goes to results/runs.jsonl; runs of `prune` go on from their folder.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from measured import cpu_seconds, kilobytes, restart_peak, work_through  # noqa: E402

import aip_tf  # noqa: E402
from aip_tf import cost, schedules  # noqa: E402
from aip_tf.datasets import cifar10  # noqa: E402
from aip_tf.game import (  # noqa: E402
    AdversarialTransfer,
    AttentionTransfer,
    FeatureTransfer,
    OutputTransfer,
)
from aip_tf.recovery import recalibrate  # noqa: E402
from aip_tf.selection import Macs  # noqa: E402

SHARED = HERE.parents[1] / "shared" / "data"
RESULTS = HERE / "results" / "runs.jsonl"
WORK = HERE / "runs"


def vww():
    model = keras.saving.load_model(SHARED / "models" / "mlperf_tiny_vww_mobilenet025_96.keras")
    smaller = aip_tf.prune_channels(model, aip_tf.select_channels(model, 0.5))
    with tempfile.TemporaryDirectory() as directory:
        exports = [aip_tf.export_model(m, Path(directory) / n) for n, m in _pair(model, smaller)]
    return _costs(model, smaller) | {
        "artefacts": [
            {"format": a.format, "bytes": [b.num_bytes, a.num_bytes], "error": error}
            for b, a in zip(exports[0].artefacts, exports[1].artefacts, strict=True)
            for error in [float(f"{a.max_relative_difference:.1e}")]
        ]
    }


def mobilenetv2_cut():
    return _cut("MobileNetV2")


def resnet50_cut():
    return _cut("ResNet50")


def _cut(name):
    model = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    data = tf.data.Dataset.from_tensor_slices((_photographs()[0][:512],)).batch(32)
    recalibrate(model, data, 4)  # random weights: the statistics of 0 and 1 would fit none of them
    gc.collect()
    restart_peak()
    before, cpu, started = kilobytes("VmRSS"), cpu_seconds(), time.monotonic()
    smaller, _ = aip_tf.prune(model, data, recovery=aip_tf.Recovery(epochs=0))
    return {
        "cpu_seconds": round(cpu_seconds() - cpu),
        "wall_seconds": round(time.monotonic() - started),
        "gigabytes": round((kilobytes("VmHWM") - before) / 2**20, 2),
        "gigabytes_before": round(before / 2**20, 2),
        "load": round(os.getloadavg()[0]),
    } | _costs(model, smaller)


def memory(rounds=20, warm=4):
    """MB that the process is larger by after each round, a fitted line; the first ones warm up."""
    random = np.random.default_rng(0)
    data = random.random((64, 16, 16, 3), "float32"), random.integers(0, 4, 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher = aip_tf.zoo.cifar_resnet(8, num_classes=4, input_shape=(16, 16, 3))
    teacher.compile("sgd", loss, metrics=["accuracy"])
    recovery = aip_tf.Recovery(epochs=2)
    cut = schedules.one_shot(0.5)

    def fit():
        model = keras.models.clone_model(teacher)
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
        model.fit(*data, validation_data=data, verbose=0)

    def prune():
        aip_tf.prune(teacher, data, data, schedule=cut, recovery=recovery)

    found = {}
    keras.utils.disable_interactive_logging()
    for do in (prune, fit):
        sizes = []
        for _ in range(rounds):
            do()
            gc.collect()
            sizes.append(kilobytes("VmRSS") / 2**10)
        slope = np.polyfit(range(rounds - warm), sizes[warm:], 1)[0]
        found[do.__name__] = round(float(slope), 2)
    return {"megabytes": found, "rounds": rounds}


def mobilenet(epochs=3, seed=0):
    model = keras.applications.MobileNet(
        alpha=0.25, weights=None, classifier_activation=None, input_shape=(224, 224, 3)
    )
    model.load_weights(SHARED / "models" / "imagenet_mobilenet_v1_0.25_224.weights.h5")
    images, labels = _photographs()
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = order[:500], order[500:]
    record = {"teacher_all": _top1(model, images, labels)}
    record["teacher_test_half"] = _top1(model, images[test], labels[test])
    arrays = images[train], labels[train]
    even = Macs(scope="group")
    masks = aip_tf.select_channels(model, 0.3, selection=even, criterion="taylor", data=arrays)
    smaller = aip_tf.prune_channels(model, masks)
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(50)
    recalibrate(smaller, batches, 10)
    record["after_cut"] = _top1(smaller, images[test], labels[test])
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    terms = [OutputTransfer(), AttentionTransfer("auto"), AdversarialTransfer(0.1)]
    recovery = aip_tf.Recovery(epochs=epochs, optimizer=optimizer, transfers=terms)
    recovery = recovery.for_model(model, (images[:8], labels[:8]))
    distiller = recovery.distiller(model, smaller, epochs * 16)
    history = distiller.fit(*arrays, batch_size=32, epochs=epochs, verbose=2)
    record["moving_statistics"] = _top1(smaller, images[test], labels[test])
    recalibrate(smaller, batches, 10)  # after 48 steps a momentum of 0.99 still tells of the start
    record["recovered"] = _top1(smaller, images[test], labels[test])
    record["loss"] = [round(float(v), 3) for v in history.history["loss"]]
    return record | _costs(model, smaller) | {"epochs": epochs}


def resnet20():
    return _iterate("resnet20", "game", epochs=12)


def resnet56():
    return _iterate("resnet56", "game", epochs=6)


def resnet20_features():
    """As resnet20, with the terms that recovery.py found best: they see every block."""
    blocks = [f"layer{stage}_{block}_relu2" for stage in (1, 2, 3) for block in range(3)]
    inside = [AttentionTransfer(blocks, 50.0), FeatureTransfer(blocks, 16.0)]
    terms = [OutputTransfer(), *inside, AdversarialTransfer(0.1)]
    return _iterate("resnet20", "features", epochs=12, transfers=terms)


def resnet20_one_shot():
    """Plain fine-tuning of one cut, with as many epochs."""
    cut = schedules.one_shot(0.5)
    return _iterate("resnet20", "plain", epochs=12, schedule=cut, transfers=[])


def _iterate(network, kind, epochs, schedule=0.5, transfers=None):
    teacher = keras.saving.load_model(SHARED / "models" / f"cifar10_{network}_akamaster.keras")
    data = cifar10(SHARED / "tensorflow_datasets")
    _, report = aip_tf.prune(
        teacher,
        data.train,
        data.test,
        schedule=schedule,
        selection=Macs(scope="inner"),
        recovery=aip_tf.Recovery(epochs=epochs, transfers=transfers),
        run_dir=WORK / f"{network}-{kind}",
    )
    report_file = RESULTS.parent / f"runs_{network}_{kind}.json"
    report_file.write_text(report.to_json())
    return {"report": report_file.name}


def _pair(model, smaller):
    return (("original", model), ("cut", smaller))


def _photographs():
    folder = SHARED / "imagenet_sample"
    entries = json.loads((folder / "labels.json").read_text())
    load = keras.utils.load_img
    images = np.stack([np.asarray(load(folder / e["file"]), np.float32) for e in entries])
    return images / 127.5 - 1, np.array([e["label"] for e in entries])


def _top1(model, images, labels):
    outputs = [np.argmax(model(images[i : i + 50]), -1) for i in range(0, len(images), 50)]
    return round(float(np.mean(np.concatenate(outputs) == labels)), 4)


def _costs(model, smaller):
    return {
        "macs": [cost.count_macs(model), cost.count_macs(smaller)],
        "parameters": [cost.count_parameters(model), cost.count_parameters(smaller)],
    }


RUNS = {
    "vww": vww,
    "mobilenetv2-cut": mobilenetv2_cut,
    "resnet50-cut": resnet50_cut,
    "memory": memory,
    "mobilenet": mobilenet,
    "resnet20": resnet20,
    "resnet20-features": resnet20_features,
    "resnet20-one-shot": resnet20_one_shot,
    "resnet56": resnet56,
}


def run(run):
    keras.utils.set_random_seed(0)
    return RUNS[run]()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=RUNS, help="one run")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else RUNS
    work_through(RESULTS, [{"run": name} for name in names], run)


if __name__ == "__main__":
    main()

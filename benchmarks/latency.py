"""Does half of the MACs take half of the time? Four networks at 224 pixels, in LiteRT.

    python benchmarks/latency.py                       # the queue; may be killed, goes on
    python benchmarks/latency.py --only MobileNetV2 float32
    python benchmarks/latency.py --summary             # the tables of README from the lines at hand

Half of the MACs are removed by `l1`, in the ways of `ARMS`; `latency` removes half of the time. The
weights are random: the time of a convolution does not depend on them. Files are of LiteRT, float32
or int8 (ranges of two random samples, which is enough for the time), as a delivery runs but without
its signature; one thread, one sample, all arms of a network and the original in turns. *Realized*
is the speed-up over the ratio of the MACs.

One JSON line for each network and precision goes to results/latency.jsonl; those that are there are
not measured again. Times of the processor are noted beside those of the clock: they hardly change
when other processes run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from recovery import cpu_seconds, machine  # noqa: E402

from aip_tf.channels import ChannelGraph  # noqa: E402
from aip_tf.cost import Cost  # noqa: E402
from aip_tf.deploy.card import processor  # noqa: E402
from aip_tf.latency import compare_latency  # noqa: E402
from aip_tf.layer_times import converted  # noqa: E402
from aip_tf.selection import Latency, Macs, PaddedMacs, select_channels  # noqa: E402

RESULTS = HERE / "results" / "latency.jsonl"
AMOUNT = 0.5
NETWORKS = ("MobileNetV2", "ResNet50", "EfficientNetB0", "VGG16")
PRECISIONS = ("float32", "int8")
ARMS = {
    "default": Macs,
    "round_to=1": lambda: Macs(round_to=1),
    "round_to=4": lambda: Macs(round_to=4),
    "round_to=8": lambda: Macs(round_to=8),
    "round_to=16": lambda: Macs(round_to=16),
    "padded_macs": PaddedMacs,
    "latency": Latency,
}


def build(network):
    keras.utils.set_random_seed(0)
    return getattr(keras.applications, network)(weights=None, classifier_activation=None)


def cut(graph, selection):
    """The model without half of its cost, and the share of the MACs that is left."""
    masks = select_channels(graph, AMOUNT, selection=selection, criterion="l1")
    cost = Cost(graph)
    return graph.prune(masks), cost.macs(masks) / cost.macs()


def write(model, precision, path):
    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    tune = in_eight_bits(spec.shape) if precision == "int8" else None
    path.write_bytes(converted(lambda x: model(x, training=False), [spec], tune))


def in_eight_bits(shape):
    samples = np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")

    def tune(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]

    return tune


def measure(network, precision, arms, runs):
    """What goes to the line of a network in a precision."""
    graph = ChannelGraph(build(network))
    kept, paths, seconds = {"original": 1.0}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("original", *arms):
            model, started = graph.model, cpu_seconds()
            if name != "original":
                model, kept[name] = cut(graph, ARMS[name]())
            seconds[name] = round(cpu_seconds() - started, 1)
            print(f"  {name}: {kept[name]:.3f}, {seconds[name]} s", flush=True)
            paths[name] = Path(folder) / f"{len(paths)}.tflite"
            write(model, precision, paths[name])
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        found = compare_latency(paths, runs=runs, warm_up=3, num_threads=1)
    print(found.render(), flush=True)
    return {
        name: _line(found, name, kept[name], sizes[name]) | {"cpu_seconds": seconds[name]}
        for name in kept
    }


def _line(found, name, kept, size):
    times, faster = found.latencies[name], found.speed_ups.get(name)
    line = {"macs_kept": kept, "bytes": size}
    line |= {"ms": _three(times, "_ms"), "processor_ms": times.processor_ms}
    if faster:
        line |= {"faster": _three(faster), "processor_faster": faster.processor}
    return line


def _three(values, unit=""):
    names = ("lower_quartile", "median", "upper_quartile")
    return [round(getattr(values, name + unit), 4) for name in names]


def read_lines():
    return list(map(json.loads, RESULTS.read_text().splitlines())) if RESULTS.exists() else []


def work_through(queue, arms, runs):
    for network, precision in queue:
        key = {"network": network, "precision": precision}
        if any(key.items() <= line.items() for line in read_lines()):
            continue
        print(time.strftime("%H:%M:%S"), key, flush=True)
        facts = {"machine": machine(), "processor": processor(), "runs": runs}
        line = key | facts | {"arms": measure(network, precision, arms, runs)}
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        keras.utils.clear_session()


def summary():
    print("Behind a semicolon: by the time of the processor.\n")
    print("| network | precision | original ms | arm | MACs kept | ms | faster | realized |")
    print("|---|---|---|---|---|---|---|---|")
    for line in read_lines():
        original = line["arms"].pop("original")
        for arm, found in line["arms"].items():
            low, middle, high = found["faster"]
            print(
                f"| {line['network']} | {line['precision']} | {original['ms'][1]:.2f} | {arm} "
                f"| {found['macs_kept']:.1%} | {found['ms'][1]:.2f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}); {found['processor_faster']:.2f} "
                f"| {middle * found['macs_kept']:.2f}; "
                f"{found['processor_faster'] * found['macs_kept']:.2f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--only", nargs=2, metavar=("NETWORK", "PRECISION"))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--results", type=Path, help="another file for the lines")
    arguments = parser.parse_args()
    if arguments.results:
        globals()["RESULTS"] = arguments.results
    queue = [(network, precision) for precision in PRECISIONS for network in NETWORKS]
    if arguments.summary:
        summary()
    else:
        queue = [tuple(arguments.only)] if arguments.only else queue
        work_through(queue, arguments.arms, arguments.runs)


if __name__ == "__main__":
    main()

"""Does half of the MACs take half of the time? Four networks at 224 pixels, and three small ones.

    python benchmarks/latency.py                       # the queue; may be killed, goes on
    python benchmarks/latency.py --only MobileNetV2 float32      # or ResNet20 both
    python benchmarks/latency.py --summary             # the tables of README from the lines at hand
    python benchmarks/latency.py --layers              # where the default's cut loses time

Half of the MACs are removed by `l1`, in the ways of `ARMS`; `latency` removes half of the time. The
weights are random: the time of a convolution does not depend on them. Files are of LiteRT, float32
or int8 (ranges of two random samples, which is enough for the time), as a delivery runs but without
its signature; one thread, one sample, all arms of a network and the original in turns. *Realized*
is the speed-up over the ratio of the MACs. The small ones are timed whole and with half of the
MACs, in float32 and in int8 beside each other.

One JSON line for each network and precision goes to results/latency.jsonl; those that are there are
not measured again. Times of the processor are noted beside those of the clock: they hardly change
when other processes run.
"""

import argparse
import functools
import itertools
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from measured import cpu_seconds, read_lines, work_through  # noqa: E402

from aip_tf import zoo  # noqa: E402
from aip_tf.channels import ChannelGraph  # noqa: E402
from aip_tf.cost import Cost  # noqa: E402
from aip_tf.deploy.card import processor  # noqa: E402
from aip_tf.latency import compare_latency  # noqa: E402
from aip_tf.layer_times import converted, measure_layers  # noqa: E402
from aip_tf.selection import Latency, Macs, PaddedMacs, select_channels  # noqa: E402

RESULTS = HERE / "results" / "latency.jsonl"
AMOUNT = 0.5
NETWORKS = ("MobileNetV2", "ResNet50", "EfficientNetB0", "VGG16")
SMALL = {
    "digits": zoo.digits_resnet,
    "ResNet20": zoo.resnet20,
    "MobileNet 0.25": functools.partial(keras.applications.MobileNet, alpha=0.25),
}
PRECISIONS = ("float32", "int8")
# Inner channels first, as `prune` cuts by default while they suffice.
ARMS = {
    "default": {},
    "round_to=1": {"round_to": 1},
    "round_to=4": {"round_to": 4},
    "round_to=8": {"round_to": 8},
    "round_to=16": {"round_to": 16},
    "padded_macs": {"selection": PaddedMacs},
    "latency": {"selection": Latency},
}


def chosen_by(selection=Macs, **options):
    return selection(scope="inner", **options)


def build(network):
    keras.utils.set_random_seed(0)
    if network in SMALL:
        return SMALL[network](weights=None)
    return getattr(keras.applications, network)(weights=None, classifier_activation=None)


def variants(precision, arms):
    """{name: (arm, or None for the original; precision)}."""
    if precision == "both":
        each = itertools.product({"original": None, "cut": {}}.items(), PRECISIONS)
        return {f"{name} {kind}": (arm, kind) for (name, arm), kind in each}
    return {name: (ARMS.get(name), precision) for name in ("original", *arms)}


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
    """What goes to a line; "arms" are {name: what was found}, the first is the reference."""
    graph = ChannelGraph(build(network))
    lines, paths = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (arm, kind) in variants(precision, arms).items():
            started, model, kept = cpu_seconds(), graph.model, 1.0
            if arm is not None:
                model, kept = cut(graph, chosen_by(**arm))
            seconds = round(cpu_seconds() - started, 1)
            print(f"  {name}: {kept:.3f}, {seconds} s", flush=True)
            paths[name] = Path(folder) / f"{len(paths)}.tflite"
            write(model, kind, paths[name])
            size = paths[name].stat().st_size
            lines[name] = {"macs_kept": kept, "bytes": size, "cpu_seconds": seconds}
        found = compare_latency(paths, runs=runs, warm_up=3, num_threads=1)
    print(found.render(), flush=True)
    keras.utils.clear_session()
    measured = {name: line | _times(found, name) for name, line in lines.items()}
    return {"processor": processor(), "runs": runs, "arms": measured}


def _times(found, name):
    times, faster = found.latencies[name], found.speed_ups.get(name)
    line = {"ms": _three(times, "_ms"), "processor_ms": times.processor_ms}
    if faster:
        line |= {"faster": _three(faster), "processor_faster": faster.processor}
    return line


def _three(values, unit=""):
    names = ("lower_quartile", "median", "upper_quartile")
    return [round(getattr(values, name + unit), 4) for name in names]


def summary():
    lines = read_lines(RESULTS)
    print("Behind a semicolon: by the time of the processor.\n")
    print("| network | precision | original ms | arm | MACs kept | ms | faster | realized |")
    print("|---|---|---|---|---|---|---|---|")
    for line in (line for line in lines if line["precision"] != "both"):
        original = line["arms"].pop("original")
        for arm, found in line["arms"].items():
            print(
                f"| {line['network']} | {line['precision']} | {_ms(original)} | {arm} "
                f"| {found['macs_kept']:.1%} | {_ms(found)} | {_faster(found)} "
                f"| {found['faster'][1] * found['macs_kept']:.2f}; "
                f"{found['processor_faster'] * found['macs_kept']:.2f} |"
            )
    print("\n| network | | MACs kept | bytes | of the original's | ms | faster |")
    print("|---|---|---|---|---|---|---|")
    for line in (line for line in lines if line["precision"] == "both"):
        whole = next(iter(line["arms"].values()))["bytes"]
        for arm, found in line["arms"].items():
            print(
                f"| {line['network']} | {arm} | {found['macs_kept']:.1%} | {found['bytes']:,} "
                f"| {found['bytes'] / whole:.0%} | {_ms(found)} | {_faster(found)} |"
            )


def layers(network):
    """Rows of the table of layers: shares of time and MACs, whole and cut, and what is lost.

    If all took as much less time as they have fewer MACs, nothing would be lost in sum. A layer of
    which that is not true loses (time left - its part) - (MACs left - their part), where its part
    is what would be left if all were cut alike. Layers that lose little stand together by kind.
    """
    graph = ChannelGraph(build(network))
    smaller, kept = cut(graph, chosen_by())
    before, after = map(_times_and_macs, (graph.model, smaller))
    whole = np.sum(list(before.values()), axis=0)
    rows = {}
    for place, (path, own) in enumerate(before.items()):
        share, left = (100 * np.array(x) / whole for x in (own, after[path]))
        lost = (left - kept * share) @ (1, -1)
        alike = np.isclose(*(x[1] for x in (share, left))) and share[1] >= 0.1
        name = "first layer" if place == 0 else _kind(graph, path, share[1], alike)
        name = f"`{path}`" if lost >= 1 and place else name
        rows[name] = rows.get(name, 0) + np.array([*share, *left, lost])
    rows["all"] = sum(rows.values())
    for name, (time_, macs, time_left, macs_left, lost) in rows.items():
        shown = f"{time_:.1f} | {macs:.1f} | {time_left:.1f} | {macs_left:.1f} | {lost:+.1f}"
        print(f"| {network} | {name} | {shown} |", flush=True)


def _times_and_macs(model):
    times, macs = measure_layers(model), Cost(ChannelGraph(model)).layer_macs()
    return {path: (ms, macs.get(path, 0)) for path, ms in times.items()}


def _kind(graph, path, macs, is_whole):
    kind = type(Cost(graph).layer(path)).__name__ if macs >= 0.005 else "sums, gates, pooling"
    return f"{kind}, kept whole" if is_whole else kind


def _ms(found):
    return f"{found['ms'][1]:.3g}; {found['processor_ms']:.3g}"


def _faster(found):
    if "faster" not in found:
        return ""
    low, middle, high = found["faster"]
    return f"{middle:.2f} ({low:.2f} to {high:.2f}); {found['processor_faster']:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--layers", nargs="*", metavar="NETWORK", help="none: all four")
    parser.add_argument("--only", nargs=2, metavar=("NETWORK", "PRECISION"))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--results", type=Path, help="another file for the lines")
    arguments = parser.parse_args()
    if arguments.results:
        globals()["RESULTS"] = arguments.results
    queue = [(network, precision) for precision in PRECISIONS for network in NETWORKS]
    queue += [(network, "both") for network in SMALL]
    if arguments.layers is not None:
        print("| network | layers | time | MACs | time left | MACs left | lost |")
        print("|---|---|---|---|---|---|---|")
        for network in arguments.layers or NETWORKS:
            layers(network)
    elif arguments.summary:
        summary()
    else:
        queue = [tuple(arguments.only)] if arguments.only else queue
        keys = [{"network": network, "precision": precision} for network, precision in queue]
        run = functools.partial(measure, arms=arguments.arms, runs=arguments.runs)
        work_through(RESULTS, keys, run)


if __name__ == "__main__":
    main()

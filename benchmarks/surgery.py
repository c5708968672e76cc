"""How fast is a cut? Against Torch-Pruning, Keras' own cloning, and the size of the network.

    python benchmarks/surgery.py --peer_python=VENV/bin/python   # has torch and torch-pruning
    python benchmarks/surgery.py                                 # without the peer

Same machine, same run, medians of 5. `trace` is `find_channel_groups`; `cut` is `prune_channels`
(trace, rebuild, weights) with half of every group removed; `clone` is `keras.models.clone_model`
with zero initialisers plus `set_weights`, which removes nothing. The peer builds its dependency
graph and removes half of the channels of torchvision's network of the same name.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import keras  # noqa: E402
import laws  # noqa: E402
import numpy as np  # noqa: E402
from measured import kilobytes, restart_peak  # noqa: E402

import aip_tf  # noqa: E402
from aip_tf import _keras  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "surgery.json"
REPEATS = 5
PAIRS = {  # ours: torchvision's
    "ResNet50": "resnet50",
    "MobileNetV2": "mobilenet_v2",
    "DenseNet121": "densenet121",
    "VGG16": "vgg16",
    "EfficientNetB0": "efficientnet_b0",
    "InceptionV3": "inception_v3",
}
GROWTH = ("MobileNet", "ResNet50", "DenseNet121", "ResNet152", "DenseNet201", "EfficientNetB7")
GROWTH += ("NASNetLarge", "EfficientNetV2L")
TRACE_LIMIT, CUT_LIMIT, MEMORY_LIMIT, GROWTH_LIMIT = 0.1, 1.5, 2.5, 1.25


def median_seconds(function, repeats=REPEATS):
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def clone_with_zeros(model):
    """Keras' own copy, spared the random initialisers."""

    def copy(layer):
        config = layer.get_config()
        for key in config:
            if key.endswith("_initializer") and config[key] is not None:
                config[key] = "zeros"
        return type(layer).from_config(config)

    twin = keras.models.clone_model(model, clone_function=copy)
    twin.set_weights(model.get_weights())
    return twin


def time_ours(name):
    """Seconds of trace, cut and clone."""
    keras.utils.clear_session()
    model = getattr(keras.applications, name)(weights=None)
    masks = laws.random_masks(aip_tf.find_channel_groups(model), np.random.default_rng(0))
    aip_tf.prune_channels(model, masks)  # the first of each pays for imports and caches
    clone_with_zeros(model)
    return {
        "trace": median_seconds(lambda: aip_tf.find_channel_groups(model)),
        "cut": median_seconds(lambda: aip_tf.prune_channels(model, masks)),
        "clone": median_seconds(lambda: clone_with_zeros(model)),
    }


def time_peer(python):
    script = ROOT / "benchmarks" / "surgery_peer.py"
    command = [python, str(script), json.dumps(list(PAIRS.values())), str(REPEATS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def time_growth(name):
    """(operations, seconds of a trace)."""
    keras.utils.clear_session()
    model = getattr(keras.applications, name)(weights=None)
    aip_tf.find_channel_groups(model)
    return len(model.operations), median_seconds(lambda: aip_tf.find_channel_groups(model), 3)


def memory_of_a_cut(name, amount):
    """Peak memory while a model is cut, source included, over the bytes of its weights.

    Runs in a process of its own; the kernel's high-water mark is reset once the model is there."""
    keras.utils.clear_session()
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])  # wakes TensorFlow up
    with_nothing = 1024 * kilobytes("VmRSS")
    with _keras.copying():  # random initial values leave memory behind that is not the cut's
        model = getattr(keras.applications, name)(weights=None)
    for variable in model.weights:
        _keras.fill(variable, keras.ops.ones(variable.shape, variable.dtype))
    weights = 4 * model.count_params()
    groups = aip_tf.find_channel_groups(model)
    masks = laws.random_masks(groups, np.random.default_rng(0), amount)
    gc.collect()
    restart_peak()
    student = aip_tf.prune_channels(model, masks if amount else {})
    peak = 1024 * kilobytes("VmHWM")
    return (peak - with_nothing) / weights, student.count_params() / model.count_params()


def in_its_own_process(name, amount):
    command = [sys.executable, __file__, f"--memory={name}", f"--amount={amount}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def slope(points):
    """Exponent of the growth: 1 is linear."""
    operations, seconds = np.log(np.array(points)).T
    return float(np.polyfit(operations, seconds, 1)[0])


def machine():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    load = os.getloadavg()[0]
    return f"{cpu}, {os.cpu_count()} cores, load {load:.1f}, keras {keras.__version__}"


def render(results):
    """Markdown."""
    peer = results.get("peer")
    lines = [f"{results['machine']}; peer: {_peer_name(peer)}", ""]
    lines += [
        f"| network | trace ms | cut ms | clone ms | cut/clone (limit {CUT_LIMIT}) "
        f"| Torch-Pruning ms "
        f"| trace/peer (limit {TRACE_LIMIT}) | cut/peer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, t in results["ours"].items():
        cells = [f"{1e3 * t[k]:.0f}" for k in ("trace", "cut", "clone")]
        cells.append(f"{t['cut'] / t['clone']:.2f}")
        if peer:
            p = peer["seconds"][PAIRS[name]]
            cells += [f"{1e3 * p:.0f}", f"{t['trace'] / p:.3f}", f"{t['cut'] / p:.2f}"]
        else:
            cells += ["-"] * 3
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| network | operations | trace ms | us per operation |", "|---|---|---|---|"]
    for name, (n, s) in results["growth"].items():
        lines.append(f"| {name} | {n} | {1e3 * s:.0f} | {1e6 * s / n:.0f} |")
    exponent = slope(list(results["growth"].values()))
    lines += ["", f"Tracing time grows with the operations to the power {exponent:.2f}."]
    for name, _, (peak, left) in results["memory"]:
        lines.append(
            f"Peak memory while {name} is cut to {left:.0%} of its parameters: {peak:.2f} x the "
            f"bytes of its weights, the model itself included (limit {MEMORY_LIMIT})."
        )
    return "\n".join(lines)


def _peer_name(peer):
    return f"Torch-Pruning {peer['torch_pruning']}, torch {peer['torch']}" if peer else "not run"


def failures(results):
    """Which limits are not met."""
    found = []
    for name, t in results["ours"].items():
        if t["cut"] > CUT_LIMIT * t["clone"]:
            found.append(f"{name}: cut/clone {t['cut'] / t['clone']:.2f}")
        if (
            results.get("peer")
            and t["trace"] > TRACE_LIMIT * results["peer"]["seconds"][PAIRS[name]]
        ):
            found.append(f"{name}: trace/peer too large")
    if slope(list(results["growth"].values())) > GROWTH_LIMIT:
        found.append("tracing grows faster than linearly")
    found += [f"{n}: memory {m[0]:.2f}" for n, _, m in results["memory"] if m[0] > MEMORY_LIMIT]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer_python", help="a Python with torch, torchvision, torch-pruning")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--amount", type=float, default=0.5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory_of_a_cut(options.memory, options.amount)))
        return
    results = {"machine": machine()}
    results["ours"] = {name: time_ours(name) for name in PAIRS}
    if options.peer_python:
        results["peer"] = time_peer(options.peer_python)
    results["growth"] = {name: time_growth(name) for name in GROWTH}
    results["memory"] = [
        (name, amount, in_its_own_process(name, amount))
        for name in ("VGG16", "ResNet152")
        for amount in (0.1, 0.5)
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(render(results))
    missed = failures(results)
    sys.exit(f"limits missed: {'; '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()

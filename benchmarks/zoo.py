"""Can every architecture of `keras.applications` be cut, exactly, to half its size?

    python benchmarks/zoo.py                    # all 40, about an hour; goes on where it stopped
    python benchmarks/zoo.py --only=ResNet50    # one; --table prints what is there

One JSON line per architecture goes to `benchmarks/results/zoo.jsonl`. Inputs are small (48 to 75
pixels), weights random, statistics calibrated, logits out; the cut removes half of every group at
random. `error` is |masked - cut| over the largest output; `control` is how far the output moves if
one kept channel is swapped for a removed one.
"""

import argparse
import gc
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import keras  # noqa: E402
import laws  # noqa: E402
import numpy as np  # noqa: E402
import zoo_models  # noqa: E402
from measured import append, read_lines  # noqa: E402

import aip_tf  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "zoo.jsonl"
HALF = 0.5
COLUMNS = ("architecture", "layers", "groups (prunable)", "channels prunable", "least MACs")
COLUMNS += ("least parameters", "MACs, parameters at 50%", "error", "control", "trace s", "cut s")
SUMMARY = """{exact} of {rows} exact; {halved} of {rows} reach half of MACs and parameters.
Peers (measured elsewhere, not in this run): Torch-Pruning is exact on 58 of 62 torchvision CNNs;
Sony MCT (Keras 2) reaches half size on 6 of 15 `keras.applications` models."""


def measure(name):
    """One row of the table."""
    keras.utils.clear_session()
    gc.collect()
    rng = np.random.default_rng(zoo_models.ARCHITECTURES.index(name))
    model = zoo_models.build(name)
    batch = laws.random_batch(model, rng, 2)
    laws.randomize(model, rng, batch)
    start = time.perf_counter()
    groups = aip_tf.find_channel_groups(model)
    traced = time.perf_counter()
    aip_tf.prune_channels(model, laws.random_masks(groups, rng))
    cut = time.perf_counter()
    verdict = laws.check_cut(model, batch, rng, num_controls=20)  # deep ones are deaf to most
    costs, least = verdict.costs, laws.least_masks(groups)
    channels = sum(g.num_channels for g in groups)
    return {
        "model": name,
        "pixels": model.input_shape[1],
        "layers": len(model.layers),
        "groups": len(groups),
        "prunable": len(laws.cuttable(groups)),
        "prunable_share": sum(g.num_channels for g in laws.cuttable(groups)) / channels,
        "least_macs": costs.macs(least) / costs.macs(),
        "least_parameters": costs.parameters(least) / costs.parameters(),
        "half_macs": costs.macs(verdict.masks) / costs.macs(),
        "half_parameters": costs.parameters(verdict.masks) / costs.parameters(),
        "error": verdict.error,
        "control": verdict.moved,
        "costs_agree": verdict.costs_agree,
        "trace_seconds": traced - start,
        "cut_seconds": cut - traced,
        "reasons": sorted({g.reason for g in groups if not g.prunable}),
    }


def is_exact(row):
    return (
        row["error"] <= laws.TOLERANCE and row["control"] >= laws.SENSITIVITY and row["costs_agree"]
    )


def is_halved(row):
    return row["least_macs"] <= HALF and row["least_parameters"] <= HALF


def load():
    """{architecture: its newest row}."""
    return {row["model"]: row for row in read_lines(RESULTS)}


def table(rows):
    """Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for r in sorted(rows, key=lambda r: r["model"]):
        flaws = "" if is_exact(r) and is_halved(r) else " **FAILS**"
        lines.append(
            f"| {r['model']}{flaws} | {r['layers']} | {r['groups']} ({r['prunable']}) "
            f"| {r['prunable_share']:.1%} | {r['least_macs']:.2%} | {r['least_parameters']:.2%} "
            f"| {r['half_macs']:.1%}, {r['half_parameters']:.1%} | {r['error']:.0e} "
            f"| {r['control']:.0e} | {r['trace_seconds']:.3f} | {r['cut_seconds']:.1f} |"
        )
    counts = {
        "rows": len(rows),
        "exact": sum(map(is_exact, rows)),
        "halved": sum(map(is_halved, rows)),
    }
    return "\n".join([*lines, "", SUMMARY.format(**counts)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=zoo_models.ARCHITECTURES)
    parser.add_argument("--table", action="store_true", help="print the rows that are there")
    options = parser.parse_args()
    done = load()
    for name in () if options.table else options.only:
        if name in done:
            continue
        row = measure(name)
        done[name] = row
        append(RESULTS, row)
        print(f"{name}: error {row['error']:.1e}, control {row['control']:.1e}", flush=True)
    rows = list(done.values())
    print(f"keras {keras.__version__}, {platform.processor() or platform.machine()}\n")
    print(table(rows))
    failed = [r["model"] for r in rows if not (is_exact(r) and is_halved(r))]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()

"""Thousands of random networks, each cut at random and held against the laws.

    python benchmarks/fuzz.py                   # seeds 1000 to 2999; goes on where it stopped
    python benchmarks/fuzz.py --first=5000 --graphs=100

One JSON line per hundred seeds goes to `benchmarks/results/fuzz.jsonl`; a failing graph is printed
with its seed and code.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import random_graphs  # noqa: E402
from measured import append, read_lines  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.jsonl"
CHUNK = 100


def measure(first, count):
    """A chunk of seeds: one row."""
    start, failures, num_groups = time.perf_counter(), {}, 0
    for seed in range(first, first + count):
        problems, groups = random_graphs.check(seed)
        num_groups += groups
        if problems:
            failures[seed] = problems
            print(random_graphs.explain(seed, problems), flush=True)
    seconds = time.perf_counter() - start
    return {
        "first": first,
        "graphs": count,
        "groups": num_groups,
        "failures": failures,
        "seconds": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--graphs", type=int, default=2000)
    options = parser.parse_args()
    rows = {row["first"]: row for row in read_lines(RESULTS)}
    last = options.first + options.graphs
    for first in range(options.first, last, CHUNK):
        count = min(CHUNK, last - first)
        if first in rows and rows[first]["graphs"] == count and not rows[first]["failures"]:
            continue
        rows[first] = measure(first, count)
        append(RESULTS, rows[first])
        failed = len(rows[first]["failures"])
        print(f"seeds {first} to {first + count - 1}: {failed} failures", flush=True)
    here = [r for first, r in rows.items() if options.first <= first < last]
    graphs, groups = (sum(r[key] for r in here) for key in ("graphs", "groups"))
    failures = {seed: p for r in here for seed, p in r["failures"].items()}
    print(f"{graphs} graphs with {groups} prunable groups: {len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

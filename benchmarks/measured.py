"""What the scripts here share: queues that may be killed, the machine, its time and its memory."""

import json
import os
import platform
import resource
import time
from pathlib import Path

import tensorflow as tf


def read_lines(path):
    """The JSON lines of a file of results, in order; [] without it."""
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def append(path, line):
    """Note one finished run."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def work_through(path, keys, run):
    """Do every run that no line of `path` has, and note it as soon as it is done.

    Args:
        path: the file of results.
        keys: dicts, one for each run: what its line is found by.
        run: called with the entries of a key, returns a dict that the line has beside them.
    """
    for key in keys:
        if any(key.items() <= line.items() for line in read_lines(path)):
            continue
        print(time.strftime("%H:%M:%S"), key, flush=True)
        started, cpu = time.monotonic(), cpu_seconds()
        found = run(**key)
        spent = time.monotonic() - started, cpu_seconds() - cpu
        found = dict(zip(("seconds", "cpu_seconds"), map(round, spent), strict=True)) | found
        found = {"machine": machine()} | found
        append(path, key | found)
        print(time.strftime("%H:%M:%S"), found, flush=True)


def cpu_seconds():
    """Of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machine():
    load = f"load {os.getloadavg()[0]:.0f}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {load}, TensorFlow {tf.__version__}"


def restart_peak():
    """The high-water mark of `kilobytes("VmHWM")` starts anew. Linux alone can."""
    Path("/proc/self/clear_refs").write_text("5")


def kilobytes(key):
    """What Linux says of this process' memory: "VmRSS" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

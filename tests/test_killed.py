"""A run that is killed, as often as you like, ends with every weight of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("killed_run.py")


def run(folder, *arguments):
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of a complete run, and the number of its events."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finished = run(folder)
    assert finished.returncode == 0, finished.stderr
    return folder, int(finished.stdout.split()[-1])


def snapshots(folder):
    """Arrays of every snapshot that stays, apart from the status, which tells the time."""
    for path in sorted(folder.rglob("snapshot.npz")):
        with np.load(path) as found:
            yield path.relative_to(folder), {n: found[n] for n in found.files if n != "status"}


def plain(report):
    """A report without what tells time and place."""
    if isinstance(report, dict):
        moving = ("seconds", "date", "artefacts", "path", "sha256", "latency", "speed_up")
        return {k: plain(v) for k, v in report.items() if k not in moving}
    return [plain(v) for v in report] if isinstance(report, list) else report


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_every_weight_of_one_that_was_not(kills, uninterrupted, tmp_path):
    expected, num_events = uninterrupted
    rng = np.random.default_rng(kills)
    for _ in range(kills):
        killed = run(tmp_path, rng.integers(1, num_events * 2 // 3))
        if killed.returncode == 0:  # what was left took fewer events
            break
        assert killed.returncode == -9, killed.stderr
    finished = run(tmp_path)
    assert finished.returncode == 0, finished.stderr

    pairs = list(zip(snapshots(tmp_path), snapshots(expected), strict=True))
    assert len(pairs) == 4  # the teacher's and those of three stretches
    for (path, found), (_, wanted) in pairs:
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{path}: {name}")
    for name in ("teacher.keras", "student.keras"):
        ours, theirs = (
            keras.saving.load_model(folder / name, compile=False, safe_mode=False).get_weights()
            for folder in (tmp_path, expected)
        )
        assert all(map(np.array_equal, ours, theirs))
    tflite = "export/model.tflite"
    assert (tmp_path / tflite).stat().st_size == (expected / tflite).stat().st_size
    reports = [json.loads((folder / "report.json").read_text()) for folder in (tmp_path, expected)]
    assert plain(reports[0]) == plain(reports[1])

"""docs/several_machines.md as it is printed, with two processes of one machine as the machines."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SUBSET = '''
"""The first images of CIFAR-10: a data function of one's own, named in a gin file by import."""

import gin
import tensorflow_datasets as tfds

from aip_tf import datasets


@gin.configurable
def first_images(data_dir, num_train, num_test):
    splits = [f"train[:{num_train}]", f"test[:{num_test}]"]
    options = {"batch_size": -1, "as_supervised": True, "download": False}
    arrays = tfds.as_numpy(tfds.load("cifar10", data_dir=data_dir, split=splits, **options))
    return datasets.from_arrays(*arrays, batch_size=32)
'''

RUN = """
import first_images
include 'gin/base.gin'

run.teacher = @load_model
load_model.source = "{data}/models/cifar10_resnet20_akamaster.keras"
run.data = @first_images
first_images.data_dir = "{data}/tensorflow_datasets"
first_images.num_train = 64                 # images
first_images.num_test = 32                  # images
run.export = None
prune.schedule = 0.3                        # of the MACs removed
prune.recovery = @Recovery()
Recovery.epochs = 2                         # epochs
"""


def environment(folder, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CONFIG", "SLURM_"))}
    paths = os.pathsep.join([str(ROOT), str(folder)])
    return kept | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1"} | more


def slurm(rank, nodes="localhost", tasks_per_node="2"):
    """What `srun` sets for one task."""
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
    }


def tf_config(folder, port, **variables):
    """TF_CONFIG as examples/slurm_tf_config.py prints it."""
    command = [sys.executable, str(ROOT / "examples" / "slurm_tf_config.py"), str(port)]
    printed = subprocess.run(
        command, env=environment(folder, **variables), check=True, capture_output=True, text=True
    )
    return printed.stdout.strip()


def two_free_ports():
    """The first of two neighbouring ports that are free."""
    for port in range(21000, 60000, 97):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("localhost", port))
                second.bind(("localhost", port + 1))
            except OSError:
                continue
        return port
    raise AssertionError("no free ports")


def test_slurm_names_the_tasks_as_tf_config_does(tmp_path):
    variables = slurm(1, "node[07-08]", "1(x2)")
    config = json.loads(tf_config(tmp_path, 2222, **variables))
    assert config == {
        "cluster": {"worker": ["node07:2222", "node08:2222"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.slow
def test_two_workers_end_with_one_report(tmp_path, shared_data):
    (tmp_path / "first_images.py").write_text(SUBSET, encoding="utf-8")
    gin_file = tmp_path / "two.gin"
    gin_file.write_text(RUN.format(data=shared_data), encoding="utf-8")
    run_dir, port = tmp_path / "run", two_free_ports()
    command = [sys.executable, "-m", "aip_tf", f"--gin_file={gin_file}", f"--run_dir={run_dir}"]
    command.append("--gin_param=run.strategy = 'multi_worker'")
    configs = [tf_config(tmp_path, port, **slurm(rank)) for rank in range(2)]
    workers = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(tmp_path, TF_CONFIG=config),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for config in configs
    ]
    try:
        printed = [worker.communicate(timeout=900)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, text in zip(workers, printed, strict=True):
        assert worker.returncode == 0, text[-4000:]

    # Equal reports, and the one on disk is theirs.
    reports = [numbers(text) for text in printed]
    assert reports[0] == reports[1]
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    assert f"{report['student']['macs']:,}" in " ".join(reports[0])
    assert report["student"]["macs"] < 0.7 * report["teacher"]["macs"]
    assert {"accuracy"} <= set(report["student"]["metrics"])

    # Only the chief's files: events come from one process, and nothing is unfinished.
    names = {path.name for path in run_dir.iterdir()}
    assert {"student.keras", "teacher.keras", "report.json", "state.json"} <= names
    assert not list(run_dir.rglob("unfinished_*"))
    for folder in (run_dir / "events").iterdir():
        written = [re.search(r"\.(\d+)\.\d+\.v2$", path.name) for path in folder.iterdir()]
        assert len({match[1] for match in written if match}) == 1, folder  # process ids


def numbers(text):
    """The printed report without times."""
    lines = text[text.index("MACs  ") :].splitlines()
    start = [re.sub(r"\s+[\d.]+$", "", line) for line in lines if " kept" in line]
    return [line for line in start if "seconds" not in line]

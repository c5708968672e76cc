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

import os

import gin
import keras
import tensorflow_datasets as tfds

from aip_tf import datasets


@gin.configurable
def first_images(data_dir, num_train, num_test):
    splits = [f"train[:{num_train}]", f"test[:{num_test}]"]
    options = {"batch_size": -1, "as_supervised": True, "download": False}
    arrays = tfds.as_numpy(tfds.load("cifar10", data_dir=data_dir, split=splits, **options))
    return datasets.from_arrays(*arrays, batch_size=32)


@gin.configurable
def power_cut():
    def stop(epoch, logs=None):
        if epoch == 1 and os.environ.get("POWER_CUT"):
            os._exit(9)

    return keras.callbacks.LambdaCallback(on_epoch_begin=stop)
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
Recovery.epochs = 2                         # epochs, the cut comes between them
Recovery.callbacks = [@power_cut()]
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


@pytest.fixture
def start(tmp_path, shared_data):
    """Starts the two workers; returns them."""
    (tmp_path / "first_images.py").write_text(SUBSET, encoding="utf-8")
    gin_file = tmp_path / "two.gin"
    gin_file.write_text(RUN.format(data=shared_data), encoding="utf-8")
    command = [sys.executable, "-m", "aip_tf", f"--gin_file={gin_file}"]
    command += [f"--run_dir={tmp_path / 'run'}", "--gin_param=run.strategy = 'multi_worker'"]
    started = []

    def start(*variables):
        port = two_free_ports()
        configs = [tf_config(tmp_path, port, **slurm(rank)) for rank in range(2)]
        workers = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(tmp_path, TF_CONFIG=config, **more),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for config, more in zip(configs, variables, strict=True)
        ]
        started.extend(workers)
        return workers

    yield start
    for worker in started:
        worker.kill()


@pytest.mark.slow
def test_two_workers_end_with_one_report(start, tmp_path):
    report = check_outcome(start({}, {}), tmp_path / "run")
    assert report["student"]["macs"] <= 0.7 * report["teacher"]["macs"]
    assert set(report["student"]["metrics"]) >= {"accuracy", "loss"}


@pytest.mark.slow
def test_after_a_death_both_go_on(start, tmp_path):
    survivor, victim = start({}, {"POWER_CUT": "1"})
    victim.communicate(timeout=900)
    text, _ = survivor.communicate(timeout=180)
    assert victim.returncode == 9
    assert survivor.returncode not in (0, -9), text[-4000:]
    assert not (tmp_path / "run" / "report.json").exists()
    report = check_outcome(start({}, {}), tmp_path / "run", "Going on after 1 epochs and 1 cuts")
    assert [record["epoch"] for record in report["history"]] == [0, 1]


def check_outcome(workers, run_dir, said="round 1/1"):
    """Wait for two workers; their numbers must agree and the files be the chief's; the report."""
    printed = [worker.communicate(timeout=900)[0] for worker in workers]
    for worker, text in zip(workers, printed, strict=True):
        assert worker.returncode == 0, text[-4000:]
        assert said in text
    numbers = [numbers_in(text) for text in printed]
    assert len(numbers[0]) >= 4
    assert numbers[0] == numbers[1]
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    assert f"{report['student']['macs']:,}" in " ".join(numbers[0])
    names = {path.name for path in run_dir.iterdir()}
    assert {"student.keras", "teacher.keras", "report.json", "state.json"} <= names
    assert not list(run_dir.rglob(".aip_tf_unfinished_*"))
    for folder in (run_dir / "events").iterdir():
        found = [re.search(r"\.(\d+)\.\d+\.v2$", path.name) for path in folder.iterdir()]
        processes = {match[1] for match in found if match}
        assert not processes & {str(worker.pid) for worker in workers[1:]}
        assert processes
    return report


def numbers_in(text):
    """The printed report without times."""
    lines = text[text.index("MACs  ") :].splitlines()
    return [re.sub(r"\s+[\d.]+$", "", line) for line in lines if " kept" in line]

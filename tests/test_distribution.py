"""The same game under every strategy; each is a process of its own, all start at once."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aip_tf import distribution

WORKER = Path(__file__).with_name("distribution_worker.py")


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(strategy, result, *more, tf_config=None):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    command = [sys.executable, str(WORKER), strategy, str(result), *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_workers(folder, *more):
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    return [
        start(
            "multi_worker",
            folder / f"worker{i}",
            *more,
            tf_config={"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}},
        )
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{run: its arrays} of one device, two mirrored devices and two workers."""
    folder = tmp_path_factory.mktemp("strategies")
    processes = [start(name, folder / name, "even", "uneven") for name in ("none", "mirrored")]
    processes += start_workers(folder)
    try:
        for process in processes:
            output, _ = process.communicate(timeout=540)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


RUNS = ("mirrored_even", "mirrored_uneven", "worker0_even", "worker1_even")


@pytest.mark.parametrize("run", RUNS)
def test_weights_and_metrics_are_those_of_one_device(results, run):
    single, several = results["none_" + run.partition("_")[2]], results[run]
    assert several["num_replicas"] == 2
    names = [n for n in single if n.startswith(("student", "discriminator"))]
    assert len(names) > 7
    for name in names:
        difference = np.abs(single[name] - several[name]).max()
        assert difference <= 1e-4 * np.abs(single[name]).max(), name
    expected = json.loads(str(single["logs"]))
    assert json.loads(str(several["logs"])) == pytest.approx(expected, rel=1e-4)
    assert several["num_predictions"] == single["num_predictions"]


def test_training_was_not_trivial(results):
    """Equal weights prove something only if the steps moved them."""
    logs = json.loads(str(results["none_even"]["logs"]))
    assert {"output_loss", "attention_loss", "adversarial_loss", "val_loss"} <= set(logs)
    assert results["none_even"]["moved"] > 1e-3


def test_only_one_worker_is_chief(results):
    chiefs = {run: bool(values["is_chief"]) for run, values in results.items()}
    assert [run for run, is_chief in chiefs.items() if not is_chief] == ["worker1_even"]


@pytest.mark.slow
def test_a_workers_death_is_an_error_within_a_minute(tmp_path):
    survivor, victim = start_workers(tmp_path, "die")
    try:
        victim.communicate(timeout=540)
        died = time.monotonic()
        output, _ = survivor.communicate(timeout=120)
        assert time.monotonic() - died < 60
    finally:
        survivor.kill()
        victim.kill()
    assert victim.returncode == 9
    assert survivor.returncode not in (0, -9)
    told = [line for line in output.splitlines() if line.startswith("ValueError: ")]
    assert len(told) == 1
    assert "no sign of life from task:1" in told[0] and "same command" in told[0]


# --- names and checks -----------------------------------------------------------------------------


def test_unknown_strategies_are_refused():
    with pytest.raises(ValueError, match="Received strategy='tpu'"):
        distribution.strategy_from("tpu")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "not json",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}',
        '{"cluster": {"worker": ["nowhere"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_several_workers_need_a_usable_tf_config(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        distribution.strategy_from("multi_worker")


def test_one_device_is_the_strategy_in_scope():
    strategy = distribution.strategy_from("none")
    assert strategy.num_replicas_in_sync == 1
    assert distribution.is_chief(strategy)

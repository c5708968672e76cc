"""The command line: help, exit codes, errors in one paragraph, interruption."""

import errno
import os
import re
import signal
import subprocess
import sys
import time

import keras
import pytest

from aip_tf import cli, config

RUN_FILE = """\
include 'gin/base.gin'
run.teacher = @digits_resnet
run.data = @digits
digits_resnet.width = 4  # channels
"""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """The path of a small run file, seen from an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.gin").write_text(RUN_FILE)
    return "--gin_file=small.gin"


def fail_with(error):
    def run(*arguments):
        raise error

    return run


def test_help_shows_a_worked_example_and_needs_no_tensorflow():
    script = "import sys; from aip_tf.cli import main; main(['--help']); print(sorted(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    text, modules = output.rsplit("\n[", 1)
    assert "aip_run --gin_file=gin/digits.gin" in text
    for flag in ("--gin_file", "--gin_param", "--run_dir", "--dry_run"):
        assert flag in text
    assert "'keras'" not in modules and "'tensorflow'" not in modules


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "No --gin_file"),
        (["gin/digits.gin"], "--gin_file=gin/digits.gin"),
        (["--gin_fil=a.gin"], "gin_file"),
        (["--gin_file=nowhere.gin"], "No gin file 'nowhere.gin'"),
        (["--gin_file="], "No gin file ''"),
        ([f"--gin_file={'x' * 5000}"], "No gin file 'xxx"),
        (["--gin_file=small.gin", "--run_dir="], "the path ''"),
        (["--gin_file=small.gin", "--gin_param=seeed = 1"], "nothing reads seeed"),
    ],
)
def test_wrong_commands_are_one_paragraph_and_exit_code_2(run_file, capsys, arguments, expected):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert captured.err.startswith("aip_run: ") and captured.err.count("\n") == 1


def test_a_dry_run_plans_and_leaves_nothing_behind(run_file, capsys, tmp_path):
    assert cli.main([run_file, "--dry_run", "--gin_param=prune.schedule = 0.4"]) == 0
    output = capsys.readouterr().out
    assert "prune.schedule = 0.4" in output
    assert "layer1_0_conv1" in output and "an output of the model" in output
    assert "round 1, before the first epoch: 40.00% removed" in output
    assert [path.name for path in tmp_path.iterdir()] == ["small.gin"]


def test_a_finished_run_prints_the_report_and_where_it_is(run_file, capsys, monkeypatch):
    class Report:
        def render(self):
            return "the table and the paths"

    outcome = config.experiment.Outcome(Report(), paths={"student": "student.keras"})
    monkeypatch.setattr(config, "run", lambda *arguments: outcome)
    assert cli.main([run_file]) == 0
    output = capsys.readouterr().out
    for text in ("the table and the paths", "runs/small"):
        assert text in output


def test_the_run_is_told_its_configuration_and_what_it_may_drop(run_file, monkeypatch):
    told = []

    def run(*arguments):
        told.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "run", run)
    assert cli.main([run_file, "--run_dir=a"]) == 130
    assert cli.main([run_file, "--run_dir=a", "--gin_param=seed = 3", "--overwrite"]) == 130
    assert [(folder, overwrite) for folder, _, overwrite in told] == [("a", False), ("a", True)]
    assert "seed = 0" in told[0][1] and "seed = 3" in told[1][1]
    assert not os.path.exists("a")  # nothing is claimed before there is something to keep


def test_an_interruption_says_how_to_go_on(run_file, capsys, monkeypatch):
    monkeypatch.setattr(config, "run", fail_with(KeyboardInterrupt()))
    assert cli.main([run_file, "--gin_param=seed = 3"]) == 130
    error = capsys.readouterr().err
    assert "aip_run --gin_file=small.gin '--gin_param=seed = 3'" in error
    assert "runs/small" in error


def test_an_error_of_the_package_is_a_paragraph(run_file, capsys):
    parameter = "--gin_param=digits_resnet.num_classes = 4"  # of ten
    assert cli.main([run_file, parameter]) == 1
    error = capsys.readouterr().err
    assert "labels from 0 to 9" in error and "4 units" in error
    assert "Traceback" not in error and " at 0x" not in error
    with pytest.raises(ValueError, match="labels from 0 to 9"):
        cli.main([run_file, parameter, "--traceback"])


def test_a_bug_shows_its_traceback_and_says_that_it_is_one(run_file, capsys, monkeypatch):
    monkeypatch.setattr(config, "run", pow)  # of words: a TypeError that nobody wrote
    assert cli.main([run_file]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "unsupported operand" in error
    assert "This is a bug" in error.splitlines()[-1] and "report" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left", "runs/a/x"), "disk is full at 'runs/a/x'.*goes on"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "Not a directory: 'a/b'"),
        (MemoryError("cannot allocate"), "Out of memory. cannot allocate.*batch_size"),
        (KeyError("mine"), "code of yours: .*test_cli.py, line .*, in run"),
    ],
)
def test_what_the_machine_or_the_user_did_is_a_paragraph(
    run_file, capsys, monkeypatch, error, expected
):
    monkeypatch.setattr(config, "run", fail_with(error))
    assert cli.main([run_file]) == 1
    captured = capsys.readouterr().err
    assert re.search(expected, captured) and captured.count("\n") == 1


def test_a_full_disk_is_seen_behind_what_was_made_of_it(run_file, capsys, monkeypatch):
    def run(*arguments):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("Unable to write the file") from error

    monkeypatch.setattr(config, "run", run)
    assert cli.main([run_file]) == 1
    assert "The disk is full" in capsys.readouterr().err


def send(number):
    """Send this process a signal and wait until Python has handled it."""
    os.kill(os.getpid(), number)
    time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_of_training_interrupts_whoever_swallows_it(
    run_file, capsys, monkeypatch, number
):
    def run(*arguments):
        try:
            send(number)
        except BaseException as error:
            raise RuntimeError("something else") from error

    monkeypatch.setattr(config, "run", run)
    before = signal.getsignal(number)
    assert cli.main([run_file]) == 130
    assert "The same command goes on" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_real_signals_end_a_real_run_quietly(tmp_path):
    (tmp_path / "small.gin").write_text(
        RUN_FILE + "prune.recovery = @Recovery()\nRecovery.epochs = 1000\n"
    )

    def start(*options):
        command = [sys.executable, *options, "-m", "aip_tf", "--gin_file=small.gin"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)

    def ends_quietly(process):
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in error
        assert error.splitlines()[-1].endswith("aip_run --gin_file=small.gin")

    process = start("-X", "importtime")  # tells of each import that is done
    while not process.stderr.readline().endswith(" numpy\n"):  # TensorFlow's takes seconds more
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ends_quietly(process)

    process = start()
    while not re.match("Epoch +2/1000 ", process.stdout.readline()):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    ends_quietly(process)
    assert list((tmp_path / "runs/small/checkpoint").glob("*.npz")), "what was reached is kept"


def test_what_libraries_say_to_nobody_is_left_out(run_file, tmp_path):
    """A compiled, untrained teacher; several cuts; an export: nothing on the standard error."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(tmp_path / "model.keras")
    (tmp_path / "own.gin").write_text(
        "include 'gin/base.gin'\nrun.teacher = @load_model\nload_model.source = 'model.keras'\n"
        "run.data = @digits\nprune.recovery = @Recovery()\nRecovery.epochs = 4\n"
        "Recovery.transfers = []\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "aip_tf", "--gin_file=own.gin"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert result.returncode == 0
    assert result.stderr == ""
    assert "Saved artifact" not in result.stdout and "WARNING" not in result.stdout


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (["prune.recovery = 3"], "Received recovery=3. Expected a Recovery"),
        (["run.teacher = @train_teacher", "train_teacher.model = 3"], "Expected a keras.Model"),
        (["run.data = @digits_resnet"], "Expected datasets.Data"),
        (
            ["prune.recovery = @Recovery()", "Recovery.loss = 'x'"],
            "Received 'x' in loss. Expected a name that Keras knows",
        ),
        (
            ["prune.recovery = @Recovery()", "Recovery.transfers = @digits()"],
            r"Received transfers=Data\(.*Expected a list of Transfer objects",
        ),
        (
            ["prune.recovery = @Recovery()", "Recovery.optimizer = @SGD()", "SGD.momentum = 5"],
            "SGD failed with ValueError: .*SGD.momentum = 5. Expected what keras.optimizers.SGD",
        ),
        (["run.prune = @digits"], "Received prune=.*Expected a function of a model, training"),
        (["run.export = @digits"], "Received export=.*Expected a function of a model and a folder"),
    ],
)
def test_what_no_check_foresaw_is_a_paragraph_too(run_file, capsys, parameters, expected):
    code = cli.main([run_file, "--dry_run", *(f"--gin_param={text}" for text in parameters)])
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert re.search(expected, error), error
    assert "Traceback" not in error and error.count("\n") == 1

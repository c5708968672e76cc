"""The command line: help, exit codes, errors in one paragraph, interruption."""

import subprocess
import sys

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
    def run(run_dir):
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
    assert "round 3, after epoch 6: 40.00% removed" in output
    assert [path.name for path in tmp_path.iterdir()] == ["small.gin"]


def test_a_finished_run_prints_the_table_and_the_paths(run_file, capsys, monkeypatch):
    class Report:
        def render(self):
            return "the table"

    paths = {"student": "student.keras", "tflite": "model.tflite"}
    outcome = config.experiment.Outcome(Report(), paths)
    monkeypatch.setattr(config, "run", lambda run_dir: outcome)
    assert cli.main([run_file]) == 0
    output = capsys.readouterr().out
    for text in ("the table", "student.keras", "model.tflite", "runs/small"):
        assert text in output


def test_the_same_directory_with_another_configuration_is_refused(run_file, capsys, monkeypatch):
    monkeypatch.setattr(config, "run", fail_with(KeyboardInterrupt()))
    assert cli.main([run_file, "--run_dir=a"]) == 130
    assert cli.main([run_file, "--run_dir=a", "--gin_param=seed = 3"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "- seed = 0; + seed = 3" in error


def test_an_interruption_says_how_to_go_on(run_file, capsys, monkeypatch):
    monkeypatch.setattr(config, "run", fail_with(KeyboardInterrupt()))
    assert cli.main([run_file, "--gin_param=seed = 3"]) == 130
    error = capsys.readouterr().err
    assert "aip_run --gin_file=small.gin '--gin_param=seed = 3'" in error
    assert "runs/small" in error


def test_an_error_of_the_package_is_a_paragraph(run_file, capsys):
    parameter = "--gin_param=run.strategy = 'mirored'"
    assert cli.main([run_file, parameter]) == 1
    error = capsys.readouterr().err
    assert "'mirored'" in error and "'multi_worker'" in error
    assert "Traceback" not in error and " at 0x" not in error
    with pytest.raises(ValueError, match="mirored"):
        cli.main([run_file, parameter, "--traceback"])


def test_a_bug_keeps_its_traceback(run_file, monkeypatch):
    monkeypatch.setattr(config, "run", fail_with(ValueError("a bug outside the package")))
    with pytest.raises(ValueError, match="a bug"):
        cli.main([run_file])

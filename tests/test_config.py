"""Every mistake in a configuration is one sentence that says where, before anything runs."""

import re

import pytest

from aip_tf import config

RUN_FILE = """\
include 'gin/base.gin'
run.teacher = @train_teacher
run.data = @digits
train_teacher.model = @digits_resnet()
train_teacher.epochs = 3  # epochs
"""


@pytest.fixture
def run_file(tmp_path):
    """Write the small run file above, followed by further lines; returns its path."""

    def write(*lines):
        path = tmp_path / "small.gin"
        path.write_text(RUN_FILE + "\n".join(lines) + "\n")
        return str(path)

    return write


def message(call, *arguments):
    with pytest.raises(config.ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


def test_the_resolved_configuration_is_itself_a_gin_file(run_file, tmp_path):
    resolved = config.load([run_file()], ["seed = 7"])
    assert "seed = 7\n" in resolved
    assert "teacher.train_teacher.epochs = 3\n" in resolved
    again = tmp_path / "again.gin"
    again.write_text(resolved)
    assert config.load([str(again)]) == resolved


def test_later_bindings_win(run_file, tmp_path):
    other = tmp_path / "other.gin"
    other.write_text("train_teacher.epochs = 4\n")
    assert "epochs = 4" in config.load([run_file(), str(other)])
    assert "epochs = 5" in config.load([run_file(), str(other)], ["train_teacher.epochs = 5"])
    assert "epochs = 3" in config.load([run_file()])  # nothing is left of the loads before


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            "prune.shedule = 0.5",
            "line 6: Configurable 'prune' doesn't .*'shedule'. Did you mean 'schedule'",
        ),
        ("prun.schedule = 0.5", "line 6: No configurable matching 'prun'. Did you mean 'prune'"),
        ("run.data = @digit", "line 6: .*'@digit'. Did you mean 'digits'"),
        ("resnet20.num_classes = 3", "line 6: nothing reads zoo.resnet20.num_classes"),
        ("epochs = 3", "line 6: nothing reads epochs"),
        ("scope/digits.seed = 3", "line 6: nothing reads scope/datasets.digits.seed"),
        ("prune.schedule = %amount", "line 6: prune.schedule uses %amount, which is defined"),
        ("prune.run_dir = 'x'", "line 6: prune.run_dir cannot be bound"),
        ("digits.seed = %gin.REQUIRED", "digits.seed must be given: .*line 6"),
        ("include 'nowhere.gin'", "line 6: No gin file 'nowhere.gin'.*base.gin"),
        ("import no_such_module", "line 6: No module named 'no_such_module'"),
        ("digits.seed = three", "line 6: A value is a number.*digits.seed = three"),
        ("digits.seed = 3 4", "line 6: Expected newline"),
        ("digits.seed = (3", "not closed"),
        ("digits", "line 6: Couldn't parse statement"),
        ("prune.schedule = 1.5", "arguments of prune: .*1.5.*between 0 and 1"),
        ("prune.criterion = @Magnitude()\nMagnitude.odor = 1", "arguments of prune: .*odor"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(run_file, line, expected):
    text = message(config.load, [run_file(line)])
    assert re.search(expected, text.replace("\n", " ")), text
    assert "Traceback" not in text


def test_a_mistake_on_the_command_line_is_shown_as_it_was_given(run_file):
    text = message(config.load, [run_file()], ["epoch = 3"])
    assert text.startswith("--gin_param='epoch = 3': nothing reads epoch")


def test_the_command_line_may_lead_away_from_what_a_file_says(run_file):
    resolved = config.load([run_file()], ["run.teacher = @resnet20", "resnet20.num_classes = 3"])
    assert "zoo.resnet20.num_classes = 3" in resolved and "train_teacher" not in resolved
    text = message(
        config.load, [run_file()], ["run.teacher = @resnet20", "train_teacher.epochs = 3"]
    )
    assert "nothing reads teacher.train_teacher.epochs" in text


def test_defaults_in_the_base_file_need_not_be_read(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = (config.gin_folder() / "base.gin").read_text()
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "base.gin").write_text(f"{base}\nunused = 1\nresnet20.num_classes = 5\n")
    assert "unused" not in config.load([run_file()])


def test_scoped_references_reach_the_bindings_of_their_scope(run_file):
    lines = (
        "prune.recovery = @Recovery()",
        "Recovery.transfers = [@first/AttentionTransfer(), @OutputTransfer()]",
        "first/AttentionTransfer.weight = 0.1",
        "AttentionTransfer.name = 'attention_one'",
    )
    assert "first/game.AttentionTransfer.weight = 0.1" in config.load([run_file(*lines)])


def test_what_must_be_bound_and_is_not(tmp_path):
    path = tmp_path / "empty.gin"
    path.write_text("include 'gin/base.gin'\n")
    assert "run.teacher must be given" in message(config.load, [str(path)])
    path.write_text("run.seed = 1\n")
    assert "run.data is not bound" in message(config.load, [str(path)])


def test_a_file_that_includes_itself(tmp_path):
    path = tmp_path / "circle.gin"
    path.write_text(f"include '{path}'\n")
    assert "includes itself" in message(config.load, [str(path)])


def test_packaged_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = config.gin_folder() / "base.gin"
    assert config.find_file("gin/base.gin").samefile(packaged)
    assert config.find_file("base.gin").samefile(packaged)
    own = tmp_path / "base.gin"
    own.write_text("")
    assert config.find_file("base.gin").samefile(own)


def test_a_run_directory_of_another_configuration_is_refused(run_file, tmp_path):
    run_dir = tmp_path / "run"
    config.claim(run_dir, config.load([run_file()]))
    config.claim(run_dir, config.load([run_file()]))
    text = message(config.claim, run_dir, config.load([run_file()], ["seed = 1"]))
    assert "- seed = 0" in text and "+ seed = 1" in text
    assert "run_dir" in text


def test_every_registered_function_can_be_named_in_full(run_file):
    assert "run.data = @aip_tf.datasets.digits" in config.load(
        [run_file()], ["run.data = @aip_tf.datasets.digits"]
    )

"""Every mistake in a configuration is one sentence that says where, before anything runs."""

import re
import sys
from pathlib import Path

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


def test_a_plan_builds_networks_without_their_weights(run_file):
    lines = ["digits_resnet.weights = 'absent.npz'"]
    assert "weights = 'absent.npz'" in config.load([run_file()], lines, weights=False)
    assert "MACs" in config.describe()
    config.load([run_file()], lines)
    with pytest.raises(ValueError, match=r"absent\.npz"):
        config.describe()


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


def test_every_registered_function_can_be_named_in_full(run_file):
    assert "run.data = @aip_tf.datasets.digits" in config.load(
        [run_file()], ["run.data = @aip_tf.datasets.digits"]
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("run.data = @digits()", r"line 6: run.data = @digits\(\), but run.data takes a function"),
        ("run.data = 'digits'", "line 6: run.data = 'digits', .*not called, such as @data"),
        ("run.export = 3", "run.export takes a function"),
        ("seed = 'abc'", "line 6: seed = 'abc', but run.seed takes a whole number, such as 0"),
        ("digits_resnet.width = 'x'", "digits_resnet.width takes a whole number, such as 32"),
        ("prune.selection = @Macs()\nMacs.round_to = 2.5", "Macs.round_to takes int or str"),
        ("digits_resnet.width = 2.5", "digits_resnet.width takes a whole number"),
        ("digits.batch_size = True", "digits.batch_size takes a whole number, such as 64"),
        ("digits.augment = 1", "digits.augment takes True or False"),
        ("digits_resnet.input_shape = 8", r"takes a sequence, such as \(8, 8, 1\)"),
        ("digits_resnet.input_shape = (8, '8', 1)", "takes a sequence"),
        ("prune.selection = 3", "prune.selection takes a name, such as 'macs'"),
        ("prune.schedule = 'half'", "prune.schedule takes a number, such as 0.5"),
        ("prune.recovery = @Recovery", r"takes what that makes: write @Recovery\(\)"),
        ("prune.schedule = @one_shot", r"takes what that makes: write @one_shot\(\)"),
        ("prune.schedule = @one_shot()", "calls one_shot. Expected a value for its amount"),
        ("run.data = @image_folder", "calls image_folder. Expected a value for its directory"),
        (
            "prune.recovery = @Recovery()\nRecovery.transfers = 'all'",
            "Recovery.transfers takes list or None",
        ),
        (
            "prune.recovery = @Recovery()\nRecovery.optimizer = @SGD()\nSGD.nesterov = 'yes'",
            "SGD.nesterov takes True or False",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_is_expected(run_file, lines, expected):
    text = message(config.load, [run_file(lines)])
    assert re.search(expected, text), text


@pytest.mark.parametrize(
    "lines",
    [
        "prune.schedule = 1e-1\nrun.export = None\ndigits_resnet.input_shape = [8, 8, 1]",
        "prune.schedule = @PolynomialDecay()\nPolynomialDecay.power = 0.5\n"
        "PolynomialDecay.initial_sparsity = 0\nPolynomialDecay.final_sparsity = 0.5\n"
        "PolynomialDecay.begin_step = 0\nPolynomialDecay.end_step = 2",
        "prune.recovery = @Recovery()\nRecovery.supervised_weight = 1\nRecovery.callbacks = []",
        "prune.recovery = @Recovery()\nRecovery.transfers = [@AttentionTransfer()]\n"
        "AttentionTransfer.taps = ['a']\nAttentionTransfer.weight = 1",
        "prune.recovery = @Recovery()\nRecovery.transfers = [@OutputTransfer()]\n"
        "OutputTransfer.from_logits = True",
        "prune.selection = @Macs()\nMacs.ignore = 'layer1'\nMacs.max_sparsity = %most\nmost = 1",
    ],
)
def test_whatever_an_argument_can_take_is_let_through(run_file, lines):
    assert config.load([run_file(lines)])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x80\x03pickle", "is not UTF-8: byte 0x80 at 0"),
        ("seed = 1".encode("utf-16"), "is not UTF-8"),
        (b"seed = 1\n\0\0\0", "holds a byte 0"),
        (b"digits.seed = " + b"[" * 1000 + b"]" * 1000, "nested|many"),
        (b"a = %b\nb = %a\nrun.seed = %a\n", "leads back to itself: %a -> %b -> %a"),
        (b"m0 = 1\n" + b"".join(b"m%d = %%m%d\n" % (i, i - 1) for i in range(1, 1001))
         + b"run.seed = %m1000\n", "more than 50 references"),
    ],
    ids=["binary", "utf-16", "byte 0", "brackets", "circle", "chain"],
)  # fmt: skip
def test_a_file_that_is_no_gin_file_is_one_sentence(tmp_path, content, expected):
    path = tmp_path / "odd.gin"
    path.write_bytes(content)
    text = message(config.load, [str(path)])
    assert re.search(expected, text), text
    assert len(text) < 1000


def test_a_mark_before_the_text_is_no_mistake(run_file):
    path = Path(run_file())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "epochs = 3" in config.load([str(path)])


def test_files_included_a_thousand_deep(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number}.gin").write_text(f"include '{tmp_path / f'{number + 1}.gin'}'\n")
    text = message(config.load, [str(tmp_path / "0.gin")])
    assert "49.gin is included within 50 other files" in text.replace("50.gin", "49.gin")
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero .*broken_module.py, line 1"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("import nothing_like_it", "ModuleNotFoundError: .*broken_module.py, line 1"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_breaks_is_named(run_file, tmp_path, monkeypatch, code, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_module.py").write_text(code)
    text = message(config.load, [run_file("import broken_module")])
    assert re.search(f"line 6: importing broken_module failed with {expected}", text), text


def test_a_module_of_the_working_directory_brings_its_own_parts(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    (tmp_path / "parts_of_mine.py").write_text(
        "import gin\n@gin.configurable\ndef my_schedule(amount=0.5):\n    return amount\n"
    )
    lines = ("import parts_of_mine", "prune.schedule = @my_schedule()")
    assert "my_schedule.amount = 0.3" in config.load([run_file(*lines, "my_schedule.amount = 0.3")])
    text = message(config.load, [run_file(*lines, "my_schedule.amuont = 0.3")])
    assert "Did you mean 'amount'" in text


def test_a_part_that_slips_on_what_is_bound_is_named(run_file, tmp_path, monkeypatch):
    lines = ("import part_of_mine", "prune.schedule = @slips()", "slips.amount = 'x'")
    (tmp_path / "part_of_mine.py").write_text(
        "import gin\n@gin.configurable\ndef slips(amount):\n    return amount / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = message(config.load, [run_file(*lines)])
    assert "slips failed with TypeError" in text and "slips.amount = 'x'" in text


def test_home_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.gin").write_text("seed = 1\n")
    assert config.find_file("~/mine.gin") == tmp_path / "mine.gin"

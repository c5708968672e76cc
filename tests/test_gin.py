"""Every run file passes the checks and can be planned; the demo really runs."""

import io
import re
import tokenize
from pathlib import Path

import keras
import numpy as np
import pytest

from aip_tf import cli, config

GIN = Path(__file__).resolve().parents[1] / "gin"
RUN_FILES = sorted(path.name for path in GIN.glob("*.gin") if path.name != "base.gin")
CUTTING = [name for name in RUN_FILES if name != "measure.gin"]  # see test_comparing
NAMED_IN_THE_DESIGN = {
    "digits.gin",
    "export.gin",
    "googlenet_cifar10.gin",
    "measure.gin",
    "mobilenet.gin",
    "my_model.gin",
    "resnet110_cifar10.gin",
    "resnet18.gin",
    "resnet50.gin",
    "resnet56_cifar10.gin",
    "resnet56_cifar100.gin",
    "ssd_voc.gin",
    "ssd_voc_sample.gin",
    "trade_off.gin",
    "vgg16_cifar10.gin",
    "vgg19_cifar100.gin",
}
ABSENT = {
    "mobilenet.gin": ("image_folder.directory = 'absent'",),
}
HEADER_WORDS = re.compile(r"^#\s+(Shows|Reproduces|Reaches|Takes|Command):", re.MULTILINE)


def parameters(run_file):
    """What a run file needs to be planned here: no network, no data."""
    downloads = re.search(r"gin/data/(cifar\d+)\.gin", (GIN / run_file).read_text())
    needed = list(ABSENT.get(run_file, ()))
    return needed + ([f"{downloads[1]}.download = False"] if downloads else [])


def test_all_run_files_are_there():
    assert set(RUN_FILES) >= NAMED_IN_THE_DESIGN


@pytest.fixture
def own_model(tmp_path):
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="inner")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = tmp_path / "model.keras"
    keras.Model(image, keras.layers.Dense(3)(x)).save(path)
    return path


@pytest.mark.parametrize("run_file", CUTTING)
def test_every_run_file_can_be_planned(run_file, own_model, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = parameters(run_file)
    if "load_model.source" in (GIN / run_file).read_text():
        given += [f"load_model.source = '{own_model}'"]
    uncut = run_file in ("export.gin", "trade_off.gin")
    if uncut or run_file == "my_model.gin":
        given += ["image_folder.directory = 'absent'"]
    flags = [f"--gin_param={line}" for line in given]
    code = cli.main([f"--gin_file=gin/{run_file}", "--dry_run", *flags])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    cut = r"round \d, (after epoch \d+|before the first epoch): .*removed"
    assert re.search("nothing is pruned" if uncut else cut, captured.out)
    assert re.search(r"[\d,]+ parameters, [\d,]+ MACs", captured.out)


def test_values_that_must_be_given_are_asked_for():
    with pytest.raises(config.ConfigError, match=r"image_folder\.directory|load_model\.source"):
        config.load(["gin/my_model.gin"])


def test_a_plan_shows_the_classes_and_takes_the_size_of_the_model(own_model, capsys, tmp_path):
    for name, count in (("cat", 6), ("dog", 5), ("empty", 0)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            keras.utils.save_img(
                tmp_path / "photos" / name / f"{index}.png", np.zeros((9, 7, 3)), scale=False
            )
    command = [
        "--gin_file=gin/my_model.gin",
        "--dry_run",
        f"--gin_param=load_model.source = '{own_model}'",
        f"--gin_param=image_folder.directory = '{tmp_path / 'photos'}'",
        "--gin_param=image_folder.batch_size = 4",
    ]
    assert cli.main(command) == 0
    expected = r"Data: images \(32, 32, 3\), 2 classes \(cat: (\d), dog: (\d)\)"
    plan = re.search(expected, capsys.readouterr().out)
    assert int(plan[1]) + int(plan[2]) == 9, "of 11 images, two are held out"


@pytest.mark.parametrize("run_file", RUN_FILES)
def test_a_run_file_opens_with_what_it_is_for(run_file):
    text = (GIN / run_file).read_text()
    header = text.split("\n\n")[0]
    words = set(HEADER_WORDS.findall(header))
    assert {"Takes", "Command"} <= words and words & {"Shows", "Reproduces"}
    assert f"bin/aip_run --gin_file=gin/{run_file}" in header


@pytest.mark.parametrize("path", sorted(GIN.rglob("*.gin")), ids=lambda p: p.name)
def test_every_number_has_its_unit_in_a_comment(path):
    lines = path.read_text().splitlines()
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline)
    numbers = {token.start[0] for token in tokens if token.type == tokenize.NUMBER}
    bare = [lines[number - 1] for number in sorted(numbers) if "#" not in lines[number - 1]]
    assert bare == []


def test_the_resnet18_file_reaches_the_numbers_of_the_paper():
    from aip_tf import prune_channels, select_channels, zoo
    from aip_tf.cost import Cost
    from aip_tf.selection import PerGroup

    resolved = config.load(["gin/resnet18.gin"])
    shares = {"layer[123]_.*": 0.46, "layer4_.*": 0.658}
    assert f"PerGroup.shares_kept = {shares!r}" in resolved
    assert "final_sparsity = 0.4555" in resolved
    network = zoo.resnet18()
    keep = select_channels(network, 0.4555, selection=PerGroup(shares), criterion="l1")
    small, large = Cost(prune_channels(network, keep)), Cost(network)
    assert 1 - small.macs() / large.macs() == pytest.approx(0.4555, abs=0.01)
    assert 1 - small.parameters() / large.parameters() == pytest.approx(0.3678, abs=0.01)


def test_the_demo_runs_goes_on_and_reports(tmp_path, capsys):
    run_dir = tmp_path / "run"
    command = [
        "--gin_file=gin/digits.gin",
        f"--run_dir={run_dir}",
        "--gin_param=digits_resnet.width = 8",
        "--gin_param=train_teacher.epochs = 2",
        "--gin_param=Recovery.epochs = 2",
        "--gin_param=prune.schedule = 0.8",
    ]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    for path in ("report.json", "operative_config.gin", "teacher.keras"):
        assert (run_dir / path).is_file()
    for path in ("export/saved_model", "export/model.tflite", "report.html", "student.keras"):
        assert (run_dir / path).exists() and str(run_dir / path) in first
    table = first[first.index("1 cut in 2 epochs") :]
    assert cli.main(command) == 0
    again = capsys.readouterr().out
    assert "Epoch" not in again, "a finished run is only reported"
    assert table == again[again.index("1 cut in 2 epochs") :]
    student = keras.saving.load_model(run_dir / "student.keras")
    assert student.count_params() < 2500

"""Files beside each other: opened, compared, timed, or refused by name."""

import keras
import pytest

import aip_tf
from aip_tf import cli
from aip_tf.deploy import Artefact, stage
from aip_tf.deploy.timing import time_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same small model as three files, and another one."""
    place = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
    aip_tf.export_model(model, place, formats=["keras", "saved_model", "tflite"], runs=0)
    other = keras.models.clone_model(model)
    other.set_weights([-w for w in model.get_weights()])
    other.save(place / "other.keras")
    return place


def test_files_of_one_model_agree_and_another_does_not(folder):
    names = ["model.keras", "saved_model", "model.tflite", "other.keras"]
    found = aip_tf.compare_files([folder / name for name in names], runs=2)
    assert list(found.runtimes.values()) == ["Keras", "TensorFlow", "LiteRT", "Keras"]
    assert found.differences["saved_model"] < 1e-5 and found.differences["model.tflite"] < 1e-5
    assert found.differences["other.keras"] == pytest.approx(2, abs=1e-5)
    assert found.num_bytes["model.tflite"] == (folder / "model.tflite").stat().st_size
    assert all(latency.median_ms > 0 for latency in found.times.latencies.values())
    assert [line.split()[0] for line in found.render().splitlines()[2:]] == names


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "at least one path"),
        (5, "path"),
        (["absent.tflite"], "no such file"),
        (["broken.tflite"], "LiteRT does not open"),
        (["notes.txt"], "another kind"),
        (["empty"], r"without saved_model\.pb"),
        (["open.keras"], r"open\.keras.*known sizes"),
    ],
)
def test_what_is_no_delivered_file_is_named(files, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tflite").write_bytes(b"nonsense")
    (tmp_path / "notes.txt").write_text("nothing")
    sizes = keras.Input((None, None, 3))
    keras.Model(sizes, keras.layers.GlobalMaxPooling2D()(sizes)).save(tmp_path / "open.keras")
    with pytest.raises(ValueError, match=message):
        aip_tf.compare_files(files)


def test_a_run_file_of_two_lines_prints_the_table(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paths = [str(folder / name) for name in ("other.keras", "model.tflite")]
    given = f"--gin_param=compare_files.files = {paths}"
    command = ["--gin_file=gin/measure.gin", given, "--gin_param=compare_files.runs = 2"]
    assert cli.main(command) == 0
    table = capsys.readouterr().out
    assert "faster" in table and "LiteRT" in table and "run directory" not in table
    assert not list(tmp_path.iterdir())
    assert cli.main([*command, "--gin_param=seed = 1"]) == 2
    assert "nothing reads seed" in capsys.readouterr().err


def test_the_students_before_the_last_are_timed_beside_its_file(folder, tmp_path):
    for name in ("round_00", "round_01", "round_02", "round_10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "student.keras").write_bytes((folder / "model.keras").read_bytes())
    paths = stage._students_before_the_last(tmp_path)
    assert [path.parent.name for path in paths] == ["round_01", "round_02"]
    known = {"format": "tflite", "path": folder / "model.tflite"}
    found = time_steps([Artefact(latency={"median": 1.0}, **known)], paths)
    assert len(found) == 2 and all(0 < x["lower_quartile"] <= x["median"] for x in found)
    assert time_steps([Artefact(**known)], paths) == []  # nobody wanted times

"""Files beside each other: opened, compared, timed, or refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import aip_tf
from aip_tf import cli, datasets
from aip_tf.deploy import Artefact, stage, truth
from aip_tf.deploy.timing import time_steps

FORMATS = ["keras", "saved_model", "tflite", "onnx"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same small model as three files, and another one."""
    place = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
    aip_tf.export_model(model, place, formats=FORMATS, runs=0)
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


def samples():
    """Points and the class that the small model gives them, one of four wrong."""
    return np.random.default_rng(0).standard_normal((40, 4)).astype("float32")


def test_the_accuracy_of_each_file_is_measured_by_its_own_runtime(folder):
    points = samples()
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    right = np.asarray(model(points)).argmax(-1)
    labels = np.where(np.arange(40) % 4 == 0, (right + 1) % 3, right)
    names = ["model.keras", "saved_model", "model.tflite", "model.onnx", "other.keras"]
    files = [folder / name for name in names]
    found = aip_tf.compare_files(files, data=(points, labels), runs=0)
    assert found.metric == "accuracy" and found.num_samples == 40
    assert [found.qualities[name] for name in names[:-1]] == [0.75] * 4
    assert found.qualities["other.keras"] < 0.5
    assert "0.7500" in found.render().splitlines()[-2]
    assert max(found.differences[name] for name in names[1:-1]) < 1e-5
    for given in (np.eye(3)[labels], labels[:, None].astype("float32")):
        assert aip_tf.compare_files(files, data=(points, given), runs=0) == found
    whole = tf.data.Dataset.from_tensor_slices((points, labels)).batch(7)  # 40 is no multiple
    data = datasets.Data(whole, whole, (4,), 3)
    assert aip_tf.compare_files(files[:1], data=data, runs=0).qualities["model.keras"] == 0.75


def test_without_labels_the_first_file_is_agreed_with(folder):
    found = aip_tf.compare_files(
        [folder / "model.keras", folder / "other.keras"], data=(samples(),), runs=0
    )
    assert found.metric == "agreement" and found.qualities["model.keras"] == 1
    assert found.qualities["other.keras"] < 0.5


@pytest.mark.parametrize(("offset", "middle"), [(0.0, 0.5), (-0.5, 0.0)])
def test_a_single_unit_names_two_classes(offset, middle):
    decisions = truth.Decisions("file")
    values = np.linspace(0.01, 0.99, 40)[:, None] + offset
    for part in np.split(values, 2):  # neither half alone shows where the middle is
        decisions.see({"output_0": part})
    assert (decisions.classes() == (values[:, 0] > middle)).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.ones((4, 5), "float32"),), r"shapes \(4, 5\).*which takes"),
        ((np.ones((4, 4), "float32"), np.full(4, 3)), "3 to 3.*3 of them"),
        ((np.ones((4, 4), "float32"), np.full(4, 0.3)), "0.3 to 0.3"),
        ((np.ones((4, 4), "float32"), {"a": np.ones(4)}), "several arrays"),
        (({"y": np.ones((4, 4), "float32")},), "Expected inputs of these names"),
        (5, "int"),
    ],
    ids=["size", "class", "value", "structure", "name", "none"],
)
def test_data_that_do_not_fit_a_file_are_refused(folder, data, message):
    with pytest.raises(ValueError, match=message):
        aip_tf.compare_files([folder / "model.tflite"], data=data, runs=0)


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
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    keras.Model(inputs, keras.layers.Dense(10)(flat)).save(tmp_path / "digits.keras")
    judged = "--gin_param=compare_files.data = @digits()"
    files = "--gin_param=compare_files.files = ['digits.keras']"
    assert cli.main(["--gin_file=gin/measure.gin", files, judged, "--dry_run"]) == 0
    assert "accuracy" in capsys.readouterr().out
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

"""The examples, the notebook and the docstrings run as they are printed."""

import doctest
import importlib
import json
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import aip_tf

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "prune_your_images.ipynb"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def eager():
    """Steps without a graph: of a large network and few batches, the graph is the slow part."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def example(monkeypatch):
    """Runs an example as its docstring says; returns its variables."""

    def run(name, *arguments):
        path = str(ROOT / "examples" / name)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        return runpy.run_path(path, run_name="__main__")

    return run


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes: dark and bright noise."""
    generator = np.random.default_rng(0)
    for label, brightness in (("dark", 100), ("bright", 255)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(20):
            image = generator.integers(0, brightness, (40, 40, 3))
            keras.utils.save_img(tmp_path / "photos" / label / f"{index}.png", image, scale=False)
    return tmp_path / "photos"


# --- the examples -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30


def test_a_network_of_keras_applications_on_a_folder_of_images(example, eager, photos, tmp_path):
    run_dir = tmp_path / "run"
    arguments = ("--network=MobileNet", "--weights=", "--size=32", "--epochs=2")
    made = example("prune_application.py", photos, *arguments, f"--run_dir={run_dir}")
    report, student = made["report"], made["student"]
    assert 0.48 <= report.student.macs / report.teacher.macs <= 0.5
    assert aip_tf.count_macs(student) == report.student.macs
    assert {"student.keras", "report.json", "report.html"} <= {p.name for p in run_dir.iterdir()}


def test_a_backbone_of_keras_hub(example, tmp_path):
    made = example("prune_keras_hub.py", "--epochs=1", f"--out={tmp_path / 'student.keras'}")
    inside = made["student"].get_layer(made["backbone"].name)
    assert type(inside).__module__.startswith("keras.")
    assert inside.count_params() < made["backbone"].count_params()
    with zipfile.ZipFile(tmp_path / "student.keras") as archive:
        assert "keras_hub" not in archive.read("config.json").decode()
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    expected = np.asarray(made["student"](images))
    np.savez(tmp_path / "expected.npz", images=images, outputs=expected)
    # Another process, which knows neither keras_hub nor aip_tf, loads it.
    code = (
        "import sys, keras, numpy as np\n"
        "sys.modules['keras_hub'] = sys.modules['aip_tf'] = None\n"
        "saved = np.load('expected.npz')\n"
        "outputs = keras.saving.load_model('student.keras', compile=False)(saved['images'])\n"
        "np.testing.assert_allclose(outputs, saved['outputs'], atol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_distiller_by_hand(example, tmp_path):
    made = example("distill_by_hand.py", "--epochs=1", f"--out={tmp_path / 'student.keras'}")
    kept = aip_tf.count_macs(made["student"]) / aip_tf.count_macs(made["teacher"])
    assert 0.25 <= kept <= 0.3
    logs = made["distiller"].history.history
    assert {"output_loss", "attention_loss", "adversarial_loss", "val_accuracy"} <= set(logs)
    loaded = keras.saving.load_model(tmp_path / "student.keras", compile=False)
    images = next(iter(made["data"].test))[0]
    np.testing.assert_allclose(loaded(images), made["student"](images), atol=1e-5)


def test_a_rule_for_a_custom_layer(example, capsys):
    made = example("custom_layer.py")
    before, after = capsys.readouterr().out.split("channel group")[1:]
    assert "swish has no channel rule" in before
    assert "no channel rule" not in after
    model = made["model"]
    masks = {"first": np.arange(16) % 3 == 0}
    made["model"].get_layer("swish").slope.assign(np.linspace(0.5, 2, 16))
    cut = aip_tf.prune_channels(model, masks)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(cut(images), aip_tf.mask_channels(model, masks)(images), atol=1e-6)
    np.testing.assert_array_equal(
        cut.get_layer("swish").slope, np.linspace(0.5, 2, 16, dtype="float32")[masks["first"]]
    )


# --- pages and notebook ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_links_of_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    broken = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert links
    assert not broken


def test_the_examples_of_the_page_on_channels():
    """Its prompts run in order and print what the page says."""
    text = (ROOT / "docs" / "channels.md").read_text(encoding="utf-8")
    outcome = doctest.DocTestRunner().run(
        doctest.DocTestParser().get_doctest(text.replace("```", ""), {}, "channels.md", None, 0)
    )
    assert outcome.attempted > 5
    assert outcome.failed == 0


def test_the_notebook_runs(tmp_path, monkeypatch, eager):
    """Its code cells, with smaller settings behind the cell tagged "parameters"."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    generator = np.random.default_rng(0)
    for label in ("0", "1"):
        (folder / label).mkdir(parents=True)
        for index in range(20):
            keras.utils.save_img(folder / label / f"{index}.png", generator.random((32, 32, 3)))
    notebook = json.loads((ROOT / "docs" / NOTEBOOK).read_text(encoding="utf-8"))
    namespace = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
            if "parameters" in cell["metadata"].get("tags", ()):
                namespace |= {"folder": folder, "teacher_epochs": 1, "epochs": 2}
    assert namespace["report"].student.macs <= 0.5 * namespace["report"].teacher.macs
    assert all(Path(path).exists() for path in namespace["exported"].paths.values())


def test_the_notebook_is_stored_executed():
    path = ROOT / "docs" / NOTEBOOK
    assert path.stat().st_size < 300_000
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 4
    assert all(output["output_type"] != "error" for output in outputs)


# --- docstrings ---------------------------------------------------------------------------------

WITH_EXAMPLES = (
    "aip_tf.channels.ancestry",
    "aip_tf.channels.rules.table",
    "aip_tf.criteria.reconstruction",
    "aip_tf.datasets.adapt",
    "aip_tf.datasets.arrays",
    "aip_tf.datasets.passes",
    "aip_tf.datasets.views",
    "aip_tf.losses",
    "aip_tf.overview",
    "aip_tf.recovery",
    "aip_tf.schedules",
    "aip_tf.selection",
    "aip_tf.selection.paper",
    "aip_tf.distribution",
    "aip_tf.game.transfers",
    "aip_tf.task.task",
    "aip_tf.transfers",
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    given = {"aip_tf": aip_tf, "keras": keras, "np": np}
    outcome = doctest.testmod(module, extraglobs=given, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0
    assert outcome.failed == 0

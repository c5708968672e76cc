import collections
import contextlib
import dataclasses
import os
import re
import subprocess
import sys

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

import aip_tf
from aip_tf import deploy, experiment
from aip_tf.deploy import ExportError, delivery, export_model, proof, samples, source, stage
from aip_tf.deploy.judging import Judge
from aip_tf.recovery import recalibrate

layers = keras.layers


def make_convnet():
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, groups=2, padding="same")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(max_value=6.0)(x)
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    x = layers.GlobalAveragePooling2D()(layers.PReLU(shared_axes=(1, 2))(x))
    model = keras.Model(image, layers.Dense(5, name="logits")(x))
    generator = np.random.default_rng(0)
    norm = model.get_layer("norm")
    norm.set_weights([generator.uniform(0.5, 2.0, w.shape) for w in norm.get_weights()])
    return model


def make_tiny():
    """Converts in a moment: for the tests that are about files and not about operations."""
    image = keras.Input((8, 8, 4), name="image")
    pooled = layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, layers.Dense(5, name="logits")(pooled))


def make_two_by_two(structure):
    """Inputs of different meaning but equal shape, so that a mix-up changes numbers only."""
    left, right = keras.Input((4,), name="z-left"), keras.Input((4,), name="a right")
    x, y = layers.Dense(3)(left), layers.Dense(3)(right)
    total, difference = layers.Add()([x, y]), layers.Subtract()([x, y])
    inputs, outputs = {
        "list": ([left, right], [total, difference]),
        "tuple": ((right, left), (difference, total)),
        "dict": ({"one": left, "another": right}, {"sum": total, "difference": difference}),
        "ordered": (
            collections.OrderedDict(z=left, a=right),
            collections.OrderedDict(z=total, a=difference),
        ),
        "nested": ({"z": [left], "a": (right,)}, {"z": [total, {"b": difference}], "a": total}),
        "twice": ([left, right], [total, total, left]),
    }[structure]
    return keras.Model(inputs, outputs)


def test_saved_model_and_litert_compute_what_keras_computes(tmp_path):
    model = make_convnet()
    data = np.random.default_rng(1).normal(size=(6, 8, 8, 4)).astype("float32")
    report = export_model(model, tmp_path, check_data=data)
    assert report.paths == {
        "saved_model": str(tmp_path / "saved_model"),
        "tflite": str(tmp_path / "model.tflite"),
    }
    assert report.num_samples == 6
    assert report.is_real_data
    assert all(artefact.passed for artefact in report.artefacts)
    assert max(artefact.max_relative_difference for artefact in report.artefacts) < 1e-5
    assert report.artefacts[1].num_bytes == (tmp_path / "model.tflite").stat().st_size
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.tflite", "saved_model"]
    expected = model(data).numpy()
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(loaded.serve(data)["output_0"], expected, atol=1e-5)
    text = report.render()
    assert "model.tflite" in text
    assert "1.0000" in text


def test_files_work_in_a_process_without_keras_and_without_us(tmp_path):
    model = make_convnet()
    export_model(model, tmp_path, ["tflite"])
    data = np.ones((1, 8, 8, 4), "float32")
    code = (
        "import sys, numpy as np; from ai_edge_litert.interpreter import Interpreter\n"
        f"runner = Interpreter({str(tmp_path / 'model.tflite')!r}).get_signature_runner()\n"
        "out = runner(image=np.ones((1, 8, 8, 4), 'float32'))['output_0']\n"
        "assert 'keras' not in sys.modules and 'aip_tf' not in sys.modules\n"
        "print(*out.ravel().tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    received = np.array(run.stdout.split(), "float32")
    np.testing.assert_allclose(received, model(data).numpy().ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("structure", ["list", "tuple", "dict", "ordered", "nested", "twice"])
def test_inputs_and_outputs_are_matched_by_name(tmp_path, structure):
    report = export_model(make_two_by_two(structure), tmp_path)
    assert max(artefact.max_relative_difference for artefact in report.artefacts) < 1e-5


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_swapped_inputs_would_be_seen(tmp_path, monkeypatch):
    answer = source.Source.answer

    def swapped(self, feeds):
        return answer(self, dict(zip(feeds, [*feeds.values()][::-1], strict=True)))

    monkeypatch.setattr(source.Source, "answer", swapped)
    with pytest.raises(ExportError, match="differ from the Keras model's"):
        export_model(make_two_by_two("dict"), tmp_path, runs=0)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_signature_names_are_those_of_the_model(tmp_path):
    export_model(make_two_by_two("dict"), tmp_path, ["saved_model"])
    served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    assert set(served.structured_input_signature[1]) == {"z_left", "a_right"}
    assert set(served.structured_outputs) == {"sum", "difference"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions_become_float32_for_litert(tmp_path, policy):
    keras.utils.set_random_seed(0)
    with default_policy(policy):
        inner = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()])
        image = keras.Input((8, 8, 3), name="image")
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(inner(image)))
        model = keras.Model({"image": image}, layers.Dense(3)(x))
    before = [weight.numpy() for weight in model.weights]
    report = export_model(model, tmp_path, check_data={"image": np.ones((2, 8, 8, 3))})
    details = tensors_of(report.paths["tflite"])
    assert {detail["dtype"] for detail in details} == {np.float32}
    assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@contextlib.contextmanager
def default_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def tensors_of(path):
    from ai_edge_litert.interpreter import Interpreter

    with source.quiet():
        interpreter = Interpreter(model_path=path)
    return interpreter.get_input_details() + interpreter.get_output_details()


def make_noise(seed=0, size=16, shape=(8, 8, 4)):
    return np.random.default_rng(seed).normal(size=(size, *shape)).astype("float32")


def test_what_differs_is_kept_under_a_name_that_says_so(tmp_path, monkeypatch):
    model = make_tiny()
    export_model(model, tmp_path, runs=0)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.get_layer("logits").bias.assign_add([0, 0, 1e-3, 0, 0])
    serving = source.serving
    monkeypatch.setattr(source, "serving", lambda _: serving(other))
    with pytest.raises(ExportError, match=r"'?tflite.*differ.*tolerance 0.0001") as caught:
        export_model(model, tmp_path, ["tflite", "saved_model"], runs=0)
    names = ["README.md", "failed_model.tflite", "failed_saved_model"]
    assert sorted(os.listdir(tmp_path)) == names  # what was good before is not this model's
    report = caught.value.report
    assert [artefact.passed for artefact in report.artefacts] == [False, False]
    assert 1e-4 < report.artefacts[0].max_relative_difference < 0.1
    assert "**tflite failed**: Its outputs differ" in (tmp_path / "README.md").read_text()
    monkeypatch.undo()
    export_model(model, tmp_path, ["tflite"], runs=0)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "failed_saved_model", "model.tflite"]


def test_a_conversion_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch):
    export_model(make_tiny(), tmp_path, ["tflite"], runs=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def broken(self, source, path):
        raise RuntimeError("cannot")

    monkeypatch.setattr(deploy.SavedModel, "write", broken)
    with pytest.raises(ValueError, match=r"'saved_model' \(RuntimeError: cannot\)"):
        export_model(make_tiny(), tmp_path, ["tflite", "saved_model"], runs=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_exporting_again_replaces_the_older_files(tmp_path):
    first, second = make_tiny(), make_tiny()
    export_model(first, tmp_path)
    export_model(second, tmp_path)
    data = np.ones((1, 8, 8, 4), "float32")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(loaded.serve(data)["output_0"], second(data), atol=1e-5)
    assert np.abs(first(data) - second(data)).max() > 1e-2
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.tflite", "saved_model"]


def test_export_leaves_the_model_alone(tmp_path):
    model = make_tiny()
    model.compile("sgd", "mse")
    model.get_layer("logits").trainable = False
    optimizer, weights = model.optimizer, model.get_weights()
    export_model(model, tmp_path, ["tflite"])
    assert model.optimizer is optimizer
    assert not model.get_layer("logits").trainable
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_random_data_is_seeded_and_fits_the_inputs(tmp_path):
    image = keras.Input((4, 4, 1), dtype="uint8", name="image")
    words = keras.Input((3,), dtype="int32", name="words")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(image))
    y = layers.Flatten()(layers.Embedding(2, 4)(words))
    model = keras.Model([image, words], layers.Dense(2)(layers.Concatenate()([x, y])))
    shapes = samples.sized(model, None)
    feeds = samples.random_batch(model, shapes, 0).feeds
    assert feeds["image"].dtype == np.uint8
    assert feeds["image"].max() > 1
    assert feeds["words"].max() == 1
    again = samples.random_batch(model, shapes, 0).feeds
    other = samples.random_batch(model, shapes, 1).feeds
    np.testing.assert_array_equal(feeds["image"], again["image"])
    assert (feeds["image"] != other["image"]).any()
    report = export_model(model, tmp_path, ["tflite"])
    assert not report.is_real_data


def test_the_converter_is_silent(tmp_path, capfd):
    export_model(make_tiny(), tmp_path, check_data=np.ones((2, 8, 8, 4)))
    assert capfd.readouterr() == ("", "")
    print("still heard")
    assert capfd.readouterr().out == "still heard\n"


def test_inputs_without_labels_come_as_they_do_to_prune(tmp_path):
    model, x = make_tiny(), make_noise(shape=(8, 8, 4))
    report = export_model(model, tmp_path, ["keras"], check_data=(x,), runs=0)
    assert report.num_samples == len(x)


@pytest.mark.parametrize("structure", [list, tuple, dict])
def test_labels_stand_behind_several_inputs(tmp_path, structure):
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([first, second]))
    named = {"first": np.ones((6, 4), "float32"), "second": np.ones((6, 3), "float32")}
    inputs = {"first": first, "second": second} if structure is dict else [first, second]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    arrays = named if structure is dict else structure(named.values())
    data = (arrays, np.zeros((6, 2), "float32"))
    report = export_model(model, tmp_path, ["keras"], check_data=data, runs=0)
    assert report.num_samples == 6


LABELS = np.arange(16) % 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ["coreml"]}, r"Received formats=\['coreml'\].*Expected one or more of"),
        ({"formats": []}, r"Received formats=\[\]"),
        ({"formats": 3}, "Received formats=3"),
        ({"teacher": "teacher.keras"}, "Received teacher='teacher.keras'"),
        ({"tolerances": {"tflite16": 1}}, "tflite16"),
        ({"tolerances": {"tflite": -1}}, "tolerance=-1"),
        ({"formats": "tflite_int8"}, "without samples.*calibration_data"),
        (
            {"formats": "tflite_int8", "check_data": make_noise()},
            "Received 16 samples.*num_samples=16",
        ),
        ({"check_data": np.ones((2, 8, 8, 3))}, r"shape \(2, 8, 8, 3\) for input 'image'"),
        ({"check_data": np.ones((8, 8, 4))}, "do not fit"),
        ({"check_data": {"picture": np.ones((2, 8, 8, 4))}}, "'image'"),
        ({"check_data": np.ones((0, 8, 8, 4))}, "one size above 0"),
        ({"check_data": np.full((1, 8, 8, 4), np.nan)}, "not finite"),
        ({"check_data": tf.data.Dataset.range(0)}, "without elements"),
        ({"input_shapes": [(9, 9, 4)]}, r"input shape \(9, 9, 4\) for 'image'"),
        ({"input_shapes": 5}, "input_shapes=5"),
        ({"tolerances": [1]}, r"tolerances=\[1\]"),
        ({"check_data": (make_noise(), np.zeros(4))}, r"16 inputs with \[4\] labels"),
        (
            {"formats": "tflite_int8", "calibration_data": np.full((100, 8, 8, 4), np.nan)},
            "calibrate.*NaN",
        ),
        ({"runs": -1}, "runs=-1"),
        ({"max_samples": 0}, "max_samples=0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export_model(make_tiny(), tmp_path / "export", **changes)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tf2onnx, onnx, onnxruntime is missing.*pip install"):
        export_model(make_tiny(), tmp_path, ["onnx"])


@pytest.mark.parametrize("name", ["README.md", "model.tflite"])
def test_what_is_the_user_s_own_is_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"in which there is {name}.*name another"):
        export_model(make_tiny(), tmp_path, ["tflite"], runs=0)
    assert (tmp_path / name).read_text() == "mine"


def test_an_export_that_died_between_its_files_is_made_again(tmp_path, monkeypatch):
    def dead(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(delivery.card, "write", dead)
        export_model(make_tiny(), tmp_path, ["tflite"], runs=0)
    export_model(make_tiny(), tmp_path, ["tflite"], runs=0)
    assert "## Files" in (tmp_path / "README.md").read_text()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "export").write_text("mine")
    with pytest.raises(ValueError, match="name a folder, or remove that file"):
        export_model(make_tiny(), tmp_path / "export")
    assert (tmp_path / "export").read_text() == "mine"


def test_models_without_symbolic_inputs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a built.*keras\.Input"):
        export_model(keras.Sequential([layers.Dense(2)]), tmp_path)


@pytest.mark.parametrize("length", [5, None])
def test_what_a_runtime_lacks_is_named_and_where_sizes_are_open_that_they_are(tmp_path, length):
    inputs = keras.Input((length, 6))
    model = keras.Model(inputs, keras.ops.erfinv(layers.Dense(4, activation="tanh")(inputs)))
    expected = r"'tflite'.*no operation for .*Erfinv.*Leave 'tflite'"
    with pytest.raises(ValueError, match=expected) as caught:
        export_model(model, tmp_path, "tflite", check_data=make_noise(size=2, shape=(5, 6)))
    hint = "at the open sizes [(None, 6)]; input_shapes=[those to deliver] may help"
    assert (hint in str(caught.value)) == (length is None)
    assert os.listdir(tmp_path) == []


# --- sizes ---------------------------------------------------------------------------------------


def test_a_model_of_open_size_is_delivered_at_the_sizes_asked_for(tmp_path):
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(image)))
    with pytest.raises(ValueError, match=r"'image'.*Pass check_data"):
        export_model(model, tmp_path)
    report = export_model(
        model,
        tmp_path,
        ["tflite"],
        check_data=make_noise(size=3, shape=(7, 9, 3)),
        input_shapes=[(8, 8, 3), (6, 10, 3)],
        runs=1,
    )
    shapes = [artefact.signature["inputs"]["image"] for artefact in report.artefacts]
    assert shapes == ["float32 (None, 8, 8, 3)", "float32 (None, 6, 10, 3)"]
    assert sorted(os.listdir(tmp_path)) == [
        "README.md",
        "model_6x10x3.tflite",
        "model_8x8x3.tflite",
    ]
    assert all(artefact.latency for artefact in report.artefacts)


@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 8, 6, 1)])
def test_labels_for_every_pixel_follow_their_images_to_another_size(tmp_path, shape):
    """Four quarters of a picture, each its own class, are what they were at half of the size."""
    image = keras.Input((None, None, 3))
    model = keras.Model(image, image)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    quarters = np.kron([[0, 1], [2, 1]], np.ones((4, 3), int))
    images = np.eye(3, dtype="float32")[np.stack([quarters] * 4)]
    report = export_model(
        model,
        tmp_path,
        ["tflite"],
        check_data=(images, np.stack([quarters] * 4).reshape(shape)),
        input_shapes=[(4, 4, 3)],
        runs=1,
    )
    assert report.artefacts[0].metrics["accuracy"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_fixed_batch_stays_fixed_in_every_signature(tmp_path, batch_size):
    inputs = keras.Input(batch_shape=(batch_size, 6, 4), name="steps")
    x = keras.ops.reshape(layers.Dense(8)(inputs), (batch_size, 48))
    model = keras.Model(inputs, layers.Dense(3)(x))
    formats = ["keras", "saved_model", "tflite", "onnx"]
    data = make_noise(size=6, shape=(6, 4)), np.arange(6) % 3
    report = export_model(model, tmp_path, formats, check_data=data, runs=1)
    for artefact in report.artefacts:
        assert artefact.signature["inputs"] == {"steps": f"float32 ({batch_size}, 6, 4)"}
        assert artefact.num_samples == 6
        assert artefact.max_relative_difference < 1e-5
        assert artefact.batch_size == batch_size
    filled = np.resize(data[0], (8, 6, 4)).reshape(-1, batch_size, 6, 4)
    logits = np.concatenate([model(part) for part in filled])[:6]
    right = (logits.argmax(-1) == data[1]).mean()
    assert report.artefacts[1].metrics["accuracy"] == pytest.approx(right)


def test_the_keras_file_is_for_predicting_and_the_model_goes_on_training(tmp_path):
    def own(labels, found):
        return keras.ops.mean(found - labels)

    model = make_tiny()
    model.compile("adam", loss=own)
    inputs, labels = make_noise(size=4, shape=model.input_shape[1:]), np.zeros((4, 1))
    model.fit(inputs, labels, verbose=0)
    export_model(model, tmp_path, ["keras"], runs=0)
    loaded = keras.saving.load_model(tmp_path / "model.keras")  # which knows no `own`
    assert not loaded.compiled
    whole = tmp_path / "whole.keras"
    model.save(whole)
    assert (tmp_path / "model.keras").stat().st_size < 0.8 * whole.stat().st_size
    model.fit(inputs, labels, verbose=0)
    assert model.optimizer.iterations == 2


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_recurrent_networks_reach_litert(tmp_path, kind):
    inputs = keras.Input((6, 4), name="steps")
    model = keras.Model(inputs, layers.Dense(3)(kind(5)(inputs)))
    formats = list(deploy.FORMATS) if kind is layers.LSTM else ["tflite"]
    data = make_noise(size=100, shape=(6, 4))
    report = export_model(model, tmp_path, formats, check_data=data, runs=1)
    by_name = {artefact.format: artefact for artefact in report.artefacts}
    loop, steps = "float32 (1, 6, 4)", "float32 (None, 6, 4)"
    assert by_name["tflite"].signature["inputs"]["steps"] == loop
    assert by_name["tflite"].max_relative_difference < 1e-5
    assert not model.layers[1].unroll
    if kind is layers.LSTM:
        assert by_name["saved_model"].signature["inputs"]["steps"] == steps
        assert by_name["tflite_int8"].signature["inputs"]["steps"] == steps


def test_a_loop_that_cannot_be_calibrated_is_refused(tmp_path):
    inputs = keras.Input((None, 4), name="steps")
    model = keras.Model(inputs, layers.Dense(3)(layers.LSTM(5)(inputs)))
    data = make_noise(size=100, shape=(6, 4))
    with pytest.raises(ValueError, match=r"'tflite_int8'.*time dimension"):
        export_model(model, tmp_path, ["tflite_int8"], check_data=data)


# --- proof ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small network trained on the digits, half of it, the data, and all formats of that half."""
    data = aip_tf.datasets.digits(augment=False)
    keras.utils.set_random_seed(0)
    teacher = aip_tf.zoo.digits_resnet(width=16)  # narrower, scales outweigh the bits they save
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.01), loss)
    teacher.fit(data.train, epochs=3, verbose=0)
    student = aip_tf.prune_channels(teacher, aip_tf.select_channels(teacher, 0.5))
    student.compile(keras.optimizers.Adam(0.01), loss)
    student.fit(data.train, epochs=2, verbose=0)
    recalibrate(student, data.train, 10)
    folder = tmp_path_factory.mktemp("digits")
    report = export_model(
        student,
        folder,
        list(deploy.FORMATS),
        check_data=data.test,
        calibration_data=data.train,
        teacher=teacher,
        runs=5,
    )
    return student, data, folder, report


def test_every_format_proves_itself_on_the_digits(digits):
    student, data, folder, report = digits
    assert [artefact.format for artefact in report.artefacts] == list(deploy.FORMATS)
    images = np.concatenate([x for x, _ in data.test])
    labels = np.concatenate([y for _, y in data.test])
    accuracy = (student.predict(images, verbose=0).argmax(-1) == labels).mean()
    assert accuracy > 0.8
    for artefact in report.artefacts:
        assert artefact.passed and artefact.num_samples == len(labels)
        assert artefact.keras_metrics["accuracy"] == pytest.approx(accuracy)
        assert abs(artefact.quality - accuracy) < 0.01
        assert artefact.agreement > 0.98
        assert artefact.signature["inputs"] == {"image": "float32 (None, 8, 8, 1)"}
        assert artefact.teacher["num_bytes"] > artefact.num_bytes
        assert artefact.latency["lower_quartile"] <= artefact.latency["median"]
        assert artefact.speed_up["median"] > 0
    by_name = {artefact.format: artefact for artefact in report.artefacts}
    assert by_name["tflite_dynamic"].num_bytes < by_name["tflite_float16"].num_bytes
    assert by_name["tflite_float16"].num_bytes < by_name["tflite"].num_bytes
    exact = ["keras", "saved_model", "tflite", "onnx"]
    assert all(by_name[name].max_relative_difference < 1e-5 for name in exact)
    assert 1e-3 < by_name["tflite_int8"].max_relative_difference < 0.2
    teachers = {path.name for path in (folder / "teacher").iterdir()}
    assert teachers == {kind.file_name for kind in deploy.FORMATS.values()}


def test_an_artefact_s_accuracy_is_that_of_its_own_runtime(digits, tmp_path):
    student, data, _, _ = digits
    images = np.concatenate([x for x, _ in data.test])
    labels = np.concatenate([y for _, y in data.test])
    formats = [deploy.TFLiteInt8(integer_io=True)]
    found = export_model(
        student, tmp_path, formats, check_data=(images, labels), calibration_data=data.train, runs=0
    ).artefacts[0]
    details = tensors_of(found.path)
    assert {detail["dtype"] for detail in details} == {np.int8}
    scale, zero_point = details[0]["quantization"]
    runner = litert_runner(found.path)
    numbers = np.clip(np.round(images / scale) + zero_point, -128, 127).astype("int8")
    answers = runner(image=numbers)["output_0"]
    assert found.quality == pytest.approx((answers.argmax(-1) == labels).mean())


def litert_runner(path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path)).get_signature_runner()


def test_int8_that_loses_accuracy_is_refused(digits, tmp_path):
    student, data, _, _ = digits
    dark = np.zeros((100, 8, 8, 1), "float32")  # ranges of nothing
    with pytest.raises(ExportError, match=r"Its accuracy is 0\.\d+ on 450 samples.*lost"):
        export_model(
            student,
            tmp_path,
            ["tflite_int8"],
            check_data=data.test,
            calibration_data=dark,
            tolerances={"tflite_int8": 100.0},
            runs=0,
        )
    assert sorted(os.listdir(tmp_path)) == ["README.md", "failed_model_int8.tflite"]


def test_the_card_says_what_the_files_are_and_its_python_runs(digits):
    _, _, folder, report = digits
    card = (folder / "README.md").read_text()
    for artefact in report.artefacts:
        assert artefact.sha256 in card
        assert f"{artefact.num_bytes:,}" in card
    assert "cut by aip_tf (structured pruning) out of digits_resnet" in card
    assert card.count("```kotlin") == card.count("```cpp") == 1
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 4  # Keras, TensorFlow, LiteRT, ONNX Runtime
    before = os.getcwd()
    os.chdir(folder)
    try:
        for snippet in snippets:
            names = {}
            exec(snippet, names)
            answer = names["outputs"]
            answer = answer if isinstance(answer, np.ndarray) else next(iter(_values(answer)))
            assert np.shape(answer) == (1, 10)
    finally:
        os.chdir(before)


def _values(outputs):
    return outputs.values() if isinstance(outputs, dict) else outputs


def test_every_format_of_a_mobilenet(tmp_path):
    model = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None, classes=5)
    data = make_noise(size=100, shape=(32, 32, 3))
    report = export_model(model, tmp_path, list(deploy.FORMATS), check_data=data, runs=1)
    by_name = {artefact.format: artefact for artefact in report.artefacts}
    assert list(by_name) == list(deploy.FORMATS) and not report.failures
    whole = by_name["tflite"]
    assert whole.metrics == {} and whole.quality is None
    assert by_name["tflite_dynamic"].num_bytes < 0.5 * whole.num_bytes
    assert by_name["tflite_int8"].num_bytes < 0.5 * whole.num_bytes


class Unreadable(deploy.KerasFile):
    """A format whose runtime gives up."""

    def open(self, path):
        raise RuntimeError("no kernel")


def test_what_its_runtime_cannot_run_is_kept_as_failed(tmp_path):
    with pytest.raises(ExportError, match=r"Keras cannot run it \(RuntimeError: no kernel\)"):
        export_model(make_tiny(), tmp_path, [Unreadable()])
    assert sorted(os.listdir(tmp_path)) == ["README.md", "failed_model.keras"]


def test_inputs_that_nobody_named_keep_the_names_that_keras_gives_their_layers(tmp_path):
    left, right = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([left, right], layers.Subtract()([layers.Dense(2)(left), right[:, :2]]))
    names = {x.name for x in model.layers if isinstance(x, layers.InputLayer)}
    data = {name: np.ones((3, 4), "float32") for name in names}
    formats = ["keras", "saved_model", "onnx", "tflite"]
    report = export_model(model, tmp_path, formats, check_data=data, runs=0)
    assert max(artefact.max_relative_difference for artefact in report.artefacts) < 1e-5
    assert all(set(artefact.signature["inputs"]) == names for artefact in report.artefacts)


def a_convnet(kind):
    """Convolution, pooling, head; inputs "named" after the student, by nobody, or not there."""
    parts = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    if kind == "sequential":
        model = keras.Sequential(parts)
        model.build((None, 8, 8, 1))
        return model
    image = x = keras.Input((8, 8, 1), name=kind)
    for layer in parts:
        x = layer(x)
    return keras.Model(image, x)


@pytest.mark.parametrize("kind", ["image", None, "sequential"])
def test_a_teacher_whose_input_has_another_name_is_timed_beside_the_student(tmp_path, kind):
    teacher = a_convnet(kind)
    teacher.save(tmp_path / "teacher.keras")
    student = aip_tf.prune_channels(teacher, aip_tf.select_channels(teacher, 0.5))
    for other in (teacher, keras.saving.load_model(tmp_path / "teacher.keras"), a_convnet("x")):
        report = export_model(student, tmp_path, ["saved_model", "onnx"], teacher=other, runs=1)
        assert all(artefact.speed_up["median"] > 0 for artefact in report.artefacts)


@pytest.mark.parametrize("other", [{}, {"x": "float32 (2, 4)"}, {"x": "float32 (None, None)"}])
def test_a_teacher_that_cannot_be_run_beside_the_student_stays_as_it_is(tmp_path, other):
    report = export_model(a_convnet("x"), tmp_path, ["onnx"], runs=0)
    student = dataclasses.replace(
        report.artefacts[0], signature={"inputs": {"x": "float32 (1, 8, 8, 1)"}}
    )
    teacher = dataclasses.replace(student, signature={"inputs": other} if other else {})
    _, told = proof.time_together(student, teacher, deploy.Onnx(), 1)
    assert told == teacher


class Weights(deploy.KerasFile):
    """A format of a user's own, whose name begins with that of another."""

    name = "keras_own"
    file_name = "own.keras"

    def timed(self, path, feeds):
        return lambda: None


def test_a_format_of_one_s_own(tmp_path):
    report = export_model(make_tiny(), tmp_path, ["keras", Weights()], runs=2)
    assert (tmp_path / "own.keras").is_file()
    own = report.artefacts[1]
    assert own.format == "keras_own"
    assert own.latency["median"] < report.artefacts[0].latency["median"] / 5


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("key", ["alive", "is/alive"])
def test_metrics_of_several_outputs(tmp_path, key):
    image = keras.Input((4,), name="image")
    kind = layers.Dense(3, name="kind")(image)
    alive = layers.Dense(1, activation="sigmoid", name="alive")(image)
    model = keras.Model(image, {"kind": kind, key: alive})
    labels = {"kind": np.arange(8) % 3, key: np.arange(8) % 2}
    data = tf.data.Dataset.from_tensor_slices((make_noise(size=8, shape=(4,)), labels)).batch(4)
    found = export_model(model, tmp_path, ["tflite"], check_data=data, runs=0).artefacts[0]
    task = aip_tf.Task().read(model, next(iter(data)))
    expected = task.evaluate(model, data)
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-5), name
    assert found.agreement == 1.0


def test_several_yes_no_answers_agree_unit_by_unit():
    layer = layers.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.set_weights([np.array([[1.0, -1.0, 2.0], [0.0, 0.0, 0.0]], "float32")])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    batch = np.ones((4, 2), "float32"), np.ones((4, 3), "float32")
    judge = Judge(aip_tf.Task(loss=loss).read(model, batch), model)
    answers = model(batch[0]).numpy()
    judge.see(
        samples.Batch({"x": batch[0]}), {"output_0": answers}, {"output_0": answers * [-1, 1, 1]}
    )
    assert judge.agreement == pytest.approx(2 / 3)


class Size(aip_tf.Task):
    """A task with data of its own: how large the answers to ones are."""

    def measure(self, answer):
        return {"size": float(np.mean(answer(tf.ones((2, 4)))["kind"]))}


def test_what_a_task_measures_itself_is_measured_of_every_file(tmp_path):
    image = keras.Input((4,), name="image")
    model = keras.Model(image, {"kind": layers.Dense(3, name="kind")(image)})
    data = (make_noise(size=8, shape=(4,)), {"kind": np.arange(8) % 3})
    formats, task = ["keras", "tflite"], Size(main_metric="size")
    report = export_model(model, tmp_path, formats, check_data=data, task=task, runs=0)
    expected = task.measure(model)["size"]
    for artefact in report.artefacts:
        assert artefact.main_metric == "size"
        assert artefact.quality == pytest.approx(expected, abs=1e-5)
        assert artefact.keras_metrics["size"] == pytest.approx(expected, abs=1e-5)


# --- a run that only exports ---------------------------------------------------------------------


def export_quickly(model, directory, check_data, teacher):
    return export_model(model, directory, ["tflite"], check_data=check_data, runs=0)


def test_a_network_is_exported_without_pruning_and_not_twice(digits, tmp_path, monkeypatch):
    student, data, _, _ = digits
    calls, export = [], stage._export

    def counted(*arguments):
        calls.append(arguments[2])
        return export(*arguments)

    monkeypatch.setattr(stage, "_export", counted)

    def run():
        return experiment.run(lambda: student, lambda: data, None, export_quickly, run_dir=tmp_path)

    outcome = run()
    assert outcome.report.student.metrics["accuracy"] > 0.8
    assert outcome.paths["tflite"] == tmp_path / "export" / "model.tflite"
    assert '<a href="export/model.tflite">' in (tmp_path / "report.html").read_text()
    assert "* Data: images (8, 8, 1), 10 classes" in (tmp_path / "export/README.md").read_text()
    assert run().report.deliveries == outcome.report.deliveries
    assert calls == [None]  # there is no teacher
    (tmp_path / "export" / "model.tflite").write_bytes(b"damaged")
    run()
    assert calls == [None, None]


def test_the_samples_are_fewer_for_a_network_that_computes_much(digits, monkeypatch):
    student, _, _, _ = digits
    macs = aip_tf.count_macs(student)
    for budget, expected in ((10**15, 10_000), (1234 * macs, 1234), (0, 200)):
        monkeypatch.setattr(delivery, "_MOST_MACS", budget)
        assert delivery._most(student, "auto") == expected
    assert delivery._most(student, None) is None


def test_a_failed_artefact_ends_a_run_whose_report_speaks_of_it(digits, tmp_path):
    student, data, _, _ = digits

    def export(model, directory, check_data, teacher):
        limits = {"tflite": 0.0}
        return export_model(
            model, directory, ["tflite"], check_data=check_data, tolerances=limits, runs=0
        )

    for _ in range(2):  # the second start says the same
        with pytest.raises(
            ValueError, match=r"tolerance 0\. .*The rest is complete: .*report.html"
        ):
            experiment.run(lambda: student, lambda: data, None, export, run_dir=tmp_path)
    assert "tflite failed. Its outputs differ" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "export" / "failed_model.tflite").is_file()


def test_a_failure_is_told_without_the_calls_that_gin_adds(digits, tmp_path):
    def refuse(model, directory):
        raise ValueError("Received a stone. Expected bread.")

    refuse = gin.external_configurable(refuse, "refuse_in_a_test")
    with pytest.raises(ValueError, match=r"Expected bread\. The rest is complete: [^ ]*$"):
        experiment.run(lambda: digits[0], lambda: digits[1], None, refuse, run_dir=tmp_path)


def test_pruning_needs_data(tmp_path):
    with pytest.raises(ValueError, match="data to prune with, or prune=None"):
        experiment.run(make_tiny, None, aip_tf.prune, run_dir=tmp_path)

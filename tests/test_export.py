import collections
import contextlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from aip_tf.export import conversion, export_model, signature

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
    assert sorted(os.listdir(tmp_path)) == ["model.tflite", "saved_model"]
    expected = model(data).numpy()
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(loaded.serve(data)["output_0"], expected, atol=1e-5)
    text = report.render()
    assert "model.tflite" in text
    assert "1.0e-04" in text


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
    names = signature.input_names
    monkeypatch.setattr(
        signature,
        "input_names",
        lambda m: dict(zip(names(m), [*names(m).values()][::-1], strict=True)),
    )
    reference = signature.finite_outputs
    monkeypatch.setattr(signature, "finite_outputs", lambda m, _, f: reference(m, names(m), f))
    with pytest.raises(ValueError, match="differ from the Keras model's"):
        export_model(make_two_by_two("dict"), tmp_path)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_signature_names_are_those_of_the_model(tmp_path):
    export_model(make_two_by_two("dict"), tmp_path, ["saved_model"])
    served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    assert set(served.structured_input_signature[1]) == {"z_left", "a_right"}
    assert set(served.structured_outputs) == {"sum", "difference"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions_become_float32_for_litert(tmp_path, policy):
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

    with conversion.quiet():
        interpreter = Interpreter(model_path=path)
    return interpreter.get_input_details() + interpreter.get_output_details()


def test_quantised_files_are_smaller_and_close(tmp_path):
    x = inputs = keras.Input((12, 12, 16))
    for _ in range(2):
        x = layers.Conv2D(64, 3, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    data = tf.data.Dataset.from_tensor_slices(
        (np.random.default_rng(0).normal(size=(20, 12, 12, 16)), np.zeros(20))
    ).batch(16)
    formats = ["tflite", "tflite_float16", "tflite_int8"]
    whole, half, quarter = export_model(model, tmp_path, formats, check_data=data).artefacts
    assert half.num_bytes < 0.6 * whole.num_bytes
    assert quarter.num_bytes < 0.35 * whole.num_bytes
    assert 0 < half.max_relative_difference < 1e-2
    assert half.max_relative_difference < quarter.max_relative_difference < 0.2


def test_a_wrong_artefact_is_refused_and_what_was_there_stays(tmp_path, monkeypatch):
    model = make_tiny()
    export_model(model, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert len(before) > 3
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.get_layer("logits").bias.assign_add([0, 0, 1e-3, 0, 0])
    serving = conversion._serving
    monkeypatch.setattr(conversion, "_serving", lambda _: serving(other))
    for name in ("saved_model", "tflite"):
        with pytest.raises(ValueError, match=f"'{name}'.*differ.*tolerance 0.0001"):
            export_model(model, tmp_path, [name])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_failure_in_the_second_format_leaves_nothing_of_the_first(tmp_path):
    data = np.ones((2, 8, 8, 4), "float32")
    with pytest.raises(ValueError, match=r"'tflite_int8'.*tolerance 1e-07"):
        export_model(
            make_tiny(),
            tmp_path / "new",
            ["tflite", "tflite_int8"],
            check_data=data,
            tolerances={"tflite_int8": 1e-7},
        )
    assert os.listdir(tmp_path / "new") == []


def test_exporting_again_replaces_the_older_files(tmp_path):
    first, second = make_tiny(), make_tiny()
    export_model(first, tmp_path)
    export_model(second, tmp_path)
    data = np.ones((1, 8, 8, 4), "float32")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(loaded.serve(data)["output_0"], second(data), atol=1e-5)
    assert np.abs(first(data) - second(data)).max() > 1e-2
    assert sorted(os.listdir(tmp_path)) == ["model.tflite", "saved_model"]


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
    names = signature.input_names(model)
    feeds = signature.make_feeds(model, names, None, 0)
    assert feeds["image"].dtype == np.uint8
    assert feeds["image"].max() > 1
    assert feeds["words"].max() == 1
    again = signature.make_feeds(model, names, None, 0)
    other = signature.make_feeds(model, names, None, 1)
    np.testing.assert_array_equal(feeds["image"], again["image"])
    assert (feeds["image"] != other["image"]).any()
    report = export_model(model, tmp_path, ["tflite"])
    assert not report.is_real_data


def test_the_converter_is_silent(tmp_path, capfd):
    export_model(make_tiny(), tmp_path, check_data=np.ones((2, 8, 8, 4)))
    assert capfd.readouterr() == ("", "")
    print("still heard")
    assert capfd.readouterr().out == "still heard\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ["onnx"]}, r"Received formats=\('onnx',\).*Expected one or more of"),
        ({"formats": []}, r"Received formats=\(\)"),
        ({"tolerances": {"tflite16": 1}}, "tflite16"),
        ({"formats": "tflite_int8"}, "without check_data"),
        ({"check_data": np.ones((2, 8, 8, 3))}, r"shape \(2, 8, 8, 3\) for input 'image'"),
        ({"check_data": np.ones((8, 8, 4))}, "does not fit"),
        ({"check_data": {"picture": np.ones((2, 8, 8, 4))}}, "'image'"),
        ({"check_data": np.ones((0, 8, 8, 4))}, "one size above 0"),
        ({"check_data": np.full((1, 8, 8, 4), np.nan)}, "not finite"),
        ({"check_data": tf.data.Dataset.range(0)}, "without elements"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export_model(make_tiny(), tmp_path / "export", **changes)
    assert not (tmp_path / "export").exists()


def test_models_without_symbolic_inputs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a built.*keras\.Input"):
        export_model(keras.Sequential([layers.Dense(2)]), tmp_path)


def test_unknown_sizes_ask_for_data(tmp_path):
    image = keras.Input((None, None, 3), name="image")
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(image))
    model = keras.Model(image, pooled)
    with pytest.raises(ValueError, match=r"'image'.*Pass check_data"):
        export_model(model, tmp_path)
    export_model(model, tmp_path, check_data=np.ones((2, 7, 9, 3)))


def test_what_a_runtime_lacks_is_named(tmp_path):
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.LSTM(2)(inputs))
    with pytest.raises(ValueError, match=r"'tflite'.*TensorList.*Leave 'tflite' out"):
        export_model(model, tmp_path)
    assert os.listdir(tmp_path) == []
    assert export_model(model, tmp_path, "saved_model").artefacts[0].passed

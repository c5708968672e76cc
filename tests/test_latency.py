import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from aip_tf import latency as module
from aip_tf.latency import Latency, compare_latency, measure_latency


def make_model(filters=4, size=16):
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.Conv2D(filters, 3, padding="same")(image)
    x = keras.layers.Conv2D(filters, 3, padding="same")(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def tflite_path(tmp_path_factory):
    from aip_tf.deploy import export_model

    return export_model(make_model(), tmp_path_factory.mktemp("e"), ["tflite"]).paths["tflite"]


def make_runner(seconds, calls=None, name=""):
    def run():
        if calls is not None:
            calls.append(name)
        time.sleep(seconds)

    return module._Runner(run, "keras", 1)


def test_keras_models_and_files_are_timed(tmp_path, tflite_path):
    model = make_model()
    model.save(tmp_path / "model.keras")
    for subject, runtime in [
        (model, "keras"),
        (tmp_path / "model.keras", "keras"),
        (tflite_path, "litert"),
    ]:
        result = measure_latency(subject, runs=7, warm_up=1, batch_size=3)
        assert isinstance(result, Latency)
        assert (result.runtime, result.runs, result.batch_size) == (runtime, 7, 3)
        assert 0 < result.lower_quartile_ms <= result.median_ms <= result.upper_quartile_ms
        assert result.num_threads >= 1


def test_times_are_milliseconds_of_single_runs():
    wall, processor = module._times_in_turns([make_runner(0.02)], runs=3, warm_up=0)
    assert wall.shape == processor.shape == (3, 1)
    assert (wall >= 20).all()
    assert (wall < 200).all()
    assert (processor < 10).all()  # who waits does not compute


def test_reading_the_clocks_is_not_counted(monkeypatch):
    now = [0.0]  # seconds; one clock for both, which costs time to read

    def let(seconds):
        now[0] += seconds
        return now[0]

    clocks = {"process_time": lambda: let(1e-6), "perf_counter": lambda: let(2e-7)}
    monkeypatch.setattr(module, "time", SimpleNamespace(**clocks))
    runners = [module._Runner(lambda: let(5e-6), "litert", 1)]
    times = module._times_in_turns(runners, runs=9, warm_up=0)
    np.testing.assert_allclose(times, 5e-3, rtol=1e-6)  # milliseconds


def test_quartiles():
    assert module._quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)


def test_models_take_turns_and_none_always_starts():
    calls = []
    runners = [make_runner(0, calls, name) for name in "abc"]
    module._times_in_turns(runners, runs=12, warm_up=1)
    assert "".join(calls) == "abc" + "aaaaabbbbbccccc" + "bbbbbcccccaaaaa" + "ccaabb"


def test_a_comparison_finds_the_faster_model(monkeypatch):
    monkeypatch.setattr(module, "_runner", lambda seconds, *_: make_runner(seconds))
    result = compare_latency({"teacher": 0.03, "student": 0.01}, runs=5, warm_up=0)
    assert list(result.latencies) == ["teacher", "student"]
    assert list(result.speed_ups) == ["student"]
    speed_up = result.speed_ups["student"]
    assert 1.5 < speed_up.median < 6
    assert speed_up.lower_quartile <= speed_up.median <= speed_up.upper_quartile
    text = result.render()
    assert f"{speed_up.median:.2f} times" in text
    assert "teacher" in text


def test_more_work_takes_longer_in_litert(tmp_path):
    from aip_tf.deploy import export_model

    paths = {
        name: export_model(make_model(filters, 48), tmp_path / name, ["tflite"]).paths["tflite"]
        for name, filters in [("large", 64), ("small", 4)]
    }
    assert compare_latency(paths, runs=9, warm_up=2).speed_ups["small"].median > 1.5


def test_batch_size_reaches_the_interpreter(tflite_path):
    one = measure_latency(tflite_path, runs=9)
    many = measure_latency(tflite_path, runs=9, batch_size=64)
    assert many.median_ms > 3 * one.median_ms


def test_several_inputs_of_several_types():
    image = keras.Input((4, 4, 1), dtype="uint8", name="image")
    words = keras.Input((3,), dtype="int32", name="words")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    y = keras.layers.Flatten()(keras.layers.Embedding(2, 4)(words))
    outputs = {"x": x, "y": y}
    model = keras.Model({"image": image, "words": words}, outputs)
    assert measure_latency(model, runs=3, warm_up=1).median_ms > 0


def test_the_model_is_unchanged():
    model = make_model()
    weights = model.get_weights()
    measure_latency(model, runs=2, warm_up=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["batch_size", "runs", "warm_up"])
@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Received {name}={value}"):
        measure_latency(make_model(), **{name: value})


def test_bad_subjects_are_refused(tmp_path, tflite_path):
    with pytest.raises(ValueError, match=r"Expected an existing \.tflite or \.keras"):
        measure_latency(tmp_path / "missing.tflite")
    with pytest.raises(ValueError, match=r"Expected an existing \.tflite or \.keras"):
        measure_latency(tmp_path)
    with pytest.raises(ValueError, match="without symbolic inputs"):
        measure_latency(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="Received num_threads=2 for a Keras model"):
        measure_latency(make_model(), num_threads=2)
    with pytest.raises(ValueError, match="Received num_threads=0"):
        measure_latency(tflite_path, num_threads=0)
    with pytest.raises(ValueError, match="Received no model"):
        compare_latency({})


def test_unknown_sizes_and_fixed_batches_are_refused():
    image = keras.Input((None, None, 3), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    with pytest.raises(ValueError, match=r"'image' of shape \(None, None, None, 3\)"):
        measure_latency(keras.Model(image, pooled))
    fixed = keras.Input(batch_shape=(2, 4), name="fixed")
    model = keras.Model(fixed, keras.layers.Dense(2)(fixed))
    with pytest.raises(ValueError, match=r"'fixed'.*batch_size=3"):
        measure_latency(model, batch_size=3)
    assert measure_latency(model, batch_size=2, runs=1, warm_up=0).batch_size == 2

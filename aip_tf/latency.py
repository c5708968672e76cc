"""How long one inference takes, in Keras or in LiteRT, on the machine at hand.

Times of one process drift with the machine's clock and its other work. So two models are best
compared in one run, in turns (`compare_latency`): what disturbs one disturbs the other too, and
the ratio of neighbouring times says more than the ratio of two medians taken apart. Beside the time
of the clock stands that of the processor, in which other processes hardly show.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from aip_tf.text import text_table

# What ran before leaves other things in the caches: half a microsecond at the first of a row.
_IN_A_ROW = 5


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one inference, data already in place.

    Attributes:
        median_ms: median over the runs, in milliseconds.
        lower_quartile_ms: a quarter of the runs took less, in milliseconds.
        upper_quartile_ms: a quarter of the runs took more, in milliseconds.
        runs: how many runs were timed.
        batch_size: samples per run.
        runtime: `"keras"` (a compiled `tf.function`) or `"litert"`.
        num_threads: threads that the runtime may use.
        processor_ms: median of the processor time of this process, all threads together.
    """

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    runs: int
    batch_size: int
    runtime: str
    num_threads: int
    processor_ms: float


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """How many times faster than the reference; over the pairs of neighbouring runs.

    Attributes:
        median: the median ratio (reference's time divided by the model's).
        lower_quartile: a quarter of the ratios are smaller.
        upper_quartile: a quarter of the ratios are larger.
        processor: the median ratio of the processor times, the one to believe on a busy machine.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    processor: float


@dataclasses.dataclass(frozen=True)
class LatencyComparison:
    """Several models timed in turns.

    Attributes:
        latencies: one entry per model, by name; the first is the reference.
        speed_ups: one entry per other model, by name.
    """

    latencies: dict[str, Latency]
    speed_ups: dict[str, SpeedUp]

    def render(self) -> str:
        """Returns a table: model, runtime, median and quartiles in ms, times faster.

        The last two columns are of the processor time.
        """
        header = ("model", "runtime", "threads", "batch", "median ms", "quartiles ms", "faster")
        header += ("processor ms", "faster")
        rows = [self._row(name, latency) for name, latency in self.latencies.items()]
        return text_table(header, rows, align="<<>>>>>>>")

    def _row(self, name, latency):
        speed_up = self.speed_ups.get(name)
        return (
            name,
            latency.runtime,
            str(latency.num_threads),
            str(latency.batch_size),
            f"{latency.median_ms:.3f}",
            f"{latency.lower_quartile_ms:.3f} to {latency.upper_quartile_ms:.3f}",
            f"{speed_up.median:.2f} times" if speed_up else "",
            f"{latency.processor_ms:.3f}",
            f"{speed_up.processor:.2f} times" if speed_up else "",
        )


def measure_latency(
    model,
    *,
    batch_size: int = 1,
    runs: int = 50,
    warm_up: int = 10,
    num_threads: int | None = None,
) -> Latency:
    """Returns how long one inference takes.

    A Keras model is timed as TensorFlow runs it, where a small network mostly waits for Python
    and the graph: export it and time the `.tflite` file to know what a device would feel.

    Args:
        model: a built Functional or Sequential model, or the path of a `.keras` or `.tflite`
            file.
        batch_size: samples per run, at least 1.
        runs: timed runs, at least 1.
        warm_up: untimed runs before them.
        num_threads: threads for LiteRT, by default 1. TensorFlow sets its threads once per
            process (`tf.config.threading`), so for Keras it must be None.

    Raises:
        ValueError: if an argument is out of its range, the file is missing or of another kind,
            or an input has unknown sizes apart from the batch.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> latency = measure_latency(model, runs=5)
    >>> latency.lower_quartile_ms <= latency.median_ms <= latency.upper_quartile_ms
    True
    """
    options = {"batch_size": batch_size, "runs": runs, "warm_up": warm_up}
    return compare_latency({"": model}, **options, num_threads=num_threads).latencies[""]


def compare_latency(
    models: Mapping[str, object],
    *,
    batch_size: int = 1,
    runs: int = 50,
    warm_up: int = 10,
    num_threads: int | None = None,
) -> LatencyComparison:
    """Times several models in turns of five runs, each starting as often as the others.

    Args:
        models: `{name: model or path}` as for `measure_latency`, or functions without arguments
            that run one inference, of a runtime of your own; the first is the reference.
        batch_size: samples per run, at least 1.
        runs: timed runs of every model, at least 1.
        warm_up: untimed runs of every model before them.
        num_threads: as for `measure_latency`.

    Raises:
        ValueError: as for `measure_latency`, or if there is no model.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> sorted(compare_latency({"teacher": model, "student": model}, runs=5).speed_ups)
    ['student']
    """
    _check_at_least(1, batch_size=batch_size, runs=runs)
    _check_at_least(0, warm_up=warm_up)
    if not models:
        raise ValueError("Received no model. Expected {name: model or path}. Name at least one.")
    runners = [_runner(model, batch_size, num_threads) for model in models.values()]
    wall, processor = _times_in_turns(runners, runs, warm_up)
    latencies = [
        Latency(*_quartiles(own), runs, batch_size, runner.runtime, runner.num_threads, middle)
        for runner, own, middle in zip(runners, wall.T, _medians(processor), strict=True)
    ]
    ratios = [
        SpeedUp(*_quartiles(ratio), middle)
        for ratio, middle in zip(_ratios(wall).T, _medians(_ratios(processor)), strict=True)
    ][1:]
    names = list(models)
    return LatencyComparison(
        dict(zip(names, latencies, strict=True)), dict(zip(names[1:], ratios, strict=True))
    )


@dataclasses.dataclass(frozen=True)
class _Runner:
    run: Callable[[], None]
    runtime: str
    num_threads: int


def _times_in_turns(runners, runs, warm_up):
    """Returns milliseconds (clock and processor, runs, models).

    The order rotates: nobody always runs first.
    """
    for runner in runners:
        for _ in range(warm_up):
            runner.run()
    # Reading the processor's clock takes a microsecond: much of the 5 that a small network takes.
    idle = np.median([_clocked(lambda: None) for _ in range(99)], axis=0)
    times = np.empty((2, runs, len(runners)))
    for turn, first in enumerate(range(0, runs, _IN_A_ROW)):
        for place in range(len(runners)):
            index = (turn + place) % len(runners)
            for run in range(first, min(first + _IN_A_ROW, runs)):
                times[:, run, index] = _clocked(runners[index].run) - idle
    return 1000 * np.maximum(times, 1e-9)


def _clocked(run):
    """Seconds of one run: by the clock, by the processor."""
    start = time.process_time()
    begin = time.perf_counter()
    run()
    end = time.perf_counter()
    return np.array([end - begin, time.process_time() - start])


def _medians(columns):
    return map(float, np.median(columns, axis=0))


def _ratios(times):
    """The first column over each, run by run; the processor's clock may stand still for a run."""
    return np.maximum(times[:, :1], 1e-6) / np.maximum(times, 1e-6)


def _quartiles(values):
    """Returns median, lower and upper quartile."""
    return tuple(map(float, np.quantile(values, [0.5, 0.25, 0.75])))


def _runner(model, batch_size, num_threads):
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if not path.is_file() or path.suffix not in (".tflite", ".keras"):
            raise ValueError(
                f"Received the path {str(path)!r}. Expected an existing .tflite or .keras "
                "file. Write one with aip_tf.export_model or model.save."
            )
        if path.suffix == ".tflite":
            _check_at_least(1, num_threads=1 if num_threads is None else num_threads)
            return _litert_runner(path, batch_size, num_threads or 1)
        model = keras.models.load_model(path, compile=False)
    elif callable(model) and not isinstance(model, keras.layers.Layer):
        return _Runner(model, "function", num_threads or 1)
    return _keras_runner(model, batch_size, num_threads)


def _litert_runner(path, batch_size, num_threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=num_threads)
    for detail in interpreter.get_input_details():
        sizes = [None if size == -1 else int(size) for size in detail["shape_signature"]]
        shape = _batch_shape(detail["name"], sizes, batch_size)
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _batch(detail["shape"], detail["dtype"]))
    return _Runner(interpreter.invoke, "litert", num_threads)


def _keras_runner(model, batch_size, num_threads):
    if num_threads is not None:
        raise ValueError(
            f"Received num_threads={num_threads} for a Keras model. Expected None: TensorFlow "
            "sets its threads once per process. Call "
            "tf.config.threading.set_intra_op_parallelism_threads before the first operation, "
            "or time the exported .tflite file."
        )
    if not (isinstance(model, keras.Model) and getattr(model, "inputs", None)):
        raise ValueError(
            f"Received a {type(model).__name__} without symbolic inputs. Expected a built "
            "Functional or Sequential keras.Model, or a path. Build it from keras.Input."
        )
    inputs = keras.tree.map_structure(lambda t: _symbol_batch(t, batch_size), _structure(model))
    infer = tf.function(lambda: model(inputs, training=False))

    def run():
        for output in keras.tree.flatten(infer()):
            output.numpy()  # waits for devices that compute on their own

    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
    return _Runner(run, "keras", threads)


def _structure(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _symbol_batch(tensor, batch_size):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    # A variable, because constant inputs would let the graph be computed beforehand.
    return tf.Variable(_batch(_batch_shape(tensor.name, tensor.shape, batch_size), dtype))


def _batch_shape(name, sizes, batch_size):
    first, *others = sizes
    if None in others or first not in (None, batch_size):
        raise ValueError(
            f"Received input {name!r} of shape {tuple(sizes)} and batch_size={batch_size}. "
            "Expected sizes that are known, apart from the batch's. Build the model with an "
            "input shape, or use the batch size that it fixes."
        )
    return (batch_size, *others)


def _batch(shape, dtype):
    values = np.random.default_rng(0).standard_normal(tuple(shape))
    return values.astype(dtype) if "float" in str(dtype) else np.ones(shape, dtype)


def _check_at_least(least, **values):
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"Received {name}={value!r}. Expected an integer of at least {least}. Correct it."
            )

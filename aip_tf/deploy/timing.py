"""Models timed as the files that a device would run, all of them in turns."""

import logging
import tempfile
from pathlib import Path

import keras

from aip_tf.deploy.delivery import write_file
from aip_tf.deploy.formats import TFLite
from aip_tf.deploy.proof import quartiles
from aip_tf.deploy.signature import name_of
from aip_tf.deploy.source import Source, quiet
from aip_tf.latency import compare_latency
from aip_tf.report.artefacts import Artefact

_log = logging.getLogger("aip_tf")
_RUNS = 50


class Timing:
    """Models, written as LiteRT files to a folder that is gone afterwards.

    Args:
        input_shapes: shapes of the models' inputs without batch size, in their order; None: as the
            models have them.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> with Timing([(4,)]) as timing:
    ...     timing.add("teacher", model)
    ...     timing.add("student", model)
    ...     found = timing.artefacts("teacher", runs=5)
    >>> sorted(found["student"].speed_up)
    ['lower_quartile', 'median', 'upper_quartile']
    """

    def __init__(self, input_shapes=None):
        self._shapes, self._format = input_shapes, TFLite()
        self._files, self._batch_size = {}, 1
        self._has_failed = False

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *_):
        self._folder.cleanup()

    def add(self, name, model):
        """Write the file of a model; if that fails it is told, and nothing is timed."""
        if self._has_failed:
            return
        own = [x.shape[1:] for x in model.inputs]
        inputs = zip(model.inputs, self._shapes or own, strict=True)
        shapes = {name_of(x): (x.shape[0], *shape) for x, shape in inputs}
        folder = Path(self._folder.name) / str(len(self._files))
        folder.mkdir()
        source = Source(model, shapes, folder)
        try:
            self._files[name] = write_file(self._format, source, folder)
        except ValueError as error:
            _log.warning("Nothing is timed: %s", error)
            self._has_failed = True
        self._batch_size = source.batch_size or 1

    def add_file(self, artefact):
        """A file that is there already, under the name of its format."""
        self._files[artefact.format] = Path(artefact.path)
        self._batch_size = artefact.batch_size

    def artefacts(self, reference, runs):
        """Time them.

        Args:
            reference: name of the one that the others are compared with.
            runs: how often each is timed.

        Returns:
            `{name: Artefact}` with bytes, milliseconds and times faster; empty if some model could
            not be written.
        """
        if self._has_failed:
            return {}
        size = self._batch_size
        files = {reference: self._files[reference], **self._files}
        with quiet():
            found = compare_latency(files, batch_size=size, runs=runs)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        times = {name: quartiles(x, "_ms") for name, x in found.latencies.items()}
        faster = {name: quartiles(x) for name, x in found.speed_ups.items()}
        teacher = {"num_bytes": sizes[reference], "latency": times[reference]}
        return {
            name: Artefact(
                format=self._format.name,
                path=path.name,
                runtime=self._format.runtime,
                num_bytes=sizes[name],
                latency=times[name],
                speed_up=faster.get(name, {}),
                batch_size=size,
                teacher=teacher,
            )
            for name, path in files.items()
        }


def time_steps(artefacts, paths):
    """How long the students of a run took on the way to the last one.

    Args:
        artefacts: `Artefact`s of the last one; without one for LiteRT in float32 that was timed
            nothing is.
        paths: `.keras` files of those before it.

    Returns:
        A list of latencies, as records hold them, one for each path; or an empty one.
    """
    last = next((x for x in artefacts if x.format == TFLite.name and x.passed and x.latency), None)
    if last is None or not paths:
        return []
    with Timing() as timing:
        timing.add_file(last)
        for path in paths:
            timing.add(str(path), keras.saving.load_model(path, compile=False))
        found = timing.artefacts(last.format, _RUNS)
    return [found[str(path)].latency for path in paths if str(path) in found]

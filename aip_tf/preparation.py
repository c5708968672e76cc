"""What an experiment needs before anything is pruned: network and data, made and checked.

A run and its plan (`--dry_run`) come this way alike, so that what the one refuses the other does.
"""

import functools
import inspect
import logging
import warnings

import keras

from aip_tf import files, identity
from aip_tf.arguments import OPTIONAL_FUNCTION, Kind, accepted, integer, takes
from aip_tf.arguments import check as check_kinds
from aip_tf.datasets import Data
from aip_tf.datasets.adapt import first_batch
from aip_tf.datasets.data import DataNotFoundError
from aip_tf.datasets.passes import counted
from aip_tf.deploy import stage
from aip_tf.distribution import check_strategy, is_chief
from aip_tf.failures import words
from aip_tf.saving import save_model
from aip_tf.task import Task

_log = logging.getLogger("aip_tf")

_FUNCTION = Kind(callable, "a function that makes it, named and not called")
_PARTS = {
    "teacher": _FUNCTION,
    "data": OPTIONAL_FUNCTION,
    "prune": Kind(
        lambda part: part is None or (callable(part) and takes(part, 3, by_name=True)),
        "a function of a model, training and validation data, such as aip_tf.prune, or None",
    ),
    "export": Kind(
        lambda part: part is None or (callable(part) and takes(part, 2, by_name=True)),
        "a function of a model and a folder, such as aip_tf.export_model, or None",
    ),
    "trade_off": OPTIONAL_FUNCTION,
}
_TEACHER = "teacher.keras"
_KINDS = {"seed": integer(0, 2**32 - 1)}


def check_start(strategy, seed, run_dir=None):
    """Whether a run can start with a strategy and a seed, in a folder.

    Raises:
        ValueError: for an unknown strategy, a seed that random generators do not take, or a folder
            that cannot be made or written to, or holds a teacher that no run wrote.
    """
    check_kinds(_KINDS, locals())
    check_strategy(strategy)
    if run_dir is None:
        return
    files.check_folder(run_dir)
    if (files.expand(run_dir) / _TEACHER).exists() and not files.was_owned(run_dir):
        raise ValueError(
            f"Received the run directory '{run_dir}', which holds {_TEACHER}, but no run was ever "
            "at work there. Expected a folder of its own, as that file would be replaced: name "
            "another one. A teacher from a file is load_model.source."
        )


def check_parts(teacher, data, prune, export, trade_off=None):
    """Whether the parts of an experiment are functions that can be called as it calls them.

    Raises:
        ValueError: for the first that is not.
    """
    check_kinds(_PARTS, locals())
    if data is None and prune is not None:
        raise ValueError("Received data=None. Expected data to prune with, or prune=None as well.")
    if trade_off is None:
        return
    if data is None or prune is not None or export is not None:
        raise ValueError(
            "Received trade_off, which cuts and measures in place of pruning, and "
            f"{'no data' if data is None else 'prune or export'}. Expected data, prune=None and "
            "export=None beside it."
        )


def prepare(teacher, data, prune, export, seed, run_dir, overwrite):
    """The network, trained if it is to be trained here, and the data, which fit together.

    Args:
        teacher, data, prune, export, seed, run_dir, overwrite: as for `experiment.run`.

    Returns:
        The network and the `datasets.Data`.

    Raises:
        ValueError: for what cannot work together, before anything is trained.
    """
    network = _untrained(teacher, run_dir, overwrite)
    images = None if data is None else data(**accepted(data, model=network))
    _check_data(images)
    _log.info("Data: %s.", "none" if images is None else images.describe())
    told = {"images": images, "export": export, "run_dir": run_dir, "has_data": data is not None}
    if network is None:
        check = functools.partial(check_pair, prune=prune, **told)
        network = _trained(teacher, images, seed, run_dir, overwrite, check)
    else:
        check_pair(network, **told)  # `prune` begins with its own checks
        save_model(run_dir / _TEACHER, network)
    return network, images


def rehearse(teacher, data, prune, export=None, run_dir=None):
    """As `prepare`, but nothing is trained or written.

    Args:
        teacher, data, prune, export, run_dir: as for `experiment.run`; a folder of None is not
            looked at.

    Returns:
        The network (None if only training makes one), the data (None if they are not to be had on
        this machine), and words on what could not be looked at.

    Raises:
        ValueError: as `prepare`, in the same words.
    """
    run_dir = run_dir and files.expand(run_dir)
    network = _untrained(teacher, run_dir, overwrite=False)
    images, missing = _available(data, network)
    _check_data(images)
    told = {"images": images, "prune": prune, "export": export, "run_dir": run_dir}
    check = functools.partial(check_pair, **told, has_data=data is not None)
    if network is not None:
        check(network)
        return network, images, missing
    if "check_only" not in inspect.signature(teacher).parameters:
        return None, images, missing
    at_hand = {"data": images, "check": check, "check_only": True}
    at_hand["checkpoint_dir"] = run_dir and run_dir / "teacher"
    return teacher(**accepted(teacher, **at_hand)), images, missing


def check_pair(network, images, prune=None, export=None, run_dir=None, has_data=True):
    """Whether a network, trained or not, fits the data, and what `prune` is told fits both.

    Also whether `export` can write to the folder of the run, as far as that is known by now.

    Raises:
        ValueError: if not.
    """
    _check_network(network)
    if run_dir is not None:
        stage.check(export, network, run_dir, has_data)
    if images is None:
        return
    try:
        task = Task().read(network, first_batch(counted(images.train).dataset))
    except ValueError:
        task = None  # `prune` may be told what the network alone does not say; it refuses the rest
    if task is not None:
        task.check_classes(images.num_classes, images.class_names)
    if prune is not None:
        options = accepted(prune, check_only=True)
        if options:
            prune(network, images.train, images.test, run_dir=run_dir, **options)


def _check_network(network):
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"Received {type(network).__name__} as the network. Expected a keras.Model: a teacher "
            "is a function that returns one, and train_teacher.model is one, such as "
            "@digits_resnet()."
        )


def _check_data(images):
    if not isinstance(images, Data | None):
        raise ValueError(
            f"Received {type(images).__name__} as the data. Expected datasets.Data: run.data is a "
            "function that returns it, such as @digits."
        )


def _available(data, network):
    """The data and an empty text, or None and why they are not to be had on this machine."""
    if data is None:
        return None, "Data: none; files are compared on random samples."
    try:
        return data(**accepted(data, model=network)), ""
    except DataNotFoundError as error:
        return None, f"Data: not available. {words(error)}"


def _untrained(teacher, run_dir, overwrite):
    """The network of a function that takes no data, so it trains nothing; else None.

    It is always built by that function, so that it may hold what no file does.
    """
    if accepted(teacher, data=None):
        return None
    folder = run_dir and run_dir / "teacher"
    return teacher(**accepted(teacher, checkpoint_dir=folder, overwrite=overwrite))


def _trained(teacher, data, seed, run_dir, overwrite, check):
    """The teacher that a function trains on the data.

    One that keeps snapshots (it takes `checkpoint_dir`) goes on from them, and builds its network
    itself. Only of a function that keeps nothing is the result read from a file.
    """
    at_hand = {
        "data": data,
        "checkpoint_dir": run_dir / "teacher",
        "overwrite": overwrite,
        "check": check,
    }
    arguments = accepted(teacher, **at_hand)
    path, inputs = run_dir / _TEACHER, _inputs(teacher, data, seed)
    if "checkpoint_dir" in arguments:
        network = teacher(**arguments)
        if "check" not in arguments:
            check_pair(network, data)
        save_model(path, network)
        return network
    return _cached_teacher(lambda: teacher(**arguments), path, inputs, overwrite)


def _inputs(teacher, data, seed):
    """What a teacher's function makes its network of."""
    function = identity.describe(inspect.unwrap(teacher))
    return {"function": function, "data": counted(data.train).identity, "seed": seed}


def _cached_teacher(make, path, inputs, overwrite):
    """The network in `path` if it was made of the same inputs, else a new one."""
    record = path.with_suffix(".json")
    saved = files.read_record(record)
    if saved and saved["inputs"] != inputs and not overwrite:
        raise ValueError(
            f"Received the folder '{path.parent}', whose teacher was made of {saved['inputs']}, "
            f"not of {inputs}. Expected the same: give this run a folder of its own, or start it "
            "with overwrite=True (--overwrite on the command line), which makes the teacher anew."
        )
    if saved and saved["inputs"] == inputs:
        if files.is_whole(path, saved["sha256"]):
            with warnings.catch_warnings():  # Keras misses the state of a fresh optimizer
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
                return keras.saving.load_model(path)
        _log.warning("'%s' is damaged or missing; the teacher is made anew.", path)
    network = make()
    save_model(path, network)
    if is_chief():
        saved = {"inputs": inputs, "sha256": files.digest(path)}
        files.write_record(record, saved)
    return network

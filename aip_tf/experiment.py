"""One experiment from data to artefacts: what `aip_run` runs, and its plan for `--dry_run`.

Every part is handed in as a function, so that it is built under the seed and inside the scope of
the distribution strategy. gin files name those functions (see `config`); a script can call `run`
with plain ones just as well.
"""

import dataclasses
import functools
import inspect
import json
import logging
import warnings
from pathlib import Path

import keras

from aip_tf import criteria, failures, files, identity
from aip_tf import selection as selections
from aip_tf.arguments import accepted
from aip_tf.assignment import Assignment
from aip_tf.cost import count_macs, count_parameters, summary
from aip_tf.datasets import Data
from aip_tf.datasets.adapt import first_batch
from aip_tf.datasets.passes import counted
from aip_tf.deploy import stage
from aip_tf.distribution import STRATEGIES, is_chief, strategy_from
from aip_tf.recovery import recovery_from
from aip_tf.report import ModelRecord, PruningReport
from aip_tf.run_state import replace
from aip_tf.saving import check_saving, save_report
from aip_tf.schedules import list_cuts
from aip_tf.task import Task
from aip_tf.text import when

_log = logging.getLogger("aip_tf")

CONFIG_FILE = "operative_config.gin"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run leaves behind: its report, and the path of each artefact by what it is."""

    report: object
    paths: dict[str, Path]


def run(
    teacher,
    data,
    prune,
    export=None,
    strategy="none",
    seed=0,
    *,
    run_dir,
    configuration="",
    overwrite=False,
):
    """Run one experiment: data, teacher, iterative pruning, export, report.

    Every stage whose output is there already, made of the same inputs, is skipped; docs/runs.md
    says what a run directory holds and how to start again.

    Args:
        teacher: function that returns the network to prune (a zoo builder, `load_model`), or one
            that is handed `data` and `checkpoint_dir` (`train_teacher`).
        data: function that returns a `datasets.Data`. If it takes `model`, it is handed the
            network, unless that is still to be trained (`image_folder` reads the size from it).
            None where nothing is pruned: then files are compared on random samples.
        prune: `aip_tf.prune`, everything bound but model, data, run_dir and overwrite; None: the
            network is exported as it is.
        export: `aip_tf.export_model`, with its formats bound, or a function like it; None for no
            export.
        strategy: "none", "mirrored" (the GPUs of this machine) or "multi_worker" (TF_CONFIG).
        seed: int, of Python's, numpy's and Keras' random numbers.
        run_dir: folder of this run. A second start goes on where the first one stopped.
        configuration: the resolved configuration as text; it is noted in run directory and report.
        overwrite: whether what another teacher, other data or settings left there may be dropped,
            as far as they differ; otherwise it is refused.

    Returns:
        An `Outcome`.

    Raises:
        ValueError: for an unknown strategy; and whatever the parts raise.
    """
    check_start(strategy, seed)
    if data is None and prune is not None:
        raise ValueError("Received data=None. Expected data to prune with, or prune=None as well.")
    run_dir = files.expand(run_dir)
    strategy = strategy_from(strategy)  # before anything else touches TensorFlow
    is_writer = is_chief(strategy)
    with files.Lock(run_dir if is_writer else None):
        keras.utils.set_random_seed(seed)
        with strategy.scope():
            network = _untrained(teacher, run_dir, overwrite)
            images = None if data is None else data(**accepted(data, model=network))
            _log.info("Data: %s.", "none" if images is None else images.describe())
            check = functools.partial(_check, images=images, prune=prune, run_dir=run_dir)
            if network is None:
                network = _trained(teacher, images, seed, run_dir, overwrite, check)
            else:
                _check(network, images)
                replace(run_dir / "teacher.keras", network.save)
            if is_writer and configuration:  # only now is there something worth a claim
                files.write_text(run_dir / CONFIG_FILE, configuration)
            if prune is None:
                student, report = network, _uncut(network)
            else:
                again = accepted(prune, overwrite=overwrite)
                student, report = prune(network, *_sides(images), run_dir=run_dir, **again)
        paths = {"report": run_dir / "report.html"}
        if prune is not None:
            paths = {"student": run_dir / "student.keras", **paths}
        if is_writer:
            original = None if prune is None else network
            facts = {"configuration": configuration}
            delivery = stage.deliver(export, student, original, images, run_dir, facts)
            paths |= {artefact.format: Path(artefact.path) for artefact in delivery.artefacts}
            report = _completed(report, paths, delivery, images, seed, configuration)
            save_report(run_dir / "report.json", report)
            if delivery.failure:  # only now: the report speaks of it
                raise ValueError(f"{delivery.failure} The rest is complete: {paths['report']}.")
        return Outcome(report, paths)


def check_start(strategy, seed):
    """Whether a run can start with a strategy and a seed.

    Raises:
        ValueError: for an unknown strategy, or a seed that random generators do not take.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"Received strategy={strategy!r}. Expected one of {list(STRATEGIES)}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"Received seed={seed!r}. Expected an integer from 0 to 2**32 - 1.")


def _sides(images):
    return images.train, images.test


def _uncut(network):
    """The report of a network that is exported as it is."""
    record = ModelRecord(_macs(network), count_parameters(network))
    return PruningReport(teacher=record, student=record, run={"model": network.name})


def _macs(network):
    try:
        return count_macs(network)
    except ValueError:  # of open size
        return 0


def _check(network, images, prune=None, run_dir=None):
    """Whether a network, trained or not, fits the data, and what `prune` is told fits both."""
    _check_types(network, images)
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


def _check_types(network, images):
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"Received {type(network).__name__} as the network. Expected a keras.Model: a teacher "
            "is a function that returns one, and train_teacher.model is one, such as "
            "@digits_resnet()."
        )
    if not isinstance(images, Data | None):
        raise ValueError(
            f"Received {type(images).__name__} as the data. Expected datasets.Data: run.data is a "
            "function that returns it, such as @digits."
        )


def _untrained(teacher, run_dir, overwrite):
    """The network of a function that takes no data, so it trains nothing; else None.

    It is always built by that function, so that it may hold what no file does.
    """
    if accepted(teacher, data=None):
        return None
    return teacher(**accepted(teacher, checkpoint_dir=run_dir / "teacher", overwrite=overwrite))


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
    path, inputs = run_dir / "teacher.keras", _inputs(teacher, data, seed)
    if "checkpoint_dir" in arguments:
        network = teacher(**arguments)
        if "check" not in arguments:
            _check(network, data)
        replace(path, network.save)
        return network
    return _cached_teacher(lambda: teacher(**arguments), path, inputs, overwrite)


def _inputs(teacher, data, seed):
    """What a teacher's function makes its network of."""
    function = identity.describe(inspect.unwrap(teacher))
    return {"function": function, "data": counted(data.train).identity, "seed": seed}


def _cached_teacher(make, path, inputs, overwrite):
    """The network in `path` if it was made of the same inputs, else a new one."""
    record = path.with_suffix(".json")
    saved = _read(record)
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
    replace(path, network.save)
    if is_chief():
        saved = {"inputs": inputs, "sha256": files.digest(path)}
        files.write_text(record, json.dumps(saved, indent=1))
    return network


def _completed(report, paths, delivery, data, seed, configuration):
    """The report with what only the experiment knows."""
    facts = {"seed": seed, "configuration": configuration}
    if data is not None and data.class_names is not None:
        facts["class names"] = list(data.class_names)
    if delivery.failure:
        facts["export failed"] = delivery.failure
    measured = [x.keras_metrics for x in delivery.artefacts if x.keras_metrics]
    if measured and not report.rounds:  # of a network that was not cut nothing else is known
        record = dataclasses.replace(report.student, metrics=measured[0])
        report = dataclasses.replace(report, student=record)
    return dataclasses.replace(
        report,
        artefacts={name: str(path) for name, path in paths.items()},
        deliveries=delivery.artefacts,
        run={**report.run, **facts},
    )


def _read(path):
    """A record that an earlier process wrote, or None: what cannot be read is made anew."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def planned_cuts(schedule=0.5, selection="macs", criterion="reconstruction", recovery=None):
    """The cuts of a run, as `schedules.list_cuts` gives them, and its number of epochs.

    Raises:
        ValueError: for a schedule that does not fit the run, or an unknown selection or criterion.
    """
    selections.get(selection)
    criteria.get(criterion)
    epochs = recovery_from(recovery).epochs
    return list_cuts(schedule, epochs), epochs


def plan(network, data, schedule=0.5, selection="macs", criterion="reconstruction", recovery=None):
    """Describe what `run` would cut, and when, without training anything.

    Network, data and the arguments of `prune` are checked against each other as `run` does.

    Args:
        network: the network to prune; its weights do not matter.
        data: function that returns a `datasets.Data`; the plan says so if it cannot.
        schedule, selection, criterion, recovery: as for `aip_tf.prune`.

    Returns:
        str: the data, the network's channel groups, each with the reason where it is kept whole,
        and the planned cuts: round, epoch after which it comes, what it removes.

    Raises:
        ValueError: for what cannot work together.
    """
    cuts, epochs = planned_cuts(schedule, selection, criterion, recovery)
    images, missing = _available(data, network)
    if images is not None:
        with failures.checking("`prune` cannot work with what it is given"):
            _check(network, images)
            data = images.train, images.test
            told = Assignment(network, *data, schedule, selection, criterion, recovery)
            check_saving(told.graph.prune({}), told.inputs)
    sizes = {"macs": count_macs(network), "parameters": count_parameters(network)}
    name = selection if isinstance(selection, str) else type(selection).__name__
    lines = [
        missing or f"Data: {images.describe()}.",
        f"Network {network.name}:",
        summary(network),
        f"Cuts in {epochs} epochs (selection {name}):",
    ]
    for round_, cut in enumerate(cuts, start=1):
        lines.append(f"  round {round_}, {when(cut.epoch)}: {_target(cut, selection, sizes)}")
    return "\n".join(lines)


def plan_export(network, data):
    """Describe what `run` would export where nothing is pruned; arguments as for `plan`."""
    images, missing = _available(data, network)
    if images is not None:
        _check(network, images)
    return "\n".join(
        [
            missing or f"Data: {images.describe()}.",
            f"Network {network.name}, {count_parameters(network):,} parameters, is exported as it "
            "is: nothing is pruned.",
        ]
    )


def _available(data, network):
    """The data and an empty text, or None and the reason."""
    if data is None:
        return None, "Data: none; files are compared on random samples."
    try:
        return data(**accepted(data, model=network)), ""
    except ValueError as error:
        return None, f"Data: not available. {error}"


def _target(cut, selection, sizes):
    if selection == "threshold" or type(selection).__name__ == "Threshold":
        return f"threshold {cut.amount:g}"
    target = f"{cut.amount:.2%} removed of the original"
    if selection in sizes:
        unit = {"macs": "MACs"}.get(selection, selection)
        target += f", at most {int(sizes[selection] * (1 - cut.amount)):,} {unit} kept"
    return target

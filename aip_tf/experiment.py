"""One experiment from data to artefacts: what `aip_run` runs, and its plan for `--dry_run`.

Every part is handed in as a function, so that it is built under the seed and inside the scope of
the distribution strategy. gin files name those functions (see `config`); a script can call `run`
with plain ones just as well.
"""

import dataclasses
import inspect
import itertools
import logging
from pathlib import Path

import keras

from aip_tf import criteria, failures, files
from aip_tf import selection as selections
from aip_tf.arguments import accepted
from aip_tf.channels import ChannelGraph
from aip_tf.cost import count_macs, count_parameters
from aip_tf.deploy import stage
from aip_tf.distribution import is_chief, strategy_from
from aip_tf.overview import summary
from aip_tf.preparation import check_parts, check_start, prepare, rehearse
from aip_tf.recovery import recovery_from
from aip_tf.report import ModelRecord, PruningReport, tables
from aip_tf.saving import save_report
from aip_tf.schedules import list_cuts
from aip_tf.text import when

_log = logging.getLogger("aip_tf")

CONFIG_FILE = "operative_config.gin"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run leaves behind.

    Attributes:
        report: a `PruningReport`, `TradeOff` or `FileComparison`.
        paths: the path of each artefact by what it is.
    """

    report: object
    paths: dict[str, Path]


def run(
    teacher,
    data,
    prune,
    export=None,
    strategy="none",
    seed=0,
    trade_off=None,
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
        trade_off: `aip_tf.trade_off`, its amounts bound: what cuts would cost is measured, in place
            of pruning and export, which must be None. None: not asked for.
        run_dir: folder of this run. A second start goes on where the first one stopped.
        configuration: the resolved configuration as text; it is noted in run directory and report.
        overwrite: whether what another teacher, other data or settings left there may be dropped,
            as far as they differ; otherwise it is refused.

    Returns:
        An `Outcome`.

    Raises:
        ValueError: for an unknown strategy; and whatever the parts raise.
    """
    check_parts(teacher, data, prune, export, trade_off)
    check_start(strategy, seed, run_dir)
    if trade_off is not None:
        prune = _called_as_prune(trade_off)
    run_dir = files.expand(run_dir)
    strategy = strategy_from(strategy)  # before anything else touches TensorFlow
    is_writer = is_chief(strategy)
    with files.Lock(run_dir if is_writer else None, "experiment"):
        keras.utils.set_random_seed(seed)
        with strategy.scope():
            network, images = prepare(teacher, data, prune, export, seed, run_dir, overwrite)
            if is_writer and configuration:  # only now is there something worth a claim
                files.write_text(run_dir / CONFIG_FILE, configuration)
            if trade_off is not None:
                return _looked(prune(network, *_sides(images), run_dir=run_dir), run_dir)
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
            settings, notes = {"configuration": configuration}, _notes(images, report)
            delivery = stage.deliver(export, student, original, images, run_dir, settings, notes)
            paths |= {artefact.format: Path(artefact.path) for artefact in delivery.artefacts}
            report = _completed(report, paths, delivery, images, seed, configuration)
            save_report(run_dir / "report.json", report)
            if delivery.failure:  # only now: the report speaks of it
                raise ValueError(f"{delivery.failure} The rest is complete: {paths['report']}.")
        return Outcome(report, paths)


def _sides(images):
    return images.train, images.test


def _called_as_prune(trade_off):
    """`trade_off` as a part that is called like `prune`, also to be checked."""

    def look(network, train_data, validation_data, run_dir=None, check_only=False):
        asked = accepted(trade_off, check_only=check_only)
        return trade_off(network, train_data, validation_data=validation_data, **asked)

    return look


def _looked(found, run_dir):
    """The outcome of a run that cut and measured and trained nothing."""
    paths = {"page": run_dir / "trade_off.html", "figures": run_dir / "trade_off.json"}
    if is_chief():
        for path in paths.values():
            found.save(path)
    return Outcome(found, paths)


def _uncut(network):
    """The report of a network that is exported as it is."""
    record = ModelRecord(_macs(network), count_parameters(network))
    return PruningReport(teacher=record, student=record, run={"model": network.name})


def _macs(network):
    try:
        return count_macs(network)
    except ValueError:  # of open size
        return 0


def _notes(images, report):
    """What the card of the exported files says of a run, in pairs."""
    if images is not None:
        yield "Data", images.describe()
    if report.rounds:
        amounts = ", ".join(f"{record.amount:.3g}" for record in report.rounds)
        yield "Cuts", f"{len(report.rounds)} in {len(report.history)} epochs, removed {amounts}"
    for name in ("selection", "criterion"):
        if name in report.settings:
            yield name.capitalize(), tables.in_words(report.settings[name])
    metrics = [f"{n} {v:.4f}" for n, v in report.student.metrics.items()]
    if metrics:
        yield "The Keras model", ", ".join(metrics)


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
    rounds = itertools.zip_longest(report.rounds, delivery.steps, fillvalue={})
    return dataclasses.replace(
        report,
        rounds=tuple(dataclasses.replace(x, latency=latency) for x, latency in rounds),
        artefacts={name: str(path) for name, path in paths.items()},
        deliveries=delivery.artefacts,
        run={**report.run, **facts},
    )


def planned_cuts(schedule=0.5, selection="macs", criterion="reconstruction", recovery=None):
    """The cuts of a run, as `schedules.list_cuts` gives them, and its number of epochs.

    Raises:
        ValueError: for a schedule that does not fit the run, or an unknown selection or criterion.
    """
    selection = selections.get(selection)
    criteria.get(criterion)
    epochs = recovery_from(recovery).epochs
    return list_cuts(selections.final_fraction(schedule, selection), epochs), epochs


def plan(
    teacher, data, prune, export=None, strategy="none", seed=0, trade_off=None, *, run_dir=None
):
    """Describe what `run` would cut, and when, without training anything.

    All that `run` can refuse before it trains is refused here, by the same checks.

    Args:
        teacher, data, prune, export, strategy, seed, trade_off: as for `run`; the plan says so
            where the data are not on this machine, and where only training makes the network.
        run_dir: folder of the run, or None; nothing is written to it.

    Returns:
        str: the data, the network's channel groups, each with the reason where it is kept whole,
        and the planned cuts: round, epoch after which it comes, what it removes.

    Raises:
        ValueError: for what cannot work.
    """
    check_start(strategy, seed, run_dir)
    check_parts(teacher, data, prune, export, trade_off)
    told = {} if prune is None else _told(prune)
    timetable = None if prune is None else planned_cuts(**told)
    with failures.checking("`run` cannot work with what it is given"):
        looked = trade_off and _called_as_prune(trade_off)
        network, images, missing = rehearse(teacher, data, looked or prune, export, run_dir)
    lines = [missing or f"Data: {images.describe()}."]
    if prune is None:
        asked = "is cut and measured" if trade_off else "is exported as it is"
        lines.append(f"{_words(network)}, {asked}: nothing is pruned.")
        return "\n".join(lines)
    sizes = {}
    if network is None:
        lines.append(f"{_words(network)}.")
    else:
        lines += [f"Network {network.name}:", summary(network)]
        selection = selections.get(told.get("selection", "macs"))
        if isinstance(selection, selections.Selection):
            selection.check(ChannelGraph(network))
        sizes = {"macs": count_macs(network), "parameters": count_parameters(network)}
    return "\n".join([*lines, *_timetable(*timetable, told.get("selection", "macs"), sizes)])


def _words(network):
    if network is None:
        return "Network: known when it is trained"
    sizes = f"{count_parameters(network):,} parameters, {_macs(network):,} MACs"
    return f"Network {network.name}, {sizes}"


def _timetable(cuts, epochs, selection, sizes):
    name = selection if isinstance(selection, str) else type(selection).__name__
    yield f"Cuts in {epochs} epochs (selection {name}):"
    for round_, cut in enumerate(cuts, start=1):
        yield f"  round {round_}, {when(cut.epoch)}: {_target(cut, selection, sizes)}"


def _told(prune):
    """What a function like `aip_tf.prune` is told of the cuts, bound in it or by default."""
    parameters = inspect.signature(prune).parameters
    names = inspect.signature(planned_cuts).parameters
    return {name: parameters[name].default for name in names if name in parameters}


def _target(cut, selection, sizes):
    if selection == "threshold" or type(selection).__name__ == "Threshold":
        return f"threshold {cut.amount:g}"
    target = f"{cut.amount:.2%} removed of the original"
    if selection in sizes:
        unit = {"macs": "MACs"}.get(selection, selection)
        target += f", at most {int(sizes[selection] * (1 - cut.amount)):,} {unit} kept"
    return target

"""One experiment from data to artefacts: what `aip_run` runs, and its plan for `--dry_run`.

Every part is handed in as a function, so that it is built under the seed and inside the scope of
the distribution strategy. gin files name those functions (see `config`); a script can call `run`
with plain ones just as well.
"""

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path

import keras

from aip_tf.cost import count_macs, count_parameters, summary
from aip_tf.distribution import is_chief, strategy_from
from aip_tf.pruner import Recovery
from aip_tf.run_state import replace
from aip_tf.schedules import list_cuts


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind: its report, and the path of each artefact by what it is."""

    report: object
    paths: dict[str, Path]


def run(teacher, data, prune, export=None, strategy="none", seed=0, *, run_dir):
    """Run one experiment: data, teacher, iterative pruning, export, report.

    Args:
        teacher: function that returns the network to prune (a zoo builder, `load_model`), or one
            that is handed `data` and `checkpoint_dir` (`train_teacher`).
        data: function that returns a `datasets.Data`.
        prune: `aip_tf.prune`, everything bound but model, data and run_dir.
        export: `aip_tf.export_model`, with its formats bound; None for no export.
        strategy: "none", "mirrored" (the GPUs of this machine) or "multi_worker" (TF_CONFIG).
        seed: int, of Python's, numpy's and Keras' random numbers.
        run_dir: folder of this run. A second start goes on where the first one stopped.

    Returns:
        An `Outcome`.

    Raises:
        ValueError: for an unknown strategy; and whatever the parts raise.
    """
    run_dir = Path(run_dir)
    scope = strategy_from(strategy).scope()  # before anything else touches TensorFlow
    keras.utils.set_random_seed(seed)
    with scope:
        images = data()
        network = _cached_teacher(teacher, images, run_dir)
        student, report = prune(network, images.train, images.test, run_dir=run_dir)
        exports = export is not None and is_chief()
    paths = {"student": run_dir / "student.keras", "report": run_dir / "report.html"}
    if exports:  # outside of the scope: what is exported runs on one device
        exported = export(student, run_dir / "export", check_data=images.test).paths
        paths |= {name: Path(path) for name, path in exported.items()}
    return Outcome(report, paths)


def _cached_teacher(teacher, data, run_dir):
    """The teacher of this run directory: made on the first start, read back afterwards."""
    path = run_dir / "teacher.keras"
    if path.is_file():
        with warnings.catch_warnings():  # Keras misses the state of an optimizer that never stepped
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            return keras.saving.load_model(path)
    at_hand = {"data": data, "checkpoint_dir": run_dir / "teacher"}
    wanted = inspect.signature(teacher).parameters
    network = teacher(**{name: at_hand[name] for name in at_hand if name in wanted})
    replace(path, network.save)
    return network


def planned_cuts(schedule=0.5, recovery=None):
    """The cuts of a run, as `schedules.list_cuts` gives them, and its number of epochs."""
    epochs = (recovery or Recovery()).epochs
    return list_cuts(schedule, epochs), epochs


def plan(network, data, schedule=0.5, selection="macs", recovery=None):
    """Describe what `run` would cut, and when, without training anything.

    Args:
        network: the network to prune; its weights do not matter.
        data: function that returns a `datasets.Data`; the plan says so if it cannot.
        schedule, selection, recovery: as for `aip_tf.prune`.

    Returns:
        str: the data, the network's channel groups, each with the reason where it is kept whole,
        and the planned cuts: round, epoch after which it comes, what it removes.

    Raises:
        ValueError: for a schedule that does not fit the run.
    """
    cuts, epochs = planned_cuts(schedule, recovery)
    sizes = {"macs": count_macs(network), "parameters": count_parameters(network)}
    name = selection if isinstance(selection, str) else type(selection).__name__
    lines = [
        _describe_data(data),
        f"Network {network.name}:",
        summary(network),
        f"Cuts in {epochs} epochs (selection {name}):",
    ]
    for round_, cut in enumerate(cuts, start=1):
        lines.append(f"  round {round_}, after epoch {cut.epoch}: {_target(cut, selection, sizes)}")
    return "\n".join(lines)


def _describe_data(data):
    try:
        images = data()
    except ValueError as error:
        return f"Data: not available. {error}"
    return (
        f"Data: images {images.input_shape}, {images.num_classes} classes, "
        f"{int(images.train.cardinality())} training batches an epoch."
    )


def _target(cut, selection, sizes):
    if selection == "threshold" or type(selection).__name__ == "Threshold":
        return f"threshold {cut.amount:g}"
    target = f"{cut.amount:.2%} removed of the original"
    if selection in sizes:
        unit = {"macs": "MACs"}.get(selection, selection)
        target += f", at most {int(sizes[selection] * (1 - cut.amount)):,} {unit} kept"
    return target

"""The export of a run as a stage that is skipped where its output is there already."""

import dataclasses
import inspect
from pathlib import Path

from aip_tf import failures, files, identity
from aip_tf.arguments import accepted
from aip_tf.deploy import card
from aip_tf.deploy.delivery import ExportError
from aip_tf.deploy.proof import digest
from aip_tf.deploy.timing import time_steps
from aip_tf.report.artefacts import Artefact

_FOLDER, _RECORD = "export", "export.json"


@dataclasses.dataclass(frozen=True)
class Delivered:
    """What an export came to.

    Attributes:
        inputs: what it was made of, as plain values.
        artefacts: the `Artefact`s.
        failure: what went wrong, in words; empty if nothing did.
        steps: latencies of the students before the last one, see `time_steps`.
    """

    inputs: dict
    artefacts: tuple = ()
    failure: str = ""
    steps: tuple = ()

    @classmethod
    def read(cls, path, inputs):
        """What an earlier process delivered of the same inputs, if it is whole; else None."""
        saved = files.read_record(path)
        if saved is None or saved["inputs"] != inputs:
            return None
        artefacts = tuple(Artefact(**fields) for fields in saved["artefacts"])
        is_whole = all(map(_is_whole, artefacts))
        return cls(**{**saved, "artefacts": artefacts}) if is_whole else None


def check(export, model, run_dir, has_data=True):
    """Whether a run can export to its folder later on; of a finished export nothing is asked.

    Args:
        export: as for `deliver`; one that does not take `check_only` is not asked.
        model: a `keras.Model`, the one to export or what it will be made of.
        run_dir: the folder of the run.
        has_data: whether there will be samples; they are not looked at.

    Raises:
        ValueError: if it cannot, such as for files of the user's that are in the way.
    """
    asked = {} if export is None else accepted(export, check_only=True)
    if asked and has_data:
        asked |= accepted(export, calibration_data=())
    if asked and files.read_record(run_dir / _RECORD) is None:
        export(model, run_dir / _FOLDER, **asked)


def deliver(export, student, teacher, data, run_dir, settings, notes=()):
    """Export a student, unless that was done of the same student in the same way.

    Outside of any strategy's scope: what is exported runs on one device.

    Args:
        export: a function like `export_model`, or None.
        student, teacher: `keras.Model`s; `teacher` may be None.
        data: a `datasets.Data`, or None.
        run_dir: the files go to its folder `export`, what they were made of to `export.json`.
        settings: dict of plain values, what else makes two exports the same.
        notes: pairs (name, text) for the card: data, cuts.

    Returns:
        A `Delivered`.
    """
    if export is None:
        return Delivered({})
    record = run_dir / _RECORD
    inputs = {
        "student": identity.of_model(student),
        "teacher": teacher and identity.of_model(teacher),
        "function": identity.describe(inspect.unwrap(export)),
        **settings,
    }
    delivered = Delivered.read(record, inputs)
    if delivered is None:
        delivered = _export(export, student, teacher, data, run_dir / _FOLDER, inputs)
        steps = time_steps(delivered.artefacts, _students_before_the_last(run_dir))
        delivered = dataclasses.replace(delivered, steps=tuple(steps))
        if delivered.artefacts:  # else nothing was written, and the next start tries again
            card.write(run_dir / _FOLDER, student, teacher, delivered.artefacts, notes)
            files.write_record(record, dataclasses.asdict(delivered))
    return delivered


def _export(export, student, teacher, data, folder, inputs):
    at_hand = {"teacher": teacher}
    if data is not None:
        at_hand |= {"check_data": data.test, "calibration_data": data.train}
    try:
        made = export(student, folder, **accepted(export, **at_hand))
    except ExportError as error:
        return Delivered(inputs, error.report.artefacts, str(failures.without_gin(error)))
    except ValueError as error:  # nothing was written; the run itself is complete
        return Delivered(inputs, failure=str(failures.without_gin(error)))
    return Delivered(inputs, _artefacts_of(made))


def _students_before_the_last(run_dir):
    """Of every recovery but the last: those of `prune`, in order; round 0 was not cut."""
    return sorted(run_dir.glob("round_[0-9]*/student.keras"))[1:-1]


def _artefacts_of(made):
    """What an export made; one of the user's may say no more than where its files are."""
    if hasattr(made, "artefacts"):
        return tuple(made.artefacts)
    paths = {name: Path(path) for name, path in made.paths.items()}
    return tuple(Artefact(format=n, path=p, sha256=digest(p)) for n, p in paths.items())


def _is_whole(artefact):
    path = Path(artefact.path)
    return path.exists() and digest(path) == artefact.sha256

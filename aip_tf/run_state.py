"""What a run leaves on disk, and resuming from it.

    round_NN/student.keras  the student right after cut NN (00: the copy of the teacher)
    checkpoint/             weights of the game after the last finished epoch
    state.json              which of these are valid; written last, so it is always true
    report.json, .html      the report
    events/                 TensorBoard

Every file is written under a temporary name and renamed. A run killed at any instant goes on from
the last finished epoch.
"""

import json
import os
import tempfile
from pathlib import Path

import keras

from aip_tf.game.distribution import is_chief
from aip_tf.report import PruningReport


class RunState:
    """The progress of one run, in memory and, with a directory, on disk.

    Args:
        run_dir: directory of the run, or None to keep nothing.
        settings: dict of plain values that identify the run.

    Attributes:
        progress: dict with "round" (cuts made), "epoch" (epochs finished), "rounds" and "history"
            (records so far), "seconds", "teacher" (its record), "checkpoint" (file or None).

    Raises:
        ValueError: if the directory holds a run with other settings.
    """

    def __init__(self, run_dir, settings):
        self.directory = None if run_dir is None else Path(run_dir).expanduser()
        self.settings = settings
        self.progress = None
        saved = self._read()
        if saved is not None:
            self._check_settings(saved["settings"])
            self.progress = saved["progress"]

    def start_round(self, student, progress):
        """Note a new student, cut but not yet trained, and the progress so far."""
        self.progress = {**progress, "checkpoint": None}
        if self.directory is not None:
            replace(self._student_path(progress["round"]), student.save)
            self._write_state()
            self._drop_checkpoints()

    def finish_epoch(self, game, progress):
        """Note the game (student, discriminator, optimizers) after an epoch."""
        name = f"epoch_{progress['epoch']:04d}.weights.h5"
        self.progress = {**progress, "checkpoint": name}
        if self.directory is not None:
            replace(self.directory / "checkpoint" / name, game.save_weights)
            self._write_state()
            self._drop_checkpoints(name)

    def load_student(self, student):
        """Give `student`, cut like the saved one, the weights right after the last cut."""
        student.load_weights(self._student_path(self.progress["round"]))

    def restore(self, game):
        """Load the last checkpoint into a game that was built and compiled like the saved one."""
        if self.progress.get("checkpoint"):
            game.optimizer.build(game.trainable_variables)
            game.load_weights(self.directory / "checkpoint" / self.progress["checkpoint"])

    def load_final(self):
        """The student of a complete run."""
        return keras.saving.load_model(self.directory / "student.keras", compile=False)

    def finish(self, student, report):
        """Write the final student, then the report: with the report a run is complete."""
        if self.directory is not None:
            replace(self.directory / "student.keras", student.save)
            replace(self.directory / "report.html", _text(report.to_html()))
            replace(self.directory / "report.json", _text(report.to_json()))

    def read_report(self):
        """The report of a complete run, or None."""
        path = None if self.directory is None else self.directory / "report.json"
        if self.progress is None or not path or not path.is_file():
            return None
        return PruningReport.from_json(path.read_text(encoding="utf-8"))

    def events(self):
        """Folder of the TensorBoard logs, or None."""
        return str(self.directory / "events") if self.directory and is_chief() else None

    def _student_path(self, number):
        return self.directory / f"round_{number:02d}" / "student.keras"

    def _read(self):
        path = None if self.directory is None else self.directory / "state.json"
        return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None

    def _write_state(self):
        state = {"settings": self.settings, "progress": self.progress}
        replace(self.directory / "state.json", _text(json.dumps(state, indent=1)))

    def _drop_checkpoints(self, valid=None):
        for path in (self.directory / "checkpoint").glob("*.weights.h5"):
            if path.name != valid and is_chief():
                path.unlink()

    def _check_settings(self, saved):
        changes = [
            f"{name}: {saved.get(name)!r} there, {self.settings.get(name)!r} now"
            for name in sorted({*saved, *self.settings})
            if saved.get(name) != json.loads(json.dumps(self.settings.get(name)))
        ]
        if changes:
            raise ValueError(
                f"Received the run directory {str(self.directory)!r}, which holds a run with other "
                f"settings ({'; '.join(changes)}). Expected the same settings to go on with it: "
                "give this run a directory of its own, or remove that one."
            )


def replace(path, write):
    """Write a file under a temporary name, `write(path)`, then rename it: never half a file.

    All workers must call it, as reading variables may need all of them; the chief's file stays.
    """
    if not is_chief():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / path.name)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished_{path.name}")
    write(unfinished)
    os.replace(unfinished, path)


def _text(text):
    return lambda path: path.write_text(text, encoding="utf-8")

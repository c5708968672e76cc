"""What a run leaves on disk, and how it goes on from there.

    state.json              which snapshots are valid, their sums, and the identity of the run;
                            written last, so it is always true
    checkpoint/*.npz        the last two snapshots
    round_NN/snapshot.npz   the snapshot at the end of each recovery

A snapshot holds the variables of whoever is trained (student, discriminators, optimizers; never the
teacher), the random state of the process and of the teacher's random layers, how often the data
were iterated, and the status.
"""

import dataclasses
import json
import logging
import re
import tempfile
from pathlib import Path

import keras
import numpy as np

from aip_tf import _keras, files
from aip_tf.distribution import is_chief

_log = logging.getLogger("aip_tf")

_VERSION = 4
_ROLLING = 2  # snapshots that are kept besides those at the end of a recovery
_SNAPSHOT = {
    "file": str,
    "sha256": str,
    "stays": bool,
    "epoch": int,
    "round": int,
    "recovered": bool,
}
_IS_SNAPSHOT = re.compile(r"checkpoint/\d{6,}\.npz|[^/\\.]+/snapshot\.npz")


@dataclasses.dataclass
class Status:
    """How far a run has come, as plain values.

    Attributes:
        epoch: epochs finished.
        step: training batches of the epoch under way that are finished.
        stopped: whether a callback ended this stretch of training early.
        round: cuts made.
        recovered: whether the stretch of training behind the last cut has ended.
        seconds: wall-clock time so far.
        begin: epochs finished when this stretch of training began.
        passes: how often training and validation data were iterated.
        history: a dictionary of logs for each epoch.
        cuts: the keep masks of every cut, see `cutting.CutRecord`.
        records: further records of whoever runs, as plain values.
    """

    epoch: int = 0
    step: int = 0
    stopped: bool = False
    round: int = 0
    recovered: bool = False
    seconds: float = 0.0
    begin: int = 0
    passes: list = dataclasses.field(default_factory=list)
    history: list = dataclasses.field(default_factory=list)
    cuts: list = dataclasses.field(default_factory=list)
    records: dict = dataclasses.field(default_factory=dict)

    @property
    def is_inside(self):
        """Whether a stretch of training is under way."""
        return not self.recovered and (self.epoch > self.begin or self.step > 0)

    def cut(self, keep_masks):
        """Note a cut; a stretch of training follows."""
        self.cuts.append(keep_masks)
        self.round, self.recovered, self.begin = self.round + 1, False, self.epoch


class RunState:
    """The snapshots of one run in a folder, under the identity of the run's inputs.

    Args:
        folder: the folder; None: nothing is kept.
        identity: dict of plain values, what makes two runs the same.
        data: `Passes` of the data sets that the run iterates.
        overwrite: whether snapshots of a run with another identity may be dropped.
        survives: `survives(snapshot, saved identity) -> bool`, whether a snapshot (a dict with
            "epoch", "round", "recovered") of a run with another identity is one of this run too.
        what: what is trained here, for messages.

    Attributes:
        status: the `Status` of the newest whole snapshot, or None.
        is_waiting: whether that snapshot is still to be restored.

    Raises:
        ValueError: if the folder holds a run with another identity, trained epochs of which would
            be lost.
    """

    def __init__(self, folder, identity, data=(), *, overwrite=False, survives=None, what="run"):
        self.folder = None if folder is None else files.expand(folder)
        self.identity = json.loads(json.dumps(identity))
        self.data = data
        self.status, self.is_waiting = None, False
        self._what = what
        self._snapshots, self._arrays = [], {}
        if self.folder is not None and is_chief():
            files.tidy(self.folder)
        saved = self._read()
        self._is_of_a_run = saved is not None
        if saved is not None:
            self._adopt(saved, overwrite, survives or (lambda snapshot, identity: False))

    def save(self, status, variables, metrics=(), place=None):
        """Write a snapshot; all workers must call it, the chief's file stays.

        Args:
            status: the `Status`.
            variables: list of variables of all that is trained.
            metrics: list of arrays, the metrics of an epoch under way.
            place: name of a folder, such as "round_01", for a snapshot that stays; None: it is
                replaced when two newer ones are there.
        """
        if self.folder is None:
            return
        arrays = _numbered("variable", map(_value, variables)) | _numbered("metric", metrics)
        if not is_chief():
            return
        arrays |= {f"random_{name}": value for name, value in _keras.random_state().items()}
        text = json.dumps(dataclasses.asdict(status))
        arrays["status"] = np.frombuffer(text.encode(), np.uint8)
        name = f"{place}/snapshot.npz" if place else f"checkpoint/{self._number():06d}.npz"
        sum_ = files.write(self.folder / name, lambda path: np.savez(path, **arrays))
        known = {k: getattr(status, k) for k in ("epoch", "round", "recovered")}
        old = [s for s in self._snapshots if s["file"] != name]
        self._snapshots = [*old, {"file": name, "sha256": sum_, "stays": bool(place), **known}]
        self._drop_old()

    def restore(self, variables):
        """Put the newest snapshot back: variables, random state, position in the data.

        Args:
            variables: as they were saved, of models and optimizers that were built alike.

        Raises:
            ValueError: if they are others.
        """
        saved = self._saved("variable")
        if [x.shape for x in saved] != [tuple(v.shape) for v in variables]:
            raise ValueError(
                f"Received the folder '{self.folder}', whose snapshot of {len(saved)} variables "
                f"does not fit the {len(variables)} variables of this {self._what}. Expected the "
                "same model and optimizer: give another folder, or start with overwrite=True."
            )
        for variable, value in zip(variables, saved, strict=True):
            is_foreign = value.dtype.kind == "V"  # numpy's files know no bfloat16
            variable.assign(value.view(_dtype(variable)) if is_foreign else value)
        _keras.set_random_state(
            dict(zip(self._names("random"), self._saved("random"), strict=True))
        )
        for passes, count in zip(self.data, self.status.passes, strict=True):
            passes.wind(count)
        self.is_waiting = False
        kept = {n: x for n, x in self._arrays.items() if n.startswith("metric_")}
        self._arrays = kept  # the rest is as large as the models

    def metrics(self):
        """The metrics in the newest snapshot, of an epoch under way: list of arrays."""
        return self._saved("metric")

    def _names(self, kind):
        return [n.partition("_")[2] for n in sorted(self._arrays) if n.startswith(f"{kind}_")]

    def _saved(self, kind):
        return [self._arrays[f"{kind}_{name}"] for name in self._names(kind)]

    def path(self, name):
        """Where a file of this run belongs, or None without a folder."""
        return None if self.folder is None else self.folder / name

    def forget(self, *names):
        """Remove files that an earlier run left here.

        Raises:
            ValueError: if there are some and no earlier run was here: they are the user's own.
        """
        if self.folder is None or not is_chief():
            return
        found = [name for name in names if self.path(name).exists()]
        if found and not self._is_of_a_run:
            raise ValueError(
                "Received the run directory "
                f"'{self.folder}', which holds {', '.join(found)} but no "
                "state.json of a run. Expected a folder of its own, as these would be replaced: "
                "name another folder, or move them away."
            )
        for name in found:
            with files.explained(self.path(name)):
                self.path(name).unlink(missing_ok=True)

    # --- reading ----------------------------------------------------------------------------------

    def _read(self):
        path = self.path("state.json")
        if path is None or not path.exists():
            return None
        files.check_regular(path)
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["version"] != _VERSION:
                raise KeyError("version")
            _check_contents(saved)
            return saved
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Received the folder '{self.folder}', whose state.json cannot be read: it is "
                f"damaged, or of another version of aip_tf ({type(error).__name__}: {error}). "
                "Expected what this version writes: give another folder, or remove state.json, "
                "student.keras and the report to start anew."
            ) from error

    def _adopt(self, saved, overwrite, survives):
        """Take over the snapshots of an earlier process, as far as they are of the same run."""
        changes = _differences(saved["identity"], self.identity)
        newest = saved["snapshots"]
        if changes:
            newest = [s for s in newest if s["stays"] and survives(s, saved["identity"])]
            lost = _epochs(saved["snapshots"]) - _epochs(newest)
            if lost and not overwrite:
                raise ValueError(self._refusal(changes, lost))
            _log.warning(
                "'%s' held a %s of another kind (%s); %d epochs of it are dropped.",
                *(self.folder, self._what, "; ".join(changes), lost),
            )
        there = len(newest)
        while newest and not self._open(newest[-1]):
            newest = newest[:-1]
        if there and not newest:
            _log.warning("No snapshot of the %s is whole: it starts anew.", self._what)
        self._snapshots = newest

    def _open(self, snapshot):
        path = self.folder / snapshot["file"]
        if not files.is_whole(path, snapshot["sha256"]):
            state = "damaged" if path.is_file() else "missing"
            _log.warning(
                "'%s' is %s; the snapshot before it will do, if there is one.", path, state
            )
            return False
        with np.load(path) as found:
            self._arrays = dict(found)
        self.status = Status(**json.loads(self._arrays.pop("status").tobytes()))
        self.is_waiting = True
        return True

    def _refusal(self, changes, lost):
        return (
            f"Received the folder '{self.folder}', which holds a {self._what} of another kind: "
            f"{'; '.join(changes)}. Expected the same to go on with it: give this {self._what} a "
            "folder of its own, or start it with overwrite=True (--overwrite on the command "
            f"line), which drops {lost} epochs of training."
        )

    # --- writing ----------------------------------------------------------------------------------

    def _number(self):
        """A number that no snapshot in the list has: none of them is written over."""
        return 1 + max((int(s["file"][-10:-4]) for s in self._rolling()), default=0)

    def _rolling(self):
        return [s for s in self._snapshots if not s["stays"]]

    def _drop_old(self):
        dropped = self._rolling()[:-_ROLLING]
        self._snapshots = [s for s in self._snapshots if s not in dropped]
        state = {"version": _VERSION, "identity": self.identity, "snapshots": self._snapshots}
        files.write_text(self.folder / "state.json", json.dumps(state, indent=1))
        valid = {self.folder / s["file"] for s in self._snapshots}
        for path in self.folder.glob("checkpoint/*.npz"):
            if path not in valid and path.is_file():
                path.unlink(missing_ok=True)


def _check_contents(saved):
    """Whether a state says what `_drop_old` writes; it may have been edited, or cut off.

    Raises:
        TypeError: if not.
    """
    if not isinstance(saved["identity"], dict) or not isinstance(saved["snapshots"], list):
        raise TypeError("identity and snapshots are of other kinds")
    for snapshot in saved["snapshots"]:
        kinds = {name: type(snapshot[name]) for name in _SNAPSHOT}
        if kinds != _SNAPSHOT or not _IS_SNAPSHOT.fullmatch(snapshot["file"]):
            raise TypeError(f"a snapshot says {snapshot!r:.200}")


def replace(path, save):
    """Write a file whole or not at all; see `files.write`.

    All workers must call it, as reading variables may need all of them; the chief's file stays.
    """
    if is_chief():
        files.write(path, save)
        return
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / Path(path).name)


def _numbered(kind, arrays):
    return {f"{kind}_{i:05d}": array for i, array in enumerate(arrays)}


def _value(variable):
    return keras.ops.convert_to_numpy(variable)


def _dtype(variable):
    return np.dtype(keras.backend.standardize_dtype(variable.dtype))


def _epochs(snapshots):
    return max((s["epoch"] for s in snapshots), default=0)


def _differences(saved, now):
    """What differs between two identities, in words."""
    before, after = _flat(saved), _flat(now)
    names = sorted({*before, *after})
    return [
        f"{name} {_short(before.get(name))} there, {_short(after.get(name))} now"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flat(identity, before=""):
    flat = {}
    for name, value in identity.items():
        is_nested = isinstance(value, dict)
        flat |= _flat(value, f"{before}{name}: ") if is_nested else {before + name: value}
    return flat


def _short(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:160]}...{text[-36:]}"

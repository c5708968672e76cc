"""Times measured on this machine, kept in a file for the next time."""

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

from aip_tf import files
from aip_tf.deploy.card import processor

_FORM = 1


def machine():
    """What a time holds for, as plain values."""
    runtime = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}, 1 thread"
    system = f"{platform.system()} {platform.machine()}"
    return {"processor": processor(), "system": system, "runtime": runtime, "form": _FORM}


def default_path():
    """The table of this machine and runtime in the user's cache."""
    name = hashlib.sha256(json.dumps(machine()).encode()).hexdigest()[:12]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "aip_tf" / f"layer_times_{name}.json"


class Table:
    """Milliseconds by what was timed.

    Args:
        path: its file, which need not be there yet; None: `default_path()`.

    Raises:
        ValueError: if the file is none, or of another machine or runtime.
    """

    def __init__(self, path=None):
        self.path = default_path() if path is None else files.expand(path)
        self._times = {}
        if self.path.exists():
            self._times = self._read()

    def _read(self):
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            found, times = record["machine"], record["times"]
            {key: float(entry["ms"]) for key, entry in times.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Received {str(self.path)!r}, which is no table of layer times ({error}). "
                "Expected one that aip_tf wrote, or a path where nothing is. Delete it, or name "
                "another."
            ) from error
        if found != machine():
            raise ValueError(
                f"Received the layer times {str(self.path)!r} of another machine or runtime: "
                f"{found}. Expected those of this one: {machine()}. Times do not carry over: name "
                "another path, and they are measured here."
            )
        return times

    def milliseconds(self, key, what, measure):
        """The time known under a key; else `measure()`, which is remembered."""
        if key not in self._times:
            self._times[key] = {"what": what, "ms": measure()}
        return self._times[key]["ms"]

    def save(self):
        """Write the file, with what others wrote to it meanwhile."""
        times = (self._read() if self.path.exists() else {}) | self._times
        files.make_folder(self.path.parent)
        record = {"machine": machine(), "times": times}
        files.write_text(self.path, json.dumps(record, indent=1))

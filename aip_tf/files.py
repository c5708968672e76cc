"""Files of a run: written whole or not at all, known by their sums, owned by one process.

A run of days is killed sooner or later, and the disk is full sooner or later. So no file is ever
half written (it gets a temporary name, reaches the disk, and is renamed), a file that was damaged
later is noticed by its sha256, and two processes never write into one folder.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows knows no advisory locks: there, nobody watches
    fcntl = None

_log = logging.getLogger("aip_tf")

_LOCK = "lock"
_held = {}  # {folder: (open lock file, thread, [who])} of this process
_guard = threading.Lock()
_UNFINISHED = ".aip_tf_unfinished_"  # a name that nobody else gives
_REMEDIES = {
    errno.ENOSPC: "the disk is full: what was saved before is whole; free some space, and the same "
    "command goes on",
    errno.EDQUOT: "your quota is used up: what was saved before is whole; free some space, and the "
    "same command goes on",
    errno.EFBIG: "no file may grow so large there: what was saved before is whole; raise the limit "
    "(ulimit -f) or take another file system, and the same command goes on",
    errno.ENOTDIR: "a part of that path is a file: name a folder, or remove that file",
    errno.EEXIST: "a file has that name already: name a folder, or remove that file",
    errno.EISDIR: "a folder has that name: name a file, or remove that folder",
    errno.ENAMETOOLONG: "the name is too long for this file system: give a shorter one",
    errno.ELOOP: "a symbolic link there leads back to itself: remove it",
    errno.EACCES: "you have no permission: choose a folder of your own, or change its permissions",
    errno.EPERM: "you have no permission: choose a folder of your own, or change its permissions",
    errno.EROFS: "that file system can only be read: choose another folder",
    errno.ENOENT: "the folder is gone, or none can be made there",
}
# h5py says it in words, without the number.
_WORDS = {"No space left": errno.ENOSPC, "File too large": errno.EFBIG}
_KINDS = {
    Path.is_dir: "a folder",
    Path.is_fifo: "a pipe",
    Path.is_socket: "a socket",
    Path.is_char_device: "a device",
    Path.is_block_device: "a device",
}


def expand(path):
    """`path` as a `Path`, in which `~` means the home folder.

    Raises:
        ValueError: for what names no path: an empty text, bytes, the home of nobody.

    >>> expand("~/runs") == Path.home() / "runs"
    True
    """
    if not isinstance(path, str | os.PathLike) or str(path) == "" or "\0" in str(path):
        raise ValueError(
            f"Received the path {path!r}. Expected the name of a file or folder, a str or a "
            "pathlib.Path; '.' is the working directory."
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"Received the path '{path}', which begins with the home of a user who is not known "
            "here. Expected '~/...' for your own, or a whole path."
        ) from error


def check_folder(path):
    """Whether a folder is there and can be written to, or can be made; nothing is made.

    Raises:
        ValueError: as `make_folder`, in the same words.
    """
    folder = expand(path)
    with explained(folder):
        nearest = next(place for place in (folder, *folder.parents) if _is_there(place))
        if not nearest.is_dir():
            code = errno.EEXIST if nearest == folder else errno.ENOTDIR
            raise OSError(code, os.strerror(code))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _is_there(path):
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def was_owned(folder):
    """Whether a run was at work in a folder, now or earlier; see `Lock`."""
    return fcntl is None or (expand(folder) / _LOCK).exists()


def check_regular(path):
    """Whether `path` is a file that can be read to its end, or nothing.

    Raises:
        ValueError: for a folder, and for a pipe, a socket or a device, which may never answer.
    """
    if path.exists() and not path.is_file():
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(path)), "something else")
        raise ValueError(
            f"Received '{_shown(path)}', which is {kind} and no file. Expected what a run writes "
            "there: remove it, or give another folder."
        )


def write_record(path, record):
    """Write plain values to a JSON file, with their sum, for `read_record`."""
    write_text(path, json.dumps({"sha256": _sum(record), "record": record}, indent=1))


def read_record(path):
    """What `write_record` wrote, or None: what is missing, damaged or edited is made anew."""
    if not path.exists():
        return None
    check_regular(path)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["sha256"] == _sum(saved["record"]):
            return saved["record"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _log.warning("'%s' is damaged or was edited; what it speaks of is made anew.", path)
    return None


def _sum(record):
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def explained(path):
    """Turns an `OSError` inside into a `ValueError` that says what to do, where that is known."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        for text, number in _WORDS.items():
            code = number if text in str(error) else code
        if code not in _REMEDIES:
            raise
        raise ValueError(
            f"Received the path '{_shown(path)}', which cannot be written: {_REMEDIES[code]}."
        ) from error


def make_folder(path):
    """Makes a folder and those around it; returns it as a `Path`.

    Raises:
        ValueError: if it cannot be made: a file of that name, too long a name, no permission.
    """
    folder = expand(path)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(path, save):
    """Writes a file whole or not at all.

    Args:
        path: where it ends up; folders around it are made.
        save: `save(path)` writes a file; it is given a temporary name with the same suffix.

    Returns:
        The sha256 of what was written.

    Raises:
        ValueError: if the disk is full, or the path cannot be written.
    """
    path = expand(path)
    make_folder(path.parent)
    unfinished = path.with_name(_UNFINISHED + path.name)
    try:
        with explained(path):
            save(unfinished)
            _reach_disk(unfinished)
            found = digest(unfinished)
            os.replace(unfinished, path)
            _reach_disk(path.parent)  # else the new name may be lost with the power
    except Exception:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    return found


def write_text(path, text):
    """Writes a text in UTF-8, whole or not at all; see `write`."""
    return write(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def digest(path):
    """The sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path, expected):
    """Whether a file is there and has the sha256 `expected`."""
    return Path(path).is_file() and digest(path) == expected


def tidy(folder):
    """Removes the files that killed processes left half written in `folder` and its folders.

    Only files under the names that `write` gives go. Only the owner of the folder may call it (see
    `Lock`): nobody else is writing then.
    """
    for depth in ("", "*/"):
        for path in sorted(Path(folder).glob(f"{depth}{_UNFINISHED}*")):
            if path.is_file():
                path.unlink(missing_ok=True)


class Lock:
    """Ownership of a folder, while its `with` block lasts; it ends with the process, however.

    What a thread does in a folder that it owns may own it again, under another name: an experiment
    prunes in its folder. Two runs of one name, two threads or two processes may not.

    Args:
        folder: the folder, made where it is missing; None: nothing is owned.
        who: what is at work, for messages.

    Raises:
        ValueError: on entering, if another run owns it; the message names it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Lock(folder):
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['lock']
    """

    def __init__(self, folder, who="run"):
        self.folder = None if folder is None else expand(folder).resolve()
        self.who = who

    def __enter__(self):
        if self.folder is None or fcntl is None:
            return self
        with _guard:
            if self.folder not in _held:
                _held[self.folder] = (self._take(), threading.get_ident(), [])
            _, thread, owners = _held[self.folder]
            if thread != threading.get_ident() or self.who in owners:
                raise self._refusal(f"another {owners[-1]} of this process is at work")
            owners.append(self.who)
        return self

    def __exit__(self, *_):
        with _guard:
            if self.folder not in _held:
                return
            file, _, owners = _held[self.folder]
            owners.remove(self.who)
            if not owners:
                del _held[self.folder]
                file.close()

    def _refusal(self, owner):
        return ValueError(
            f"Received the folder '{self.folder}', in which {owner}. Expected a folder of one's "
            "own: wait for that run to end, end it, or give another folder."
        )

    def _take(self):
        path = make_folder(self.folder) / _LOCK
        check_regular(path)
        with explained(path):
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115, closed by __exit__
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner(file)
            file.close()
            raise self._refusal(f"another process is at work{owner}") from error
        except OSError:  # some network file systems have no locks
            _log.warning("'%s' cannot be locked: start no second run in it.", self.folder)
        _sign(file)
        return file


def _sign(file):
    file.truncate(0)
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with explained(file.name):
        file.write(json.dumps(owner))
        file.flush()


def _owner(file):
    """Who holds a lock, as words; empty if that is not readable yet."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
        return f" (process {owner['pid']} on {owner['host']}, since {owner['started']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _reach_disk(path):
    """Waits until a file or the entries of a folder are on the disk, not only in its cache."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do it for folders
            raise
    finally:
        os.close(handle)


def _shown(path):
    text = str(path)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-50:]}"

"""What went wrong, in one paragraph: who can mend it, and how.

An exception that this package raises on purpose says so itself. The rest has an explanation here if
it comes from the machine (disk, memory, paths) or from code of the user's; otherwise it is a bug.
"""

import contextlib
import dis
import errno
import re
import sysconfig
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib"))
_RAISE = dis.opmap["RAISE_VARARGS"]
_COLORS = re.compile(r"\x1b\[[0-9;]*m")  # of terminals, which Keras puts into its messages
_FULL = (errno.ENOSPC, errno.EDQUOT)
BUG_REPORT = (
    "This is a bug of aip_tf and not your mistake. What is finished is kept. Please report the "
    "lines above, the command and the gin files."
)
SLIPS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@contextlib.contextmanager
def checking(what):
    """Around the checks before a run: what slips there was given wrongly, most likely.

    Whatever can be given can be given wrongly in more ways than can be foreseen. An exception that
    this package does not raise on purpose becomes a `ValueError` that says what was looked at.

    Args:
        what: begins the sentence, such as "`prune` cannot use what it is given".

    >>> with checking("That is no number"):
    ...     int("one")
    Traceback (most recent call last):
    ValueError: That is no number: ValueError: invalid literal for int() with base 10: 'one'. ...
    """
    try:
        yield
    except SLIPS as error:
        if is_on_purpose(error):
            raise
        raise ValueError(
            f"{what}: {type(error).__name__}: {words(error).rstrip('.')}. If that is as it should "
            "be, this is a bug: --traceback on the command line shows where."
        ) from error


def without_gin(error):
    """The exception as it was raised: gin-config makes another, with the calls it came through."""
    while "In call to configurable" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


def words(error):
    """What an exception says, on one line: without colors, and without what it was called with.

    >>> words(ValueError("\x1b[1mTwo\x1b[0m\nlines.\n\nArguments received by f():\n  x=1"))
    'Two lines.'
    """
    text = _COLORS.sub("", str(error)).partition("Arguments received by")[0]
    return " ".join(text.split())


def explain(error):
    """One paragraph for the user about an exception, or None if it is a bug.

    >>> explain(FileExistsError(17, "File exists", "runs/a"))
    "File exists: 'runs/a'."
    """
    for explanation in (_on_purpose, _disk_full, _memory, _file_system, _code_of_the_user):
        text = explanation(error)
        if text is not None:
            return " ".join(text.split())
    return None


def is_on_purpose(error):
    """Whether a `raise` of this package made the exception, not a slip below it.

    A frame alone does not tell: what C code raises (`tuple.index`) has no frame of its own.
    """
    entries = list(traceback.walk_tb(error.__traceback__))
    if not isinstance(error, ValueError) or not entries:
        return False
    frame = entries[-1][0]
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    is_raise = frame.f_code.co_code[last.tb_lasti] == _RAISE
    return is_raise and Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)


def _on_purpose(error):
    return str(error) if is_on_purpose(error) else None


def _disk_full(error):
    for cause in _chain(error):
        if getattr(cause, "errno", None) in _FULL or "No space left on device" in str(cause):
            where = f" at '{cause.filename}'" if getattr(cause, "filename", None) else ""
            return (
                f"The disk is full{where}. What is finished is kept: make room, and the same "
                "command goes on."
            )
    return None


def _memory(error):
    for cause in _chain(error):
        if isinstance(cause, MemoryError) or type(cause).__name__ == "ResourceExhaustedError":
            reason = str(cause).split("\n")[0]
            return (
                f"Out of memory. {reason} Expected a batch that fits: lower batch_size or the "
                "size of the images."
            )
    return None


def _file_system(error):
    if not isinstance(error, OSError):
        return None
    if error.strerror is None:
        return f"{error}."
    return f"{error.strerror}: {error.filename!r}." if error.filename else f"{error.strerror}."


def _code_of_the_user(error):
    """The last frame that is not of a library decides whose code failed: ours or the user's."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _is_not_library(frame)
    ]
    if not frames or Path(frames[-1].filename).is_relative_to(_PACKAGE):
        return None
    last = frames[-1]
    return (
        f"{type(error).__name__}: {words(error)} This comes from code of yours: {last.filename}, "
        f"line {last.lineno}, in {last.name}. --traceback shows the way there."
    )


def _is_not_library(frame):
    path = Path(frame.filename).resolve()
    is_file = Path(frame.filename).is_absolute() and path.suffix == ".py"
    return is_file and not is_of_a_library(path)


def is_of_a_library(path):
    """Whether a file of code came with Python or was installed."""
    return any(Path(path).resolve().is_relative_to(folder) for folder in _LIBRARIES)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

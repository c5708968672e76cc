"""What an argument may be: small tables of names and kinds, asked before anything is done.

A kind says what it accepts, and says it in words. Numbers of numpy are numbers.
"""

import inspect
import math
import numbers
import re
from typing import NamedTuple

_MOST = 120  # characters of a value in a message
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Kind(NamedTuple):
    """What an argument takes: `accepts(value) -> bool`, and the same in words."""

    accepts: object
    expected: str


def integer(least=1, most=None, or_none=False):
    """A whole number from `least` to `most`; neither True nor 2.0.

    >>> check({"epochs": integer(2)}, {"epochs": 1})
    Traceback (most recent call last):
    ValueError: Received epochs=1. Expected an integer of at least 2.
    """
    words = f"an integer of at least {least}" if most is None else f"an integer, {least} to {most}"

    def accepts(value):
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_whole and least <= value and (most is None or value <= most)

    return _perhaps_none(Kind(accepts, words), or_none)


def number(words, least=-math.inf, most=math.inf, above=None, or_none=False):
    """A finite number in a range.

    Args:
        words: the range in words, such as "a number >= 0".
        least, most: the range, both included.
        above: a bound that is itself excluded, or None.
        or_none: whether None will do.
    """

    def accepts(value):
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        in_range = is_number and math.isfinite(value) and least <= value <= most
        return in_range and (above is None or value > above)

    return _perhaps_none(Kind(accepts, words), or_none)


def choice(*names, or_none=False):
    """One of a few values."""
    words = ", ".join(map(repr, names[:-1])) + f" or {names[-1]!r}"
    return _perhaps_none(Kind(lambda value: _is_in(value, names), words), or_none)


def instance(class_, words, or_none=False):
    """An object of a class or of one of several."""
    return _perhaps_none(Kind(lambda value: isinstance(value, class_), words), or_none)


FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
OPTIONAL_FUNCTION = Kind(lambda value: value is None or callable(value), "a function, or None")


def check(kinds, values):
    """Whether every argument is of its kind; those without one may be anything.

    Args:
        kinds: {name: `Kind`}.
        values: {name: value}, such as `locals()`.

    Returns:
        The values checked, by name, numpy's numbers as Python's.

    Raises:
        ValueError: for the first that is not.

    >>> import numpy as np
    >>> check({"width": integer()}, {"width": np.int64(4), "name": "a"})
    {'width': 4}
    """
    for name, kind in kinds.items():
        if not kind.accepts(values[name]):
            raise ValueError(f"Received {name}={shown(values[name])}. Expected {kind.expected}.")
    return {name: _plain(values[name]) for name in kinds}


def accepted(function, **arguments):
    """Those of the arguments that a function takes, by name.

    >>> accepted(lambda model: None, model=1, data=2)
    {'model': 1}
    """
    wanted = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in wanted}


def takes(function, count, by_name=False):
    """Whether a function can be called with `count` arguments by position.

    Args:
        function: anything callable.
        count: how many.
        by_name: whether others are given by their names.

    >>> takes(max, 2), takes(lambda x: x, 2)
    (True, False)
    """
    try:
        signature = inspect.signature(function)
        (signature.bind_partial if by_name else signature.bind)(*range(count))
    except TypeError:
        return False
    except ValueError:  # some functions in C say nothing of themselves
        return True
    return True


def shown(value, most=_MOST):
    """A value in a message: on one line, and not longer than `most` characters.

    >>> shown(list(range(1000)), most=20)
    '[0, 1, 2, 3, 4,...9]'
    """
    text = _ADDRESS.sub("", " ".join(repr(value).split()))
    return text if len(text) <= most else f"{text[: most - 5]}...{text[-2:]}"


def _perhaps_none(kind, or_none):
    if not or_none:
        return kind
    return Kind(lambda value: value is None or kind.accepts(value), f"{kind.expected}, or None")


def _is_in(value, names):
    return any(type(value) is type(name) and value == name for name in names)


def _plain(value):
    is_foreign = isinstance(value, numbers.Number) and hasattr(value, "item")
    return value.item() if is_foreign else value

"""Reading gin files: every statement is bound in gin and noted with its place.

A gin file comes from anywhere: whatever it holds, what is wrong is one sentence with file and line.
"""

import difflib
import importlib
import inspect
import re
import sys
import tokenize
import traceback
from pathlib import Path
from typing import NamedTuple

import gin
from gin import config as gin_config
from gin import config_parser

from aip_tf import files
from aip_tf.arguments import shown
from aip_tf.config.offer import NAMES, callable_of
from aip_tf.failures import words

_MOST_INCLUDES = 50  # one within the other


class ConfigError(ValueError):
    """The configuration is at fault: the message says where, what was expected, how to fix it."""

    exit_code = 2  # of the command line


class Binding(NamedTuple):
    """One binding of a gin file or of the command line, and where it stands."""

    value: object
    text: str  # such as "prune.schedule"
    place: str  # such as "gin/digits.gin, line 3"
    is_default: bool  # stands in base.gin


def gin_folder():
    """The folder of gin files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "gin" if (package / "gin").is_dir() else package.parent / "gin"


def find_file(name, place=""):
    """Find a gin file: from the working directory first, then among those of the package.

    `gin/digits.gin` and `digits.gin` both name the packaged run file.

    Raises:
        ConfigError: if there is no such file; the message lists the packaged run files.
    """
    folder = gin_folder()
    try:
        for path in (files.expand(name), folder.parent / name, folder / name):
            if path.is_file():
                return path
    except (OSError, ValueError) as error:  # too long a name, or none
        raise ConfigError(f"{place}No gin file {shown(name)}: {words(error)}") from error
    run_files = ", ".join(sorted(path.name for path in folder.glob("*.gin")))
    raise ConfigError(
        f"{place}No gin file {str(name)!r}, neither seen from the working directory {Path.cwd()} "
        f"nor in the package, which has {run_files}."
    )


def bind_file(path, bindings, including=()):
    """Bind every statement of a gin file, and of the files it includes, in order.

    Args:
        path: of the file.
        bindings: {(scope, selector, argument): `Binding`}, which is filled.
        including: the files that led here by `include`, outermost first.

    Raises:
        ConfigError: for whatever is wrong in it.
    """
    if path in including:
        raise ConfigError(f"{path} includes itself: {' -> '.join(map(str, (*including, path)))}.")
    if len(including) >= _MOST_INCLUDES:
        raise ConfigError(
            f"{including[-1]} is included within {len(including)} other files, expected fewer than "
            f"{_MOST_INCLUDES}: {including[0]}, {including[1]}, ... Include from one file."
        )
    bind_text(_text_of(path), str(path), bindings, including=(*including, path))


def bind_text(text, source, bindings, including=()):
    """Bind every statement of a text, in order, noting the place of each; see `bind_file`."""
    for statement in _statements(text, source):
        place = f"{source}, line {statement.location.line_num}" if including else source
        try:
            if isinstance(statement, config_parser.IncludeStatement):
                bind_file(find_file(statement.filename, f"{place}: "), bindings, including)
            elif isinstance(statement, config_parser.ImportStatement):
                _import(statement.module, place)
            elif isinstance(statement, config_parser.BindingStatement):
                key = _bind_one(statement)
                bindings[key] = Binding(
                    statement.value, written(key), place, Path(source).name == "base.gin"
                )
        except ConfigError:
            raise
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{place}: {_explained(error)}") from error


def _text_of(path):
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}. "
            "Expected a text in UTF-8; save it in that encoding, or name a gin file."
        ) from error
    if "\0" in text:
        raise ConfigError(f"{path} holds a byte 0, so it is no text. Expected a gin file.")
    return text


def _statements(text, source):
    """Parse a text; errors of syntax and unknown `@` references say where they are."""
    try:
        yield from config_parser.ConfigParser(text, gin_config.ParserDelegate())
    except SyntaxError as error:
        reason, line = error.msg, (error.text or "").strip()
        if "Failed to parse token" in reason:
            reason = "A value is a number, a string in quotes, True, False, None, @name or %name."
        raise ConfigError(f"{source}, line {error.lineno}: {reason} In: {_short(line)}") from error
    except tokenize.TokenError as error:
        raise ConfigError(
            f"{source}: {error.args[0]}; a bracket or quote is not closed."
        ) from error
    except (RecursionError, MemoryError) as error:
        raise ConfigError(f"{source}: a value is nested too deeply to be read.") from error
    except ValueError as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{source}, line {line[1]}" if line else source
        raise ConfigError(f"{place}: {_explained(error)}") from error


def _short(text, length=120):
    return text if len(text) <= length else f"{text[:length]} ..."


def _import(module, place):
    """Import a module of the user's, which may also stand in the working directory."""
    if str(Path.cwd()) not in sys.path:  # the installed command does not have it there
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (module, module.split(".")[0]):
            raise ConfigError(
                f"{place}: {error}, neither in the working directory {Path.cwd()} nor installed."
            ) from error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{place}: importing {module} failed with {type(error).__name__}: {error} "
            f"({frame.filename}, line {frame.lineno}). That module is code of yours: correct it."
        ) from error


def _bind_one(statement):
    """Bind one statement in gin; returns (scope, complete selector, argument)."""
    scope, selector, argument = statement.scope, statement.selector, statement.arg_name
    if not argument:  # `name = value` is a macro
        scope, selector, argument = "/".join(filter(None, (scope, selector))), "gin.macro", "value"
    key = gin_config.ParsedBindingKey.parse((scope, selector, argument))
    gin.bind_parameter(key, statement.value)
    return key.scope_selector_arg


def written(key):
    """(scope, selector, argument) as in a gin file, without the name of this package."""
    scope, selector, argument = key
    if selector == "gin.macro":
        return scope
    name = selector.removeprefix("aip_tf.").removeprefix("pruner.")
    return "/".join(filter(None, (scope, f"{name}.{argument}")))


def _explained(error):
    """gin's message as a sentence, with the nearest name where one is misspelt."""
    message = str(error.args[0] if isinstance(error, KeyError) else error).split("\n")[0]
    if argument := re.match(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", message):
        known = list(inspect.signature(callable_of(argument[1])).parameters)
        return f"{message} {_nearest(argument[2], known)}"
    if name := re.match(r"No configurable matching (?:reference )?'@?([^'()]+)", message):
        return f"{message} {_nearest(name[1].split('.')[-1], NAMES)}"
    if argument := re.match(r"Configurable '(.+)' has denylisted kwarg '(.+)'", message):
        return f"{argument[1]}.{argument[2]} cannot be bound: the run passes it itself."
    return message


def _nearest(name, known):
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f"Did you mean {nearest[0]!r}?" if nearest else f"Known are {', '.join(known) or 'none'}."
    )

"""gin configures an experiment: what can be bound, how it is read, and what is checked.

This is the only file that imports gin. Nothing in the library is decorated; what a gin file may
name is registered here from the outside, under the module in which it stands: `@one_shot`,
`@schedules.one_shot` and `@aip_tf.schedules.one_shot` are the same.

gin by itself ignores a binding that nothing reads. Here it is an error: starting at `run`, a
binding is *read* if `@` and `%` references lead to its configurable. The defaults in `base.gin` are
exempt. The check is static, so a typing error costs a second and not a night.
"""

import difflib
import importlib
import inspect
import re
import tokenize
import uuid
from pathlib import Path
from typing import NamedTuple

import gin
from gin import config as gin_config
from gin import config_parser

from aip_tf import experiment, pruner, teacher

CONFIG_FILE = "operative_config.gin"
_ROOMS = (
    "aip_tf.criteria",
    "aip_tf.datasets",
    "aip_tf.detection",
    "aip_tf.export",
    "aip_tf.game",
    "aip_tf.pruner",
    "aip_tf.schedules",
    "aip_tf.selection",
    "aip_tf.teacher",
    "aip_tf.zoo",
    "keras.optimizers",
)
# Arguments that `run` passes itself: binding them is an error, not a binding silently overruled.
_HANDED_OVER = {
    "export_model": ["model", "directory", "check_data"],
    "prune": ["model", "train_data", "validation_data", "run_dir"],
    "run": ["run_dir"],
    "train_teacher": ["data", "checkpoint_dir"],
}
_RUN = "aip_tf.run"


class ConfigError(ValueError):
    """The configuration is at fault: the message says where, what was expected, how to fix it."""

    exit_code = 2  # of the command line


# What can be bound -------------------------------------------------------------------------------


def _register():
    """Make `run` and what the library offers known to gin; returns all of it by name."""
    offered = {("aip_tf", "run"): experiment.run}
    for room in _ROOMS:
        offered |= {(room, name): item for name, item in _public(importlib.import_module(room))}
    for (room, name), item in offered.items():
        gin.external_configurable(item, name, module=room, denylist=_HANDED_OVER.get(name))
    return {name: item for (_, name), item in offered.items()}


def _public(module):
    """The functions and classes of a module: its `__all__`, or what is defined in its package."""
    package = "keras" if module.__name__.startswith("keras.") else module.__name__
    names = getattr(module, "__all__", None) or [
        name
        for name, item in vars(module).items()
        if getattr(item, "__module__", None) and item.__module__.startswith(package)
    ]
    for name in names:
        item = getattr(module, name)
        if not name.startswith("_") and (inspect.isfunction(item) or inspect.isclass(item)):
            yield name, item


# Reading gin files -------------------------------------------------------------------------------


class Binding(NamedTuple):
    """One binding of a gin file or of the command line, and where it stands."""

    value: object
    text: str  # such as "prune.schedule"
    place: str  # such as "gin/digits.gin, line 3"
    is_default: bool  # stands in base.gin


def load(gin_files, gin_params=()):
    """Read gin files and bindings, later ones winning, and check all of them against `run`.

    A binding of a file must be read in the configuration that the files make; a later --gin_param
    may lead away from it (another teacher, say) without an error. What is given on the command
    line must be read in the end.

    Args:
        gin_files: paths of gin files; see `find_file` for where they are looked for.
        gin_params: bindings, such as "seed = 1".

    Returns:
        The resolved configuration: one binding a line, sorted; itself a gin file.

    Raises:
        ConfigError: for a missing file, a syntax error, a name that nothing has, a binding that
            nothing reads, a value that must be given and is not, a value that `prune` refuses.
    """
    gin.clear_config()
    bindings = {}
    for name in gin_files:
        _bind_file(find_file(name), bindings, including=())
    _check_all_read(bindings, bindings)
    in_files = dict(bindings)
    for text in gin_params:
        _bind(f"{text}\n", f"--gin_param={text!r}", bindings)
    on_command_line = {key: new for key, new in bindings.items() if new != in_files.get(key)}
    _check_all_read(on_command_line, bindings)
    read, _ = _reach(bindings)
    _check_complete(read)
    if gin.get_bindings(_RUN).get("strategy") != "multi_worker":
        _check_values()  # makes optimizers; several workers must meet before there is a variable
    return _resolved(read)


def gin_folder():
    """The folder of gin files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    return package / "gin" if (package / "gin").is_dir() else package.parent / "gin"


def find_file(name, place=""):
    """Find a gin file: from the working directory first, then among those of the package.

    `gin/digits.gin` and `digits.gin` both name the packaged run file.

    Raises:
        ConfigError: if there is no such file; the message lists the packaged run files.
    """
    folder = gin_folder()
    for path in (Path(name), folder.parent / name, folder / name):
        if path.is_file():
            return path
    run_files = ", ".join(sorted(path.name for path in folder.glob("*.gin")))
    raise ConfigError(
        f"{place}No gin file {str(name)!r}, neither seen from the working directory {Path.cwd()} "
        f"nor in the package, which has {run_files}."
    )


def _bind_file(path, bindings, including):
    if path in including:
        raise ConfigError(f"{path} includes itself: {' -> '.join(map(str, (*including, path)))}.")
    text = path.read_text(encoding="utf-8")
    _bind(text, str(path), bindings, including=(*including, path))


def _bind(text, source, bindings, including=()):
    """Bind every statement of a text, in order, noting the place of each."""
    for statement in _statements(text, source):
        place = f"{source}, line {statement.location.line_num}" if including else source
        try:
            if isinstance(statement, config_parser.IncludeStatement):
                _bind_file(find_file(statement.filename, f"{place}: "), bindings, including)
            elif isinstance(statement, config_parser.ImportStatement):
                importlib.import_module(statement.module)
            elif isinstance(statement, config_parser.BindingStatement):
                key = _bind_one(statement)
                bindings[key] = Binding(
                    statement.value, _written(key), place, Path(source).name == "base.gin"
                )
        except ConfigError:
            raise
        except (ValueError, KeyError, ImportError) as error:
            raise ConfigError(f"{place}: {_explained(error)}") from error


def _statements(text, source):
    """Parse a text; errors of syntax and unknown `@` references say where they are."""
    try:
        yield from config_parser.ConfigParser(text, gin_config.ParserDelegate())
    except SyntaxError as error:
        reason, line = error.msg, (error.text or "").strip()
        if "Failed to parse token" in reason:
            reason = "A value is a number, a string in quotes, True, False, None, @name or %name."
        raise ConfigError(f"{source}, line {error.lineno}: {reason} In: {line}") from error
    except tokenize.TokenError as error:
        raise ConfigError(
            f"{source}: {error.args[0]}; a bracket or quote is not closed."
        ) from error
    except ValueError as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{source}, line {line[1]}" if line else source
        raise ConfigError(f"{place}: {_explained(error)}") from error


def _bind_one(statement):
    """Bind one statement in gin; returns (scope, complete selector, argument)."""
    scope, selector, argument = statement.scope, statement.selector, statement.arg_name
    if not argument:  # `name = value` is a macro
        scope, selector, argument = "/".join(filter(None, (scope, selector))), "gin.macro", "value"
    key = gin_config.ParsedBindingKey.parse((scope, selector, argument))
    gin.bind_parameter(key, statement.value)
    return key.scope_selector_arg


def _explained(error):
    """gin's message as a sentence, with the nearest name where one is misspelt."""
    message = str(error.args[0] if isinstance(error, KeyError) else error).split("\n")[0]
    if argument := re.match(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", message):
        known = list(inspect.signature(_OFFERED[argument[1].split(".")[-1]]).parameters)
        return f"{message} {_nearest(argument[2], known)}"
    if name := re.match(r"No configurable matching (?:reference )?'@?([^'()]+)", message):
        return f"{message} {_nearest(name[1].split('.')[-1], list(_OFFERED))}"
    if argument := re.match(r"Configurable '(.+)' has denylisted kwarg '(.+)'", message):
        return f"{argument[1]}.{argument[2]} cannot be bound: the run passes it itself."
    return message


def _nearest(name, known):
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"Known are {', '.join(known)}."


# Checking ----------------------------------------------------------------------------------------


def _reach(bindings):
    """What a call of `run` can reach, found without calling anything.

    Returns:
        The bindings it reads, and the names of the configurables it reaches.
    """
    read, visited = {}, set()

    def visit(scopes, selector):
        if (scopes, selector) in visited:
            return
        visited.add((scopes, selector))
        partial_scopes = ["/".join(scopes[:depth]) for depth in range(len(scopes) + 1)]
        for key, binding in bindings.items():
            if key[1] == selector and key[0] in partial_scopes:
                read[key] = binding
                for reference in gin_config.iterate_references(binding.value):
                    visit(tuple(reference.scopes) or scopes, reference.configurable.selector)

    visit((), _RUN)
    names = {selector.split(".")[-1] for _, selector in visited if not selector.startswith("gin.")}
    return read, sorted(names)


def _check_all_read(bindings, configuration):
    read, reached = _reach(configuration)
    for key, binding in bindings.items():
        if key not in read and not binding.is_default:
            raise ConfigError(
                f"{binding.place}: nothing reads {binding.text}, because no '@' or '%' leads to it "
                f"from `run`. Remove it, or refer to it. Reached are {', '.join(reached)}."
            )


def _check_complete(read):
    """Every `%name` that is read has a value, and `run` has its arguments."""
    for binding in read.values():
        for reference in gin_config.iterate_references(binding.value):
            name, selector = "/".join(reference.scopes), reference.configurable.selector
            if (selector, name) == ("gin.constant", "gin.REQUIRED"):
                raise ConfigError(
                    f"{binding.text} must be given: {binding.place} only says that it is required. "
                    f"Add --gin_param='{binding.text} = ...' or a line in your run file."
                )
            if selector == "gin.macro" and (name, selector, "value") not in read:
                raise ConfigError(
                    f"{binding.place}: {binding.text} uses %{name}, which is defined nowhere. "
                    f"Add a line '{name} = ...'."
                )
    parameters = inspect.signature(experiment.run).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty} - set(_HANDED_OVER["run"])
    if missing := sorted(needed - {argument for _, selector, argument in read if selector == _RUN}):
        raise ConfigError(
            f"run.{missing[0]} is not bound. A run file includes 'gin/base.gin' and binds "
            f"{', '.join(f'run.{name}' for name in sorted(needed))}; see gin/digits.gin."
        )


def _check_values():
    """Make what `prune` is given once for nothing, so that a wrong value costs no training."""
    try:
        experiment.planned_cuts(**_pruning(experiment.planned_cuts))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"In the arguments of prune: {error}") from error


def _pruning(function):
    """The arguments bound for `prune` that `function` takes too, references resolved."""
    bound = gin.get_bindings(pruner.prune)
    return {name: bound[name] for name in bound if name in inspect.signature(function).parameters}


def _written(key):
    """(scope, selector, argument) as in a gin file, without the name of this package."""
    scope, selector, argument = key
    if selector == "gin.macro":
        return scope
    name = selector.removeprefix("aip_tf.").removeprefix("pruner.")
    return "/".join(filter(None, (scope, f"{name}.{argument}")))


def _resolved(read):
    """The bindings read, one a line: macros first, then by name."""
    keys = sorted(read, key=lambda key: (key[1] != "gin.macro", _written(key)))
    return "".join(f"{_written(key)} = {read[key].value!r}\n" for key in keys)


def claim(run_dir, configuration):
    """Note the configuration in the run directory, or refuse a directory of another one.

    Raises:
        ConfigError: if the directory belongs to another configuration; shows the difference.
    """
    path = Path(run_dir) / CONFIG_FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # workers do this at once
        unfinished.write_text(configuration, encoding="utf-8")
        unfinished.replace(path)
        return
    before, now = (text.splitlines() for text in (path.read_text("utf-8"), configuration))
    changes = [line for line in difflib.ndiff(before, now) if line[0] in "-+"]
    if changes:
        raise ConfigError(
            f"{run_dir} holds a run of another configuration (- there, + here): "
            f"{'; '.join(changes)}. Give this run its own --run_dir, or remove {run_dir}."
        )


# Starting ----------------------------------------------------------------------------------------


def run(run_dir):
    """Run the experiment that was loaded; see `experiment.run` for what it returns."""
    try:
        return gin.get_configurable(_RUN)(run_dir=run_dir)
    except Exception as error:
        original = _without_gin(error).with_traceback(error.__traceback__)
        raise original from original.__cause__


def _without_gin(error):
    """The exception as it was raised: gin wraps it and adds the configurables on the way."""
    while "In call to configurable" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


def describe():
    """What the experiment that was loaded would cut, without training; see `experiment.plan`."""
    bound = gin.get_bindings(_RUN)
    build = bound["teacher"]
    trained = inspect.unwrap(build) is teacher.train_teacher
    network = gin.get_bindings(teacher.train_teacher)["model"] if trained else build()
    return experiment.plan(network, bound["data"], **_pruning(experiment.plan))


_OFFERED = _register()

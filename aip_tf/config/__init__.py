"""gin configures an experiment: what can be bound, how it is read, and what is checked.

This is the only room that imports gin. Nothing in the library is decorated; what a gin file may
name is registered from the outside (`offer`), under the module in which it stands: `@one_shot`,
`@schedules.one_shot` and `@aip_tf.schedules.one_shot` are the same. `reading` binds what the files
say, `checks` looks at it before anything runs.
"""

import contextlib
import functools
import inspect
import re

import gin

from aip_tf import deploy, experiment, failures, preparation, pruner
from aip_tf.config.checks import check_all_read, check_complete, check_kinds, reach
from aip_tf.config.offer import COMPARE, RUN, callable_of
from aip_tf.config.reading import (
    ConfigError,
    bind_file,
    bind_text,
    find_file,
    gin_folder,
    written,
)

__all__ = [
    "ConfigError",
    "describe",
    "find_file",
    "gin_folder",
    "load",
    "run",
]

# What runs as long as the experiment: an exception in it says nothing of its bindings.
_STAGES = ("run", "prune", "trade_off", "train_teacher", "export_model")


def load(gin_files, gin_params=(), weights=True):
    """Read gin files and bindings, later ones winning, and check all that they can reach.

    A binding of a file must be read in the configuration that the files make; a later --gin_param
    may lead away from it (another teacher, say) without an error. What is given on the command
    line must be read in the end.

    Args:
        gin_files: paths of gin files; see `find_file` for where they are looked for.
        gin_params: bindings, such as "seed = 1".
        weights: whether networks are built with the weights bound for them; False for a plan: none
            is fetched or read, though the configuration returned names them.

    Returns:
        The resolved configuration: one binding a line, sorted; itself a gin file.

    Raises:
        ConfigError: for a missing file, a syntax error, a name that nothing has, a binding that
            nothing reads, a value that must be given and is not, one of the wrong kind, one that
            `prune` refuses.
    """
    gin.clear_config()
    bindings = {}
    for name in gin_files:
        bind_file(find_file(name), bindings)
    check_all_read(bindings, bindings)
    in_files = dict(bindings)
    for text in gin_params:
        bind_text(f"{text}\n", f"--gin_param={text!r}", bindings)
    on_command_line = {key: new for key, new in bindings.items() if new != in_files.get(key)}
    check_all_read(on_command_line, bindings)
    read, _ = reach(bindings)
    check_complete(read)
    check_kinds(read)
    if gin.get_bindings(RUN).get("strategy") != "multi_worker":
        _check_values()  # makes optimizers; several workers must meet before there is a variable
    if not weights:
        _leave_out_weights(read)
    return _resolved(read)


def _leave_out_weights(read):
    with gin.unlock_config():
        for key in read:
            if key[2] == "weights":
                gin.bind_parameter(written(key), None)


def _check_values():
    """Make what `prune` is given once for nothing, so that a wrong value costs no training."""
    try:
        with failures.checking("They cannot be used"), _gin_explained():
            experiment.planned_cuts(**_pruning(experiment.planned_cuts))
    except ValueError as error:
        raise ConfigError(f"In the arguments of prune: {error}") from error
    try:
        with failures.checking("The arguments of run or export_model cannot be used"):
            bound = gin.get_bindings(RUN)
            preparation.check_start(bound.get("strategy", "none"), bound.get("seed", 0))
            deploy.check_formats(gin.get_bindings(deploy.export_model).get("formats", ("tflite",)))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _pruning(function):
    """The arguments bound for `prune` that `function` takes too, references resolved."""
    bound = gin.get_bindings(pruner.prune)
    return {name: bound[name] for name in bound if name in inspect.signature(function).parameters}


def _resolved(read):
    """The bindings read, one a line: macros first, then by name."""
    keys = sorted(read, key=lambda key: (key[1] != "gin.macro", written(key)))
    return "".join(f"{written(key)} = {read[key].value!r}\n" for key in keys)


def run(run_dir, configuration="", overwrite=False):
    """Run the experiment that was loaded.

    Args:
        run_dir: folder of the run.
        configuration: what `load` returned.
        overwrite: whether what a run with other inputs left there may be dropped.

    Returns, raises:
        See `experiment.run`, which decides what of an earlier run is of use.
    """
    with _gin_explained():
        if not gin.get_bindings(RUN, resolve_references=False):
            return experiment.Outcome(gin.get_configurable(COMPARE)(), {})
        return gin.get_configurable(RUN)(
            run_dir=run_dir, configuration=configuration, overwrite=overwrite
        )


def describe(run_dir=None):
    """What the experiment that was loaded would cut, without training; see `experiment.plan`."""
    with _gin_explained():
        bound = gin.get_bindings(RUN)
        if not bound:
            return gin.get_configurable(COMPARE)(runs=0).render()
        if (prune := bound.get("prune")) is not None:
            bound["prune"] = functools.partial(prune, **_pruning(pruner.prune))
        return experiment.plan(**bound, run_dir=run_dir)


@contextlib.contextmanager
def _gin_explained():
    """Undo what gin makes of an exception: it wraps it and adds the configurables on the way.

    A TypeError or ValueError that nobody raised on purpose, in one of the parts, has its cause in
    what is bound there, most likely: the error names the part and its bindings.
    """
    try:
        yield
    except Exception as error:
        original = failures.without_gin(error).with_traceback(error.__traceback__)
        part = re.search(r"In call to configurable '(?:[\w.]*\.)?(\w+)'", str(error))
        if part and part[1] not in _STAGES:
            if failures.is_on_purpose(original):
                raise ValueError(f"{part[1]}: {original}") from original
            if isinstance(original, failures.SLIPS):
                raise ConfigError(_blame(part[1], original)) from original
        raise original from original.__cause__


def _blame(name, error):
    bound = gin.get_bindings(name, resolve_references=False)
    bindings = ", ".join(f"{name}.{argument} = {value!r}" for argument, value in bound.items())
    module = callable_of(name).__module__
    remedy = "If that is as it should be, this is a bug: --traceback shows where."
    if module.partition(".")[0] == "keras":
        remedy = f"Expected what keras.optimizers.{name} takes."
    elif not module.startswith("aip_tf"):
        remedy = f"That is code of yours, in {module}: --traceback shows where."
    return (
        f"{name} failed with {type(error).__name__}: {failures.words(error).rstrip('.')}. Received "
        f"{bindings or 'no bindings'}. {remedy}"
    )

"""What is checked of a configuration before anything runs, from its text alone.

gin by itself ignores a binding that nothing reads. Here it is an error: starting at its `entry`, a
binding is *read* if `@` and `%` references lead to its configurable. The defaults in `base.gin` are
exempt. A value must be of the kind that its argument takes. A typing error costs a second and not a
night.
"""

import dataclasses
import inspect
import types
import typing

from gin import config as gin_config

from aip_tf import experiment, schedules
from aip_tf.config.offer import COMPARE, HANDED_OVER, RUN, callable_of
from aip_tf.config.reading import ConfigError

_MOST_REFERENCES = 50  # one leading to the next
_NUMBER = (int, float)
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_CALLED = ((RUN, "teacher"), (RUN, "data"))  # by `run`, with what it has
_AT_HAND = {"data", "model", "checkpoint_dir", "overwrite", "check", "check_only"}
_MAKERS = (schedules.PolynomialDecay, schedules.one_shot, schedules.step_decay)


def entry(bindings):
    """What is called: `run`, or `compare_files` where that is bound and nothing of `run` is."""
    bound = {selector for _, selector, _ in bindings}
    return COMPARE if COMPARE in bound and RUN not in bound else RUN


def reach(bindings):
    """What a call of the `entry` can reach, found without calling anything.

    Returns:
        The bindings it reads, and the names of the configurables it reaches.

    Raises:
        ConfigError: if references lead back to where they come from, or on and on.
    """
    read, visited = {}, set()

    def visit(scopes, selector, path):
        if (scopes, selector) in visited:
            return
        visited.add((scopes, selector))
        partial_scopes = ["/".join(scopes[:depth]) for depth in range(len(scopes) + 1)]
        for key, binding in bindings.items():
            if key[1] == selector and key[0] in partial_scopes:
                read[key] = binding
                for reference in gin_config.iterate_references(binding.value):
                    target = (tuple(reference.scopes) or scopes, reference.configurable.selector)
                    _check_path(binding, target, path)
                    visit(*target, (*path, target))

    first = entry(bindings)
    visit((), first, (((), first),))
    names = {selector.split(".")[-1] for _, selector in visited if not selector.startswith("gin.")}
    return read, sorted(names)


def _check_path(binding, target, path):
    if target in path:
        circle = " -> ".join(map(_named, [*path[path.index(target) :], target]))
        raise ConfigError(
            f"{binding.place}: {binding.text} leads back to itself: {circle}. Expected references "
            "that end."
        )
    if len(path) > _MOST_REFERENCES:
        raise ConfigError(
            f"{binding.place}: {binding.text} is reached over more than {_MOST_REFERENCES} "
            "references, each leading to the next. Expected fewer: give the value itself."
        )


def _named(target):
    scopes, selector = target
    return f"%{'/'.join(scopes)}" if selector == "gin.macro" else f"@{selector.split('.')[-1]}"


def check_all_read(bindings, configuration):
    """Raise `ConfigError` if one of `bindings` is not read in `configuration`."""
    read, reached = reach(configuration)
    for key, binding in bindings.items():
        if key not in read and not binding.is_default:
            first = entry(configuration).split(".")[-1]
            raise ConfigError(
                f"{binding.place}: nothing reads {binding.text}, because no '@' or '%' leads to it "
                f"from `{first}`. Remove it, or refer to it. Reached are {', '.join(reached)}."
            )


def check_complete(read):
    """Raise `ConfigError` unless every `%name` read has a value, and `run` has its arguments."""
    for key, binding in read.items():
        for reference in gin_config.iterate_references(binding.value):
            if reference.evaluate or key[1:] in _CALLED:
                _check_call(reference, binding, read)
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
    if entry(read) == COMPARE:
        return
    parameters = inspect.signature(experiment.run).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty} - set(HANDED_OVER["run"])
    if missing := sorted(needed - {argument for _, selector, argument in read if selector == RUN}):
        raise ConfigError(
            f"run.{missing[0]} is not bound. A run file includes 'gin/base.gin' and binds "
            f"{', '.join(f'run.{name}' for name in sorted(needed))}; see gin/digits.gin."
        )


def _check_call(reference, binding, read):
    """Whether whatever is called has a value for each argument that needs one."""
    selector = reference.configurable.selector
    if selector.startswith("gin."):
        return
    parameters = inspect.signature(callable_of(selector)).parameters.values()
    open_ = [p.name for p in parameters if p.default is p.empty and p.kind not in _ANY_NUMBER]
    known = {argument for _, other, argument in read if other == selector}
    if missing := [name for name in open_ if name not in known | _AT_HAND]:
        name = selector.split(".")[-1]
        raise ConfigError(
            f"{binding.place}: {binding.text} = {binding.value!r} calls {name}. Expected a value "
            f"for its {', '.join(missing)}: add --gin_param='{name}.{missing[0]} = ...' or a line "
            "in your run file."
        )


def check_kinds(read):
    """Raise `ConfigError` where a value is not of the kind that its argument takes.

    The kind is that of the argument's default, or its annotation; the arguments of `run` without
    a default are functions, which are named and not called.
    """
    for key, binding in read.items():
        if key[1] == "gin.macro":
            continue
        value, source = _resolved(binding, read)
        expected = _expected(key[1], key[2], value)
        if expected:
            raise ConfigError(
                f"{source.place}: {source.text} = {source.value!r}, but {binding.text} takes "
                f"{expected}."
            )


def _resolved(binding, read):
    """The value of a binding, and the binding it comes from, over all macros."""
    value = binding.value
    while _is_macro(value) and ("/".join(value.scopes), "gin.macro", "value") in read:
        binding = read["/".join(value.scopes), "gin.macro", "value"]
        value = binding.value
    return value, binding


def _is_macro(value):
    return _is_reference(value) and value.configurable.selector == "gin.macro"


def _is_reference(value):
    return isinstance(value, gin_config.ConfigurableReference)


def _expected(selector, argument, value):
    """What an argument takes, in words, if `value` is not of that kind; else None."""
    function = callable_of(selector)
    parameter = inspect.signature(function).parameters.get(argument)
    if parameter is None:  # one of **arguments
        return None
    if selector == RUN and parameter.default in (parameter.empty, None):
        is_optional = value is None and argument != "teacher"
        is_named = is_optional or (_is_reference(value) and not value.evaluate)
        return None if is_named else f"a function that is named and not called, such as @{argument}"
    if _is_reference(value):
        maker = value.configurable.wrapped
        wrong = not value.evaluate and (inspect.isclass(maker) or maker in _MAKERS)
        return f"what that makes: write {value!r}()" if wrong else None
    annotation = _annotation(function, argument)
    if annotation is not None:
        return None if _fits(value, annotation) else f"{_in_words(annotation)}"
    return _unlike(value, parameter.default)


def _annotation(function, argument):
    """The annotation of an argument or of a dataclass' field, if it says more than `object`."""
    is_plain_class = inspect.isclass(function) and not dataclasses.is_dataclass(function)
    annotated = function.__init__ if is_plain_class else function
    try:
        annotation = typing.get_type_hints(annotated).get(argument)
    except (NameError, TypeError):
        return None
    kinds = annotation.__args__ if isinstance(annotation, types.UnionType) else (annotation,)
    plain = all(isinstance(kind, type) and kind is not object for kind in kinds)
    return kinds if plain else None


def _fits(value, kinds):
    if isinstance(value, bool):
        return bool in kinds
    kinds = (*kinds, int) if float in kinds else kinds
    kinds = (*kinds, list) if tuple in kinds else kinds
    return isinstance(value, kinds)


def _in_words(kinds):
    return " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)


def _unlike(value, default):
    """What the default is an example of, if a literal value is not of its kind; else None."""
    is_number = isinstance(value, _NUMBER) and not isinstance(value, bool)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, int):
        fits = is_number and isinstance(value, int)
        return None if fits else f"a whole number, such as {default}"
    if isinstance(default, float):
        return None if is_number else f"a number, such as {default}"
    if isinstance(default, str):  # such as "auto", beside which there may be a list
        return f"a name, such as {default!r}" if is_number else None
    if isinstance(default, tuple) and default:
        return None if _is_like(value, default) else f"a sequence, such as {default!r}"
    return None


def _is_like(value, default):
    """Whether `value` may stand for a tuple: numbers for numbers, and one name for names."""
    numbers = isinstance(default[0], _NUMBER)
    if isinstance(value, str):
        return not numbers
    if not isinstance(value, list | tuple):
        return value is None
    return not numbers or all(isinstance(x, _NUMBER) or _is_reference(x) for x in value)

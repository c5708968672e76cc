"""The house rules that a reader relies on, read from the source with `ast`."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aip_tf

PACKAGE = Path(__file__).resolve().parents[1] / "aip_tf"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"_keras", "arguments", "failures", "files", "interruption", "text"},
    {"distribution", "identity"},
    {"channels", "losses", "progress", "schedules", "task", "zoo", "datasets", "report"},
    {"cost", "decays", "game", "latency"},
    {"deploy", "overview", "reconstruction", "transfers"},
    {"criteria", "layer_times"},
    {"selection", "detection", "recovery"},
    {"cutting", "run_state"},
    {"assignment", "books", "saving", "training"},
    {"preview", "pruner", "teacher"},
    {"preparation"},
    {"experiment"},
    {"__init__"},
    {"config"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {"gin", "absl.flags", "matplotlib", "tensorflow_datasets", "tensorflow_model_optimization"}
DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}  # public, although underscored


def tree_of(source):
    return ast.parse(source.read_text(encoding="utf-8") if isinstance(source, Path) else source)


def room_of(path):
    """`aip_tf/game/taps.py` is in the room `game`, `aip_tf/cost.py` in the room `cost`."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_names(tree):
    """Every dotted name that a file imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imported_rooms(tree):
    """The rooms of this package that a file imports; a name of the surface counts as `__init__`."""
    for name in imported_names(tree):
        package, _, rest = name.partition(".")
        if package == "aip_tf":
            room = rest.split(".")[0]
            yield room if room in FLOOR_OF else "__init__"


def wrong_arrows(room, tree):
    """Imports that do not point to a lower floor."""
    return [
        other
        for other in imported_rooms(tree)
        if other != room and FLOOR_OF[other] >= FLOOR_OF[room]
    ]


def calls_to(name, tree):
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def private_names(tree):
    """Names with a leading underscore that a file reads or sets and does not define itself."""
    own = set(DOCUMENTED)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    own |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.attr for n in attributes if isinstance(n.ctx, ast.Store) and _is_self(n.value)}
    for node in attributes:
        if re.match(r"_(?!_)", node.attr) and node.attr not in own and not _is_self(node.value):
            yield f"{ast.unparse(node)} (line {node.lineno})"


def _is_self(node):
    return ast.unparse(node) in ("self", "super()")


def function_bodies(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                yield node.name, body[-1].end_lineno - body[0].lineno + 1


def identify(path):
    return path.relative_to(PACKAGE).as_posix()


each_file = pytest.mark.parametrize("path", FILES, ids=identify)


@each_file
def test_every_import_points_to_a_lower_floor(path):
    room = room_of(path)
    assert room in FLOOR_OF, f"{path.name} stands on no floor; add its room to FLOORS"
    tree = tree_of(path)
    assert not [name for name in imported_names(tree) if name.startswith(".")], "write it in full"
    if room != "__init__":  # the surface names every room, lazily
        assert wrong_arrows(room, tree) == []


@each_file
def test_only_the_config_imports_gin_and_only_the_command_line_imports_flags(path):
    names = set(imported_names(tree_of(path)))
    if room_of(path) != "config":
        assert not [name for name in names if name.split(".")[0] == "gin"]
    if room_of(path) != "cli":
        assert not [name for name in names if name.startswith(("absl.flags", "absl.app"))]


@each_file
def test_only_one_file_touches_the_internals_of_keras(path):
    if room_of(path) == "_keras":
        return
    tree = tree_of(path)
    assert not [name for name in imported_names(tree) if name.startswith("keras.src")]
    assert list(private_names(tree)) == []


@each_file
def test_the_package_neither_prints_nor_asserts(path):
    tree = tree_of(path)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    if room_of(path) != "cli":
        assert calls_to("print", tree) == []


@each_file
def test_files_and_functions_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert [item for item in function_bodies(tree_of(path)) if item[1] > 60] == []


def files_imported(path):
    """The files of this package that a file imports, wherever the import stands."""
    for name in imported_names(tree_of(path)):
        parts = name.split(".")
        for length in (len(parts), len(parts) - 1):
            place = PACKAGE.parent.joinpath(*parts[:length])
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if parts[0] == "aip_tf" and file.is_file() and file != path:
                    yield file


def circles(imports):
    """The files that can be reached from themselves, given what each imports."""
    reached = {file: set(found) for file, found in imports.items()}
    for _ in imports:
        grown = {f: r.union(*(reached.get(x, ()) for x in r)) for f, r in reached.items()}
        if grown == reached:
            break
        reached = grown
    return sorted(f.name for f, found in reached.items() if f in found)


def test_no_import_comes_back_to_its_file():
    inside = {f: {x for x in files_imported(f) if x.name != "__init__.py"} for f in FILES}
    assert circles(inside) == []


def test_the_guards_see_what_they_guard_against():
    a, b, c = Path("a.py"), Path("b.py"), Path("c.py")
    assert circles({a: {b}, b: {c}, c: {b}}) == ["b.py", "c.py"]
    assert wrong_arrows("cost", tree_of("from aip_tf.pruner import prune")) == ["pruner"]
    assert wrong_arrows("cost", tree_of("def f():\n    import aip_tf")) == ["__init__"]
    assert wrong_arrows("cost", tree_of("from aip_tf import criteria")) == ["criteria"]
    assert wrong_arrows("cost", tree_of("from aip_tf.channels import groups")) == []
    assert calls_to("print", tree_of("def f():\n    print(1)")) == [2]
    assert list(private_names(tree_of("layer._tracker"))) == ["layer._tracker (line 1)"]
    assert list(private_names(tree_of("x._keras_mask = 1"))) == ["x._keras_mask (line 1)"]
    assert list(private_names(tree_of("self._cache = 1\nother._cache"))) == []
    assert list(function_bodies(tree_of("def f():\n    'doc'\n    a = 1\n    return a"))) == [
        ("f", 2)
    ]


def test_the_surface_is_sorted_complete_and_lazy():
    assert list(aip_tf.__all__) == sorted(aip_tf.__all__)
    assert len(set(aip_tf.__all__)) == len(aip_tf.__all__)
    for name in aip_tf.__all__:
        assert getattr(aip_tf, name) is not None
    assert set(aip_tf.__all__) <= set(dir(aip_tf))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = aip_tf.no_such_name


def test_every_public_name_is_documented():
    undocumented = [
        name
        for name in aip_tf.__all__
        if not name.startswith("__") and not getattr(getattr(aip_tf, name), "__doc__", None)
    ]
    assert undocumented == []


def test_importing_the_surface_loads_nothing_heavy_and_leaves_the_environment_alone():
    script = f"""
import os, sys
import keras, tensorflow  # TensorFlow itself loads absl; only what we add counts
os.environ.pop("TF_USE_LEGACY_KERAS", None)
before = set(sys.modules)
import aip_tf
for name in aip_tf.__all__:
    getattr(aip_tf, name)
new = set(sys.modules) - before
print(sorted(new & {HEAVY!r}), os.environ.get("TF_USE_LEGACY_KERAS"))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[0] == "[] None"


def test_the_gin_folder_does_not_shadow_gin_config(root):
    assert (root / "gin" / "base.gin").is_file()
    assert list((root / "gin").rglob("*.py")) == []

"""Which room may import which, and what a command's help waits for."""

from __future__ import annotations

import ast
import configparser
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import psvit

ROOT = Path(__file__).resolve().parents[2]

# Folders at the repository's top, as setup.cfg maps them.
PACKAGES = {
    "psvit": "psvit",
    "supernet": "psvit.supernet",
    "search": "psvit.search",
    "retrain": "psvit.retrain",
}
# Rooms, and modules that stand beside them, with the rooms that each may import beside itself.
VALUES = {"errors", "io", "arch", "space"}
MAY_IMPORT = {
    "errors": set(),
    "io": {"errors"},
    "executors": {"errors", "io"},
    "arch": {"errors", "io"},
    "space": {"errors", "io", "arch"},
    "report": {"errors", "io", "arch"},
    "nn": VALUES,
    "model": {*VALUES, "nn"},
    "data": {*VALUES, "nn"},
    "classifier": {*VALUES, "nn", "model", "data"},
    "train": {*VALUES, "executors", "nn", "model", "data", "classifier"},
    "cli": {*VALUES, "executors", "data", "train"},
}
BELOW = {*MAY_IMPORT}
MAY_IMPORT |= {"supernet": BELOW, "search": {*BELOW, "supernet"}, "retrain": BELOW}
MAY_IMPORT |= {"commands": {*MAY_IMPORT}, "__main__": {"commands"}}
HEAVY = ("torch", "timm", "ray", "optuna", "matplotlib", "plotly", "sklearn", "torchvision", "onnxruntime")

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
COMMANDS = dict(
    line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines() if line
)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def imported(path: Path) -> set[str]:
    """The modules that a file names in its imports, wherever they stand; relative ones begin with a point."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from psvit import supernet` names a module as well.
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    """The room that a module belongs to; `None` for the package's face and for modules from elsewhere."""
    parts = module.split(".")
    return parts[1] if parts[0] == "psvit" and len(parts) > 1 and parts[1] in MAY_IMPORT else None


FILES = [(package, path) for package in PACKAGES for path in sources(package)]


def test_all_rooms_are_found():
    for room in PACKAGES:
        assert len(sources(room)) > 1, room
    # A package that is added must be put into the table above.
    top = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert top == {*PACKAGES, "configs"}


def test_all_packages_are_installed():
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    names = {".".join([PACKAGES[folder.parts[0]], *folder.parts[1:]]): folder.as_posix() for folder in folders}
    listed = SETUP["options"]["packages"].split()
    assert {name for name in names} == {name for name in listed if not name.startswith("psvit.configs")}
    places = dict(line.split(" = ") for line in SETUP["options"]["package_dir"].strip().splitlines())
    assert {name: places.get(name, name.replace(".", "/")) for name in names} == names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_one_way(package):
    for path in sources(package):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        if parts == ("__init__",) and package == "psvit":
            continue  # the package's face
        room = room_of(".".join([PACKAGES[package], *parts]))
        assert room is not None, f"{path}: a room that is added must be put into the table above"
        used = {other for name in imported(path) if (other := room_of(name))} - {room}
        assert used <= MAY_IMPORT[room], path


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute_and_by_the_installed_name(package):
    for path in sources(package):
        names = imported(path)
        assert not [name for name in names if name.startswith(".")], path
        # At the repository's root the folders can be imported too, which would make second, unequal classes.
        assert not [name for name in names if name.split(".")[0] in {*PACKAGES, "configs"} - {"psvit"}], path


@pytest.mark.parametrize("package", PACKAGES)
def test_only_cli_files_know_the_command_line_library(package):
    for path in sources(package):
        knows = any(name.split(".")[0] == "click" for name in imported(path))
        assert knows is (path.name == "cli.py"), path


@pytest.mark.parametrize("package", PACKAGES)
def test_files_load_where_only_python_is_the_same(package):
    for path in sources(package):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {*names} & {"fcntl", "grp", "posix", "pwd", "resource", "termios"}, path


def test_imports_have_no_circles():
    # Imports inside functions and for type checkers count too: who reads one of two modules has to read the other.
    modules = {}
    for room, path in FILES:
        parts = path.relative_to(ROOT / room).with_suffix("").parts
        modules[".".join([PACKAGES[room], *(part for part in parts if part != "__init__")])] = imported(path)
    del modules["psvit"]  # the package's face, which loads what it names when it is first used
    modules = {
        name: {other for other in names if other in modules and other != name} for name, names in modules.items()
    }
    while leaves := [name for name, names in modules.items() if not names]:
        modules = {name: names - set(leaves) for name, names in modules.items() if name not in leaves}
    assert not modules


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_bodies_are_short(package):
    for path in sources(package):
        text = path.read_text()
        assert len(text.splitlines()) <= 450, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                assert node.body[-1].end_lineno - first.lineno < 60, f"{path}: {node.name}"


def loaded_by(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter has loaded after some code."""
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    # Away from the repository's root, where the package is the installed one.
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd="/", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import psvit; dir(psvit); psvit.__version__") == []


def test_values_load_nothing_heavy():
    # Files of architectures and spaces are read by tools that have no use for a deep-learning library.
    code = "import psvit; psvit.Architecture, psvit.Budget, psvit.cost, psvit.SearchSpace.load('psvit-2d-tiny').size"
    assert loaded_by(code) == []


def test_all_public_names_are_there():
    assert [name for name in psvit.__all__ if getattr(psvit, name) is None] == []


def test_an_unknown_public_name_is_answered_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Architektur'; it offers Architecture, Budget"):
        _ = psvit.Architektur


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command):
    module, function = COMMANDS[command].split(":")
    code = f"""
import sys
sys.argv = [{command!r}, "--help"]
from {module} import {function}
try:
    {function}()
except SystemExit as end:
    assert not end.code, end.code
else:
    raise AssertionError("a command ends by exiting")
"""
    assert loaded_by(code) == []

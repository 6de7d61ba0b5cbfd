"""Imports run downwards only, and the heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "codex_ray"

FLOORS = [
    {"errors", "types", "wire", "randomness"},
    {"privacy", "secagg"},
    {"data"},
    {"learning", "federation"},
    {"assurance"},
    {"records"},
    {"preparation"},
    {"threads"},
    {"experiment"},
    {"consistency", "figures"},
    {"assembly"},
    {"config", "accounting", "calibrating"},
    {"auditing", "certifying", "sweeping"},
    {"registry"},
    {"serving"},
    {"running"},
    {"cluster", "api"},
    {"bench"},
    {"cli", "__init__"},
]
"""From the ground up. A room may import from its own floor only itself (and see MAY_SEE)."""

MAY_SEE = {
    ("errors", "types"),
    ("types", "errors"),
    ("wire", "errors"),
    ("wire", "types"),
    ("config", "calibrating"),
    ("cluster", "api"),  # a sweep's trial is a run through the door
    ("api", "cluster"),  # imported inside the function that needs Ray
    ("cli", "__init__"),
    ("__init__", "cli"),
}

KEPT_IN = {
    "ray": {"cluster"},
    "opacus": {"learning"},
    "cryptography": {"randomness", "secagg", "records", "preparation", "cluster", "bench"},
    "torch.nn": {"learning"},
    "torch": {
        "privacy",
        "learning",
        "federation",
        "assurance",
        "records",
        "threads",
        "assembly",
        "auditing",
        "registry",
        "serving",
        "running",
        "api",
    },
    "matplotlib": {"records"},
    "rich": {"records", "registry", "cluster", "cli", "bench"},
    "yaml": {"config"},
}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "random", "marshal", "shelve"}


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def _room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_file_has_a_floor() -> None:
    assert {_room(file) for file in FILES} <= set().union(*FLOORS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_downwards(file: Path) -> None:
    room = _room(file)
    for name, line in _imports(file):
        parts = name.split(".")
        if parts[0] != "codex_ray" or len(parts) < 2:
            continue
        other = parts[1] if (PACKAGE / parts[1]).exists() or parts[1] in _names() else "__init__"
        if other == room or (room, other) in MAY_SEE:
            continue
        assert _floor(other) < _floor(room), f"{file}:{line}: {room} imports {name}, which is above"


def _names() -> set[str]:
    return {file.stem for file in PACKAGE.glob("*.py")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(file: Path) -> None:
    for name, line in _imports(file):
        for library, rooms in KEPT_IN.items():
            if name == library or name.startswith(library + "."):
                assert _room(file) in rooms, f"{file}:{line}: {name} belongs in {sorted(rooms)}"
        assert name.split(".")[0] not in FORBIDDEN, f"{file}:{line}: {name} is not allowed"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_functions_are_short_and_files_say_what_they_are(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), f"{file}: opens with no sentence that says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{file}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_nothing_is_unpickled_and_no_global_randomness_is_used(file: Path) -> None:
    text = file.read_text()
    for word in ("torch.load(", "allow_pickle=True", "np.random.seed", "torch.randn(", "eval("):
        assert word not in text.replace(".eval()", ""), f"{file}: {word}"

"""Which files belong to which client: a file each, or a folder each."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.batches import Unit

Files: TypeAlias = str | list[str]
_PIECE = 1 << 20


def units_of(files: Files, *, folders_are_files: bool = False) -> list[Unit]:
    """The units of the paths that are listed, or that a pattern finds, sorted by name.

    Args:
        files: paths, or one pattern.
        folders_are_files: a folder is one data set in itself, and not a collection of files.

    Raises:
        DataError: a path is missing, a pattern finds none, or a folder is empty.
        ConfigError: a path is listed twice.
    """
    if isinstance(files, str) and any(sign in files for sign in "*?["):
        pattern = Path(files)
        found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        paths = sorted(path for path in found if not path.name.startswith("."))
        if not paths:
            raise DataError(f"source.files: nothing matches {files}")
    else:
        paths = [Path(name) for name in ([files] if isinstance(files, str) else files)]
    if not paths:
        raise ConfigError("source.files: names no file: give at least one")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("source.files: a file is listed twice: give each client its own")
    units = [Unit(_name(path), _inside(path, folders_are_files)) for path in paths]
    names = [unit.name for unit in units]
    if len(set(names)) < len(names):  # the same name in different folders
        units = [
            Unit(f"{path.parent.name}/{_name(path)}", unit.files)
            for path, unit in zip(paths, units, strict=True)
        ]
    return units


def _name(path: Path) -> str:
    """The name of a file without what says how it is written."""
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def _inside(path: Path, folders_are_files: bool) -> tuple[str, ...]:
    if path.is_file() or (folders_are_files and path.is_dir()):
        return (str(path),)
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not inside:
            raise DataError(f"source.files: {path} is an empty folder: take it out, or fill it")
        return tuple(str(p) for p in inside)
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    raise DataError(f"source.files: {path} is not there: {did_you_mean(path.name, beside)}")


def sha256_of(path: str) -> str:
    """The hash of a file, or of the names and hashes of the files in a folder."""
    here = Path(path)
    whole = hashlib.sha256()
    if here.is_dir():
        for inner in sorted(p for p in here.rglob("*") if p.is_file()):
            whole.update(f"{inner.relative_to(here)}\0{sha256_of(str(inner))}\n".encode())
        return whole.hexdigest()
    with here.open("rb") as content:
        while piece := content.read(_PIECE):
            whole.update(piece)
    return whole.hexdigest()

"""A folder that takes its name when it is whole, and what a killed preparation left of one."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from codex_ray.data.prepared_manifest import CARD, MANIFEST, PAGE, SCHEMA, SHARDS

_OURS: Final = frozenset({CARD, MANIFEST, PAGE, SCHEMA, SHARDS})


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into: on disk, and called `out`, when the block has ended.

    A block that fails leaves nothing. One that is killed leaves a hidden folder, which the next
    preparation into the same `out` takes away.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with ExitStack() as stack:
            with suppress(OSError):  # some network file systems lock no folders; nor do they sweep
                stack.enter_context(_held(folder))
            yield folder
            for place in (*folder.rglob("*"), folder):
                _sync(place)
            folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync(out.parent)


def _sweep(out: Path) -> None:
    """Removes what was left by a process that is gone: whoever is alive holds its folder."""
    name = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}")
    for folder in out.parent.iterdir():
        if not name.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):
            found = {inside.name for inside in folder.iterdir()}
            if SHARDS in found and found <= _OURS:
                with _held(folder):
                    shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Raises `OSError` if somebody else has the folder, or nobody can."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def _sync(place: Path) -> None:
    opened = os.open(place, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

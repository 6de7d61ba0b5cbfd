"""Processes as the kernel tells of them in /proc (Linux): parents, titles, memory, open files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    """One process at one moment.

    Attributes:
        pid: its number, which a later process may get too.
        parent: whoever began it, or adopted it.
        began: clock ticks after the machine did; with `pid` it names the process.
    """

    pid: int
    parent: int
    began: int


def processes() -> dict[int, Process]:
    """Every process that is alive, by its number; those that are dead and not buried are not."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (one := look(int(entry.name))) is not None:
            found[one.pid] = one
    return found


def look(pid: int) -> Process | None:
    """The process of that number; None if it is gone (proc(5): state, ppid, ..., starttime)."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[19]))


def parent_of(pid: int) -> int | None:
    """Who began the process, or adopted it; None if it is gone."""
    one = look(pid)
    return None if one is None else one.parent


def children_of(pid: int) -> list[int]:
    """The processes that this one began."""
    return sorted(one.pid for one in processes().values() if one.parent == pid)


def descendants(pid: int, among: dict[int, Process]) -> set[int]:
    """The processes that this one began, and those that they began."""
    found = {pid}
    while more := {one.pid for one in among.values() if one.parent in found} - found:
        found |= more
    return found - {pid}


def name_of(pid: int) -> str:
    """The name of its program; empty if it is gone."""
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def words_of(pid: int) -> list[str]:
    """Its command line, a word each, or the title that it gave itself; empty if it is gone."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")


def title_of(pid: int) -> str:
    """The same in one line."""
    return " ".join(words_of(pid)).strip()


def resident(pid: int) -> int:
    """Bytes of memory that it holds (resident set); 0 if it is gone."""
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def using(folder: Path) -> list[int]:
    """The processes that have a file under the folder open, which may be gone by now."""
    prefix, found = f"{folder}/", []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            targets = [str(link.readlink()) for link in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(target.startswith(prefix) for target in targets):
            found.append(int(entry.name))
    return sorted(found)

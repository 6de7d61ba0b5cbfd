"""What this process and everything it started have used: CPU time and memory, from /proc (Linux).

Memory is the proportional set size: pages that processes share count once, so that a broadcast
vector in shared memory is not counted for every host.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def family() -> set[int]:
    """The ids of this process and of all its descendants that are alive."""
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            parents[int(entry.name)] = int(stat[1])
    members = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= grown
    return members


def cpu_seconds() -> float:
    """CPU seconds that the family has used so far, its reaped children included."""
    return sum(
        sum(int(ticks) for ticks in stat[11:15]) / _TICKS
        for stat in map(_stat, family())
        if stat is not None
    )


def memory() -> int:
    """Bytes of memory that the family holds (proportional set size)."""
    return sum(map(_pss, family()))


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _pss(pid: int) -> int:
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


@dataclass
class Peak:
    """The most memory seen so far, in bytes."""

    bytes: int = 0


@contextmanager
def watching_memory(*, every: float = 0.25) -> Iterator[Peak]:
    """Looks at the family's memory in the background, `every` so many seconds."""
    peak, done = Peak(memory()), threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak.bytes = max(peak.bytes, memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.bytes = max(peak.bytes, memory())

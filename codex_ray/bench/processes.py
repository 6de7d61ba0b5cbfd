"""What this process and everything it started have used: CPU time and memory, from /proc (Linux).

Memory is the proportional set size: pages that processes share count once, so that a broadcast
vector in shared memory is not counted for every host.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codex_ray.cluster.processes import title_of

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


DRIVER: Final = "driver"
RAY: Final = "ray"
ACTORS: Final = {"CoordinatorServer": "coordinator", "HostServer": "hosts"}
"""The roles of Ray actors, by their class; what else Ray has started plays the role of Ray."""
ROLES: Final = (DRIVER, *ACTORS.values(), RAY)


def by_role(*, without: Collection[int] = ()) -> dict[str, list[int]]:
    """The family's process ids by what they do in a run, but for those `without`."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for pid in sorted(family() - set(without)):
        found[_role(pid)].append(pid)
    return found


def cpu_by_role(processes: dict[str, list[int]]) -> dict[str, float]:
    """CPU seconds, to the nanosecond, that these processes have used so far; gone ones count 0."""
    return {role: sum(map(_cpu_clock, pids)) for role, pids in processes.items()}


def machine_seconds() -> float:
    """CPU seconds that the machine's processors have worked so far, for whomever."""
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = (int(ticks) for ticks in fields[:7])
    return (user + nice + system + irq + softirq) / _TICKS


def taken_by_others(*, machine: float, ours: float, wall: float) -> float:
    """The share of the machine that other processes took in so many wall seconds, 0 to 1."""
    return min(1.0, max(0.0, machine - ours) / (wall * (os.cpu_count() or 1)))


def most_memory(pid: int) -> int:
    """Bytes of memory that the process has held at the most (resident set); 0 if it is gone."""
    return _bytes_told(pid, "status", "VmHWM:")


def _role(pid: int) -> str:
    """What the process does: Ray calls an actor's process ray::Class or ray::Class.method."""
    if pid == os.getpid():
        return DRIVER
    name = title_of(pid).partition("ray::")[2].partition(".")[0].strip()
    return ACTORS.get(name, RAY)


def _cpu_clock(pid: int) -> float:
    """CPU seconds of all threads of a process, from its own clock.

    The number of a process's clock is made as clock_getcpuclockid(3) makes it on Linux.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def cpu_seconds() -> float:
    """CPU seconds that the family has used so far, its reaped children included."""
    return sum(
        sum(int(ticks) for ticks in stat[11:15]) / _TICKS
        for stat in map(_stat, family())
        if stat is not None
    )


def memory() -> int:
    """Bytes of memory that the family holds (proportional set size)."""
    return sum(_bytes_told(pid, "smaps_rollup", "Pss:") for pid in family())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _bytes_told(pid: int, file: str, key: str) -> int:
    """What a line of /proc/PID/FILE tells in kilobytes, in bytes; 0 if the process is gone."""
    try:
        for line in (PROC / str(pid) / file).read_text().splitlines():
            if line.startswith(key):
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

"""What is seen of a run's processes from outside: who carries clients, and how much each holds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from codex_ray.cluster.processes import Process, descendants, processes, resident, title_of

Role = Literal["driver", "coordinator", "host"]
ROLES: Final[tuple[Role, ...]] = ("driver", "coordinator", "host")
COORDINATOR: Final = "CoordinatorServer"
"""What Ray calls the process of one, until it runs a method."""
WARM: Final = 3
"""Rounds of a process's life until it has loaded what it needs."""
SHORTEST: Final = 10
"""Rounds after those, under which nothing can be said of a trend."""
MIB: Final = 2**20


@dataclass
class Life:
    """One process from its first round to its last: the memory that it held after each of them.

    Attributes:
        role: what it does in the run.
        samples: (rounds told of so far, resident bytes).
    """

    role: Role
    samples: list[tuple[int, int]] = field(default_factory=list)

    @property
    def warm(self) -> list[tuple[int, int]]:
        """The samples from the moment on at which it has loaded what it needs."""
        first = self.samples[0][0] if self.samples else 0
        return [(at, held) for at, held in self.samples if at >= first + WARM]


@dataclass(frozen=True)
class Growth:
    """How memory grows in the processes of a role: least squares over rounds, by process life.

    Attributes:
        role: of the processes.
        lives: how many were long enough.
        rounds: that they lived, together.
        slope: MiB in ten rounds: one for all, each life having a level of its own.
        worst: of the single lives the largest.
    """

    role: Role
    lives: int
    rounds: int
    slope: float
    worst: float


def growth(lives: Sequence[Life], role: Role) -> Growth | None:
    """The growth of that role's processes; None if none lived long enough."""
    found, total, moment, spread = [], 0, 0.0, 0.0
    for life in lives:
        samples = life.warm
        if life.role != role or len(samples) < SHORTEST:
            continue
        mean_at = sum(at for at, _ in samples) / len(samples)
        mean_held = sum(held for _, held in samples) / len(samples)
        across = sum((at - mean_at) * (held - mean_held) for at, held in samples)
        along = sum((at - mean_at) ** 2 for at, _ in samples)
        found.append(across / along)
        moment, spread, total = moment + across, spread + along, total + len(samples)
    if not found:
        return None
    unit = 10 / MIB
    return Growth(role, len(found), total, slope=unit * moment / spread, worst=unit * max(found))


class Watch:
    """Looks at the processes that this one has begun, and keeps what it saw."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.staffed: list[tuple[float, frozenset[int]]] = []
        """The hosts that were built, each time that they changed, with the time."""
        self.waiting: list[tuple[float, frozenset[int]]] = []
        """The same of coordinators that wait to take over from one that is at work."""
        self._lives: dict[tuple[int, int], Life] = {}
        self._running: set[tuple[int, int]] = set()
        self._told = -1

    @property
    def lives(self) -> list[Life]:
        """Of every process that had a role."""
        return list(self._lives.values())

    def look(self, *, driver: int, told: int) -> None:
        """One look; memory only if a round was told of since the last one.

        Args:
            driver: the process of the driver of the moment.
            told: how many rounds it has told of.
        """
        found = processes()
        ours = descendants(os.getpid(), found)
        titles = {pid: title_of(pid).partition("ray::")[2] for pid in ours}
        roles = {
            pid: role
            for pid, title in titles.items()
            if (role := self._role_of(found[pid], title, driver=driver)) is not None
        }
        hosts = frozenset(pid for pid, role in roles.items() if role == "host")
        if not self.staffed or self.staffed[-1][1] != hosts:
            self.staffed.append((time.time(), hosts))
        at_work = "coordinator" in roles.values()
        built = [pid for pid, title in titles.items() if at_work and title == COORDINATOR]
        waiting = frozenset(built) - roles.keys()  # built, with no method, and has run nothing
        if not self.waiting or self.waiting[-1][1] != waiting:
            self.waiting.append((time.time(), waiting))
        if told == self._told:
            return
        self._told = told
        for pid, role in roles.items():
            self._sample(found[pid], role, told)

    def _role_of(self, process: Process, title: str, *, driver: int) -> Role | None:
        """What the process does: Ray calls an actor's process ray::Class, or ray::Class.method.

        A host that is being built (__init__) carries nobody yet, and a coordinator that waits to
        take over runs nothing: it is one from its first round on.
        """
        pid, key = process.pid, (process.pid, process.began)
        if pid == driver:
            return "driver"
        name, _, method = title.partition(".")
        if name == COORDINATOR:
            if method.startswith("run"):
                self._running.add(key)
            return "coordinator" if key in self._running else None
        return "host" if name == "HostServer" and not method.startswith("__init__") else None

    def _sample(self, process: Process, role: Role, told: int) -> None:
        held = resident(process.pid)
        if held:
            life = self._lives.setdefault((process.pid, process.began), Life(role))
            life.samples.append((told, held))

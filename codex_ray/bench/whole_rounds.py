"""Whole rounds, over Ray or in this process, and what they cost whom.

Everything counts: the driver, the coordinator, the hosts, and Ray's own processes, from the moment
that a round's result is known to the moment that a later one's is. A checkpoint is on disk by then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codex_ray.assembly import Assembled
from codex_ray.bench.processes import (
    by_role,
    cpu_by_role,
    machine_seconds,
    most_memory,
    taken_by_others,
    watching_memory,
)
from codex_ray.bench.workloads import Workload
from codex_ray.config import to_yaml
from codex_ray.federation.state import RoundResult
from codex_ray.federation.transport import LocalTransport
from codex_ray.records.run_directory import RunDirectory
from codex_ray.running import begin, rounds

GONE = 20.0
"""Seconds that killed actors may take to be gone."""


@dataclass(frozen=True)
class Cost:
    """What a round cost, on average over a few that were measured together.

    Attributes:
        wall: seconds from its predecessor's result to its own.
        cpu: CPU seconds by role.
        stages: seconds by stage, as the round itself tells.
        survivors: clients in the sum.
        others: the share of the machine that other processes took meanwhile.
    """

    wall: float
    cpu: dict[str, float]
    stages: dict[str, float]
    survivors: float
    others: float = 0.0

    @property
    def cpu_total(self) -> float:
        """CPU seconds of everybody."""
        return sum(self.cpu.values())


@dataclass
class Running:
    """A run whose rounds are measured as they come.

    Attributes:
        results: its rounds.
        directory: where it is kept.
        without: ids of processes that have nothing to do with it.
    """

    results: Iterator[RoundResult]
    directory: RunDirectory
    without: Collection[int] = ()

    def skip(self, count: int) -> None:
        """Lets so many rounds go by."""
        for _ in range(count):
            next(self.results)

    def cost(self, count: int = 1) -> Cost:
        """What the next `count` rounds cost, each on average."""
        processes = by_role(without=self.without)
        before, machine, began = cpu_by_role(processes), machine_seconds(), time.perf_counter()
        told = [next(self.results) for _ in range(count)]
        wall = time.perf_counter() - began
        after, machine = cpu_by_role(processes), machine_seconds() - machine
        ours = sum(after.values()) - sum(before.values())
        stages = {stage: 0.0 for result in told for stage in result.seconds}
        for result in told:
            for stage, seconds in result.seconds.items():
                stages[stage] += seconds / count
        return Cost(
            wall / count,
            {role: (after[role] - before[role]) / count for role in after},
            stages,
            sum(result.survivors for result in told) / count,
            taken_by_others(machine=machine, ours=ours, wall=wall),
        )

    def peak(self, count: int = 1) -> int:
        """Bytes of memory that everybody holds at the most in the next `count` rounds.

        Looking at memory takes time, so rounds that are timed are others.
        """
        with watching_memory(every=0.2) as peak:
            self.skip(count)
        return peak.bytes

    def most_memory(self, role: str) -> int:
        """Bytes that the largest process of that role has held at the most."""
        pids = by_role(without=self.without)[role]
        return max(map(most_memory, pids), default=0)

    def checkpoint_bytes(self) -> int:
        """Bytes of the last checkpoint."""
        return sorted(self.directory.checkpoint.glob("round-*"))[-1].stat().st_size


@contextmanager
def running(workload: Workload, *, without: Collection[int] = ()) -> Iterator[Running]:
    """The workload's run, from its first round on; its directory goes with it.

    Over Ray the cluster is whichever is there, or one of its own.
    """
    assembled = workload.assembled()
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="codex-ray-bench-"))
        yaml = to_yaml(assembled.experiment)
        directory = RunDirectory.create(Path(folder) / "run", config=yaml)
        begin(assembled, directory)
        if workload.hosts:
            stack.callback(_await_gone, without)
        results = stack.enter_context(closing(_results(assembled, directory)))
        yield Running(results, directory, without)


def _results(assembled: Assembled, directory: RunDirectory) -> Generator[RoundResult, None, None]:
    if not assembled.experiment.cluster.hosts:
        yield from rounds(assembled, directory, LocalTransport(assembled.host()))
        return
    from codex_ray.cluster.session import ray_rounds  # slow to import

    results: Any = ray_rounds(assembled.experiment, directory)
    with closing(results):
        for result in results:
            if result is not None:
                yield result


def _await_gone(without: Collection[int]) -> None:
    """Returns when no actor of a run that has ended is still busy with it."""
    expires = time.monotonic() + GONE
    while time.monotonic() < expires:
        found = by_role(without=without)
        if not found["hosts"] and not found["coordinator"]:
            return
        time.sleep(0.1)


@contextmanager
def one_cluster() -> Iterator[None]:
    """A Ray that all runs of the block share, so that none of them has to wait for one."""
    from codex_ray.cluster.session import ray_session  # slow to import

    with ray_session("local"):
        yield

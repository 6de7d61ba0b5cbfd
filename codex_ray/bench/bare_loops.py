"""Bare PyTorch loops in processes of their own, one thread each, which work when they are asked to.

They are what a researcher would write instead of a simulator, one for each core. Each waits for a
line with a number of clients, trains so many, and answers with its CPU seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from codex_ray.data.shared_records import shared_records
from codex_ray.learning.contest import PLAIN, bare, training
from codex_ray.randomness import Randomness
from codex_ray.threads import single_thread

CLIENTS = 64
"""As many as there are sets of records in a measured run."""


@dataclass(frozen=True)
class BareLoops:
    """Processes that are ready to train."""

    processes: tuple[subprocess.Popen[str], ...]

    @property
    def pids(self) -> tuple[int, ...]:
        """Their ids."""
        return tuple(one.pid for one in self.processes)

    def train(self, clients: int) -> tuple[float, float]:
        """(CPU seconds of them all, wall seconds) for so many clients, shared out evenly."""
        share = -(-clients // len(self.processes))
        began = time.perf_counter()
        for one in self.processes:
            print(share, file=_there(one.stdin), flush=True)
        spent = sum(float(_there(one.stdout).readline()) for one in self.processes)
        return spent * clients / (share * len(self.processes)), time.perf_counter() - began


@contextmanager
def bare_loops(model: str, *, count: int) -> Iterator[BareLoops]:
    """So many processes with that model, warmed up; they end with the block."""
    command = [sys.executable, "-m", "codex_ray.bench.bare_loops", model]
    processes = tuple(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    )
    try:
        loops = BareLoops(processes)
        loops.train(2 * count)
        yield loops
    finally:
        for one in processes:
            _there(one.stdin).close()  # the end of its input is its end
        for one in processes:
            one.wait()


def _there(stream: Any) -> Any:
    assert stream is not None  # A pipe was asked for.
    return stream


def _answer(model: str) -> None:
    """Trains as many clients as each line of the input says."""
    single_thread()
    held = shared_records(CLIENTS, public=Randomness.of(0).public)
    made = replace(training(model, PLAIN, clients=1), dataset=held)
    for line in sys.stdin:
        left, began = int(line), time.process_time()
        while left > 0:
            bare(made, min(left, CLIENTS))
            left -= CLIENTS
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    _answer(sys.argv[1])

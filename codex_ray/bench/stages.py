"""Where the CPU seconds of a round go, part by part, with everything in this process.

Each part of the machinery is stood behind a watched stand-in, and a part's time is its own alone:
what it asks others to do counts as theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from codex_ray.assembly import Assembled, Given, assemble
from codex_ray.bench.workloads import Workload
from codex_ray.config import to_yaml
from codex_ray.federation.run import Run
from codex_ray.federation.transport import LocalTransport
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.observers import Observer, RoundLines, TensorBoard
from codex_ray.records.run_directory import RunDirectory

STAGES: Final = (
    "sample",
    "data",
    "train",
    "encode",
    "exchange",
    "sum",
    "release",
    "step",
    "checkpoint",
    "observers",
)
"""In the order of a round. exchange: the hosts' side of every message, with masking under secure
aggregation, but without training and encoding; sum: the server's side, and its ledger."""


@dataclass
class Stopwatch:
    """CPU seconds by part, of which one at a time is running."""

    spent: dict[str, float] = field(default_factory=dict)
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Counts the block for `part`, but for what others are counted for within it."""
        self._settle()
        self._running.append(part)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def _settle(self) -> None:
        now = time.process_time()
        if self._running:
            part = self._running[-1]
            self.spent[part] = self.spent.get(part, 0.0) + now - self._since
        self._since = now


class Watched:
    """Stands before an object: calls of the named methods are counted, all else is the object's."""

    def __init__(self, inner: Any, stopwatch: Stopwatch, /, **parts: str) -> None:
        """Count each method for the part that is named after it."""
        self._inner, self._stopwatch, self._parts = inner, stopwatch, parts
        self._instead: dict[str, Any] = {}

    def having(self, **instead: Any) -> Watched:
        """The same with some of the object's own attributes exchanged."""
        self._instead |= instead
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self._instead:
            return self._instead[name]
        found = getattr(self._inner, name)
        return _counted(found, self._stopwatch, self._parts[name]) if name in self._parts else found


def _counted(work: Callable[..., Any], stopwatch: Stopwatch, part: str) -> Callable[..., Any]:
    @wraps(work)
    def counted(*args: Any, **named: Any) -> Any:
        with stopwatch.during(part):
            return work(*args, **named)

    return counted


def stage_seconds(workload: Workload, *, warm: int, count: int) -> dict[str, float]:
    """CPU seconds of a round by stage, on average over `count` rounds after `warm` others."""
    stopwatch = Stopwatch()
    assembled = _watched(replace(workload, hosts=0).assembled(), stopwatch)
    with TemporaryDirectory(prefix="codex-ray-bench-") as folder:
        directory = RunDirectory.create(Path(folder) / "run", config=to_yaml(assembled.experiment))
        journal = Watched(Checkpoints(directory.checkpoint), stopwatch, save="checkpoint")
        run = _run(assembled, journal, stopwatch)
        observers: list[Observer] = [
            RoundLines(directory.rounds, first_round=0),
            TensorBoard(directory.tensorboard, first_round=0, config=""),
        ]
        results = run.results(assembled.first_state())
        for number in range(warm + count):
            if number == warm:
                stopwatch.spent.clear()
            with stopwatch.during("sum"):
                _, result = next(results)
            with stopwatch.during("observers"):
                for observer in observers:
                    observer.round(result)
        for observer in observers:
            observer.close()
    return {stage: stopwatch.spent.get(stage, 0.0) / count for stage in STAGES}


def _watched(assembled: Assembled, stopwatch: Stopwatch) -> Assembled:
    """The same experiment on watched data."""
    data = assembled.experiment.data.open(assembled.randomness.public)
    given: Any = Watched(data, stopwatch, client="data")
    experiment = assembled.experiment.model_copy(
        update={"data": assembled.experiment.data.model_copy(update={"factory": "object:bench"})}
    )
    return assemble(experiment, Given(data=given))


def _run(assembled: Assembled, journal: Any, stopwatch: Stopwatch) -> Run:
    """The run, whose round and host ask watched stand-ins."""
    federation = assembled.experiment.federation
    host = assembled.host()
    # The host is built as any other; only whom it asks is exchanged.
    vars(host)["_trainer"] = Watched(vars(host)["_trainer"], stopwatch, train="train")
    vars(host)["_mechanism"] = Watched(
        federation.mechanism,
        stopwatch,
        encode="encode",
        encode_all="encode",
        encode_sum="encode",
    )
    transport: Any = Watched(LocalTransport(host), stopwatch, exchange="exchange")
    stand_in: Any = Watched(federation, stopwatch).having(
        sampler=Watched(federation.sampler, stopwatch, sample="sample"),
        mechanism=Watched(federation.mechanism, stopwatch, release="release"),
        algorithm=Watched(federation.algorithm, stopwatch, step="step"),
    )
    return Run(
        round=replace(assembled.round(transport), federation=stand_in),
        rounds=assembled.experiment.rounds,
        evaluate=assembled.evaluate,
        evaluate_every=assembled.experiment.rounds,
        journal=journal,
        replayable=True,
    )

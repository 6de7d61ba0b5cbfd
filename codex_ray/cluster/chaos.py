"""Chaos: an experiment runs quietly, then where processes die, and has to end the same.

The supervisor is no part of Ray: it begins the cluster's nodes, the driver and whatever replaces
them, and looks at them from outside. Who is killed when is up to the coordinator (`kills`).
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codex_ray.assembly import assemble
from codex_ray.cluster.chaos_cluster import Loopback, loopback
from codex_ray.cluster.chaos_findings import (
    TOLD_FILE,
    Death,
    Findings,
    RunFound,
    death_of,
    differences,
    lines_of,
)
from codex_ray.cluster.chaos_schedule import Schedule, every_kind, soak
from codex_ray.cluster.chaos_watch import ROLES, Watch, growth
from codex_ray.cluster.kills import TRIPS_FILE, Kill, Kills
from codex_ray.config import to_yaml
from codex_ray.errors import ClusterError, ConfigError
from codex_ray.experiment import Experiment
from codex_ray.federation.transport import Carrier, Frames, LocalTransport
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory, to_json_bytes, write_atomically
from codex_ray.running import begin, finish, rounds
from codex_ray.threads import single_thread
from codex_ray.types import Stage
from codex_ray.wire import kind_of

EVERY: Final = 0.1
"""Seconds between two looks at the processes."""
STALLED: Final = 300.0
"""Seconds without a trip or a round after which a run is taken to hang."""


@dataclass(frozen=True)
class ChaosPlan:
    """What is to be done.

    Attributes:
        kills: how many, spread over every target and every trip; a soak has its own number.
        seed: of their schedule.
        nodes: that carry hosts.
        soak: one long run with a kill now and then, whose memory is looked at.
    """

    kills: int = 50
    seed: int = 0
    nodes: int = 3
    soak: bool = False


@dataclass(frozen=True)
class Moment:
    """How far it has come.

    Attributes:
        words: about the run of the moment, in a line.
        done: the kills so far.
        kills: how many there shall be.
        news: whether it is worth a line where lines stay.
    """

    words: str
    done: int
    kills: int
    news: bool = True


Watcher = Callable[[Moment], None]


class Noting(LocalTransport):
    """Clients in this process, and the trips of each round, as they come."""

    def __init__(self, host: Carrier) -> None:
        """All clients are on that host."""
        super().__init__(host)
        self.trips: dict[int, list[Stage]] = {}

    def exchange(self, outbox: Frames) -> dict[int, bytes]:
        """Every client's reply."""
        if outbox:
            stage = kind_of(next(iter(outbox.values()))).stage
            if stage is Stage.TRAIN:
                self.trips[len(self.trips)] = []
            if stage is not Stage.DEBUG:
                self.trips[len(self.trips) - 1].append(stage)
        return super().exchange(outbox)


@dataclass(frozen=True)
class Quiet:
    """The run that nobody disturbs: what it is by, what came of it, and its trips by round."""

    experiment: Experiment
    result: RunResult
    trips: dict[int, list[Stage]]


def chaos(experiment: Experiment, plan: ChaosPlan, *, folder: Path, watch: Watcher) -> Findings:
    """What came of an experiment's runs under kills, each compared with a quiet one.

    Args:
        experiment: with as many hosts as there shall be.
        plan: what is to be done.
        folder: an empty one, for the runs.
        watch: is told how far it has come.

    Raises:
        ConfigError: the experiment cannot be replayed, or has no hosts.
        ClusterError: a run under kills came to no end.
    """
    check(experiment)
    watch(Moment("a quiet run, in this process", 0, plan.kills))
    quiet = quiet_run(experiment, folder / "quiet")
    hosts = experiment.cluster.hosts
    if plan.soak:
        schedule = soak(seed=plan.seed, trips=quiet.trips, hosts=hosts)
    else:
        schedule = every_kind(plan.kills, seed=plan.seed, trips=quiet.trips, hosts=hosts)
    deaths, found = list[Death](), list[RunFound]()
    seen = Watch()
    watch(Moment(f"a cluster of {plan.nodes} nodes starts", 0, schedule.kills))
    # As many hosts a node as it takes, so that one that dies takes no more than its part along.
    with loopback(plan.nodes, cpus=math.ceil(hosts / plan.nodes)) as cluster:
        for number, kills in enumerate(schedule.runs, start=1):
            run = _Run(quiet, cluster, number, kills, folder, seen, _Told(schedule, number, watch))
            outcome = run.to_its_end(hosts)
            found.append(outcome)
            deaths += run.deaths(hosts)
    grown = [one for role in ROLES if (one := growth(seen.lives, role)) is not None]
    return Findings(
        name=experiment.name,
        seed=plan.seed,
        rounds=quiet.result.rounds,
        nodes=plan.nodes,
        hosts=hosts,
        model_sha256=quiet.result.model_sha256,
        epsilon=quiet.result.epsilon,
        deaths=tuple(deaths),
        runs=tuple(found),
        growth=tuple(grown) if plan.soak else (),
        left=cluster.left if not cluster.folder.exists() else (*cluster.left, str(cluster.folder)),
        soak=plan.soak,
    )


def check(experiment: Experiment) -> None:
    """Refuses what could not end the same, whatever this package did.

    Raises:
        ConfigError: it has no seed, or no hosts.
    """
    if experiment.seed is None:
        raise ConfigError(
            "seed is null: a run without a seed draws new noise after a kill, so it cannot end "
            "like a quiet one: give a seed, such as --set seed=0"
        )
    if experiment.cluster.hosts < 1:
        raise ConfigError(
            "cluster.hosts is 0: there is no host to kill: give --hosts, such as --hosts 3"
        )


def quiet_run(experiment: Experiment, path: Path) -> Quiet:
    """The run in this process, which other runs equal to the bit."""
    single_thread()
    alone = experiment.model_copy(
        update={"cluster": experiment.cluster.model_copy(update={"hosts": 0, "address": "local"})}
    )
    assembled = assemble(alone).settled(gpus=0)
    if assembled.experiment.plan.plan.on_gpu:
        raise ConfigError("plan.device is a GPU, and chaos has none: --set plan.device=cpu")
    directory = RunDirectory.create(path, config=to_yaml(assembled.experiment))
    begin(assembled, directory)
    transport = Noting(assembled.host())
    with directory.locked():
        for _ in rounds(assembled, directory, transport):
            pass
        finish(assembled, directory)
    settled = assembled.experiment.model_copy(update={"cluster": experiment.cluster})
    return Quiet(settled, RunResult.read(path), transport.trips)  # read as the others will be


class _Told:
    """What the watcher is told of one run."""

    def __init__(self, schedule: Schedule, number: int, watch: Watcher) -> None:
        self._before = sum(len(run) for run in schedule.runs[: number - 1])
        self._all = schedule.kills
        self._of = f"run {number} of {len(schedule.runs)}"
        self._watch = watch

    def now(self, words: str, *, done: int, news: bool) -> None:
        """Tells of this moment."""
        self._watch(Moment(f"{self._of}: {words}", self._before + done, self._all, news))


@dataclass
class _Run:
    """One run under kills, driver after driver."""

    quiet: Quiet
    cluster: Loopback
    number: int
    scheduled: tuple[Kill, ...]
    folder: Path
    seen: Watch
    told: _Told

    def __post_init__(self) -> None:
        self._path = self.folder / f"run-{self.number:02d}"
        self._logs = self.folder / f"kills-{self.number:02d}"
        self._logs.mkdir(parents=True)
        self._kills = Kills(folder=str(self._logs.resolve()), driver=0, kills=self.scheduled)
        self._known: set[int] = set()
        self._heard = time.monotonic()
        self._size = 0

    def to_its_end(self, hosts: int) -> RunFound:
        """How it ended.

        Raises:
            ClusterError: it came to no end.
        """
        cluster = self.quiet.experiment.cluster.model_copy(
            update={"hosts": hosts, "address": self.cluster.address, "metrics_port": None}
        )
        experiment = self.quiet.experiment.model_copy(update={"cluster": cluster})
        directory = RunDirectory.create(self._path, config=to_yaml(experiment))
        begin(assemble(experiment), directory)
        began, drivers = time.monotonic(), 0
        while not directory.finished():
            drivers += 1
            killed = sum(kill.whom == "driver" for kill in self._done())
            status = self._drive()
            new = sum(kill.whom == "driver" for kill in self._done()) - killed
            if status != 0 and not (status == -signal.SIGKILL and new == 1):
                raise ClusterError(self._failed(status))
        found = RunResult.read(self._path)
        return RunFound(
            self.number, drivers, time.monotonic() - began, differences(self.quiet.result, found)
        )

    def deaths(self, hosts: int) -> list[Death]:
        """What came of each of its kills."""
        return [
            death_of(
                kill,
                self._kills,
                run=self.number,
                hosts=hosts,
                staffed=self.seen.staffed,
                waiting=self.seen.waiting,
            )
            for kill in self.scheduled
        ]

    def _done(self) -> list[Kill]:
        return [kill for kill in self.scheduled if self._kills.marker(kill).exists()]

    def _drive(self) -> int:
        """The exit status of one driver, during whose life dead nodes are replaced."""
        with _driver(self._path, self._kills, logs=self._logs) as child:
            self._heard = time.monotonic()
            while child.poll() is None:
                self.cluster.mend()
                self._look(child.pid)
                time.sleep(EVERY)
            self._look(child.pid)
            return int(child.returncode)

    def _look(self, driver: int) -> None:
        """Looks at the processes and at what they have written.

        Raises:
            ClusterError: nothing has happened for too long.
        """
        told = lines_of(self._logs / TOLD_FILE)
        rounds_told = told[-1]["round"] + 1 if told else 0
        self.seen.look(driver=driver, told=rounds_told)
        done = self._done()
        for kill in done:
            if kill.number not in self._known:
                self._known.add(kill.number)
                words = f"{kill.in_words} killed at {kill.trip} of round {kill.round}"
                self.told.now(words, done=len(done), news=True)
        words = f"round {rounds_told} of {self.quiet.result.rounds}"
        self.told.now(words, done=len(done), news=False)
        trips = self._logs / TRIPS_FILE
        size = len(told) + (trips.stat().st_size if trips.exists() else 0)
        if size != self._size:
            self._size, self._heard = size, time.monotonic()
        if time.monotonic() > self._heard + STALLED:
            raise ClusterError(
                f"run {self.number}: nothing has happened for {STALLED:g} s, after "
                f"{len(done)} of its {len(self.scheduled)} kills: {self._logs}"
            )

    def _failed(self, status: int) -> str:
        """Why a driver ended that nobody had killed, in words."""
        log = (self._logs / "driver.log").read_text(errors="replace").strip().splitlines()
        return (
            f"run {self.number}: its driver ended with {status} after {len(self._done())} of "
            f"{len(self.scheduled)} kills: {log[-1] if log else 'it said nothing'}"
        )


@contextmanager
def _driver(path: Path, kills: Kills, *, logs: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver's process, that ends with the block; Ctrl-C does not reach it by itself."""
    command = [sys.executable, "-m", "codex_ray.cluster.chaos_driver", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (logs / TOLD_FILE).open("ab") as told, (logs / "driver.log").open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=log,
            env=environment,
            text=True,
            start_new_session=True,
        )
        try:
            assert child.stdin is not None
            child.stdin.write(kills.to_text())
            child.stdin.close()
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def write_findings(findings: Findings, file: Path) -> None:
    """Writes them as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, to_json_bytes(findings.to_json()))

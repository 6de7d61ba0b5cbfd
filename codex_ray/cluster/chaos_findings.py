"""What came of the kills: when each run went on, and whether it ended as if nothing had been."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from codex_ray.cluster.chaos_watch import ROLES, Growth, Role
from codex_ray.cluster.kills import TRIPS_FILE, WHOM, Kill, Kills, Whom
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory
from codex_ray.types import Stage

BARS: Final[Mapping[Whom, float]] = {"host": 5.0, "node": 10.0, "coordinator": 5.0}
"""Seconds within which a run is to go on; a driver is resumed by whoever looks after it."""
FLAT: Final = 1.0
"""MiB by which a process may grow in ten rounds of a soak."""
TOLD_FILE: Final = "told.jsonl"
OF_THE_WAY: Final = ("attempts", "seconds", "bytes_up", "field_seconds")
"""What a round tells of the way that it came about; all the rest has to be the same."""


@dataclass(frozen=True)
class Death:
    """One kill, and how the run went on.

    Attributes:
        kill: as it was scheduled.
        run: which of the runs, from 1.
        at: when it was done, in seconds of the clock; None: it never was.
        recovered: seconds until the trip that it hit was over, or its repetition, and so was the
            next training of clients; None: the run never went on.
        back: seconds until there were as many hosts as before, all built; None where no host died,
            or where the run ended before.
        ready: whether another coordinator was built and waited; None where none was killed.
    """

    kill: Kill
    run: int
    at: float | None = None
    recovered: float | None = None
    back: float | None = None
    ready: bool | None = None

    @property
    def bar(self) -> float | None:
        """Seconds within which the run is to go on; None: nobody promises any."""
        return BARS.get(self.kill.whom)

    @property
    def late(self) -> bool:
        """Whether it took longer."""
        return self.bar is not None and self.recovered is not None and self.recovered > self.bar


@dataclass(frozen=True)
class RunFound:
    """How a run under kills ended.

    Attributes:
        number: from 1.
        drivers: how many it took.
        seconds: from the first driver's start to the result.
        differences: from the quiet run, in words; none, if all is well.
    """

    number: int
    drivers: int
    seconds: float
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """What the whole chaos came to.

    Attributes:
        name: of the experiment.
        seed: of the schedule.
        rounds: of each run.
        nodes, hosts: of the cluster.
        model_sha256: of the quiet run.
        epsilon: the same; infinite without a claim.
        deaths: in the order of the schedule.
        runs: in theirs.
        growth: of memory, by role; empty unless it was a soak.
        left: what was left behind, in words.
        soak: whether it was one.
    """

    name: str
    seed: int
    rounds: int
    nodes: int
    hosts: int
    model_sha256: str
    epsilon: float
    deaths: tuple[Death, ...]
    runs: tuple[RunFound, ...]
    growth: tuple[Growth, ...] = ()
    left: tuple[str, ...] = ()
    soak: bool = False

    @property
    def survived(self) -> int:
        """Kills that were done in runs which ended like the quiet one."""
        same = {run.number for run in self.runs if not run.differences}
        return sum(
            death.at is not None and death.recovered is not None and death.run in same
            for death in self.deaths
        )

    @property
    def ok(self) -> bool:
        """Whether all of them were, nothing is left behind, and in a soak no memory grew.

        How long each took is told beside its bar: that depends on what else the machine does.
        """
        flat = not self.untold and all(one.slope < FLAT for one in self.growth)
        return self.survived == len(self.deaths) and not self.left and flat

    @property
    def untold(self) -> tuple[Role, ...]:
        """In a soak the roles of whose memory nothing can be said: none lived for long enough."""
        told = {one.role for one in self.growth}
        return tuple(role for role in ROLES if self.soak and role not in told)

    def recoveries(self, whom: Whom) -> list[float]:
        """Seconds until the run went on, for each kill of that kind that it went on after."""
        return [
            death.recovered
            for death in self.deaths
            if death.kill.whom == whom and death.recovered is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        kinds = {whom: self.recoveries(whom) for whom in WHOM}
        recovery = {
            whom: {"kills": len(it), "median": median(it), "worst": max(it), "bar": BARS.get(whom)}
            for whom, it in kinds.items()
            if it
        }
        deaths = [
            {**death.kill.model_dump(), "run": death.run, "done": death.at is not None}
            | {"recovered": death.recovered, "hosts_back": death.back}
            | {"bar": death.bar, "late": death.late, "another_waited": death.ready}
            for death in self.deaths
        ]
        plain = {key: value for key, value in asdict(self).items() if key != "deaths"}
        return plain | {
            "survived": self.survived,
            "ok": self.ok,
            "recovery": recovery,
            "kills": deaths,
        }


def death_of(
    kill: Kill,
    kills: Kills,
    *,
    run: int,
    hosts: int,
    staffed: Sequence[tuple[float, frozenset[int]]],
    waiting: Sequence[tuple[float, frozenset[int]]] = (),
) -> Death:
    """What the markers and logs of a run tell of a kill.

    Args:
        kill: which.
        kills: of that run.
        run: its number.
        hosts: how many it has.
        staffed: the hosts that were built, each time that they changed.
        waiting: the same of coordinators that waited to take over.
    """
    marker = kills.marker(kill)
    if not marker.exists():
        return Death(kill, run)
    mark = json.loads(marker.read_text())
    folder = Path(kills.folder)
    stood = next((pids for when, pids in reversed(waiting) if when <= mark["at"]), frozenset())
    trips, told = lines_of(folder / TRIPS_FILE), lines_of(folder / TOLD_FILE)
    return Death(
        kill,
        run,
        at=mark["at"],
        recovered=_recovered(kill, mark, trips, told),
        back=_back(kill, mark, hosts, staffed, before=_next(kill, kills)),
        ready=bool(stood) if kill.whom == "coordinator" else None,
    )


def _next(kill: Kill, kills: Kills) -> float:
    """When the next kill was done, which began with all hosts; infinite if it never was."""
    later = [kills.marker(one) for one in kills.kills if one.round > kill.round]
    marks = [json.loads(marker.read_text()) for marker in later if marker.exists()]
    return min((float(mark["at"]) for mark in marks), default=math.inf)


def _recovered(
    kill: Kill,
    mark: Mapping[str, Any],
    trips: Sequence[Mapping[str, Any]],
    told: Sequence[Mapping[str, Any]],
) -> float | None:
    """Seconds until the run had the trip behind it, and the next training too."""
    at, others_only = mark["at"], kill.whom in ("coordinator", "driver")
    later = [
        trip
        for trip in trips
        if trip["ended"] > at
        and not trip["lost"]
        and not (others_only and trip["pid"] == mark["coordinator"])
    ]
    over = [t["ended"] for t in later if (t["round"], t["stage"]) >= (kill.round, kill.stage)]
    if kill.whom == "driver":
        # One that is killed after its last round has only its result left to write.
        over += [it["at"] for it in told if it["at"] > at and it["driver"] not in mark["pids"]]
    if not over:
        return None
    trained = [t["ended"] for t in later if t["stage"] == Stage.TRAIN and t["began"] > at]
    return float(max(min(over), min(trained, default=0.0)) - at)


def _back(
    kill: Kill,
    mark: Mapping[str, Any],
    hosts: int,
    staffed: Sequence[tuple[float, frozenset[int]]],
    *,
    before: float,
) -> float | None:
    """Seconds until as many hosts as before were built, none of them one of the dead.

    The kill `before` which they were there may have come sooner than a look at them.
    """
    if kill.whom == "coordinator":
        return None
    dead = set(mark["pids"])
    if kill.whom == "driver":  # whose end is the end of every host
        dead |= next((pids for when, pids in reversed(staffed) if when <= mark["at"]), frozenset())
    for when, pids in staffed:
        if mark["at"] < when < before and len(pids) == hosts and not pids & dead:
            return float(when - mark["at"])
    return None if before == math.inf else float(before - mark["at"])


def differences(quiet: RunResult, found: RunResult) -> tuple[str, ...]:
    """In what a run is not the quiet one, in words; all but the way that it came about counts."""
    words = []
    if found.model_sha256 != quiet.model_sha256:
        words.append(f"the model is {found.model_sha256[:12]}, not {quiet.model_sha256[:12]}")
    if found.privacy != quiet.privacy:
        words.append(f"epsilon is {found.epsilon:g}, not {quiet.epsilon:g}, or its grounds differ")
    expected, got = (lines_of(RunDirectory(Path(one.directory)).rounds) for one in (quiet, found))
    numbers = [line["round"] for line in got]
    if numbers != [line["round"] for line in expected]:
        return (*words, f"rounds told of: {numbers}, and there are {len(expected)}")
    for one, other in zip(expected, got, strict=True):
        keys = [key for key in one if key not in OF_THE_WAY and one[key] != other.get(key)]
        if other["aborted"] and not one["aborted"]:
            words.append(f"round {one['round']} was abandoned: {other['aborted']}")
            break
        if keys:
            words.append(f"round {one['round']} tells of other {', '.join(keys)}")
            break
    return tuple(words)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The lines of JSON in a file; one that was cut when its writer was killed is none."""
    found = []
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else []:
        try:
            if line.endswith(b"\n"):
                found.append(json.loads(line))
        except ValueError:
            continue
    return found

"""Kills on a schedule: drawn evenly, written down before they are done, and done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codex_ray.cluster import kills as module
from codex_ray.cluster.chaos_schedule import APART, every_kind, soak
from codex_ray.cluster.kills import TRIPS_FILE, Kill, Killing, Kills, node_around
from codex_ray.errors import ClusterError, ConfigError, HostLost
from codex_ray.federation.messages import TrainTask
from codex_ray.federation.transport import Frames
from codex_ray.secagg.messages import AdvertiseRequest
from codex_ray.types import Stage

TRIPS = [
    *(Stage.TRAIN, Stage.ENROL, Stage.ADVERTISE_KEYS, Stage.REVEAL_NONCES, Stage.SHARE_KEYS),
    *(Stage.MASKED_INPUT, Stage.CONFIRM_SURVIVORS, Stage.UNMASK),
]
ROUNDS = dict.fromkeys(range(24), TRIPS)


def kill(**changes: Any) -> Kill:
    usual = {"number": 1, "round": 3, "trip": "train", "whom": "driver", "after": False}
    return Kill.model_validate(usual | changes)


def test_every_target_is_killed_at_every_trip_and_rounds_are_apart() -> None:
    schedule = every_kind(50, seed=3, trips=ROUNDS, hosts=3)
    flat = [one for run in schedule.runs for one in run]
    assert schedule.kills == len(flat) == 50
    assert [one.number for one in flat] == list(range(1, 51))
    kinds = Counter((one.whom, one.stage) for one in flat)
    assert len(kinds) == 4 * len(TRIPS) and max(kinds.values()) == 2
    assert {one.host for one in flat} == {0, 1, 2, None}
    assert all((one.host is None) == (one.trip == "unmask") for one in flat)
    for run in schedule.runs:
        rounds = [one.round for one in run]
        assert rounds == sorted(rounds) and all(np.diff(rounds) >= APART)
        assert rounds[-1] < 24


def test_a_kind_that_comes_again_is_killed_at_the_other_moment() -> None:
    schedule = every_kind(8 * len(TRIPS), seed=1, trips=ROUNDS, hosts=2)
    flat = [one for run in schedule.runs for one in run]
    moments = Counter((one.whom, one.stage, one.after) for one in flat)
    assert set(moments.values()) == {1} and len(moments) == 8 * len(TRIPS)


def test_the_schedule_is_its_seeds() -> None:
    one, again, other = (every_kind(20, seed=s, trips=ROUNDS, hosts=3) for s in (1, 1, 2))
    assert one == again and one != other


def test_a_trip_is_killed_only_in_rounds_that_have_it() -> None:
    trips = {round: TRIPS if round % 4 == 0 else TRIPS[:2] for round in range(24)}
    schedule = every_kind(40, seed=0, trips=trips, hosts=1)
    assert schedule.kills == 40
    for run in schedule.runs:
        assert all(one.stage in trips[one.round] for one in run)


def test_short_runs_are_killed_too() -> None:
    schedule = every_kind(6, seed=0, trips={0: TRIPS}, hosts=1)
    assert schedule.kills == 6


def test_a_soak_kills_in_every_tenth_round_and_a_coordinator_now_and_then() -> None:
    schedule = soak(seed=0, trips=dict.fromkeys(range(300), TRIPS), hosts=3)
    (run,) = schedule.runs
    assert [one.round for one in run] == list(range(10, 300, 10))
    assert Counter(one.whom for one in run) == {"host": 24, "coordinator": 5}


def test_kills_are_read_as_they_were_written() -> None:
    kills = Kills(folder="/there", driver=12, kills=(kill(), kill(number=2, whom="node", host=1)))
    assert Kills.read(kills.to_text()) == kills


@pytest.mark.parametrize(
    "changes",
    [
        {"whom": "head"},
        {"trip": "debug"},
        {"round": "3"},
        {"round": -1},
        {"after": 1},
        {"more": 1},
        {"number": None},
    ],
)
def test_a_text_that_is_not_theirs_is_refused(changes: dict[str, Any]) -> None:
    plain = json.loads(Kills(folder="/there", driver=12, kills=(kill(),)).to_text())
    plain["kills"][0] |= changes
    with pytest.raises(ConfigError, match=r"kills\.kills\.0"):
        Kills.read(json.dumps(plain))
    with pytest.raises(ConfigError, match="kills"):
        Kills.read("not JSON")


def test_a_kill_is_claimed_once(tmp_path: Path) -> None:
    kills = Kills(folder=str(tmp_path), driver=1, kills=(kill(),))
    assert kills.due(3, Stage.TRAIN) == kill()
    assert kills.due(3, Stage.UNMASK) is None and kills.due(2, Stage.TRAIN) is None
    assert kills.claim(kill(), [77])
    assert not kills.claim(kill(), [78])
    mark = json.loads(kills.marker(kill()).read_text())
    assert mark["pids"] == [77] and mark["coordinator"] == os.getpid()
    assert kills.due(3, Stage.TRAIN) is None
    assert [file.name for file in tmp_path.iterdir()] == ["kill-001.json"]


class Inner:
    """A transport whose hosts are processes that sleep."""

    width = 1
    lost: frozenset[int] = frozenset()

    def __init__(self, *pids: int) -> None:
        self.hosts = list(pids)
        self.places: dict[int, int] = {}
        self.states: list[str] = []
        self.lose = False
        self.waited = 0

    def wait(self) -> None:
        self.waited += 1

    def exchange(self, outbox: Frames) -> dict[int, bytes]:
        self.states.append("".join(state_of(pid) for pid in self.hosts))
        if self.lose:
            raise HostLost("it is gone")
        return dict.fromkeys(outbox, b"heard")

    def work(self, tasks: Any) -> list[bytes]:
        return []

    def recover(self) -> None: ...

    def close(self) -> None: ...


def state_of(pid: int) -> str:
    """What the kernel says of the process: S sleeps, T is stopped, Z is dead; soon, if not yet."""
    until = time.monotonic() + 1
    while True:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "ZT" or time.monotonic() > until:
            return state
        time.sleep(0.01)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def _hosts_are_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def pid_of(self: Killing, host: int) -> int:
        return int(self._inner.hosts[host])

    monkeypatch.setattr(Killing, "_pid", pid_of)


def task(round: int) -> Frames:
    return {0: TrainTask(b"r" * 16, round, 0, np.zeros(2, np.float32)).to_frame()}


def opening() -> Frames:
    """A frame of the second trip, which does not say of which round it is."""
    return {0: AdvertiseRequest(3, 2, 2, bytes(32)).to_frame()}


@pytest.mark.parametrize(("after", "seen"), [(False, "Z"), (True, "T")])
def test_a_host_is_killed_before_its_trip_or_frozen_for_it(
    after: bool, seen: str, sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Frozen it takes frames and sends nothing: a kill after they are out hits nothing else."""
    kills = Kills(folder=str(tmp_path), driver=1, kills=(kill(whom="host", after=after),))
    inner = Inner(sleeper.pid)
    killing = Killing.read(kills.to_text(), inner)
    assert killing.exchange(task(2)) == {0: b"heard"} and sleeper.poll() is None
    assert killing.exchange(task(3)) == {0: b"heard"}
    assert sleeper.wait(timeout=5) == -9
    assert inner.states[-1] == seen


def test_of_hosts_the_one_with_the_fewest_clients_is_found(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    smallest = kill(whom="host")
    assert smallest.host is None and smallest.in_words == "smallest host"
    with subprocess.Popen(["sleep", "30"]) as other:
        inner = Inner(other.pid, sleeper.pid, other.pid)
        inner.places = {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 1, 6: 1, 7: 0, 8: 2}
        killing = Killing(inner, Kills(folder=str(tmp_path), driver=1, kills=(smallest,)))
        (frame,) = task(3).values()
        killing.exchange(dict.fromkeys((0, 1, 2, 3, 4, 7, 8), frame))
        assert sleeper.wait(timeout=5) == -9 and other.poll() is None
        other.kill()


def test_a_round_that_is_replayed_is_not_killed_again(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    kills = Kills(folder=str(tmp_path), driver=sleeper.pid, kills=(kill(),))
    assert kills.claim(kill(), [sleeper.pid])
    Killing(Inner(), kills).exchange(task(3))
    assert sleeper.poll() is None
    again = Kills(folder=str(tmp_path), driver=sleeper.pid, kills=(kill(number=2),))
    Killing(Inner(), again).exchange(task(3))
    assert sleeper.wait(timeout=5) == -9


def test_a_driver_is_killed_before_or_when_all_have_answered(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    kills = Kills(folder=str(tmp_path), driver=sleeper.pid, kills=(kill(after=True),))
    inner = Inner(sleeper.pid)
    Killing(inner, kills).exchange(task(3))
    assert inner.states in (["S"], ["R"]) and sleeper.wait(timeout=5) == -9


def test_every_trip_is_told_of_with_its_round_and_its_end(tmp_path: Path) -> None:
    inner = Inner()
    killing = Killing(inner, Kills(folder=str(tmp_path), driver=1, kills=()))
    killing.exchange(task(5))
    killing.exchange(opening())
    killing.exchange({})
    inner.lose = True
    with pytest.raises(HostLost):
        killing.exchange(task(6))
    lines = [json.loads(line) for line in (tmp_path / TRIPS_FILE).read_text().splitlines()]
    found = [(line["round"], line["stage"], line["lost"]) for line in lines]
    assert found == [(5, Stage.TRAIN, ""), (5, Stage.ADVERTISE_KEYS, ""), (6, 0, "it is gone")]
    assert lines[0]["began"] <= lines[0]["ended"] <= lines[1]["began"]


def test_a_kill_at_a_later_trip_knows_its_round_from_the_task(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    late = kill(trip="advertise_keys")
    inner = Inner()
    killing = Killing(inner, Kills(folder=str(tmp_path), driver=sleeper.pid, kills=(late,)))
    for round in (2, 3):
        killing.exchange(task(round))
        assert sleeper.poll() is None
        killing.exchange(opening())
    assert sleeper.wait(timeout=5) == -9
    assert inner.waited == 1, "a round begins with all hosts if it has a kill in it, and no other"


def test_only_what_a_raylet_began_is_a_node(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(ClusterError, match="begun by no raylet"):
        node_around(sleeper.pid)


def test_the_coordinators_own_node_is_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "name_of", lambda _: "raylet")
    brother = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        monkeypatch.setattr(
            module, "parent_of", lambda pid: 4 if pid in (os.getpid(), brother.pid) else None
        )
        with pytest.raises(ClusterError, match="own node"):
            node_around(brother.pid)
    finally:
        brother.kill()
        brother.wait()

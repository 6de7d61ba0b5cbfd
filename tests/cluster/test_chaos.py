"""Whatever of a run is killed, and when, it ends like the quiet one; what did not is found out."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.cli import main
from codex_ray.cluster import chaos_watch
from codex_ray.cluster.chaos import ChaosPlan, chaos, quiet_run
from codex_ray.cluster.chaos_cluster import left_behind, stores
from codex_ray.cluster.chaos_findings import (
    TOLD_FILE,
    Death,
    Findings,
    RunFound,
    death_of,
    differences,
)
from codex_ray.cluster.chaos_table import death_table, growth_table, recovery_table, verdict
from codex_ray.cluster.chaos_watch import MIB, ROLES, Growth, Life, Watch, growth
from codex_ray.cluster.doors import session_folder
from codex_ray.cluster.kills import TRIPS_FILE, Kill, Kills, Trip, Whom
from codex_ray.cluster.processes import descendants, processes, using
from codex_ray.cluster.session import ray_rounds
from codex_ray.config import experiment_from, load_yaml, to_yaml
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory
from codex_ray.running import begin, finish
from codex_ray.types import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
CHAOS = ROOT / "experiments" / "chaos.yaml"


def kill(number: int, round: int, trip: Trip, whom: Whom, *, after: bool = False) -> Kill:
    host = None if trip == "unmask" else number % 2
    return Kill(number=number, round=round, trip=trip, whom=whom, host=host, after=after)


@pytest.fixture
def plain(silos: dict[str, Any]) -> dict[str, Any]:
    """Twelve clients with plain SGD, of whom a third may be lost: hosts start soon."""
    silos["data"] |= {"clients": 12, "records": [10, 20]}
    federation = {"protocol": {"kind": "secagg_plus"}}
    trainer = {"kind": "sgd", "learning_rate": 0.1}
    return silos | {"trainer": trainer, "budget": {}, "rounds": 4, "federation": federation}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_run_ends_the_same_whoever_is_killed(plain: dict[str, Any], tmp_path: Path) -> None:
    """On one Ray, so without nodes: hosts at train and at unmask, and a coordinator."""
    quiet = quiet_run(experiment_from(plain | {"cluster": {"hosts": 3}}), tmp_path / "quiet")
    scheduled = (
        kill(1, 0, "train", "host", after=True),
        kill(2, 1, "share_keys", "coordinator"),
        kill(3, 2, "unmask", "host", after=True),
        kill(4, 3, "masked_input", "host"),
    )
    logs = tmp_path / "logs"
    logs.mkdir()
    kills = Kills(folder=str(logs), driver=0, kills=scheduled)
    directory = RunDirectory.create(tmp_path / "run", config=to_yaml(quiet.experiment))
    assembled = assemble(quiet.experiment)
    begin(assembled, directory)
    results = ray_rounds(quiet.experiment, directory, kills=kills.to_text())
    told = [result.round for result in results if result is not None]
    assert told == [0, 1, 2, 3]
    assert differences(quiet.result, finish(assembled, directory)) == ()
    deaths = [death_of(one, kills, run=1, hosts=3, staffed=[]) for one in scheduled]
    assert all(death.at is not None and death.recovered is not None for death in deaths)
    attempts = [json.loads(line)["attempts"] for line in directory.rounds.open()]
    assert attempts[2] == 1, "a round was tried again after its unmask request"
    assert attempts[3] == 2


@pytest.fixture
def result(plain: dict[str, Any], finished: Callable[[dict[str, Any]], RunResult]) -> RunResult:
    """Of a quiet run."""
    return finished(plain)


def copied(result: RunResult, to: Path, **changes: Any) -> RunResult:
    """The result as that of another run, whose rounds are the same."""
    lines = RunDirectory(Path(result.directory)).rounds.read_bytes()
    to.mkdir()
    RunDirectory(to).rounds.write_bytes(lines)
    return result.model_copy(update={"directory": str(to)} | changes)


def test_what_differs_is_said(result: RunResult, tmp_path: Path) -> None:
    assert differences(result, copied(result, tmp_path / "same", seconds=9.0)) == ()
    (said,) = differences(result, copied(result, tmp_path / "model", model_sha256="0" * 64))
    assert said.startswith("the model is 000000000000, not ")
    (said,) = differences(result, copied(result, tmp_path / "spend", privacy=[{"epsilon": 1.0}]))
    assert "epsilon" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines, lines[-1]], "rounds told of"),
        (lambda lines: lines[:-1], "rounds told of"),
        (lambda lines: [lines[0] | {"survivors": 1}, *lines[1:]], "round 0 tells of other surviv"),
        (lambda lines: [*lines[:-1], lines[-1] | {"metrics": {}}], "round 3 tells of other metric"),
        (lambda lines: [lines[0] | {"attempts": 3, "seconds": {}}, *lines[1:]], None),
    ],
)
def test_rounds_have_to_be_told_of_once_and_alike(
    change: Callable[[list[Any]], list[Any]], words: str | None, result: RunResult, tmp_path: Path
) -> None:
    other = copied(result, tmp_path / "run")
    file = RunDirectory(tmp_path / "run").rounds
    lines = change([json.loads(line) for line in file.open()])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = differences(result, other)
    assert (said == ()) if words is None else (len(said) == 1 and said[0].startswith(words))


def logged(folder: Path, one: Kill, *, at: float, pids: list[int], trips: list[Any]) -> Kills:
    """What a run leaves that was killed once; a trip is (pid, round, stage, began, ended, lost)."""
    kills = Kills(folder=str(folder), driver=0, kills=(one,))
    mark = {"number": one.number, "at": at, "pids": pids, "coordinator": 50}
    kills.marker(one).write_text(json.dumps(mark))
    keys = ("pid", "round", "stage", "began", "ended", "lost")
    lines = [json.dumps(dict(zip(keys, trip, strict=True))) for trip in trips]
    (folder / TRIPS_FILE).write_text("".join(line + "\n" for line in lines) + '{"pid": 1')
    return kills


def test_a_host_is_got_over_when_its_trip_and_the_next_training_are_done(tmp_path: Path) -> None:
    one = kill(1, 2, "masked_input", "host")
    trips = [
        (50, 2, Stage.TRAIN, 9.0, 9.5, ""),
        (50, 2, Stage.MASKED_INPUT, 9.9, 10.5, "host 1 is lost"),
        (50, 2, Stage.TRAIN, 11.0, 12.0, ""),
        (50, 2, Stage.MASKED_INPUT, 12.5, 13.0, ""),
        (50, 3, Stage.TRAIN, 14.0, 15.0, ""),
    ]
    kills = logged(tmp_path, one, at=10.0, pids=[7], trips=trips)
    staffed = [(1.0, frozenset({7, 8})), (10.2, frozenset({8})), (11.5, frozenset({8, 9}))]
    death = death_of(one, kills, run=1, hosts=2, staffed=staffed)
    assert (death.recovered, death.back) == (3.0, 1.5)
    # At the last trip nothing is repeated: what the loss costs is seen in the next training.
    last = kill(1, 2, "unmask", "host", after=True)
    trips = [(50, 2, Stage.UNMASK, 10.0, 10.2, ""), (50, 3, Stage.TRAIN, 10.3, 14.0, "")]
    kills = logged(tmp_path, last, at=10.0, pids=[7], trips=trips)
    assert death_of(last, kills, run=1, hosts=2, staffed=staffed).recovered == 4.0


def test_a_dead_coordinators_own_trips_are_no_recovery(tmp_path: Path) -> None:
    one = kill(1, 2, "train", "coordinator", after=True)
    trips = [(50, 2, Stage.TRAIN, 9.9, 10.1, ""), (60, 2, Stage.TRAIN, 12.0, 13.0, "")]
    kills = logged(tmp_path, one, at=10.0, pids=[50], trips=trips)
    death = death_of(one, kills, run=1, hosts=2, staffed=[])
    assert (death.recovered, death.back, death.ready) == (3.0, None, False)
    waiting = [(9.0, frozenset({60})), (10.1, frozenset[int]())]
    assert death_of(one, kills, run=1, hosts=2, staffed=[], waiting=waiting).ready
    late = [(9.0, frozenset({60})), (9.5, frozenset[int]()), (10.1, frozenset({61}))]
    assert death_of(one, kills, run=1, hosts=2, staffed=[], waiting=late).ready is False
    assert death_of(kill(2, 3, "train", "host"), kills, run=1, hosts=2, staffed=[]).at is None


def test_a_driver_that_had_only_its_result_to_write_is_got_over_when_it_tells(
    tmp_path: Path,
) -> None:
    one = kill(1, 3, "unmask", "driver", after=True)
    kills = logged(tmp_path, one, at=10.0, pids=[70], trips=[(50, 3, 7, 9.0, 10.5, "")])
    told = [{"round": 3, "at": 10.6, "driver": 70}, {"round": 3, "at": 19.0, "driver": 71}]
    (tmp_path / TOLD_FILE).write_text("".join(json.dumps(line) + "\n" for line in told))
    staffed = [(1.0, frozenset({7, 8})), (11.0, frozenset()), (18.0, frozenset({9, 10}))]
    death = death_of(one, kills, run=1, hosts=2, staffed=staffed)
    assert (death.recovered, death.back) == (9.0, 8.0)


def grown(role: Any, *levels: int, each: int) -> Life:
    samples = [(at, level + each * at) for at, level in enumerate(levels)]
    return Life(role, samples)


def test_growth_is_of_each_life_whatever_its_level() -> None:
    """Two hosts that stay where they are have no slope, though the later one is larger."""
    flat = [grown("host", *[100 * MIB] * 30, each=0), grown("host", *[180 * MIB] * 30, each=0)]
    found = growth(flat, "host")
    assert found is not None and (found.lives, found.slope, found.worst) == (2, 0.0, 0.0)
    leaking = growth([grown("host", *[0] * 40, each=MIB // 5)], "host")
    assert leaking is not None and leaking.slope == pytest.approx(2.0)
    assert growth([grown("host", *[0] * 8, each=MIB)], "host") is None
    assert growth(flat, "driver") is None


def test_a_coordinator_is_one_from_its_first_round_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits to take over loads all that it needs meanwhile, which is no growth."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    titles = iter(["build", "", "run", "", "status"])
    try:
        watch = Watch()
        for told in range(5):
            title = f"ray::CoordinatorServer.{next(titles)}".rstrip(".")
            monkeypatch.setattr(
                chaos_watch, "title_of", lambda pid, at=title: at if pid == child.pid else ""
            )
            watch.look(driver=0, told=told)
        (life,) = watch.lives
        assert life.role == "coordinator" and [at for at, _ in life.samples] == [2, 3, 4]
        assert [pids for _, pids in watch.waiting] == [frozenset()]
    finally:
        child.kill()
        child.wait()


def test_one_that_waits_is_seen_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(30)"]
    children = [subprocess.Popen(command) for _ in range(2)]
    (works, _), names = children, dict[int, str]()
    monkeypatch.setattr(chaos_watch, "title_of", lambda pid: names.get(pid, ""))
    try:
        watch = Watch()
        for titles in (("run", "__init__"), ("run", "build"), ("run", ""), ("", "run")):
            for child, title in zip(children, titles, strict=True):
                names[child.pid] = f"ray::CoordinatorServer.{title}".rstrip(".")
            watch.look(driver=0, told=0)
        # Not while it is built, and not while it takes over; nor is it one that was at work.
        waiting = [pids for _, pids in watch.waiting]
        assert waiting == [frozenset(), frozenset({children[1].pid}), frozenset()]
        assert works.pid not in waiting[1]
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_a_watch_sees_the_driver_and_its_memory_once_a_round() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        watch = Watch()
        for told in (0, 0, 1):
            watch.look(driver=child.pid, told=told)
        (life,) = watch.lives
        assert life.role == "driver" and [at for at, _ in life.samples] == [0, 1]
        assert all(held > MIB for _, held in life.samples)
        assert watch.staffed[0][1] == frozenset()
    finally:
        child.kill()
        child.wait()


def test_a_process_that_stays_is_seen_by_its_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codex_ray.cluster.chaos_cluster.GRACE", 0.5)
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(["sleep", "30"], stdout=log)
    try:
        (said,) = left_behind(tmp_path, stores_before=stores())
        assert said.startswith(f"process {child.pid} (sleep 30")
    finally:
        child.kill()
        child.wait()
    assert left_behind(tmp_path, stores_before=stores()) == ()


FINDINGS = Findings(
    name="some",
    seed=0,
    rounds=4,
    nodes=3,
    hosts=2,
    model_sha256="ab" * 32,
    epsilon=1.0,
    deaths=(
        Death(kill(1, 0, "train", "host"), 1, at=1.0, recovered=0.5, back=3.0),
        Death(kill(2, 2, "unmask", "node"), 1, at=2.0, recovered=11.0, back=12.0),
    ),
    runs=(RunFound(1, 1, 20.0, ()),),
)


def test_all_is_well_only_if_every_kill_was_done_and_every_run_ended_the_same() -> None:
    assert FINDINGS.ok and FINDINGS.survived == 2
    other = replace(FINDINGS, runs=(RunFound(1, 1, 20.0, ("the model is another",)),))
    assert not other.ok and other.survived == 0
    undone = replace(FINDINGS, deaths=(FINDINGS.deaths[0], Death(FINDINGS.deaths[1].kill, 1)))
    assert not undone.ok and undone.survived == 1
    assert not replace(FINDINGS, left=("process 7",)).ok
    grew = Growth("host", 1, 30, slope=1.2, worst=1.2)
    assert not replace(FINDINGS, growth=(grew,)).ok
    flat = replace(grew, slope=0.2)
    assert replace(FINDINGS, growth=(flat,)).ok
    # A soak that was too short to tell of somebody's memory has shown nothing of it.
    short = replace(FINDINGS, growth=(flat,), soak=True)
    assert short.untold == ("driver", "coordinator") and not short.ok
    assert not replace(short, growth=()).ok
    assert replace(short, growth=tuple(replace(flat, role=role) for role in ROLES)).ok


def test_each_kill_has_its_bar() -> None:
    """Late is one that took longer; a driver is resumed by whoever looks after it."""
    host, node = FINDINGS.deaths
    assert (host.bar, host.late) == (5.0, False) and (node.bar, node.late) == (10.0, True)
    driver = Death(kill(3, 3, "train", "driver"), 1, at=3.0, recovered=99.0)
    assert (driver.bar, driver.late) == (None, False)
    told = FINDINGS.to_json()["kills"]
    assert [(one["bar"], one["late"]) for one in told] == [(5.0, False), (10.0, True)]


def test_the_tables_say_it() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    soaked = replace(FINDINGS, growth=(Growth("host", 1, 30, slope=0.25, worst=0.5),))
    for table in (death_table(soaked), recovery_table(soaked), growth_table(soaked)):
        console.print(table)
    console.print(verdict(soaked))
    text = console.export_text()
    assert "before train" in text and "node of smallest host" in text
    assert "11.0 s" in text and "+0.250" in text
    assert "1 of 2 that have a bar went on within it" in text
    assert "2 of 2: the same model" in text and "left behind: nothing" in text
    plain = soaked.to_json()
    assert plain["recovery"]["node"] == {"kills": 1, "median": 11.0, "worst": 11.0, "bar": 10.0}
    assert json.loads(json.dumps(plain))["kills"][0]["trip"] == "train"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "seed=null", "--set", "budget={}"], "give a seed"),
        (["--hosts", "0"], "--hosts is 0"),
        (["--set", "cluster.hosts=0"], "give --hosts"),
        (["--soak", "--kills", "5"], "every tenth"),
        (["--nodes", "-1"], "--nodes is -1"),
    ],
)
def test_what_cannot_end_the_same_is_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chaos", str(CHAOS), "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_experiment_has_every_trip_in_every_round(tmp_path: Path) -> None:
    experiment = experiment_from(load_yaml(CHAOS) | {"rounds": 4})
    quiet = quiet_run(experiment, tmp_path / "quiet")
    every = [stage for stage in Stage if stage is not Stage.DEBUG]
    assert list(quiet.trips.values()) == [every] * 4
    assert quiet.result.rounds_aborted == 0 and quiet.result.privacy
    alone = codex_ray.run(experiment, {"cluster.hosts": 0}, out=tmp_path / "alone")
    assert alone.model_sha256 == quiet.result.model_sha256


def late(findings: Findings) -> list[Death]:
    """Kills over their bars, but for coordinators in whose place none was ready yet."""
    return [death for death in findings.deaths if death.late and death.ready is not False]


def findings_of(tmp_path: Path, plan: ChaosPlan, **overrides: Any) -> Findings:
    experiment = experiment_from(load_yaml(CHAOS) | overrides)
    return chaos(experiment, plan, folder=tmp_path / "out", watch=lambda _: None)


@pytest.mark.slow
def test_one_of_each_kind_on_three_nodes(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, ChaosPlan(kills=8, seed=1))
    assert findings.ok and not late(findings), findings.to_json()


@pytest.mark.slow
def test_ctrl_c_ends_what_was_started(tmp_path: Path) -> None:
    """In the middle of a run, after a kill: no process, no folder is left."""
    before = set(Path(session_folder()).parent.glob("c-*"))
    # Whoever runs the tests in the background may have Ctrl-C ignored, which is inherited.
    heeding = "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
    code = f"import signal, sys; from codex_ray.cli import main; {heeding}"
    words = [sys.executable, "-c", code, "chaos", str(CHAOS), "--kills", "4"]
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [*words, "--out", str(tmp_path / "out")],
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        until = time.monotonic() + 300
        while "killed at" not in (tmp_path / "log").read_text() and time.monotonic() < until:
            assert child.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        (folder,) = set(Path(session_folder()).parent.glob("c-*")) - before
        begun = descendants(child.pid, processes())
        assert len(begun) > 8 and using(folder)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
    finally:
        child.kill()
    assert left_behind(folder, stores_before=stores()) == () and not folder.exists()
    assert not begun & processes().keys()


@pytest.mark.slow
def test_fifty_kills_change_nothing(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, ChaosPlan(kills=50))
    assert findings.ok and findings.survived == 50, findings.to_json()
    assert not late(findings), late(findings)


@pytest.mark.slow
def test_a_soak_stays_flat_and_leaves_nothing(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, ChaosPlan(soak=True), rounds=300)
    assert findings.ok and findings.rounds == 300, findings.to_json()
    assert {one.role for one in findings.growth} == set(ROLES)
    assert findings.left == () and not late(findings), late(findings)
    assert all(death.ready for death in findings.deaths if death.kill.whom == "coordinator")

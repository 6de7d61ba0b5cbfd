"""Runs from another terminal: how far they are, whether anybody is at them, and side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import codex_ray
from codex_ray import cli
from codex_ray.api import run
from codex_ray.cli.runs import add_runs
from codex_ray.cli.status import _show, add_status
from codex_ray.errors import RunDirectoryError
from codex_ray.federation.state import RoundResult
from codex_ray.records.run_directory import RunDirectory, locked
from codex_ray.records.run_status import RunStatus, Watched, is_locked, run_name
from codex_ray.records.status_view import duration, status_view


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with these two commands, whether or not it has them already."""
    added = [add for add in (add_status, add_runs) if add not in cli.COMMANDS]
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, *added))


def look(path: Path, now: float | None = None) -> RunStatus:
    config = yaml.safe_load((path / "config.yaml").read_text())
    return Watched(path, config=config).status(now=time.time() if now is None else now)


def stop_after(rounds: int) -> Callable[[RoundResult | None], None]:
    def watch(result: RoundResult | None) -> None:
        if result is not None and result.round + 1 == rounds:
            raise KeyboardInterrupt

    return watch


@pytest.fixture
def stopped(silos: dict[str, Any], tmp_path: Path) -> Path:
    """A run of three rounds that was interrupted after the second."""
    path = tmp_path / "runs" / "silos-001"
    with pytest.raises(KeyboardInterrupt):
        run(silos, out=path, watch=stop_after(2))
    return path


def shown(status: RunStatus, width: int = 200) -> str:
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(status_view(status))
    return capture.get()


def test_a_run_from_its_first_moment_to_its_result(silos: dict[str, Any], tmp_path: Path) -> None:
    path, seen = tmp_path / "silos-001", []
    config: dict[str, Any] = {}
    watched: list[Watched] = []

    def watch(result: RoundResult | None) -> None:
        if not watched:
            config.update(yaml.safe_load((path / "config.yaml").read_text()))
            watched.append(Watched(path, config=config))
        seen.append(watched[0].status(now=time.time()))

    result = run(silos, out=path, watch=watch)
    assert [status.rounds for status in seen] == [0, 1, 2, 3]
    assert {status.state for status in seen} == {"running"}
    assert [status.phase for status in seen] == [
        "before its first round", "running", "running", "all rounds done: working out the result",
    ]  # fmt: skip
    assert seen[0].seconds_left is None and (seen[1].seconds_left or 0) > 0
    assert seen[3].seconds_left == 0 and seen[1].epsilon["record"] < seen[3].epsilon["record"]
    end = watched[0].status(now=time.time())
    assert (end.state, end.phase) == ("finished", "finished")
    assert end.model_sha256 == result.model_sha256 and end.metrics == result.metrics
    assert end.epsilon == {"record": result.epsilon} and end.go_on is None
    assert sum(end.dropped.values()) == result.dropped_total and end.seconds == result.seconds
    assert not end.hidden and (end.cohort, end.protocol, end.hosts) == (6, "secagg", 0)


def test_a_run_that_nobody_is_at_says_how_to_go_on(stopped: Path) -> None:
    status = look(stopped, now=(stopped / "rounds.jsonl").stat().st_mtime + 75)
    assert (status.state, status.rounds, status.rounds_planned) == ("stopped", 2, 3)
    assert status.go_on == f"codex-ray run --resume {stopped}"
    assert status.seconds_left is None
    words = shown(status)
    for said in ("silos-001: stopped", "2 of 3", "1 min 15 s ago", f"--resume {stopped}",
                 "a record, at delta 1e-05, of a budget of 50", "of 6 in the last round",
                 "(after round 2)"):  # fmt: skip
        assert said in words
    assert "rounds/s" not in words and "own" not in words
    assert cli.main(["run", *(status.go_on or "").split()[2:]]) == 0
    assert look(stopped).state == "finished"


def test_whoever_holds_the_lock_is_running(stopped: Path) -> None:
    directory = RunDirectory(stopped)
    with directory.locked():
        assert is_locked(directory.checkpoint)
        status = look(stopped)
        assert status.state == "running" and (status.seconds_left or 0) > 0
        assert "rounds/s" in shown(status) and "left" in shown(status)
    assert not is_locked(directory.checkpoint)


def test_a_process_that_was_killed_holds_no_lock(stopped: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from codex_ray.records.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(stopped)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert look(stopped).state == "running"
        process.kill()
    assert look(stopped).state == "stopped"


def test_looking_leaves_the_lock_free(stopped: Path) -> None:
    for _ in range(3):
        look(stopped)
        with RunDirectory(stopped).locked():
            pass


def test_a_run_that_was_killed_before_its_first_checkpoint(stopped: Path) -> None:
    for file in (stopped / "checkpoint").iterdir():
        file.unlink()
    assert look(stopped).go_on == "nothing to go on from: it ended before its first checkpoint"


def test_hidden_cohorts_are_marked(devices: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "devices"
    run(devices, {"rounds": 1}, out=path)
    status = look(path)
    assert status.hidden and "the coordinator's own, outside the guarantee" in shown(status)


def test_damage_is_named(stopped: Path) -> None:
    (stopped / "result.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"result\.json: cannot be read"):
        look(stopped)
    assert cli.main(["status", str(stopped)]) == 2


def test_status_on_the_command_line(
    stopped: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["status", str(stopped)]) == 0  # no terminal: once
    assert "stopped: no process is at it" in capsys.readouterr().out
    assert cli.main(["status", "--json", str(stopped)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "silos-001" and found["state"] == "stopped" and found["rounds"] == 2
    assert cli.main(["status", str(tmp_path / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("a: 1")
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "does not say how many rounds" in capsys.readouterr().err


def test_neither_torch_nor_ray_is_needed(stopped: Path) -> None:
    code = (
        "import sys; from codex_ray import cli; from codex_ray.cli.status import add_status\n"
        "cli.COMMANDS = (add_status,); cli.main(['status', sys.argv[1]])\n"
        "print([name for name in ('torch', 'ray', 'tensorboard') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(stopped)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_live_view_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([("one", True), ("two", True), ("three", False)])
    waited: list[float] = []
    monkeypatch.setattr("codex_ray.cli.status.time.sleep", waited.append)
    console = Console(force_terminal=True, markup=False, width=40)
    with console.capture() as capture:
        _show(lambda: next(looks), console, once=False)
    assert waited == [1.0, 1.0] and "three" in capture.get() and next(looks, None) is None


@pytest.fixture
def sweep(silos: dict[str, Any], tmp_path: Path) -> Path:
    """What a sweep leaves that was killed in its second trial."""
    folder = tmp_path / "runs" / "noise-001"
    run(silos, {"rounds": 1}, out=folder / "trials" / "000")
    with pytest.raises(KeyboardInterrupt):
        run(silos, out=folder / "trials" / "001", watch=stop_after(1))
    (folder / "description.json").write_text("{}")
    return folder


def test_trials_are_runs_of_their_sweep(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = sweep / "trials" / "001"
    assert run_name(trial) == "noise-001/001"
    assert look(trial).go_on == f"codex-ray sweep --resume {sweep}"
    assert cli.main(["status", str(sweep)]) == 0
    said = capsys.readouterr().out
    assert "no process is at it; trials: 1 finished, 1 stopped" in said
    assert "noise-001/000" in said
    assert f"codex-ray sweep --resume {sweep}" in said.replace("\n", "")
    with locked(sweep, of=sweep):
        assert cli.main(["status", "--json", str(sweep)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["running"] and [t["state"] for t in found["trials"]] == ["finished", "stopped"]


def test_runs_are_listed(
    sweep: Path, stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (stopped.parent / "notes").mkdir()
    broken = stopped.parent / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("rounds: 1")
    (broken / "result.json").write_text("nothing")
    monkeypatch.chdir(stopped.parent.parent)
    assert cli.main(["runs", "--json"]) == 0
    lines = {line["run"]: line for line in json.loads(capsys.readouterr().out)["runs"]}
    assert list(lines) == ["broken", "noise-001/000", "noise-001/001", "silos-001"]
    states = [line["state"] for line in lines.values()]
    assert states == ["damaged", "finished", "stopped", "stopped"]
    result = codex_ray.RunResult.read(sweep / "trials" / "000")
    line = lines["noise-001/000"]
    assert line["model_sha256"] == result.model_sha256 and line["metrics"] == result.metrics
    assert line["epsilon"] == {"record": result.epsilon} and line["delta"] == 1e-5
    assert (line["protocol"], line["rounds"], line["rounds_planned"]) == ("secagg", 1, 1)
    assert lines["silos-001"]["rounds"] == 2 and lines["silos-001"]["seconds"] > 0
    assert cli.main(["runs", "runs"]) == 0
    said = capsys.readouterr().out
    assert "result.json" in said and "1 damaged, 1 finished, 2 stopped" in said
    assert cli.main(["runs", "nowhere"]) == 2 and cli.main(["runs", "a", "b"]) == 2


def test_runs_without_a_claim(silos: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    plain = silos | {"trainer": {"kind": "sgd", "learning_rate": 0.1}, "budget": {}}
    run(plain, {"rounds": 1}, out=tmp_path / "runs" / "plain")
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0
    assert "no claim" in capsys.readouterr().out


def test_runs_are_compared(
    silos: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    silos["plan"] = "reference"  # what is settled by timing could be another difference
    run(silos, {"rounds": 1}, out=paths[0])
    run(silos, {"rounds": 1, "federation.protocol.kind": "ideal"}, out=paths[1])
    run(silos, {"rounds": 1, "trainer.noise_multiplier": 2.0}, out=paths[2])
    a, b, c = map(str, paths)
    assert cli.main(["runs", "--json", "compare", a, c]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"trainer.noise_multiplier": [1.0, 2.0]}
    spent = found["results"]["epsilon a record"]
    assert spent[0] > spent[1] and not found["same_model"]
    assert found["results"]["delta"] == [1e-5, 1e-5]
    assert cli.main(["runs", "compare", a, b]) == 0
    said = capsys.readouterr().out
    assert "federation.protocol.kind" in said and "ideal" in said
    assert "trainer.noise_multiplier" not in said  # it is the same
    assert "The models are the same, to the bit." in said
    assert cli.main(["runs", "compare", a]) == 2
    assert cli.main(["runs", "compare", a, str(tmp_path)]) == 2


def test_a_second_look_reads_no_result_twice(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codex_ray.config import load_yaml
    from codex_ray.records import run_listing

    listing = run_listing.Listing(sweep, read_config=load_yaml)
    first = listing.lines(now=0)
    monkeypatch.setattr(run_listing.RunLine, "of_result", None)
    assert listing.lines(now=0) == first
    os.utime(sweep / "trials" / "000" / "result.json", (1, 1))  # it is another one
    assert listing.lines(now=0)[0].state == "damaged"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (4.25, "4.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"),
     (7500, "2 h 5 min")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said

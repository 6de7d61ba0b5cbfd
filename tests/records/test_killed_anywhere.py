"""Killed before any of its writes, a run goes on to where it would have come: to the bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, go_on, killing

import codex_ray
from codex_ray.errors import RunDirectoryError


@pytest.fixture
def tiny(silos: dict[str, Any]) -> dict[str, Any]:
    """Six clients whose sum is taken on trust: it is files that are to be tried."""
    federation = silos["federation"] | {"protocol": {"kind": "ideal"}}
    return silos | {"federation": federation, "rounds": 2, "name": "tiny"}


def told(path: Path) -> list[dict[str, Any]]:
    """What rounds.jsonl says, without what a clock said."""
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    return [line | {"seconds": None} for line in lines]


def rounds_in(log: Path) -> list[int]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["round"] for line in lines if line["logger"] == "codex_ray.rounds"]


def check_whole(path: Path, quiet: Path) -> None:
    """Everything that the run left is what an undisturbed one left."""
    for name in ("model.safetensors", "privacy.json", "config.yaml"):
        assert (path / name).read_bytes() == (quiet / name).read_bytes(), name
    assert told(path) == told(quiet)
    assert rounds_in(path / "log.jsonl") == rounds_in(quiet / "log.jsonl")
    assert (path / "report.html").exists()
    left = [it.name for it in path.rglob(".*")]
    assert not left, "temporary files are left"


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_write(tiny, every, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("codex_ray.records.report.draw", lambda *_: b"")  # half a second each
    quiet = tmp_path / "quiet"
    with killing(quiet) as steps:
        codex_ray.run(tiny, out=quiet)
    assert steps.taken > 30
    for at in range(1, steps.taken + 1, every):
        path = tmp_path / f"{at:03d}"
        with pytest.raises(Killed), killing(path, at=at):
            codex_ray.run(tiny, out=path)
        go_on(tiny, path)
        check_whole(path, quiet)
        shutil.rmtree(path)


@pytest.mark.slow
def test_killed_twice(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("codex_ray.records.report.draw", lambda *_: b"")
    whole = tmp_path / "whole"
    with killing(whole) as steps:
        codex_ray.run(tiny, out=whole)
    path = tmp_path / "run"
    with pytest.raises(Killed), killing(path, at=steps.taken // 2):
        codex_ray.run(tiny, out=path)
    first = tmp_path / "first"
    shutil.copytree(path, first)
    with killing(path) as again:
        go_on(tiny, path)
    for at in range(1, again.taken + 1):
        shutil.rmtree(path)
        shutil.copytree(first, path)
        with pytest.raises(Killed), killing(path, at=at):
            codex_ray.run(resume=path)
        go_on(tiny, path)
        check_whole(path, whole)


@pytest.mark.parametrize(
    "share", [0.55, *(pytest.param(it, marks=pytest.mark.slow) for it in (0.3, 0.8, 0.95))]
)
def test_a_process_is_killed(tiny, tmp_path, share: float) -> None:
    whole, path = tmp_path / "whole", tmp_path / "run"
    with killing(whole) as steps:
        codex_ray.run(tiny, out=whole)
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import codex_ray\n"
        "from killing import killing\n"
        f"with killing(Path({str(path)!r}), at={int(share * steps.taken)}, for_good=True):\n"
        f"    codex_ray.run(json.loads({json.dumps(tiny)!r}), out={str(path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    go_on(tiny, path)
    check_whole(path, whole)


def test_a_finished_run_without_its_report_gets_it(tiny, tmp_path) -> None:
    codex_ray.run(tiny, out=tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    with pytest.raises(RunDirectoryError, match="has ended"):
        codex_ray.run(resume=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()


def test_more_rounds_asked_for_and_killed_at_once(tiny, tmp_path) -> None:
    path = tmp_path / "run"
    codex_ray.run(tiny, out=path)
    with pytest.raises(Killed), killing(path, at=2):
        codex_ray.run(None, {"rounds": 3}, resume=path)
    assert not (path / "result.json").exists()
    assert codex_ray.run(resume=path).rounds == 2
    assert codex_ray.run(None, {"rounds": 3}, resume=path).rounds == 3

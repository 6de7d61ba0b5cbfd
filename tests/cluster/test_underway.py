"""A coordinator that answers and gets nowhere is lost, too; one that gets on is left its time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codex_ray.cluster import session, underway
from codex_ray.cluster.session import _rounds_of_one, _Silent
from codex_ray.cluster.underway import LEAST, STUCK, Asking
from codex_ray.config import experiment_from
from codex_ray.records.run_directory import RunDirectory

DEADLINE = 600.0


class Stuck:
    """Its status is what is set here; nobody else is at work."""

    def __init__(self) -> None:
        self.told: dict[str, Any] | None = {"round": 4, "seconds": 0.0, "stage": "unmask"} | {
            "asked": 9, "heard": 9, "hosts": 2, "away": []
        }  # fmt: skip
        self.status = SimpleNamespace(remote=lambda: self)


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Stuck:
    one = Stuck()
    answers = SimpleNamespace(
        wait=lambda asked, timeout: (asked if one.told else [], []), get=lambda _: one.told
    )
    monkeypatch.setattr(underway, "ray", answers)
    return one


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("deadline", "patience"), [(DEADLINE, STUCK * DEADLINE), (5.0, LEAST)], ids=["long", "short"]
)
def test_one_that_makes_no_progress_is_lost_after_a_long_time(
    coordinator: Stuck, tmp_path: Path, deadline: float, patience: float
) -> None:
    clock = Clock()
    asking = Asking(tmp_path, deadline=deadline, clock=clock)
    asking.ask(coordinator)
    clock.now += patience - 1
    asking.ask(coordinator)
    assert asking.trouble == ""
    clock.now += 2
    asking.ask(coordinator)
    assert asking.trouble == f"at unmask of round 4 for {patience:g} s"


@pytest.mark.parametrize("step", [{"heard": 10}, {"away": [1]}, {"stage": ""}, {"round": 5}])
def test_one_that_gets_on_is_not_whatever_that_takes(
    coordinator: Stuck, tmp_path: Path, step: dict[str, Any]
) -> None:
    clock = Clock()
    asking = Asking(tmp_path, deadline=DEADLINE, clock=clock)
    asking.ask(coordinator)
    clock.now += STUCK * DEADLINE - 1
    coordinator.told = (coordinator.told or {}) | step
    asking.ask(coordinator)
    clock.now += STUCK * DEADLINE - 1
    asking.ask(coordinator)
    assert asking.trouble == ""


def test_one_that_gives_no_answer_is_lost_after_a_deadline(
    coordinator: Stuck, tmp_path: Path
) -> None:
    clock = Clock()
    asking = Asking(tmp_path, deadline=DEADLINE, clock=clock)
    coordinator.told = None
    for passed, said in ((0.0, ""), (DEADLINE, ""), (1.0, "no answer for 600 s")):
        clock.now += passed
        asking.ask(coordinator)
        assert asking.trouble == said


def test_one_that_is_lost_without_a_word_is_ended_and_replaced(
    silos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Any] = []
    waiting = SimpleNamespace(wait=lambda *_, **__: ([], []), kill=ended.append)
    monkeypatch.setattr(session, "ray", waiting)
    monkeypatch.setattr(Asking, "ask", lambda *_: None)
    monkeypatch.setattr(Asking, "trouble", "it is stuck")
    stream = SimpleNamespace(remote=lambda *_, **__: None)
    one = SimpleNamespace(run=SimpleNamespace(options=lambda **_: stream))
    crew: Any = SimpleNamespace(berth=SimpleNamespace(spec=""))
    directory = RunDirectory.create(tmp_path / "run", config="")
    with pytest.raises(_Silent, match="it is stuck"):
        next(_rounds_of_one(one, experiment_from(silos), directory, crew, term=0, kills=""))
    assert ended == [one]

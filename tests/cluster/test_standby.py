"""Who waits to take over, from when on, and that nobody is left waiting."""

from __future__ import annotations

from typing import Any

import pytest

from codex_ray.cluster import standby as module
from codex_ray.cluster.standby import AFTER, Standby


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def started() -> list[str]:
    return []


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    ended: list[Any] = []
    monkeypatch.setattr(module.ray, "kill", ended.append)
    return ended


def of(started: list[str], **more: Any) -> Standby:
    def start() -> str:
        started.append(f"coordinator {len(started)}")
        return started[-1]

    return Standby(start, **more)


def test_a_short_run_has_one_coordinator(started: list[str]) -> None:
    clock = Clock()
    standby = of(started, clock=clock)
    assert standby.take() == "coordinator 0"
    for _ in range(5):
        standby.told()
        clock.now += AFTER / 10
    assert started == ["coordinator 0"]


def test_one_that_lasts_has_another_wait_which_then_goes_to_work(started: list[str]) -> None:
    clock = Clock()
    standby = of(started, clock=clock)
    standby.take()
    standby.told()
    clock.now += AFTER
    standby.told()
    standby.told()
    assert started == ["coordinator 0", "coordinator 1"]
    assert standby.take() == "coordinator 1" and len(started) == 2


def test_after_a_loss_the_next_one_waits_as_soon_as_a_round_is_done(started: list[str]) -> None:
    standby = of(started, clock=Clock())
    assert [standby.take(), standby.take()] == ["coordinator 0", "coordinator 1"]
    assert len(started) == 2  # nothing waits while coordinators are lost one after the other
    standby.told()
    assert len(started) == 3


def test_nobody_waits_where_nobody_is_wanted(started: list[str], ended: list[Any]) -> None:
    standby = of(started, clock=Clock(), wanted=False)
    standby.take(), standby.take()
    standby.told()
    standby.close()
    assert len(started) == 2 and ended == []


def test_the_one_that_waits_ends_with_the_run(started: list[str], ended: list[Any]) -> None:
    standby = of(started, clock=Clock())
    standby.take(), standby.take()
    standby.told()
    standby.close()
    standby.close()
    assert ended == ["coordinator 2"]

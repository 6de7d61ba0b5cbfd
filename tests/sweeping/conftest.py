"""What the tests of a sweep without its cluster share: a small sweep, and outcomes by formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config import validated
from codex_ray.sweeping.book import Book
from codex_ray.sweeping.description import Sweep
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.outcome import SweepResult
from codex_ray.sweeping.settings import Planner, Setting

NOISE = "federation.mechanism.noise_multiplier"
CLIP = "federation.mechanism.clip_norm"


@pytest.fixture
def described(devices: dict[str, Any]) -> Callable[..., Sweep]:
    """A sweep over the forty devices, with whatever else is given."""

    def describe(**fields: Any) -> Sweep:
        known = {"set": {"rounds": 2, "plan": "reference"}}
        grid = {} if {"grid", "space"} & set(fields) else {"grid": {NOISE: [0.5, 4.0]}}
        return validated(Sweep, {"base": devices} | known | grid | fields)

    return describe


@pytest.fixture
def planned(described: Callable[..., Sweep], devices: dict[str, Any]) -> Callable[..., Planner]:
    """The planner of such a sweep."""
    return lambda **fields: Planner(described(**fields), devices)


def _report(setting: Setting) -> dict[str, Any]:
    """What a trial reports whose score is best at noise 1 and clip norm 1, told by its values."""
    noise, clip = setting.values.get(NOISE, 1.0), setting.values.get(CLIP, 1.0)
    score = 0.9 - 0.1 * abs(math.log(noise)) - 0.1 * abs(math.log(clip)) + 0.01 * setting.seed
    return {
        "metrics": {"accuracy": score},
        "epsilon": 4.0 / noise,
        "unit": "client",
        "round": 2,
        "finished": True,
    }


@pytest.fixture
def report_of() -> Callable[[Setting], dict[str, Any]]:
    """What such a trial reports."""
    return _report


@pytest.fixture
def worked(tmp_path: Path) -> Callable[..., SweepResult]:
    """Works a book off, trial by trial, up to `stop` of them, as if they were run."""

    def work(
        planner: Planner,
        *,
        folder: str = "sweep",
        stop: int | None = None,
        report: Callable[[Setting], Mapping[str, Any]] = _report,
    ) -> SweepResult:
        settings = planner.all()
        path = tmp_path / folder
        known = (path / "description.json").exists()
        description, base = planner.description, planner.base
        kept = (
            SweepFolder.open(path)
            if known
            else SweepFolder.create(path, description=description, base=base)
        )
        book, count = Book(planner, settings, kept), 0
        while stop is None or count < stop:
            handed = [s for s in (book.next(), book.next()) if s is not None]  # two at a time
            if not handed:
                break
            for setting in reversed(handed):  # and the later one is faster
                book.ended(setting.number, report(setting))
                count += 1
        return SweepResult(description, tuple(book.result()), path)

    return work

"""What a round that takes its time is at: asked of the coordinator, which answers meanwhile."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError

from codex_ray.errors import RunDirectoryError
from codex_ray.records.underway import Underway, over

PAUSE: Final = 1.0
"""Seconds without a round after which the coordinator is asked, and then again and again."""
PATIENCE: Final = 0.5
"""Seconds for its answer: whoever has none then waits for the next one."""


class Asking:
    """A driver that waits for a round, and tells those who look at the run what it is at."""

    pause = PAUSE

    def __init__(self, directory: Path) -> None:
        """Tells of it in a run directory."""
        self._directory = directory
        self._asked: Any = None
        self._since = 0.0

    @property
    def silence(self) -> float:
        """Seconds since the question that the coordinator has not answered."""
        return 0.0 if self._asked is None else time.monotonic() - self._since

    def ask(self, coordinator: Any) -> None:
        """Asks, and tells what was answered; a coordinator that is lost gives no answer."""
        if self._asked is None:
            self._asked, self._since = coordinator.status.remote(), time.monotonic()
        if not ray.wait([self._asked], timeout=PATIENCE)[0]:
            return
        answer, self._asked = self._asked, None
        with suppress(RayError, RunDirectoryError):
            Underway.of(ray.get(answer)).write(self._directory)

    def close(self) -> None:
        """Nothing is under way any more."""
        over(self._directory)

"""The coordinator that waits: built already, for the moment when the one at work is lost.

Most of what a new coordinator takes is its process, its imports and its experiment. None of that
depends on how far the run is, so a run that lasts has one more, which does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import ray
from ray.exceptions import RayError

AFTER: Final = 5.0
"""Seconds of rounds from which a run is taken to last; shorter ones save four CPU seconds."""


class Standby:
    """Hands out coordinators, and keeps the next one ready."""

    def __init__(
        self,
        start: Callable[[], Any],
        *,
        wanted: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody waits yet.

        Args:
            start: makes a coordinator that builds itself.
            wanted: whether anybody is to wait at all.
            clock: tells seconds.
        """
        self._start = start
        self._wanted = wanted
        self._clock = clock
        self._lasts: float | None = None
        self._waiting: Any = None
        self._taken = 0

    def take(self) -> Any:
        """The coordinator that goes to work: the one that waits, or a new one."""
        coordinator, self._waiting = self._waiting, None
        self._taken += 1
        return self._start() if coordinator is None else coordinator

    def told(self) -> None:
        """Has one wait from now on, if the run lasts or has lost one before.

        It is for after a round: until the first one is done, nobody has time for that.
        """
        if self._lasts is None:
            self._lasts = self._clock() + AFTER
        if not self._wanted or self._waiting is not None:
            return
        if self._taken > 1 or self._clock() >= self._lasts:
            self._waiting = self._start()

    def close(self) -> None:
        """Ends the one that waits."""
        if self._waiting is not None:
            with suppress(RayError):
                ray.kill(self._waiting)
            self._waiting = None

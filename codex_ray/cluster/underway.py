"""What a round that takes its time is at: asked of the coordinator, which answers meanwhile.

And that a coordinator is lost, which it cannot write into the run's log itself.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError

from codex_ray.errors import RunDirectoryError
from codex_ray.records.json_logs import COORDINATOR_LOST, JsonLog
from codex_ray.records.run_directory import RunDirectory
from codex_ray.records.run_status import run_name
from codex_ray.records.underway import Underway, over

LOG = logging.getLogger(__name__)
PAUSE: Final = 1.0
"""Seconds without a round after which the coordinator is asked, and then again and again."""
PATIENCE: Final = 0.5
"""Seconds for its answer: whoever has none then waits for the next one."""
STUCK: Final = 10.0
"""Deadlines without any progress after which a coordinator that does answer counts as lost.

A trip that makes none is at the next thing after two: one for a host that is silent, one for all of
them to come back. The rest is for what no deadline is about: an evaluation, a release, a checkpoint
that a slow store takes.
"""
LEAST: Final = 3600.0
"""Seconds that this is at the least, whatever the deadline of hosts."""


class Asking:
    """A driver that waits for a round, and tells those who look at the run what it is at."""

    pause = PAUSE

    def __init__(
        self,
        directory: Path,
        *,
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tells of it in a run directory.

        Args:
            directory: of the run.
            deadline: seconds after which a coordinator that gives no answer counts as lost.
            clock: tells seconds.
        """
        self._directory = directory
        self._deadline = deadline
        self._clock = clock
        self._asked: Any = None
        self._since = 0.0
        self._at: tuple[object, ...] = ()
        self._changed = math.inf

    @property
    def trouble(self) -> str:
        """In words why the coordinator counts as lost; empty: it does not."""
        if self._asked is not None and self._clock() - self._since > self._deadline:
            return f"no answer for {self._deadline:g} s"
        patience = max(LEAST, STUCK * self._deadline)
        if self._clock() - self._changed > patience:
            round, stage, *_ = self._at
            return f"at {stage or 'the start'} of round {round} for {patience:g} s"
        return ""

    def ask(self, coordinator: Any) -> None:
        """Asks, and tells what was answered; a coordinator that is lost gives no answer."""
        if self._asked is None:
            self._asked, self._since = coordinator.status.remote(), self._clock()
        if not ray.wait([self._asked], timeout=PATIENCE)[0]:
            return
        answer, self._asked = self._asked, None
        with suppress(RayError, RunDirectoryError):
            now = Underway.of(ray.get(answer))
            at = (now.round, now.stage, now.asked, now.heard, now.away)
            if at != self._at:
                self._at, self._changed = at, self._clock()
            now.write(self._directory)

    def close(self) -> None:
        """Nothing is under way any more."""
        over(self._directory)


def tell_of_loss(directory: RunDirectory, cause: object, *, round: int) -> None:
    """Warns that the coordinator was lost, on stderr and in the log of its run.

    Args:
        directory: of the run.
        cause: of the loss, in words.
        round: the first that was not told of.
    """
    with ExitStack() as stack:
        with suppress(RunDirectoryError):  # then the log goes without this line
            log = JsonLog(directory.log, run=run_name(directory.path), first_round=round)
            stack.callback(log.close)
        LOG.warning(
            "the coordinator was lost (%s): another goes on from its last checkpoint",
            cause,
            extra={"event": COORDINATOR_LOST},
        )

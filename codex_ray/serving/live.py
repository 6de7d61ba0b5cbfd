"""The model that answers now, and how another takes its place without a request being lost.

A new version is loaded and verified beside the old one, tried on one record, and then put in its
place by one assignment. A request holds the model that it began with to its end. The version before
is kept, so that a rollback is that assignment and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from codex_ray.errors import CodexRayError
from codex_ray.serving.batching import Batcher
from codex_ray.serving.http import later
from codex_ray.serving.model import Models, Served
from codex_ray.serving.schema import Features

LOG = logging.getLogger(__name__)
NO_TIME: Final = 0.001
"""Seconds of a whole batch: the event loop may wait so long, and a thread would cost as much."""
DOUBT: Final = 60.0
"""Seconds for which a model answers while its source cannot say what is to be served."""
LOOK: Final = 3600.0
"""Seconds until the model that answers is looked at again, where it was read from."""
LOOK_FAILING: Final = 60.0
"""The same while another one is wanted that cannot be believed: this one may be revoked."""


@dataclass(frozen=True)
class Current:
    """A model and the batcher of it alone."""

    served: Served
    batcher: Batcher


class Live:
    """Follows a source of models.

    Args:
        models: the source.
        batch: records that a model computes together at most.
        seconds: that an idle model waits for company.
        timer: seconds of a clock that never goes back.

    Attributes:
        swaps: how often another model took the place of one.
        failures: how often there was another one, and it could not be believed.
    """

    def __init__(
        self,
        models: Models,
        *,
        batch: int,
        seconds: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._timer = timer
        self._doubted: float | None = None
        self._looked = 0.0
        self._suspected = False
        self._batch = batch
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._current: Current | None = None
        self._before: Current | None = None
        self._failed: str | None = None
        self.swaps = 0
        self.failures = 0

    @property
    def ready(self) -> bool:
        """Whether there is a model, and its source has not been silent for too long."""
        return self._current is not None and not self._doubtful

    def now(self) -> Current:
        """The model, to be held until the request is answered.

        Raises:
            Refused: 503, there is none, or nobody has been able to say so for a minute.
        """
        if self._doubtful:
            raise later(503, "registry_unbelieved", 5)
        current = self._current
        if current is None:
            raise later(503, "no_model", 5)
        return current

    def peek(self) -> Served | None:
        """The model, if there is one."""
        return None if self._current is None else self._current.served

    async def refresh(self) -> bool:
        """Whether another model answers from now on, or none any more.

        A version that cannot be believed changes nothing: the old one goes on. Where the source
        says that nothing is to be served (it was revoked), nothing is; and where it says nothing
        that can be believed, the old one goes on for `DOUBT` seconds.
        """
        loop = asyncio.get_running_loop()
        try:
            wanted = await loop.run_in_executor(self._loading, self._models.identity)
        except Exception as error:  # whatever is wrong with a source, nobody is told that it holds
            self._doubted = self._timer() if self._doubted is None else self._doubted
            self._fail(_words(error))
            return False
        self._doubted = None
        if wanted is None:
            return self._end("nothing is to be served: it was revoked, or never promoted")
        if (wrong := await self._look_again()) is not None:
            return self._end(wrong)
        if self._current is not None and self._current.served.identity == wanted:
            self._failed = None
            return False
        if self._before is not None and self._before.served.identity == wanted:
            self._put(self._before)
            return True
        try:
            served, quick = await loop.run_in_executor(
                self._loading, _loaded, self._models, self._batch
            )
        except Exception as error:
            self._fail(_words(error))
            return False
        batcher = Batcher(
            served.predict,
            executor=None if quick else self._threads,
            most=self._batch,
            seconds=self._seconds,
        )
        self._put(Current(served, batcher))
        return True

    async def follow(self, *, every: float) -> None:
        """Refreshes until it is cancelled."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.refresh()
            except Exception as error:  # a source that fails oddly must not end the following
                self._fail(type(error).__name__)

    def close(self) -> None:
        """Ends the threads when what they compute is done."""
        self._threads.shutdown(wait=False)
        self._loading.shutdown(wait=False)

    @property
    def _doubtful(self) -> bool:
        return self._doubted is not None and self._timer() - self._doubted > DOUBT

    async def _look_again(self) -> str | None:
        """What is wrong now with the model that answers; None if nothing is, or it is too soon.

        A disk may fail once: only what is wrong at the next refresh too is wrong.
        """
        every = LOOK if self._failed is None else LOOK_FAILING
        soon = self._timer() - self._looked < every and not self._suspected
        if self._current is None or soon:
            return None
        self._looked = self._timer()
        loop, identity = asyncio.get_running_loop(), self._current.served.identity
        try:
            await loop.run_in_executor(self._loading, self._models.check, identity)
        except Exception as error:
            self._suspected = not self._suspected
            return None if self._suspected else _words(error)
        self._suspected = False
        return None

    def _end(self, said: str) -> bool:
        """Whether there was a model; now there is none."""
        gone = self._current is not None
        self._current = self._before = None
        self._fail(said)
        return gone

    def _put(self, new: Current) -> None:
        self._failed = None
        self._suspected = False
        self._looked = self._timer()
        self.swaps += self._current is not None
        self._before, self._current = self._current, new
        LOG.info("serving %s version %s", new.served.name, new.served.version)

    def _fail(self, said: str) -> None:
        if said != self._failed:  # once, and not every second
            self.failures += 1
            LOG.error("no other model answers: %s", said)
        self._failed = said


def _words(error: Exception) -> str:
    """What an error says where it is one of ours, which name no record; else only its kind."""
    ours = isinstance(error, CodexRayError | ValueError | RuntimeError)
    return str(error) if ours else type(error).__name__


def _loaded(models: Models, batch: int) -> tuple[Served, bool]:
    """The verified model, which has answered once, and whether a whole batch takes it no time.

    It is tried on records of zeros, or of the nearest that is allowed.

    Raises:
        ValueError: it gives anything but probabilities.
    """
    served = models.load()
    record = [min(max(0.0, it.low), it.high) for it in served.schema.features]
    records = np.asarray([record] * batch, np.float32).reshape(batch, *served.schema.shape)
    found = served.predict(records[:1])
    if found.shape != (1, len(served.labels)):
        raise ValueError(f"the model gives {found.shape} for {len(served.labels)} classes")
    if not np.isfinite(found).all() or abs(float(found.sum()) - 1.0) > 1e-3:
        raise ValueError("the model gives no probabilities for a record of zeros")
    return served, min(_seconds(served, records) for _ in range(5)) < NO_TIME


def _seconds(served: Served, records: Features) -> float:
    began = time.perf_counter()
    served.predict(records)
    return time.perf_counter() - began

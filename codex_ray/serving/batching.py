"""Several requests in one step of the model: those that come while it computes are next, together.

Nobody waits for company unless that was asked for: a request that finds the model idle is computed
at once, and under load the batches grow by themselves. A model that is quicker than the way to
another thread and back is computed where it is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from codex_ray.serving.model import Probabilities
from codex_ray.serving.schema import Features


class Batcher:
    """Collects up to `most` records, or for `seconds`, for one model and in its order.

    Args:
        predict: the model.
        executor: where it computes, one thread, so that two batches never compete; None computes
            in the event loop, which then waits: for models that take no time.
        most: records in a batch; a request with more is a batch of its own.
        seconds: that a first request waits for others while the model is idle.
    """

    def __init__(
        self,
        predict: Callable[[Features], Probabilities],
        *,
        executor: Executor | None,
        most: int,
        seconds: float = 0.0,
    ) -> None:
        self._predict = predict
        self._executor = executor
        self._most = most
        self._seconds = seconds
        self._waiting: deque[tuple[Features, asyncio.Future[Probabilities]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.batches = 0

    async def ask(self, records: Features) -> Probabilities:
        """The probabilities [n, classes] of `records`, whoever else's are computed beside them.

        Raises:
            Exception: whatever the model raised, in each request of that batch.
        """
        if self._executor is None and not self._seconds:
            self.batches += 1
            return self._predict(records)
        answer: asyncio.Future[Probabilities] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            if self._seconds and self._size() < self._most:
                await asyncio.sleep(self._seconds)
            while self._waiting:
                await self._compute(self._next())
        finally:
            self._worker = None

    def _size(self) -> int:
        return sum(len(records) for records, _ in self._waiting)

    def _next(self) -> list[tuple[Features, asyncio.Future[Probabilities]]]:
        batch: list[tuple[Features, asyncio.Future[Probabilities]]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= self._most):
            records, answer = self._waiting.popleft()
            if not answer.done():  # whoever asked may have gone
                batch.append((records, answer))
                size += len(records)
        return batch

    async def _compute(self, batch: list[tuple[Features, asyncio.Future[Probabilities]]]) -> None:
        if not batch:
            return
        self.batches += 1
        together = batch[0][0] if len(batch) == 1 else np.concatenate([it for it, _ in batch])
        try:
            if self._executor is None:
                found = self._predict(together)
            else:
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._executor, self._predict, together)
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        start = 0
        for records, answer in batch:
            if not answer.done():
                answer.set_result(found[start : start + len(records)])
            start += len(records)

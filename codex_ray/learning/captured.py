"""Steps recorded once as a CUDA graph, and replayed for every batch of the same shape.

A step of a small model is dozens of short kernels, and on a GPU telling it of each takes longer
than they do. A graph tells it of all of them at once. It works on the memory that it was recorded
with: a batch is copied there, and the weights, which a chunk keeps anyway, are changed in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch

from codex_ray.learning.kernels import LaneSteps
from codex_ray.learning.spans import LaneBatch

LOG = logging.getLogger(__name__)
WARM_UP = 3
"""Times that work is done before it is recorded, so that libraries have made what they keep."""

Work: TypeAlias = Callable[[LaneBatch], Any]


class Recorder(Protocol):
    """What records work that is always the same."""

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """How to do the work again, and its result, which doing it again overwrites.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...


class CudaGraphs:
    """Records CUDA graphs, all in one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """The graph's replay, and the result's own memory.

        Raises:
            RuntimeError: the work waits for the GPU, or asks it for numbers.
        """
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            result = work()
        return graph.replay, result


class CapturedSteps:
    """The steps of a chunk of clients, each kind of which is recorded when it first comes.

    Where one cannot be recorded the steps are taken as they are, and the log says so once.
    """

    def __init__(self, steps: LaneSteps, recorder: Recorder) -> None:
        """The same steps, by way of the recorder."""
        self._steps = steps
        self._recorder = recorder
        self._recorded: dict[tuple[object, ...], tuple[LaneBatch, Callable[[], None], Any]] = {}
        self._refused = False

    @property
    def memory(self) -> Sequence[torch.Tensor]:
        """That of the steps themselves."""
        return self._steps.memory

    def load(self, params: torch.Tensor) -> None:
        """Every lane starts from `params` [d], which they share until the first step is done."""
        self._steps.load(params)

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """Weights less `params` [d] of some lanes, into `out` [lanes, d]."""
        self._steps.store(out, params, lanes)

    def shift(self, by: torch.Tensor, *, rate: float) -> None:
        """Adds `rate` times `by` [lanes, d] to the weights."""
        self._steps.shift(by, rate=rate)

    def descend(self, batch: LaneBatch, *, rate: float, first: bool) -> None:
        """A step down the sum of the rows' losses, times their weights."""

        def work(held: LaneBatch) -> None:
            self._steps.descend(held, rate=rate, first=first)

        self._done(batch, work, rate, None, first)

    def descend_clipped(
        self, batch: LaneBatch, *, rate: float, clip_norm: float, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step down the sum of the clipped gradients; what became of them [lanes] twice.

        The next step overwrites both.
        """

        def work(held: LaneBatch) -> tuple[torch.Tensor, torch.Tensor]:
            return self._steps.descend_clipped(held, rate=rate, clip_norm=clip_norm, first=first)

        found: tuple[torch.Tensor, torch.Tensor] = self._done(batch, work, rate, clip_norm, first)
        return found

    def _done(self, batch: LaneBatch, work: Work, *settings: float | None) -> Any:
        """What the work makes of the batch, replayed if that can be."""
        if self._refused or batch.spans is not None or not batch.labels.numel():
            return work(batch)
        key = (tuple(batch.features.shape), *settings)
        if key not in self._recorded:
            held = _copy_of(batch)
            before = [memory.clone() for memory in self._steps.memory]
            try:
                self._recorded[key] = (held, *self._recorder.record(lambda: work(held)))
            except RuntimeError as error:
                self._refused = True
                reason = (str(error).strip().splitlines() or [""])[0]
                LOG.warning("steps are not recorded as a CUDA graph, which is slower: %s", reason)
            for memory, was in zip(self._steps.memory, before, strict=True):
                memory.copy_(was)  # recording takes the step a few times
            if self._refused:
                return work(batch)
        held, replay, result = self._recorded[key]
        held.features.copy_(batch.features)
        held.labels.copy_(batch.labels)
        held.weights.copy_(batch.weights)
        replay()
        return result


def _copy_of(batch: LaneBatch) -> LaneBatch:
    """The batch in memory of its own, into which the next ones are copied."""
    return LaneBatch(
        batch.features.clone(memory_format=torch.contiguous_format),
        batch.labels.clone(memory_format=torch.contiguous_format),
        batch.weights.clone(memory_format=torch.contiguous_format),
    )

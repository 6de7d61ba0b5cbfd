"""Which records meet in a batch, and what that costs: what draws the batches emits the event."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.randomness import Stream
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Batch = npt.NDArray[np.int64]


class BatchRule(Protocol):
    """The batches of one local training, and the event of releasing noised sums over them."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    def draw(self, records: int, stream: Stream) -> list[Batch]:
        """The record numbers of each local step's batch."""
        ...

    def event(self, noise_multiplier: float) -> DpEvent:
        """What one local training costs a record when each batch's clipped sum is noised.

        Raises:
            ConfigError: these batches have no sound accounting.
        """
        ...


class PoissonBatches(Component):
    """Each record joins each batch by its own coin: what amplification is proved for."""

    kind: Literal["poisson"] = "poisson"
    sampling_rate: float = Field(gt=0, le=1, description="Chance of a record to be in a batch.")
    steps: int = Field(default=1, ge=1, description="Local steps, each on a fresh batch.")

    def draw(self, records: int, stream: Stream) -> list[Batch]:
        """One batch for each step; a batch may be empty, and is a step like any other."""
        coins = stream.uniform(self.steps * records).reshape(self.steps, records)
        there = coins < self.sampling_rate
        chosen, ends = np.nonzero(there)[1], there.sum(axis=1).cumsum().tolist()
        return [chosen[first:end] for first, end in pairwise([0, *ends])]

    def event(self, noise_multiplier: float) -> DpEvent:
        """`steps` Poisson-subsampled Gaussian releases."""
        import dp_accounting as dp  # slow to import, and hosts never account

        release = dp.PoissonSampledDpEvent(self.sampling_rate, dp.GaussianDpEvent(noise_multiplier))
        return dp.SelfComposedDpEvent(release, self.steps)


class ShuffledBatches(Component):
    """Every record once an epoch in batches of a fixed size: plain SGD, no privacy claim."""

    kind: Literal["shuffled"] = "shuffled"
    batch_size: int = Field(
        default=10, ge=1, description="Records in a batch; the last may be smaller."
    )
    epochs: int = Field(default=1, ge=1, description="Passes over the records.")

    def draw(self, records: int, stream: Stream) -> list[Batch]:
        """The batches of all epochs, each epoch in its own order."""
        batches: list[Batch] = []
        for _ in range(self.epochs):
            order = stream.permutation(records)
            batches += [order[i : i + self.batch_size] for i in range(0, records, self.batch_size)]
        return batches

    def event(self, noise_multiplier: float) -> DpEvent:
        """Always an error: accounting these as Poisson claims too much (Chua et al. 2024)."""
        raise ConfigError(
            "trainer.batches.kind is shuffled, which has no sound privacy accounting (a Poisson "
            "epsilon would be false): use trainer.batches.kind: poisson with dp_sgd"
        )

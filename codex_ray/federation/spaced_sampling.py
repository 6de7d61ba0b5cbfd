"""Cohorts that take turns: a client comes again after a fixed number of rounds, never sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import Randomness
from codex_ray.types import ClientId, Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class SpacedCohorts(Component):
    """One cohort of `separation`, in turn; who is in which is drawn once for the run.

    Clients 0 to b - 1, b to 2b - 1 and so on form blocks, and each block is dealt out to the b
    cohorts from a cohort of its own on, drawn from the public randomness. So a client's rounds
    depend on its number and on nobody else, as add-or-remove-one asks, and cohorts differ in
    size by at most one. Everyone may know them: no credit is taken for their being drawn. They are
    the same in a resumed run, with a seed or without, or clients would come again too soon.
    """

    kind: Literal["spaced"] = "spaced"
    separation: int = Field(
        ge=1, description="Rounds from one participation of a client to its next; so many cohorts."
    )

    @property
    def hidden(self) -> bool:
        """No: everyone may know whose turn it is."""
        return False

    def sample(
        self, population: int, randomness: Randomness, *, round: int
    ) -> tuple[ClientId, ...]:
        """The cohort whose turn it is; it takes time for its own size only."""
        blocks = -(-population // self.separation)
        first = randomness.public.stream("spaced cohorts").words(blocks)
        turn = np.uint64(round % self.separation)
        # Client i of a block is in cohort (i + first) mod b; unlike a hash of its own number, that
        # fills the cohorts evenly. The bias of the remainder is below b / 2^64.
        size = np.uint64(self.separation)
        place = (turn + size - first % size) % size
        found = np.arange(blocks, dtype=np.int64) * self.separation + place.astype(np.int64)
        return tuple(found[found < population].tolist())

    def schedule(self, rounds: int) -> Schedule:
        """A client comes again after `separation` rounds."""
        often = -(-rounds // self.separation)
        return Schedule(rounds, separation=self.separation, participations=often)

    def expected(self, population: int) -> float:
        """population / separation."""
        return population / self.separation

    def largest(self, population: int) -> int:
        """The same, rounded up."""
        return -(-population // self.separation)

    def chance_below(self, size: int, population: int) -> float:
        """0 or 1: 1 as soon as any cohort is as small as that."""
        return float(population // self.separation < size)

    def event(self, inner: DpEvent, population: int) -> DpEvent:
        """`inner`, unchanged: cohorts are known."""
        return inner

    def check(self, population: int) -> None:
        """Refuses cohorts that nobody would be in."""
        if self.separation > population:
            raise ConfigError(
                f"federation.sampler.separation is {self.separation}, but there are only "
                f"{population} clients to spread over as many cohorts: lower it"
            )

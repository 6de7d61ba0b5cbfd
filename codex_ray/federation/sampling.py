"""Who takes part in a round. What draws the cohort also says what the draw is worth for privacy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, Protocol

from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.federation.drawing import below, smallest
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import Randomness
from codex_ray.types import ClientId, Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent

COHORT: Final = "cohort"
"""The stream of a round's draw."""


class Sampler(Protocol):
    """The plug-in point: a cohort from a population, its public size, and the amplified event."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    @property
    def hidden(self) -> bool:
        """Whether its event rests on nobody knowing who is in a cohort."""
        ...

    def sample(
        self, population: int, randomness: Randomness, *, round: int
    ) -> tuple[ClientId, ...]:
        """The cohort of one round, in increasing order."""
        ...

    def schedule(self, rounds: int) -> Schedule:
        """How a client may be spread over so many rounds, whoever else is there."""
        ...

    def expected(self, population: int) -> float:
        """The public expected size of a cohort."""
        ...

    def largest(self, population: int) -> int:
        """A size that no cohort exceeds (for Poisson: with probability below 2^-60)."""
        ...

    def chance_below(self, size: int, population: int) -> float:
        """The probability that a cohort has fewer than `size` clients."""
        ...

    def event(self, inner: DpEvent, population: int) -> DpEvent:
        """What a round costs a client when the sum over its cohort costs `inner`."""
        ...

    def check(self, population: int) -> None:
        """Refuses a population that this sampler cannot draw from."""
        ...


class AnyRound(Component):
    """What most samplers share: a client may come in any round, and nobody may know in which."""

    @property
    def hidden(self) -> bool:
        """Yes."""
        return True

    def schedule(self, rounds: int) -> Schedule:
        """A client may be in every round."""
        return Schedule(rounds, separation=1, participations=rounds)

    def check(self, population: int) -> None:
        """Every population will do."""


class EveryClient(AnyRound):
    """All clients in every round: the cross-silo case. No amplification."""

    kind: Literal["all"] = "all"

    @property
    def hidden(self) -> bool:
        """No: everyone is known to be there."""
        return False

    def sample(
        self, population: int, randomness: Randomness, *, round: int
    ) -> tuple[ClientId, ...]:
        """Everyone."""
        return tuple(range(population))

    def expected(self, population: int) -> float:
        """The population."""
        return float(population)

    def largest(self, population: int) -> int:
        """The population."""
        return population

    def chance_below(self, size: int, population: int) -> float:
        """0 or 1: every cohort is the population."""
        return float(population < size)

    def event(self, inner: DpEvent, population: int) -> DpEvent:
        """`inner`, unchanged."""
        return inner


class PoissonCohorts(AnyRound):
    """Each client joins each round by its own coin; the claim needs the cohort to stay hidden."""

    kind: Literal["poisson"] = "poisson"
    rate: float = Field(gt=0, le=1, description="Chance of a client to be in a round's cohort.")

    def sample(
        self, population: int, randomness: Randomness, *, round: int
    ) -> tuple[ClientId, ...]:
        """The clients whose coin fell; there may be none."""
        stream = randomness.secret.stream(COHORT, round)
        return tuple(below(stream, population, rate=self.rate).tolist())

    def expected(self, population: int) -> float:
        """rate x population."""
        return self.rate * population

    def largest(self, population: int) -> int:
        """Ten standard deviations and a bit above the mean (Bernstein: 2^-60), or everyone."""
        mean = self.expected(population)
        return min(population, math.ceil(mean + 10 * math.sqrt(mean) + 30))

    def chance_below(self, size: int, population: int) -> float:
        """The binomial probability of 0 to size - 1."""
        from scipy.special import bdtr  # slow to import, and only Poisson cohorts need it

        return float(bdtr(size - 1, population, self.rate)) if size > 0 else 0.0

    def event(self, inner: DpEvent, population: int) -> DpEvent:
        """`inner` under Poisson sampling at this rate."""
        from dp_accounting import PoissonSampledDpEvent  # slow to import, and hosts never account

        return PoissonSampledDpEvent(self.rate, inner)


class FixedSize(AnyRound):
    """A cohort of exactly `size`, without replacement; the claim needs it to stay hidden.

    A client that joins displaces another, so there is no event under add-or-remove-one.
    """

    kind: Literal["fixed"] = "fixed"
    size: int = Field(ge=1, description="Clients in every cohort.")

    def sample(
        self, population: int, randomness: Randomness, *, round: int
    ) -> tuple[ClientId, ...]:
        """`size` different clients."""
        stream = randomness.secret.stream(COHORT, round)
        return tuple(smallest(stream, population, count=self.size).tolist())

    def expected(self, population: int) -> float:
        """`size`."""
        return float(self.size)

    def largest(self, population: int) -> int:
        """`size`."""
        return self.size

    def chance_below(self, size: int, population: int) -> float:
        """0 or 1: every cohort has the same size."""
        return float(self.size < size)

    def event(self, inner: DpEvent, population: int) -> DpEvent:
        """`inner` of a cohort drawn at once: known under replace-one, and by Renyi bounds only."""
        from dp_accounting import SampledWithoutReplacementDpEvent  # slow to import

        return SampledWithoutReplacementDpEvent(population, self.size, inner)

    def check(self, population: int) -> None:
        """Refuses a cohort larger than the population."""
        if self.size > population:
            raise ConfigError(
                f"federation.sampler.size is {self.size}, but the population is {population}: "
                "lower it, or raise data.clients"
            )

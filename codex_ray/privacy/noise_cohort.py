"""Noise as a larger run would have it: what it does to a model, shown with fewer clients.

A simulation of fifty clients a round, under the noise that a private federation of a thousand would
need, learns nothing. With the noise of a mean over the thousand it shows what the larger run would
reach (`noise_cohort_size` in pfl-research, Granqvist et al. 2024, arXiv:2404.06430). What then
holds for the simulated clients themselves is far less: so there are two epsilons, and every report
has both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from codex_ray.errors import ConfigError
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent

FIELD = "federation.mechanism.noise_cohort"


class NoiseCohort(Component):
    """The larger run that noise is scaled for: its hidden Poisson cohorts, and its population."""

    cohort: int = Field(ge=1, description="Clients of a round of the larger run, on average.")
    population: int = Field(ge=1, description="Clients of the larger run.")
    epsilon: float | None = Field(
        default=None, gt=0, description="What the larger run may spend, for noise_multiplier: auto."
    )

    @model_validator(mode="after")
    def _fits(self) -> NoiseCohort:
        if self.cohort > self.population:
            raise ConfigError(
                f"{FIELD}.cohort is {self.cohort}, but its population is {self.population}: lower "
                "it"
            )
        return self

    def check(self, expected: float) -> None:
        """Refuses to make noise larger: a run of more clients than it stands for.

        Raises:
            ConfigError: the simulated cohort of `expected` clients is the larger one.
        """
        if expected > self.cohort:
            raise ConfigError(
                f"{FIELD}.cohort is {self.cohort}, but the simulated cohorts have {expected:g} "
                "clients: raise it, or leave noise_cohort out"
            )

    def event(self, noise_multiplier: float) -> DpEvent:
        """What a round of the larger run would cost a client of it."""
        import dp_accounting as dp  # slow to import, and hosts never account

        rate = self.cohort / self.population
        return dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise_multiplier))

    def spent(self, noise_multiplier: float, *, rounds: int, delta: float) -> float:
        """The epsilon of so many rounds of the larger run."""
        from codex_ray.privacy.accountants import account

        return account(((self.event(noise_multiplier), rounds),), delta).epsilon

    def words(self, rounds: int) -> str:
        """Whose epsilon that is."""
        return (
            f"NOT of this run: it would hold for {rounds} rounds with Poisson cohorts of "
            f"{self.cohort} of {self.population} clients"
        )

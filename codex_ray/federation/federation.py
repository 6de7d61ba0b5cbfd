"""A federation: the components of a round, with every check that one of them cannot make alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.federation.algorithms import FedAvg
from codex_ray.federation.faults import Dropouts
from codex_ray.federation.sampling import EveryClient, FixedSize, PoissonCohorts
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.privacy.quantisation import FixedPoint
from codex_ray.secagg.protocols import Clear, Ideal, SecAgg, SecAggPlus
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class Federation(Component):
    """What happens to updates between the clients and the global model. Its fields are its
    configuration.
    """

    sampler: EveryClient | PoissonCohorts | FixedSize = Field(
        default=EveryClient(), discriminator="kind", description="Who takes part in a round."
    )
    protocol: Clear | Ideal | SecAgg | SecAggPlus = Field(
        default=SecAggPlus(), discriminator="kind", description="How summands are added up."
    )
    mechanism: NoMechanism | CentralGaussian = Field(
        default=NoMechanism(), discriminator="kind", description="How a sum is released."
    )
    algorithm: FedAvg = Field(
        default=FedAvg(), description="How a released update moves the parameters."
    )
    dropouts: Dropouts = Field(
        default=Dropouts(), description="Clients that go silent, by the point at which they do."
    )

    def grid(self, *, population: int, dimension: int) -> FixedPoint:
        """The fixed-point grid of this federation's sums."""
        return self.mechanism.grid(
            dimension=dimension, summands=max(1, self.sampler.largest(population))
        )

    def client_event(self) -> DpEvent | None:
        """What one round costs a client; None when no client-level claim is made."""
        inner = self.mechanism.event()
        return None if inner is None else self.sampler.event(inner)

    def check(self, population: int) -> None:
        """Refuses what cannot run on this population, before anything does.

        Raises:
            ConfigError: it names the field and the remedy.
        """
        if population < 1:
            raise ConfigError("data.clients is 0: a federation needs a client")
        self.sampler.check(population)
        self.protocol.check(math.floor(self.sampler.expected(population)))
        if self.mechanism.kind != "none" and isinstance(self.sampler, FixedSize):
            self.client_event()

"""A federation: the components of a round, with every check that one of them cannot make alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.federation.algorithms import FedAvg
from codex_ray.federation.faults import Dropouts
from codex_ray.federation.sampling import EveryClient, FixedSize, PoissonCohorts
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.secagg.parameters import SMALLEST_COHORT
from codex_ray.secagg.protocols import Clear, Ideal, OneShot, SecAgg, SecAggPlus
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent


AnyProtocol: TypeAlias = Clear | Ideal | SecAgg | SecAggPlus | OneShot


class Federation(Component):
    """What happens to updates between the clients and the global model."""

    sampler: EveryClient | PoissonCohorts | FixedSize = Field(
        default=EveryClient(), discriminator="kind", description="Who takes part in a round."
    )
    protocol: AnyProtocol = Field(
        default=SecAggPlus(), discriminator="kind", description="How summands are added up."
    )
    mechanism: NoMechanism | CentralGaussian | AdaptiveGaussian = Field(
        default=NoMechanism(), discriminator="kind", description="How a sum is released."
    )
    algorithm: FedAvg = Field(
        default=FedAvg(), description="How a released update moves the parameters."
    )
    dropouts: Dropouts = Field(
        default=Dropouts(), description="Clients that go silent, by the point at which they do."
    )

    def codec(self, *, population: int, dimension: int) -> Codec:
        """The encoding of this federation's summands, for every client and the server."""
        return self.mechanism.codec(
            dimension=dimension,
            summands=max(1, self.sampler.largest(population)),
            expected=self.sampler.expected(population),
        )

    def protocol_for(self, population: int) -> AnyProtocol:
        """The protocol, with as many survivors needed for a sum as the mechanism needs."""
        fewest = self.mechanism.fewest(self.sampler.expected(population))
        if not fewest or isinstance(self.protocol, Clear):
            return self.protocol
        asked = max(fewest, self.protocol.fewest_survivors)
        return self.protocol.model_copy(update={"fewest_survivors": asked})

    @property
    def hides_cohorts(self) -> bool:
        """Whether the claim rests on nobody learning who was in a round."""
        return self.mechanism.kind != "none" and self.sampler.kind != "all"

    def releases_noise_alone(self, cohort: int) -> bool:
        """Whether a cohort of that size is a round whose sum counts as zero, and is released.

        An empty one always is. Under central noise one too small for a secure sum is as well: that
        it was drawn again, or that its round is missing, would show who was there.
        """
        if cohort == 0:
            return True
        if self.mechanism.kind == "none" or self.mechanism.fewest(1.0):
            return False
        try:
            self.protocol.check(cohort)
        except ConfigError:
            return True
        return False

    def client_event(self) -> DpEvent | None:
        """What one round costs a client; None when no client-level claim is made."""
        inner = self.mechanism.event()
        return None if inner is None else self.sampler.event(inner)

    def check(self, population: int, *, rounds: int, delta: float) -> None:
        """Refuses what cannot run on this population, before anything does.

        Under a client-level claim a cohort that is too small for a secure sum must be all but
        impossible: that its round has no sum would show who was there, and no event accounts for
        it.

        Raises:
            ConfigError: it names the field and the remedy.
        """
        if population < 1:
            raise ConfigError("data.clients is 0: a federation needs a client")
        self.sampler.check(population)
        self.protocol.check(math.floor(self.sampler.expected(population)))
        if self.mechanism.kind == "none":
            return
        if isinstance(self.sampler, FixedSize):
            self.client_event()
        if self.protocol.kind != "clear":
            small = self.sampler.chance_below(SMALLEST_COHORT, population)
            if rounds * small > delta / 10:
                raise ConfigError(
                    f"federation.sampler: a cohort is smaller than {SMALLEST_COHORT} with "
                    f"probability {small:.1e} a round, and a round without a sum shows who was "
                    "there: raise the rate or the population"
                )

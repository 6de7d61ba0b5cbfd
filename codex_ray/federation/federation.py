"""A federation: the components of a round, with every check that one of them cannot make alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from codex_ray.errors import ConfigError
from codex_ray.federation.algorithms import FedAvg
from codex_ray.federation.charges import Charge, Survivors
from codex_ray.federation.faults import Dropouts, Faults
from codex_ray.federation.fedadam import FedAdam
from codex_ray.federation.field import Load
from codex_ray.federation.sampling import EveryClient, FixedSize, PoissonCohorts
from codex_ray.federation.spaced_sampling import SpacedCohorts
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.claims import (
    CENTRAL,
    DISTRIBUTED,
    DISTRIBUTED_OUTSIDE,
    FIXED_COHORT,
    KNOWN,
    LOCAL_CLIENT,
    SHARED_STEP,
    SPACED,
)
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanism import PrivacyMechanism
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.privacy.noise_cohort import NoiseCohort
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, NoiseInside, SkellamNoise
from codex_ray.secagg.protocols import Clear, Ideal, MaskedSum, OneShot, SecAgg, SecAggPlus
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent


SMALL = 64
"""Up to so many clients a cohort's own size may rule out every plan."""
NEVER = 1e-40
"""The chance of sizes that are not looked at."""
SHORTFALL = 0.1
"""How much of delta may be the chance that a cohort is too small, where noise is added at the end.
"""
SHORTFALL_INSIDE = 0.01
"""The same where clients bring the noise."""

CentralNoise: TypeAlias = CentralGaussian | AdaptiveGaussian | CorrelatedGaussian
"""What the coordinator adds noise by, to a sum that is shown to nobody without it."""
AnyProtocol: TypeAlias = Clear | Ideal | SecAgg | SecAggPlus | OneShot


def _fedavg_unless_said(given: Any) -> Any:
    """`algorithm: {learning_rate: 0.5}` is a step of FedAvg."""
    return {"kind": "fedavg", **given} if isinstance(given, dict) else given


AnyAlgorithm: TypeAlias = Annotated[
    Annotated[FedAvg | FedAdam, Field(discriminator="kind")], BeforeValidator(_fedavg_unless_said)
]


class Federation(Component):
    """What happens to updates between the clients and the global model."""

    sampler: EveryClient | PoissonCohorts | FixedSize | SpacedCohorts = Field(
        default=EveryClient(), discriminator="kind", description="Who takes part in a round."
    )
    protocol: AnyProtocol = Field(
        default=SecAggPlus(), discriminator="kind", description="How summands are added up."
    )
    mechanism: (
        NoMechanism
        | CentralGaussian
        | AdaptiveGaussian
        | CorrelatedGaussian
        | DiscreteGaussianNoise
        | SkellamNoise
        | LocalGaussian
    ) = Field(default=NoMechanism(), discriminator="kind", description="How a sum is released.")
    algorithm: AnyAlgorithm = Field(
        default=FedAvg(), description="How a released update moves the parameters."
    )
    dropouts: Dropouts = Field(
        default=Dropouts(), description="Clients that go silent, by the point at which they do."
    )
    faults: Faults = Field(
        default=Faults(), description="Clients that are too slow, away or mute; a virtual clock."
    )

    def codec(self, *, population: int, dimension: int, records: int | None = None) -> Codec:
        """The encoding of this federation's summands, for every client and the server.

        `records` is the most summands that all clients together add up, where each has several.
        """
        if records is not None and isinstance(self.mechanism, NoiseInside):
            return self.mechanism.codec(
                dimension=dimension,
                summands=records,
                expected=self.sampler.expected(population),
                bringers=self.sampler.largest(population),
            )
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
        if isinstance(self.mechanism, NoMechanism | LocalGaussian):
            return False
        return self.sampler.hidden

    @property
    def presumed(self) -> NoiseCohort | None:
        """The larger run that noise is scaled for, if it is."""
        mechanism = self.mechanism
        return mechanism.noise_cohort if isinstance(mechanism, CentralGaussian) else None

    def extrapolated(self, *, rounds: int, delta: float) -> float | None:
        """The epsilon of so many rounds of that larger run; None without one."""
        mechanism = self.mechanism
        if not isinstance(mechanism, CentralGaussian) or mechanism.noise_cohort is None:
            return None
        noise = mechanism.noise_multiplier
        return mechanism.noise_cohort.spent(noise, rounds=rounds, delta=delta)

    def releases_noise_alone(self, cohort: int) -> bool:
        """Whether a cohort of that size is a round whose sum counts as zero, and is released.

        Under central noise one too small for a secure sum is: that it was drawn again, or that its
        round is missing, would show who was there. An empty one is wherever nothing is needed.
        """
        if isinstance(self.mechanism, NoiseInside):
            return False
        if cohort == 0:
            return True
        if not isinstance(self.mechanism, CentralNoise):
            return False
        try:
            self.protocol.check(cohort)
        except ConfigError:
            return True
        return False

    def charges(self, *, codec: Codec | None, population: int) -> list[Charge]:
        """What a round costs a client, for each claim that is made; none without a mechanism.

        `codec` is needed where clients bring the noise.
        """
        mechanism, sampler = self.mechanism, self.sampler
        if isinstance(mechanism, NoMechanism):
            return []
        price = partial(_price, mechanism, codec, sampler.expected(population))
        if isinstance(mechanism, LocalGaussian):
            return [Charge(LOCAL_CLIENT, price, hidden=False)]

        def amplified(survivors: Survivors) -> DpEvent:
            return sampler.event(price(survivors), population)

        if not isinstance(mechanism, NoiseInside):
            if isinstance(sampler, SpacedCohorts):
                return [Charge(SPACED, price, hidden=False)]
            claim = FIXED_COHORT if isinstance(sampler, FixedSize) else CENTRAL
            if isinstance(sampler, EveryClient):
                claim = KNOWN
            return [Charge(claim, amplified, hidden=True)]
        found = [Charge(DISTRIBUTED, price, hidden=False)]
        if isinstance(sampler, PoissonCohorts):
            outside = partial(_of_known_size, sampler, population, price)
            found.append(Charge(DISTRIBUTED_OUTSIDE, outside, hidden=True))
        return found

    def shared_step(
        self, sampled: Callable[[DpEvent], DpEvent], *, codec: Codec | None, population: int
    ) -> Charge:
        """What a round costs a record, where each client's records share one noised step."""
        price = partial(_price, self.mechanism, codec, self.sampler.expected(population))
        return Charge(SHARED_STEP, lambda survivors: sampled(price(survivors)), hidden=False)

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
        self.faults.check(population)
        expected = self.sampler.expected(population)
        for size in {math.floor(expected), math.ceil(expected)}:
            self.protocol.check(size)
        if isinstance(self.mechanism, NoMechanism | LocalGaussian):
            return
        if isinstance(self.mechanism, NoiseInside):
            self._check_noise_inside(self.mechanism, population)
        elif self.presumed is not None:
            self.presumed.check(self.sampler.expected(population))
        elif isinstance(self.mechanism, CorrelatedGaussian):
            if self.sampler.hidden:
                raise ConfigError(
                    "federation.mechanism.kind is correlated_gaussian, whose noise is made for a "
                    "known schedule: set federation.sampler.kind to spaced (or all), "
                    f"{self.sampler.kind} keeps none"
                )
            self.mechanism.stretch(self.sampler.schedule(rounds))
        small = self.shortfall(population, rounds=rounds)
        share = SHORTFALL_INSIDE if isinstance(self.mechanism, NoiseInside) else SHORTFALL
        if small > share * delta:
            raise ConfigError(
                f"federation.sampler: in {rounds} rounds a cohort is too small with probability "
                f"{small:.1e}, which may be at most {share:g} of delta, because the round shows "
                f"it: {self._larger_cohorts()}"
            )

    def _larger_cohorts(self) -> str:
        remedy = "raise the rate or the population"
        if isinstance(self.mechanism, NoiseInside):
            remedy += ", or federation.mechanism.assumed_dropout, which lowers how many are needed"
        return remedy

    def shortfall(self, population: int, *, rounds: int) -> float:
        """The probability that a cohort of any round is too small for its sum.

        It is part of the delta of a client-level claim. An empty cohort is released like any other
        under central noise; where clients bring the noise there would be none.
        """
        if isinstance(self.mechanism, NoiseInside):
            needed = self.mechanism.fewest(self.sampler.expected(population))
            return rounds * self.sampler.chance_below(needed, population)
        if self.protocol.kind == "clear" or not isinstance(self.mechanism, CentralNoise):
            return 0.0
        below = self.sampler.chance_below
        return min(
            1.0,
            rounds
            * sum(
                below(size + 1, population) - below(size, population)
                for size in self._sizes_without_sum(population)
            ),
        )

    def _sizes_without_sum(self, population: int) -> Iterator[int]:
        """Sizes of cohorts, but for 0, that are refused a sum even if nobody drops out.

        Minimums and small cohorts are looked at one by one; larger ones only where a user's own
        threshold or degree might not suit them, since what is computed suits every size.
        """
        protocol, top = self.protocol, self.sampler.largest(population)
        least = max(getattr(protocol, name, 0) for name in ("fewest_survivors", "smallest_cohort"))
        own = any(getattr(protocol, name, None) is not None for name in ("threshold", "degree"))
        for size in range(1, top + 1 if own else min(top, max(SMALL, least)) + 1):
            chance = self.sampler.chance_below(size + 1, population)
            if chance > NEVER and (size < least or self.releases_noise_alone(size)):
                yield size

    def _check_noise_inside(self, mechanism: NoiseInside, population: int) -> None:
        """Refuses what would leave the noise of too few clients in a sum, or of one alone.

        Raises:
            ConfigError: it names the field and the remedy.
        """
        if isinstance(self.protocol, Clear):
            raise ConfigError(
                "federation.protocol.kind is clear, which shows every client's update under a "
                f"part of the noise only: use secagg_plus with mechanism.kind {self.mechanism.kind}"
            )
        if mechanism.assumed_corrupt < self.protocol.assumed_corrupt:
            raise ConfigError(
                f"federation.mechanism.assumed_corrupt is {mechanism.assumed_corrupt:g}, but the "
                f"protocol takes {self.protocol.assumed_corrupt:g} of a cohort to conspire: their "
                "noise cannot count, raise it to that"
            )
        mechanism.honest(self.sampler.expected(population))
        self._check_minimum(population)
        if self.faults.uneven and isinstance(self.sampler, PoissonCohorts):
            raise ConfigError(
                "federation.faults make some clients fall silent more often than others, but with "
                "noise inside the sum what outsiders learn of a sampled cohort is stated for "
                "clients that all drop out as easily: leave them out, or set "
                "federation.sampler.kind to all"
            )
        self.check_losses(population)

    def check_losses(self, population: int, load: Load | None = None) -> None:
        """Refuses scenarios in which most rounds would lack the noise that they are meant for.

        Who is too slow depends on `load`; without it nobody is.

        Raises:
            ConfigError: it names the field and the remedy.
        """
        mechanism = self.mechanism
        if not isinstance(mechanism, NoiseInside):
            return
        others = self.faults.chance(population, load)
        lost = 1 - (1 - self.dropouts.chance) * (1 - others) if others else self.dropouts.chance
        if lost > mechanism.assumed_dropout:
            who = "federation.dropouts and federation.faults" if others else "federation.dropouts"
            raise ConfigError(
                f"{who} lose {lost:.3g} of a cohort, but the mechanism opens no sum "
                f"that lacks more than assumed_dropout ({mechanism.assumed_dropout:g}): no round "
                "would be likely to have a sum, raise federation.mechanism.assumed_dropout"
            )

    def _check_minimum(self, population: int) -> None:
        """Refuses a protocol under which a lying server may sum a part of the cohort.

        On a sparse graph nobody sees more than its neighbours, so that no client can hold a lying
        server to the number of survivors that the noise is meant for (docs/protocol.md).

        Raises:
            ConfigError: it names the field and the remedy.
        """
        protocol = self.protocol
        if not isinstance(protocol, MaskedSum) or protocol.adversary == "semi_honest":
            return
        if not protocol.plan(self.sampler.largest(population)).complete:
            raise ConfigError(
                "federation.protocol: with noise inside the sum as many must be in it as the noise "
                "is meant for, which a sparse graph holds no lying server to: use kind one_shot or "
                "secagg, or adversary: semi_honest"
            )


def _of_known_size(
    sampler: PoissonCohorts,
    population: int,
    price: Callable[[Survivors], DpEvent],
    survivors: Survivors,
) -> DpEvent:
    """What a round costs a client of a hidden Poisson cohort whose size shows, as it brings noise.

    Given how many survived, every set of so many clients is as likely as any other. Sizes are
    counted up to a hundredth of the expected cohort, so that events group.
    """
    from dp_accounting import SampledWithoutReplacementDpEvent  # slow to import

    size = sampler.largest(population) if survivors is None else survivors
    step = max(1, int(sampler.expected(population)) // 100)
    above = min(population, -(-max(1, size) // step) * step)
    return SampledWithoutReplacementDpEvent(population, above, price(survivors))


def _price(
    mechanism: PrivacyMechanism, codec: Codec | None, expected: float, survivors: Survivors
) -> DpEvent:
    """What a release over so many survivors costs one of them."""
    event = mechanism.event(codec=codec, expected=expected, survivors=survivors)
    assert event is not None  # A mechanism without a claim has no charge.
    return event

"""By what right figures of private records may be used: which sum, with which noise, at what cost.

Under a record-level claim a client's own figures are no free choice: one record moves them, they
move the features of all its other records, and so more than one clipped gradient. Whatever is not a
public constant needs noise there, and is paid for in the ledger that training is paid for in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np

from codex_ray.data.column_statistics import Floats, Found, Ranges, figures
from codex_ray.data.preparing import Prepare, Statistics
from codex_ray.data.raw_tables import Columns
from codex_ray.errors import ConfigError
from codex_ray.federation.federation import Federation
from codex_ray.federation.pooled_sums import STREAM, NoisedSum, Noisy, Pool, as_words
from codex_ray.federation.transport import Transport
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.trainers import Sgd
from codex_ray.preparation.noised_statistics import Sketch
from codex_ray.preparation.pooled_statistics import bounds, pooled
from codex_ray.preparation.questions import Question, Shown
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.randomness import Randomness
from codex_ray.types import ClientId, Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Unit = Literal["record", "client"]
NAMED: Final = b"statistics".ljust(16)
"""What the sessions of figures are bound to; their keys are made for them alone."""
OWN_BITS: Final = 6
"""Sums that clients have noised themselves are added up in steps of 2^-6: far below the noise."""


def units(
    trainer: Sgd | DpSgd | DistributedDpSgd, federation: Federation, *, shown: bool
) -> tuple[Unit, ...]:
    """What the run makes claims for; `shown` where it noises records themselves."""
    found: list[Unit] = []
    if shown or not isinstance(trainer, Sgd):
        found.append("record")
    by_record = isinstance(trainer, DistributedDpSgd)
    if not isinstance(federation.mechanism, NoMechanism) and not by_record:
        found.append("client")
    return tuple(found)


def check_prepare(
    prepare: Prepare,
    trainer: Sgd | DpSgd | DistributedDpSgd,
    federation: Federation,
    *,
    shown: bool,
) -> None:
    """Refuses figures that would break a claim, or noise that serves none.

    Raises:
        ConfigError: it names the field and the remedy.
    """
    claimed, scaling = units(trainer, federation, shown=shown), prepare.scaling
    if scaling == "fixed":
        return
    if shown:
        raise ConfigError(
            f"data.prepare.scaling is {scaling}, and local_noise shows each record with noise of "
            "its own alone, which figures of others would break: set it to fixed"
        )
    needed = bool(claimed) if scaling == "pooled" else "record" in claimed
    if needed and len(claimed) > 1:
        raise ConfigError(
            f"data.prepare.scaling is {scaling}, and the run makes a record-level and a "
            "client-level claim: no one release keeps both: set it to fixed"
        )
    if needed and prepare.noise_multiplier is None:
        what = (
            "figures of all clients' records would be released without noise"
            if scaling == "pooled"
            else "one record moves its client's figures, and so the features of all its others"
        )
        raise ConfigError(
            f"data.prepare.scaling is {scaling}, and the run makes a {claimed[0]}-level claim: "
            f"{what}: set data.prepare.noise_multiplier, or scaling: fixed"
        )
    if not needed and prepare.noise_multiplier is not None:
        raise ConfigError(
            "data.prepare.noise_multiplier: no claim of this run rests on it: leave it out"
        )


def check_generalised(
    generalised: Sequence[str],
    prepare: Prepare,
    trainer: Sgd | DpSgd | DistributedDpSgd,
    federation: Federation,
    *,
    shown: bool,
) -> None:
    """Refuses features that a client's other records have a say in, under a record-level claim.

    Args:
        generalised: columns in use whose intervals or groups were chosen from records.

    Raises:
        ConfigError: it names the column and the ways out; or nothing needs the switch.
    """
    broken = bool(generalised) and "record" in units(trainer, federation, shown=shown)
    if broken and not prepare.insecure_generalised:
        raise ConfigError(
            f"data.features: {generalised[0]!r} was generalised: one record more can move it in "
            "many of its client's, and the run makes a record-level claim: leave it out of "
            "data.features, or prepare it with role: feature"
        )
    if prepare.insecure_generalised and not broken:
        raise ConfigError(
            "data.prepare.insecure_generalised: no generalised column is used under a record-level "
            "claim: leave it out"
        )


class Asked(Protocol):
    """All clients, wherever they are, who answer questions about their records."""

    def seam(self, question: Question, dimension: int, bits: int) -> Transport:
        """A seam to clients who answer that question with so many words of so many bits."""
        ...

    def own(self, clients: Sequence[ClientId]) -> Iterator[Floats]:
        """Each one's figures [d], with noise of its own that hides a record of it from anybody."""
        ...


@dataclass(frozen=True)
class Release:
    """How the figures of a run are found, and what that costs.

    Attributes:
        prepare: what is asked for.
        trainer, federation: the run's.
        population: how many clients there are.
        columns: how many columns have figures.
    """

    prepare: Prepare
    trainer: Sgd | DpSgd | DistributedDpSgd
    federation: Federation
    population: int
    columns: int

    @property
    def unit(self) -> Unit | None:
        """Whose contribution the noise hides; None without noise."""
        if self.prepare.noise_multiplier is None:
            return None
        return units(self.trainer, self.federation, shown=False)[0]

    @property
    def noised_by_owner(self) -> bool:
        """Whether each client noises its own figures enough to show them to anybody."""
        if self.prepare.noise_multiplier is None:
            return False
        return self.prepare.scaling == "per_client" or isinstance(self.trainer, DpSgd)

    @property
    def shown_by_owner(self) -> bool:
        """Whether each client shows its own, instead of adding it to a sum."""
        return self.noised_by_owner and self.prepare.scaling == "per_client"

    @property
    def seen_unsummed(self) -> bool:
        """Whether the server may know noised figures of some clients, if it never knows a sum."""
        local = isinstance(self.federation.mechanism, LocalGaussian)
        return self.noised_by_owner or (self.prepare.noise_multiplier is not None and local)

    @property
    def sketch(self) -> Sketch:
        """The vector that is summed with noise."""
        asked = self.prepare
        return Sketch(self.columns, asked.moments, asked.quantiles, asked.bins)

    @cached_property
    def noised_sum(self) -> NoisedSum:
        """The sum with the noise of the run's own mechanism.

        Raises:
            ConfigError: no grid holds it.
        """
        trainer, sketch, records = self.trainer, self.sketch, None
        if isinstance(trainer, DistributedDpSgd):
            records = math.ceil(trainer.batch_size / trainer.sampling_rate)
        return NoisedSum(self._mechanism, self.population, sketch.dimension, records)

    @property
    def _mechanism(self) -> Noisy:
        """The run's own with the norm and the noise of this release; else the coordinator's."""
        noise, norm = self.prepare.noise_multiplier, self.sketch.norm
        assert noise is not None
        mechanism = self.federation.mechanism
        if isinstance(mechanism, NoiseInside | LocalGaussian):
            return mechanism.model_copy(update={"clip_norm": norm, "noise_multiplier": noise})
        return CentralGaussian(clip_norm=norm, noise_multiplier=noise)

    def event(self) -> DpEvent | None:
        """What the release costs each record or client; None where it makes no claim."""
        if self.prepare.noise_multiplier is None:
            return None
        if not self.noised_by_owner:
            return self.noised_sum.event()
        from dp_accounting import GaussianDpEvent  # slow to import

        return GaussianDpEvent(self.prepare.noise_multiplier)

    def statistics(self, columns: Columns, asked: Asked, randomness: Randomness) -> Statistics:
        """The figures of all clients together, or of each with its own noise.

        Args:
            columns: of their records.
            asked: the clients.
            randomness: from which the server draws what noise it adds.

        Raises:
            ConfigError: the protocol takes no such cohort.
            DataError: a column has no value at all.
            SumAborted: somebody is not in a sum.
        """
        ranges, names = columns.counted_ranges, columns.counted
        protocol = self.federation.protocol_for(self.population)
        pool = Pool[Question](protocol, self.population, NAMED, asked.seam)
        resolution: tuple[float, ...] = ()
        if self.shown_by_owner:
            found = [self.sketch.found(own) for own in asked.own(range(self.population))]
        elif self.noised_by_owner:
            total = pool.whole(Shown(), dimension=self.sketch.dimension, number=0)
            found = [self.sketch.found(total.astype(np.float64) / 2.0**OWN_BITS)]
        elif self.prepare.noise_multiplier is not None:
            noised = self.noised_sum.release(Shown(), pool, randomness=randomness, number=0)
            found = [self.sketch.found(noised)]
        else:
            wanted = self.prepare
            one, counts = pooled(
                pool,
                columns=names,
                moments=wanted.moments,
                quantiles=wanted.quantiles,
                bins=wanted.bins,
            )
            found = [one]
            if wanted.quantiles:
                off = bounds(counts, clients=self.population, bins=wanted.bins).quantile
                resolution = tuple((off * ranges.half).tolist())
        return self._written(found, ranges, names, resolution)

    def summand(self, points: Floats, client: ClientId, randomness: Randomness) -> Residues:
        """What a client with these values [n, m] adds to a noised sum, each record or the client
        counting for one."""
        if self.noised_by_owner:
            own = self.own(points, client, randomness)
            return as_words(np.rint(own * 2.0**OWN_BITS).astype(np.int64))
        vectors = self.sketch.rows if self.unit == "record" else self.sketch.mean
        return self.noised_sum.summand(vectors(points), client, randomness=randomness, number=0)

    def own(self, points: Floats, client: ClientId, randomness: Randomness) -> Floats:
        """A client's figures [d] with all the noise that they need to be shown to anybody."""
        sketch, noise = self.sketch, self.prepare.noise_multiplier
        assert noise is not None
        drawn = randomness.secret.stream(STREAM, "own noise", client).normal(sketch.dimension)
        return sketch.sum(points) + noise * sketch.norm * drawn

    def _written(
        self,
        found: list[Found],
        ranges: Ranges,
        names: tuple[str, ...],
        resolution: tuple[float, ...],
    ) -> Statistics:
        asked = self.prepare
        made = [figures(one, ranges, by=asked.by, imputation=asked.imputation) for one in found]
        return Statistics(
            columns=names,
            centre=tuple(tuple(one.centre.tolist()) for one in made),
            spread=tuple(tuple(one.spread.tolist()) for one in made),
            fill=tuple(tuple(one.fill.tolist()) for one in made),
            resolution=resolution,
        )

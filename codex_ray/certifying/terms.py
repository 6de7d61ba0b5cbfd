"""What a run's privacy account follows from: its configuration and two sizes, and no data.

So whoever checks a certificate needs none, and runs none of the run's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from codex_ray.assembly import Assembled, charges, fresh_ledgers
from codex_ray.experiment import Experiment
from codex_ray.federation.charges import Charge
from codex_ray.figures import figures_event, release_of
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.local_noise import LocalGaussianRecords, RandomisedResponse
from codex_ray.privacy.claims import LOCAL, Claim
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.ledger import EVERYONE, Ledger, PrivacySpend
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.records.result import SIMULATION, UNSEEDED

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclass(frozen=True)
class Terms:
    """An experiment, how many clients there are, and how many parameters the model has."""

    experiment: Experiment
    population: int
    dimension: int

    @classmethod
    def of(cls, assembled: Assembled) -> Terms:
        """The terms of an experiment whose data and model are at hand."""
        return cls(assembled.experiment, assembled.dataset.population, len(assembled.initial))

    @cached_property
    def codec(self) -> Codec:
        """The encoding of every summand."""
        experiment = self.experiment
        return experiment.federation.codec(
            population=self.population,
            dimension=self.dimension,
            records=getattr(experiment.trainer, "summands", None),
        )

    @cached_property
    def charges(self) -> list[Charge]:
        """What one round costs, for each claim."""
        return charges(self.experiment, codec=self.codec, population=self.population)

    @cached_property
    def figures(self) -> DpEvent | None:
        """What was paid before round 0 for figures of the records; None where nothing was."""
        return figures_event(self.experiment, self.population)

    @property
    def expected_cohort(self) -> float:
        """The public expected size of a cohort."""
        return self.experiment.federation.sampler.expected(self.population)

    @property
    def shortfall(self) -> float:
        """The part of delta that is the chance of a cohort too small for its sum."""
        federation = self.experiment.federation
        return federation.shortfall(self.population, rounds=self.experiment.rounds)

    @property
    def randomness(self) -> str:
        """Whether the noise can be replayed, in words."""
        return UNSEEDED if self.experiment.seed is None else SIMULATION

    def fresh_ledgers(self) -> list[Ledger]:
        """The ledgers before round 0, in which figures that were released are paid for."""
        return fresh_ledgers(
            self.experiment,
            self.charges,
            delta=self.experiment.budget.delta - self.shortfall,
            population=self.population,
        )


def published(terms: Terms, ledgers: Sequence[Ledger]) -> list[Ledger]:
    """The ledgers as they may be shown: where cohorts are hidden, nobody's number of rounds is."""
    if not terms.experiment.federation.hides_cohorts:
        return list(ledgers)
    return [ledger.worst() for ledger in ledgers]


def all_spends(terms: Terms, ledgers: Sequence[Ledger]) -> list[PrivacySpend]:
    """What every holder of the published `ledgers` has spent, with what it rests on.

    Where there are more clients than can be read, those who have paid the same share a line.
    """
    found: list[PrivacySpend] = []
    for ledger, charge in zip(ledgers, terms.charges, strict=True):
        said = assumptions(terms, charge.claim)
        if EVERYONE in ledger.paid or charge.hidden:
            spends = ledger.spends((EVERYONE,), assumptions=said)
        else:
            spends = ledger.spends_of_all(terms.population, assumptions=said)
        found += [replace(spend, delta=terms.experiment.budget.delta) for spend in spends]
    return found


def assumptions(terms: Terms, claim: Claim) -> tuple[str, ...]:
    """What must be true for the ledger's epsilon to be true, in words."""
    federation = terms.experiment.federation
    said = [terms.randomness]
    said += [f"claim {claim.name} covers {claim.against}", *claim.assumes]
    if claim.neighbours == "zero_out":
        said.append("neighbouring: the client takes part and adds nothing to the sums")
    if terms.shortfall and claim.unit == "client":
        said.append(
            f"delta includes {terms.shortfall:.1e}, the chance that a cohort of any round is "
            "too small for its sum"
        )
    if federation.hides_cohorts and claim.sampling_counts:
        said.append(
            "the cohort of each round stays hidden from whoever reads the result: cohort sizes, "
            "dropouts, bytes and seconds in rounds.jsonl, log.jsonl, metrics.prom, tensorboard/, "
            "result.json and the report, and all of checkpoint/, are the coordinator's own and "
            "outside the guarantee"
        )
    if terms.figures is not None:
        said.append(
            "the figures by which features are scaled were released once, before round 0, and are "
            "part of this epsilon"
        )
    said.append("test metrics are exact: they cover nobody whose records are in the test set")
    if not _in_whole_numbers(terms, claim):
        said.append(
            "noise is floating-point Gaussian: attacks on its low-order bits are not covered "
            "(Mironov 2012)"
        )
    return tuple(said)


def _in_whole_numbers(terms: Terms, claim: Claim) -> bool:
    """Whether the noise that the claim rests on is drawn in whole numbers."""
    experiment = terms.experiment
    if terms.figures is not None and release_of(experiment, terms.population).noised_by_owner:
        return False
    if claim.name == LOCAL.name and claim.unit == "record":
        return isinstance(experiment.local_noise, RandomisedResponse)
    inside = isinstance(experiment.federation.mechanism, NoiseInside)
    return inside and (claim.unit == "client" or isinstance(experiment.trainer, DistributedDpSgd))


def delta_warnings(experiment: Experiment, *, population: int | None = None) -> tuple[str, ...]:
    """A line for each unit of which there are so many that delta is no small chance for one.

    Publishing one of n units at random, whole, is (0, 1/n)-private: a delta of 1/n or more does not
    rule that out. Without `population` it is the number of clients in the configuration, if that
    has one. Of records only public constants tell how many a client holds: the divisor of a batch
    and the rate at which it is drawn.
    """
    delta, said = experiment.budget.delta, []
    if population is None:
        population = getattr(experiment.data, "clients", None)
    by_record = isinstance(experiment.trainer, DistributedDpSgd)
    claimed = experiment.federation.mechanism.kind != "none" and not by_record
    if claimed and population is not None and delta >= 1 / population:
        said.append(_too_large(delta, population, "clients"))
    trainer = experiment.trainer
    if isinstance(trainer, DpSgd):
        held = max(1, round(trainer.batch_size / getattr(trainer.batches, "sampling_rate", 1.0)))
        if delta >= 1 / held:
            said.append(_too_large(delta, held, "records a client (batch_size / sampling_rate)"))
    if isinstance(trainer, DistributedDpSgd):
        held = max(1, round(trainer.batch_size / trainer.sampling_rate))
        if delta >= 1 / held:
            said.append(_too_large(delta, held, "records in all (batch_size / sampling_rate)"))
    shown = isinstance(experiment.local_noise, LocalGaussianRecords)
    if shown and population is not None and delta >= 1 / population:
        # Nothing public tells how many records there are; hardly fewer than clients.
        said.append(_too_large(delta, population, "clients, with a record or more each"))
    return tuple(said)


def _too_large(delta: float, count: int, what: str) -> str:
    return (
        f"budget.delta is {delta:g}, and there are {count} {what}: from 1/{count} = "
        f"{1 / count:.2g} on, giving one of them away whole keeps the promise: set it well below"
    )

"""Sampling as it is done against sampling as it is accounted: unequal, and there is no certificate.

What is accounted stands in the ledger's events. What is done is known by the function that draws,
and not by the name of its kind: a sampler that says "poisson" and deals out shuffled batches has
another function. Of cohorts the sizes are in the journal, and have to look drawn as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from codex_ray.certifying.replay import Line
from codex_ray.certifying.terms import Terms
from codex_ray.errors import PrivacyError
from codex_ray.federation.charges import Charge
from codex_ray.federation.sampling import EveryClient, FixedSize, PoissonCohorts
from codex_ray.federation.spaced_sampling import SpacedCohorts
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.privacy.claims import SPACED
from codex_ray.records.certificate import Sampling

if TYPE_CHECKING:
    from dp_accounting import DpEvent

RARE: Final = 1e-9
"""The chance at which sound cohorts are refused."""

POISSON: Final = "poisson"
DRAWN_BY: Final[dict[Any, str]] = {
    EveryClient.sample: "all",
    PoissonCohorts.sample: POISSON,
    FixedSize.sample: "fixed",
    SpacedCohorts.sample: "spaced",
    PoissonBatches.draw: POISSON,
    ShuffledBatches.draw: "shuffled",
    DistributedDpSgd.steps: POISSON,
}
"""What each function that draws a cohort or a batch is known to do."""


@dataclass(frozen=True)
class Drawn:
    """What draws, how, and with which parameter (a rate, or sizes); in words."""

    how: str
    parameter: float | tuple[int, int] | None
    words: str


def agreed_sampling(
    terms: Terms, charge: Charge, events: Sequence[DpEvent], *, lines: Sequence[Line]
) -> Sampling:
    """How the claim's unit is sampled, if every one of the `events` it paid assumes just that.

    Raises:
        PrivacyError: an event credits another sampling than is implemented, or the cohorts of
            `lines` are none that such a sampling draws.
    """
    done = _drawn(terms, charge)
    credited = [assumed for event in events if (assumed := _assumed(event)) is not None]
    for how, parameter, words in credited:
        if charge.claim.outside and (done.how, how) == (POISSON, "fixed"):
            continue  # Its size is known, and given that every set of so many is as likely.
        if (how, parameter) != (done.how, done.parameter):
            raise PrivacyError(
                f"no certificate: the {charge.claim.unit}-level epsilon assumes {words}, but "
                f"what is implemented is {done.words}: account for what is drawn, or draw what is "
                "accounted"
            )
    if credited and charge.claim.unit == "client" and done.how == POISSON:
        _check_sizes([line["cohort"] for line in lines], terms)
    if charge.claim is SPACED:
        _check_schedule(lines, terms)
    said = "; ".join(dict.fromkeys(words for _, _, words in credited))
    return Sampling(
        implemented=done.words,
        assumed=said or "none: no credit is taken for it",
        credited=bool(credited),
    )


def _drawn(terms: Terms, charge: Charge) -> Drawn:
    """What really draws the claim's unit into a release."""
    sampler, population = terms.experiment.federation.sampler, terms.population
    if charge.claim.unit == "client":
        how = DRAWN_BY.get(type(sampler).sample, "unknown")
        match how:
            case "all":
                return Drawn(how, None, "every client in every round")
            case "poisson":
                rate = sampler.expected(population) / population
                rate = float(getattr(sampler, "rate", rate))
                return Drawn(how, rate, f"Poisson sampling at rate {rate:g} (clients of a round)")
            case "spaced":
                separation = sampler.schedule(1).separation
                words = f"cohorts that take turns: a client is in every {separation}th round"
                return Drawn(how, separation, words)
            case "fixed":
                size = int(sampler.expected(population))
                return Drawn(how, (population, size), f"{size} of {population} clients at once")
        return Drawn(how, None, f"cohorts of kind {sampler.kind}")
    if charge.once:
        return Drawn("all", None, "every record, once")
    trainer = terms.experiment.trainer
    batches: Any = getattr(trainer, "batches", trainer)
    shared = isinstance(trainer, DistributedDpSgd)
    how = DRAWN_BY.get(getattr(type(batches), "steps" if shared else "draw", None), "unknown")
    if how == POISSON:
        rate, of = float(batches.sampling_rate), "round" if shared else "local step"
        return Drawn(how, rate, f"Poisson sampling at rate {rate:g} (records of a {of})")
    if how == "shuffled":
        return Drawn(how, None, "shuffled batches of a fixed size")
    return Drawn(how, None, f"batches of kind {getattr(batches, 'kind', type(batches).__name__)}")


def _assumed(event: DpEvent) -> tuple[str, float | tuple[int, int], str] | None:
    """(how, parameter, words) of the sampling that an event takes credit for; None for none."""
    import dp_accounting as dp

    match event:
        case dp.PoissonSampledDpEvent():
            rate = float(event.sampling_probability)
            return POISSON, rate, f"Poisson sampling at rate {rate:g}"
        case dp.SampledWithoutReplacementDpEvent():
            sizes = (int(event.source_dataset_size), int(event.sample_size))
            return "fixed", sizes, f"{sizes[1]} of {sizes[0]} drawn at once"
    return None


def _check_schedule(lines: Sequence[Line], terms: Terms) -> None:
    """Passes if nobody paid for rounds that the noise is not made for.

    Raises:
        PrivacyError: somebody took part too often, or again too soon.
    """
    experiment = terms.experiment
    schedule = experiment.federation.sampler.schedule(experiment.rounds)
    took_part = [
        sorted({one for paid in line["charged"] for one in paid["members"] or ()}) for line in lines
    ]
    try:
        schedule.check(took_part)
    except PrivacyError as broken:
        raise PrivacyError(f"no certificate: {broken}") from None


def _check_sizes(cohorts: Sequence[int], terms: Terms) -> None:
    """Passes if the sizes of cohorts can have been drawn by each client's own coin.

    Two figures have an exact law: the sum of the sizes, and how many of them are the same.

    Raises:
        PrivacyError: one of them has a probability below `RARE`.
    """
    from scipy.stats import binom

    population, rate = terms.population, terms.expected_cohort / terms.population
    if not cohorts or rate >= 1:
        return
    total, trials = sum(cohorts), len(cohorts) * population
    tails = binom.cdf(total, trials, rate), binom.sf(total - 1, trials, rate)
    size, alike = Counter(cohorts).most_common(1)[0]
    each = binom.pmf(np.arange(population + 1), population, rate)
    same = float(np.sum(binom.sf(alike - 1, len(cohorts), each)))
    for chance, odd in (
        (2 * float(min(tails)), f"{total} in all"),
        (same, f"{alike} of them have {size} clients"),
    ):
        if chance < RARE / 2:
            raise PrivacyError(
                f"no certificate: the {len(cohorts)} cohorts cannot have been drawn by Poisson "
                f"sampling at rate {rate:g} of {population} clients: {odd}, which has a "
                f"probability of {chance:.1e}: account for what is drawn"
            )

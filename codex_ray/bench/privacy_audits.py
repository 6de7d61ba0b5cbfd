"""Audits of sound builds: how often they cry wolf, and how near canary clients come to epsilon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.assembly import assemble
from codex_ray.assurance.canary_clients import CanaryClients
from codex_ray.auditing import STEPS, audited
from codex_ray.bench.bars import Figure, Row, at_least, at_most, fewer
from codex_ray.bench.small_runs import (
    DELTA,
    PHONES,
    RECORDS,
    with_mechanism,
    with_seed,
    with_trainer,
)
from codex_ray.config import experiment_from
from codex_ray.privacy.calibration import calibrate
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.empirical_estimates import canary_estimate, measure_round
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import Randomness, SeedTree, Stream
from codex_ray.types import GroupSum
from codex_ray.types import reduce as reduce_words

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Floats = npt.NDArray[np.float64]

SEEDS: Final = 20
EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
CANARY_CLIENTS: Final = 500
CANARY_RECORDS: Final = 200

REPEATS: Final = 1000
REPEATS_OF_ROUNDS: Final = 50
"""Each of them composes by PLD, three times."""
CLOSE: Final = 0.15
OFTEN: Final = 0.95
OTHERS: Final = 30
"""Clients of a probe beside its canaries, whose sum is known and taken away."""


def honest(scale: float) -> Iterator[Row]:
    """A row for each unit: every audit's lower bound against its claim, and every other verdict."""
    from dp_accounting import GaussianDpEvent

    seeds, epsilons = fewer(SEEDS, scale, least=1), EPSILONS if scale >= 1 else EPSILONS[2:3]
    phones, records = {}, {}
    for epsilon in epsilons:
        once, five = (
            calibrate(GaussianDpEvent, count, epsilon=epsilon, delta=DELTA) for count in (1, STEPS)
        )
        phones[epsilon] = with_mechanism(
            PHONES, kind="gaussian", clip_norm=0.5, noise_multiplier=once
        )
        records[epsilon] = with_trainer(RECORDS, noise_multiplier=five)
    yield _bounds("client", phones, seeds=seeds, canaries=CANARY_CLIENTS)
    yield _bounds("record", records, seeds=seeds, canaries=CANARY_RECORDS)


def _bounds(unit: str, configs: dict[float, dict[str, Any]], *, seeds: int, canaries: int) -> Row:
    figures: list[Figure] = []
    alarms, shares = 0, []
    for epsilon, config in configs.items():
        bounds = []
        for seed in range(seeds):
            run = assemble(experiment_from(with_seed(config, seed)))
            verdicts = audited(run, canaries)
            bounds += [(one.found, one.claimed) for one in verdicts if one.kind == "lower bound"]
            alarms += sum(not one.passed for one in verdicts)
        above = max(found - claimed for found, claimed in bounds)
        shares += [found / claimed for found, claimed in bounds]
        mean = float(np.mean([found for found, _ in bounds]))
        figures += [
            at_most(f"largest bound less its claim, epsilon {epsilon:g}", above, 0.0),
            at_least(f"audits with a bound, epsilon {epsilon:g}", len(bounds), seeds),
            Figure(f"mean bound, epsilon {epsilon:g}", mean),
        ]
    count = seeds * len(configs)
    figures.append(at_most("verdicts that fail", alarms, 0))
    above_claim = sum(share > 1 for share in shares)
    return Row(
        f"audit of sound builds, {unit} level",
        f"{above_claim} of {count} bounds above the claim, {alarms} false alarms; "
        f"{np.mean(shares):.0%} of the claim is shown on average",
        f"none of {count} above the claim (95 %, {seeds} seeds, epsilon "
        f"{', '.join(f'{one:g}' for one in configs)})",
        tuple(figures),
    )


@dataclass(frozen=True)
class Target:
    """What an estimate is tried on: a claim, how many canaries, and over which rounds."""

    epsilon: float
    canaries: int
    rounds: int = 1
    rate: float = 1.0

    def event(self, noise: float) -> DpEvent:
        """What one of the rounds costs."""
        from dp_accounting import GaussianDpEvent

        return self.sampled(GaussianDpEvent(noise))

    def sampled(self, event: DpEvent) -> DpEvent:
        """What the sampler makes of a release."""
        from dp_accounting import PoissonSampledDpEvent

        return event if self.rate == 1 else PoissonSampledDpEvent(self.rate, event)

    @property
    def words(self) -> str:
        """The target in a few words."""
        over = "" if self.rounds == 1 else f", {self.rounds} rounds at rate {self.rate:g}"
        return f"epsilon {self.epsilon:g}, {self.canaries} canaries{over}"


TARGETS: Final = (
    *(Target(epsilon, 500) for epsilon in (3.0, 4.0, 5.0, 6.0, 8.0)),
    Target(4.0, 500, rounds=5, rate=0.5),
    Target(2.0, 1000),
    Target(1.0, 3000),
)


@dataclass(frozen=True)
class Probe:
    """The sum of a cohort of canaries and others, ready to be released under any noise.

    Attributes:
        canaries: who they are.
        codec: of the summands.
        group: the sum of everybody.
        others: what the sum is without the canaries, decoded [d].
        directions: the sum of the directions of the canaries that are in it [d].
    """

    canaries: CanaryClients
    codec: Codec
    group: GroupSum
    others: Floats
    directions: Floats

    @classmethod
    @lru_cache(maxsize=1)
    def of(cls, canaries: int) -> Probe:
        """The probe of about so many canaries, in a model with a hundred parameters for each."""
        streams = Randomness.of(0).secret.child("bench probe", canaries)
        mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=1.0)
        dimension = 100 * canaries
        # What the others send is as good as random too, but not for the canaries to know.
        crowd = CanaryClients(0, OTHERS, dimension, mechanism.clip_norm, streams.child("others"))
        planted = CanaryClients(
            OTHERS, 2 * canaries, dimension, mechanism.clip_norm, streams.child("canaries")
        )
        codec = mechanism.codec(dimension=dimension, summands=OTHERS + 2 * canaries)
        total = no_words(codec.length, bits=codec.bits)
        for client in range(OTHERS):
            total = reduce_words(total + mechanism.encode(crowd.update(client), codec), codec.bits)
        others = codec.decode(total).numpy()
        for client in planted.members:
            total = reduce_words(
                total + mechanism.encode(planted.update(client), codec), codec.bits
            )
        group = GroupSum((*range(OTHERS), *planted.members), total)
        return cls(planted, codec, group, others, planted.sum_of(planted.members))

    def seen(self, noise_multiplier: float, noise: Stream) -> Floats:
        """What an auditor has of one release [d], in clip norms."""
        mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=noise_multiplier)
        expected = float(len(self.group.members))
        release = mechanism.release(self.group, codec=self.codec, expected=expected, noise=noise)
        released: Floats = release.update.numpy() * expected
        return (released - self.others) / mechanism.clip_norm


def estimates(scale: float) -> Iterator[Row]:
    """A row: how often the estimate comes near, for each claim and number of canaries.

    Scaled down, with 500 canaries only.
    """
    figures: list[Figure] = []
    targets = [one for one in TARGETS if scale >= 1 or one.canaries == CANARY_CLIENTS]
    for target in targets:
        repeats = REPEATS if target.rounds == 1 else REPEATS_OF_ROUNDS
        found = _estimated(target, fewer(repeats, scale, least=5))
        near = np.abs(found / target.epsilon - 1) <= CLOSE
        figures += [
            at_least(f"within {CLOSE:.0%}, {target.words}", float(np.mean(near)), OFTEN),
            Figure(f"mean estimate, {target.words}", float(np.mean(found))),
            Figure(f"repeats, {target.words}", len(found)),
        ]
    shares = figures[::3]
    rarest = min(shares, key=lambda one: one.value)
    yield Row(
        "epsilon estimated by canary clients",
        f"{rarest.value:.1%} of repeats or more ({rarest.what})",
        f"within {CLOSE:.0%} in {OFTEN:.0%} of repeats",
        tuple(figures),
    )


def _estimated(target: Target, repeats: int) -> Floats:
    """The estimates [repeats], each of fresh noise on the same sum."""
    probe = Probe.of(target.canaries)
    noise = calibrate(target.event, target.rounds, epsilon=target.epsilon, delta=DELTA)
    streams = Randomness.of(1).secret.child("bench estimates", target.words)
    estimate = partial(
        canary_estimate,
        claimed=[noise] * target.rounds,
        delta=DELTA,
        amplified=None if target.rate == 1 else target.sampled,
    )
    return np.array(
        [estimate(_measures(probe, target, noise, streams.child(at))).epsilon
         for at in range(repeats)]
    )  # fmt: skip


def _measures(probe: Probe, target: Target, noise: float, streams: SeedTree) -> list[Any]:
    return [
        measure_round(probe.seen(noise, streams.stream("release", at)), probe.directions)
        for at in range(target.rounds)
    ]

"""Canary clients: extra clients of a run that send known noise-like updates, far above the clip.

A canary sends a random unit direction at ten times the clip norm: at the clip norm itself a missing
clip would change nothing. A coin decides whether a canary takes part; those that do are in every
round, and what they send passes through the run's own mechanism and protocol. The scores of all
canaries, in and out, give a lower bound, and the rounds' gain and noise an estimate.

A direction is a vector of random signs over sqrt(d): of unit norm exactly, made from one bit a
coordinate, and two of them are as close to orthogonal as two points of the sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.assurance.verdict import Verdict, bound_verdict
from codex_ray.federation.client import LocalTrainer
from codex_ray.privacy.empirical_bounds import Inside, Scores, gaussian_epsilon
from codex_ray.privacy.empirical_estimates import (
    Amplified,
    RoundMeasure,
    canary_estimate,
    check_canaries,
    measure_round,
)
from codex_ray.privacy.mechanism import Fact
from codex_ray.privacy.passengers import Told
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Residues

TIMES_THE_CLIP = 10.0
MOST_SHOWN = 5.0
"""The lower bound looks at so many of the first rounds as are claimed to cost this without
amplification (at least one): canaries are in every round, and no number of them shows much more."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CanaryClients:
    """The canaries of a run: `count` of them, about half of which take part.

    Attributes:
        first: the number of the first one: the population, so that they follow the real clients.
        count: how many there are, in or out.
        dimension: d, the length of an update.
        clip_norm: the mechanism's clip norm; a canary is TIMES_THE_CLIP as long.
        streams: where their directions and coins come from.
    """

    first: ClientId
    count: int
    dimension: int
    clip_norm: float
    streams: SeedTree

    def check(self) -> None:
        """Refuses too few canaries, or too many for the model.

        Raises:
            ConfigError: it says how many there may be.
        """
        check_canaries(self.count // 2, parameters=self.dimension)

    @cached_property
    def inside(self) -> Inside:
        """Which canaries take part [count], by one coin each."""
        return self.streams.stream("coins").uniform(self.count) < 0.5

    @property
    def members(self) -> tuple[ClientId, ...]:
        """The numbers of the clients that every cohort has in addition."""
        return tuple((self.first + np.flatnonzero(self.inside)).tolist())

    def direction(self, client: ClientId) -> Floats:
        """The unit direction [d] of a canary: the same in every round."""
        bits = self.streams.stream("direction", client - self.first).bytes(-(-self.dimension // 8))
        signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=self.dimension)
        side = 1 / math.sqrt(self.dimension)
        return np.array([-side, side])[signs]

    def update(self, client: ClientId) -> torch.Tensor:
        """What a canary sends [d], before the mechanism clips it."""
        return torch.from_numpy(TIMES_THE_CLIP * self.clip_norm * self.direction(client)).float()

    def sum_of(self, clients: Iterable[ClientId]) -> Floats:
        """The sum [d] of the directions of those of `clients` that are canaries."""
        total = np.zeros(self.dimension)
        for client in clients:
            if client >= self.first:
                total += self.direction(client)
        return total

    def scores(self, seen: Floats) -> Floats:
        """The dot products [rounds, count] of what was seen [rounds, d] with each direction."""
        found = np.empty((len(seen), self.count))
        for number in range(self.count):
            # Not by BLAS: its threads cost a hundred times what so short a product does.
            found[:, number] = np.einsum("td,d->t", seen, self.direction(self.first + number))
        return found


@dataclass(frozen=True)
class CanaryTraining:
    """A trainer that answers for the canaries too, and trains everyone else as before.

    Without a trainer of its own the real clients send zeros: a probe, whose release is the canaries
    and the noise alone.
    """

    trainer: LocalTrainer | None
    canaries: CanaryClients

    def train(
        self, params: torch.Tensor, clients: Sequence[ClientId], round: int
    ) -> torch.Tensor:  # [n, d]
        """The updates [n, d] of `clients`, in their order."""
        real = [client for client in clients if client < self.canaries.first]
        if self.trainer is not None:
            trained = iter(self.trainer.train(params, real, round))
        else:
            trained = iter(torch.zeros((len(real), self.canaries.dimension)))
        updates = [
            next(trained) if client < self.canaries.first else self.canaries.update(client)
            for client in clients
        ]
        return torch.stack(updates) if updates else torch.zeros((0, self.canaries.dimension))

    def clipping(self, client: ClientId) -> tuple[int, int, int]:
        """Nothing is told of what was clipped."""
        return 0, 0, 0

    def summed(
        self,
        params: torch.Tensor,
        client: ClientId,
        round: int,
        *,
        clip_norm: float,
        take: Callable[[Iterator[torch.Tensor]], Residues],
    ) -> Residues:
        """What a real client sends; a canary is one update, and has no steps to add up."""
        assert self.trainer is not None and client < self.canaries.first
        return self.trainer.summed(params, client, round, clip_norm=clip_norm, take=take)

    def tell(
        self, params: torch.Tensor, clients: Sequence[ClientId], asked: Collection[Fact]
    ) -> list[Told]:
        """What each client has to tell, in their order; a canary has no records."""
        real = [client for client in clients if client < self.canaries.first]
        told = iter(self.trainer.tell(params, real, asked) if self.trainer is not None else [])
        return [
            next(told) if self.trainer is not None and client < self.canaries.first else Told(0)
            for client in clients
        ]


@dataclass(frozen=True)
class SeenRound:
    """What an auditor has of one round.

    Attributes:
        released: the released sum less the others' sum [d], in clip norms: the release times the
            public expected size that divided it, less what the real clients sent (nothing, in a
            probe), over the clip norm.
        members: who was in the sum.
        noise_multiplier: what the ledger was charged for.
    """

    released: Floats
    members: tuple[ClientId, ...]
    noise_multiplier: float


def client_verdicts(
    canaries: CanaryClients,
    rounds: Sequence[SeenRound],
    *,
    delta: float,
    amplified: Amplified | None = None,
    confidence: float = 0.95,
) -> list[Verdict]:
    """The lower bound and the estimate that the canaries of these rounds give.

    The lower bound is on rounds in which a client is known to be: the canaries were, so it is set
    against the claim without amplification. The estimate is of all the rounds, with what the
    sampler makes of them, and presumes that the sampler does so (see `checks.check_poisson`).

    Raises:
        ConfigError: there are too few canaries, or too many for the model.
    """
    canaries.check()
    return [
        _lower_bound(canaries, rounds, delta=delta, confidence=confidence),
        _estimate(canaries, rounds, delta=delta, amplified=amplified, confidence=confidence),
    ]


def _lower_bound(
    canaries: CanaryClients, rounds: Sequence[SeenRound], *, delta: float, confidence: float
) -> Verdict:
    mus = np.sqrt(np.cumsum([one.noise_multiplier**-2 for one in rounds]))
    claims = [gaussian_epsilon(float(mu), delta) for mu in mus]
    used = max(1, sum(claim <= MOST_SHOWN for claim in claims))
    seen = np.stack([one.released for one in rounds[:used]])
    weights = np.array([one.noise_multiplier**-2 for one in rounds[:used]])
    scores: Scores = weights @ canaries.scores(seen)
    return bound_verdict(
        f"canary clients, {used} round{'s' if used > 1 else ''} of known members",
        scores,
        canaries.inside,
        claimed=claims[used - 1],
        delta=delta,
        confidence=confidence,
    )


def _estimate(
    canaries: CanaryClients,
    rounds: Sequence[SeenRound],
    *,
    delta: float,
    amplified: Amplified | None,
    confidence: float,
) -> Verdict:
    directions: dict[tuple[ClientId, ...], Floats] = {}  # the same in all rounds without dropouts
    measures = []
    for one in rounds:
        there = tuple(client for client in one.members if client >= canaries.first)
        if there not in directions:
            directions = {there: canaries.sum_of(there)}
        measures.append(measure_round(one.released, directions[there]))
    claimed = [one.noise_multiplier for one in rounds]
    found = canary_estimate(
        measures, claimed, delta=delta, amplified=amplified, confidence=confidence
    )
    pairs = list(zip(measures, claimed, strict=True))
    sound = [RoundMeasure(1.0, z, one.energy) for one, z in pairs]
    claim = canary_estimate(sound, claimed, delta=delta, amplified=amplified).epsilon
    noise = float(np.mean([one.noise / z for one, z in pairs]))
    words = (
        f"canary clients, {len(rounds)} round{'s' if len(rounds) > 1 else ''}: epsilon is about "
        f"{found.epsilon:.2f} ({found.low:.2f} to {found.high:.2f} at {confidence:.0%}; claimed "
        f"{claim:.2f}), an estimate and no bound: a client weighs {found.gain:.2f} clip norms in "
        f"the sum, and the noise is {noise:.2f} of what is claimed"
    )
    return Verdict(
        "canary clients", "estimate", claim, found.epsilon, found.low, found.high, True, words
    )

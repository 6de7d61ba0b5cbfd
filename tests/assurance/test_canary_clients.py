"""Canary clients: honest builds pass, a quarter of the noise or a missing clip is caught."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from small_sums import sum_of

from codex_ray.assurance.broken_builds import NoClip, QuarterNoise
from codex_ray.assurance.canary_clients import (
    CanaryClients,
    CanaryTraining,
    SeenRound,
    client_verdicts,
)
from codex_ray.assurance.verdict import bound_verdict
from codex_ray.errors import ConfigError
from codex_ray.privacy.empirical_bounds import gaussian_epsilon
from codex_ray.privacy.empirical_estimates import canary_estimate, measure_round
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.passengers import Told
from codex_ray.randomness import SeedTree

DELTA = 1e-5
TREE = SeedTree(bytes(32))
CANARIES = CanaryClients(
    first=30, count=1000, dimension=51_200, clip_norm=0.5, streams=TREE.child("canaries")
)
EXPECTED = 30.0


def multiplier(epsilon: float) -> float:
    return 1 / brentq(lambda mu: gaussian_epsilon(mu, DELTA) - epsilon, 1e-3, 50)


@cache
def one_sum(kind: type[CentralGaussian]):
    """The codec and the sum of thirty clients and the canaries, with the clients' own sum."""
    mechanism = kind(clip_norm=0.5, noise_multiplier=1.0)
    codec = mechanism.codec(dimension=CANARIES.dimension, summands=600)
    rng = np.random.default_rng(0)
    honest = {
        client: torch.from_numpy(rng.normal(size=CANARIES.dimension) * 10.0 ** -rng.integers(1, 4))
        for client in range(30)
    }
    others = codec.decode(sum_of(mechanism, codec, honest).total).numpy()
    everyone = honest | {client: CANARIES.update(client) for client in CANARIES.members}
    return codec, sum_of(mechanism, codec, everyone), others


def seen_of(kind: type[CentralGaussian], noise_multiplier: float, seed: int) -> np.ndarray:
    """What an auditor has of one round of that build, in clip norms."""
    codec, group, others = one_sum(kind)
    mechanism = kind(clip_norm=0.5, noise_multiplier=noise_multiplier)
    noise = TREE.stream("release", seed)
    released = mechanism.release(group, codec=codec, expected=EXPECTED, noise=noise).update
    return (released.numpy() * EXPECTED - others) / 0.5


def judged(kind: type[CentralGaussian], epsilon: float, seeds: range):
    """The bound's verdict and the estimate of each seed: one pass over the directions for all."""
    z = multiplier(epsilon)
    seen = np.stack([seen_of(kind, z, seed) for seed in seeds])
    directions = CANARIES.sum_of(CANARIES.members)
    for row, scores in zip(seen, CANARIES.scores(seen), strict=True):
        bound = bound_verdict(
            "canaries", scores, CANARIES.inside, claimed=epsilon, delta=DELTA, confidence=0.95
        )
        yield bound, canary_estimate([measure_round(row, directions)], [z], delta=DELTA)


@pytest.mark.parametrize("epsilon", [1, 3, 8])
def test_an_honest_build_passes_twenty_times(epsilon) -> None:
    found = list(judged(CentralGaussian, epsilon, range(20)))
    assert all(bound.passed and bound.found <= epsilon for bound, _ in found)
    assert sum(one.low <= epsilon <= one.high for _, one in found) >= 17
    if epsilon >= 3:  # epsilon 1 needs 3000 canaries
        assert sum(abs(one.epsilon / epsilon - 1) <= 0.15 for _, one in found) >= 18


@pytest.mark.parametrize("epsilon", [1, 3, 8])
@pytest.mark.parametrize("kind", [QuarterNoise, NoClip])
def test_a_broken_build_is_caught_ten_times(kind, epsilon) -> None:
    for bound, estimate in judged(kind, epsilon, range(10)):
        assert not bound.passed
        assert "REFUTES" in bound.words
        assert estimate.low > epsilon
        assert estimate.gain == pytest.approx(10 if kind is NoClip else 1, abs=0.8)


def test_the_verdicts_of_a_run() -> None:
    z = multiplier(3)
    rounds = [
        SeenRound(seen_of(CentralGaussian, z, seed), CANARIES.members, z) for seed in range(3)
    ]
    bound, estimate = client_verdicts(CANARIES, rounds, delta=DELTA)
    assert (bound.kind, estimate.kind) == ("lower bound", "estimate")
    # Two rounds are claimed to cost less than 5, three more: the bound looks at two.
    assert bound.claimed == pytest.approx(gaussian_epsilon(np.sqrt(2) / z, DELTA))
    assert 0 < bound.found <= bound.claimed
    assert estimate.claimed == pytest.approx(gaussian_epsilon(np.sqrt(3) / z, DELTA))
    assert estimate.low < estimate.claimed < estimate.high
    assert "an estimate and no bound" in estimate.words
    assert "\n" not in bound.words + estimate.words
    scores = CANARIES.scores(rounds[0].released[None])[0]
    gain = scores[CANARIES.inside].mean() - scores[~CANARIES.inside].mean()
    assert gain == pytest.approx(1, abs=5 * z * np.sqrt(2 / 500))


def test_an_estimate_never_fails_a_run() -> None:
    z = multiplier(3)
    rounds = [SeenRound(seen_of(QuarterNoise, z, 1), CANARIES.members, z)]
    bound, estimate = client_verdicts(CANARIES, rounds, delta=DELTA)
    assert not bound.passed
    assert estimate.passed
    assert "the noise is 0.25 of what is claimed" in estimate.words


def test_canaries_that_dropped_out_are_not_looked_for() -> None:
    mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=multiplier(8))
    codec, there = one_sum(CentralGaussian)[0], CANARIES.members[::2]
    group = sum_of(mechanism, codec, {client: CANARIES.update(client) for client in there})
    released = mechanism.release(group, codec=codec, expected=1.0, noise=TREE.stream("x")).update
    rounds = [SeenRound(released.numpy() / 0.5, there, mechanism.noise_multiplier)]
    estimate = client_verdicts(CANARIES, rounds, delta=DELTA)[1]
    assert estimate.low < 8 < estimate.high


def test_canaries_are_unit_nearly_orthogonal_and_the_same_every_time() -> None:
    first, second = (CANARIES.direction(30 + at) for at in range(2))
    assert np.linalg.norm(first) == pytest.approx(1)
    assert abs(first @ second) < 6 / np.sqrt(CANARIES.dimension)
    assert np.array_equal(first, CANARIES.direction(30))
    assert abs(first.mean()) < 6 / CANARIES.dimension
    assert float(torch.linalg.vector_norm(CANARIES.update(31))) == pytest.approx(5.0, rel=1e-5)
    assert 420 < CANARIES.inside.sum() < 580
    assert len(CANARIES.members) == CANARIES.inside.sum()
    assert min(CANARIES.members) >= 30


@pytest.mark.parametrize(("count", "dimension"), [(998, 10**6), (1000, 49_999)])
def test_too_few_canaries_or_parameters_are_refused(count, dimension) -> None:
    canaries = CanaryClients(10, count, dimension, 1.0, TREE)
    with pytest.raises(ConfigError, match=r"audit\.canaries"):
        canaries.check()


class Doubling:
    """A trainer whose update of a client is twice its number, in every coordinate."""

    def train(self, params, clients, round):
        return torch.tensor([[2.0 * client] * 8 for client in clients])

    def tell(self, params, clients, asked):
        return [Told(100 + client) for client in clients]


def test_canaries_ride_along_with_the_clients_that_train() -> None:
    canaries = CanaryClients(first=3, count=4, dimension=8, clip_norm=0.1, streams=TREE)
    training = CanaryTraining(Doubling(), canaries)
    order = [2, 5, 0, 3]
    updates = training.train(torch.zeros(8), order, 0)
    assert updates[0].tolist() == [4.0] * 8
    assert updates[2].tolist() == [0.0] * 8
    assert torch.equal(updates[1], canaries.update(5))
    assert float(torch.linalg.vector_norm(updates[3])) == pytest.approx(1.0)
    told = training.tell(torch.zeros(8), order, {"records"})
    assert [one.records for one in told] == [102, 0, 100, 0]
    probe = CanaryTraining(None, canaries)
    assert probe.train(torch.zeros(8), order, 0)[0].tolist() == [0.0] * 8
    assert torch.equal(probe.train(torch.zeros(8), order, 0)[1], canaries.update(5))
    assert len(probe.tell(torch.zeros(8), order, ())) == 4
    assert probe.train(torch.zeros(8), [], 0).shape == (0, 8)

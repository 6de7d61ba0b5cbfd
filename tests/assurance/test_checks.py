"""The deterministic checks: sound builds pass, equal seeds, lost noise and shuffles are caught."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_sums import shared_noise

from codex_ray.assurance.checks import RARE, check_poisson, check_streams, check_variance
from codex_ray.assurance.verdict import Verdict
from codex_ray.data.dataset import Records
from codex_ray.federation.sampling import FixedSize, PoissonCohorts
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Mlp
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import Randomness, SeedTree
from codex_ray.types import GroupSum

SEEDS = range(10)
MANY = 100_000


def tree(seed: int) -> SeedTree:
    return SeedTree(seed.to_bytes(32, "little"))


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_seeds_are_caught(seed) -> None:
    same = np.stack([tree(seed).stream("noise").normal(MANY) for _ in range(2)])
    verdict = check_streams(same)
    assert not verdict.passed
    assert verdict.found == pytest.approx(1)
    assert "share a seed" in verdict.words


@pytest.mark.parametrize("seed", range(20))
def test_streams_of_their_own_pass(seed) -> None:
    own = np.stack([tree(seed).stream("noise", 0, client).normal(MANY) for client in range(2)])
    assert check_streams(own).passed


def test_one_shared_pair_among_many_is_named() -> None:
    noises = np.stack([tree(1).stream("noise", at).normal(20_000) for at in range(12)])
    noises[9] = -3 * noises[4]  # opposite, and at another scale
    verdict = check_streams(noises, whose="rounds")
    assert not verdict.passed
    assert "12 rounds" in verdict.words
    assert "4 and 9" in verdict.words
    partly = np.stack([noises[0], 0.1 * noises[0] + noises[1]])
    assert not check_streams(partly).passed


def test_the_limit_of_likeness_is_that_of_independent_noise() -> None:
    rng = np.random.default_rng(2)
    failures = sum(
        not check_streams(rng.normal(size=(3, 50)), rare=0.1).passed for _ in range(1000)
    )
    assert 60 < failures < 130  # three pairs at a third of a tenth each
    with pytest.raises(ValueError, match="give two"):
        check_streams(np.zeros((1, 50)))


def trained_on_nothing(seeds: SeedTree, clients: int) -> np.ndarray:
    """The noise that each client's DP-SGD adds: its update on no records."""
    none = Records(np.zeros((0, 60), np.float32), np.zeros(0, np.int64))
    trainer = DpSgd(
        learning_rate=1.0,
        clip_norm=1.0,
        noise_multiplier=1.0,
        batch_size=1.0,
        batches=PoissonBatches(sampling_rate=0.5, steps=1),
    )
    model = Mlp(hidden=(80,)).build(tree(0), example=torch.zeros((1, 60)))
    params = torch.zeros(model.dimension)
    return np.stack(
        [
            trainer.train(model, params, none, streams=seeds.child("train", 0, client)).numpy()
            for client in range(clients)
        ]
    ).astype(np.float64)


def test_dp_sgd_noise_is_each_clients_own_and_of_its_size() -> None:
    noise = trained_on_nothing(tree(3), 3)
    assert noise.shape[1] > 4000
    assert check_streams(noise).passed
    assert check_variance(noise.ravel(), 1.0).passed
    assert not check_variance(noise.ravel(), 1.1).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_that_left_with_the_dropouts_is_caught(seed) -> None:
    lost = shared_noise(tree(seed), clients=20, dropped=2, restored=False, d=MANY)
    verdict = check_variance(lost, 1.0)
    assert not verdict.passed
    assert verdict.found == pytest.approx(0.9, abs=0.02)
    assert "10% of the noise is lost" in verdict.words or "9% of" in verdict.words


@pytest.mark.parametrize("seed", range(20))
def test_restored_noise_passes(seed) -> None:
    whole = shared_noise(tree(seed), clients=5, dropped=1, restored=True, d=MANY)
    assert check_variance(whole, 1.0).passed


def test_the_noise_of_a_released_probe_is_its_events() -> None:
    mechanism = CentralGaussian(clip_norm=0.3, noise_multiplier=1.7)
    codec = mechanism.codec(dimension=MANY, summands=50)
    nothing = GroupSum((), no_words(codec.length, bits=codec.bits))
    means = {"codec": codec, "expected": 20.0, "noise": tree(4).stream("release", 0)}
    noise = mechanism.release(nothing, **means).update.numpy() * 20.0
    assert check_variance(noise, 1.7 * 0.3).passed
    quarter = noise / 4
    assert not check_variance(quarter, 1.7 * 0.3).passed


def test_too_much_noise_is_told_but_no_breach() -> None:
    verdict = check_variance(1.1 * tree(5).stream("n").normal(MANY), 1.0)
    assert verdict.passed
    assert "more noise than is accounted for" in verdict.words


def test_a_stretch_without_noise_is_caught() -> None:
    noise = tree(6).stream("n").normal(MANY)
    noise[42_000:43_000] = 0  # one per cent of all: the whole would pass
    verdict = check_variance(noise, 1.0)
    assert verdict.low < verdict.found < verdict.high
    assert not verdict.passed
    assert "coordinates 42000 to 42999" in verdict.words


def test_the_range_of_the_variance_is_that_of_gaussian_noise() -> None:
    rng = np.random.default_rng(7)
    low = sum(not check_variance(rng.normal(size=500), 1.0, rare=0.2).passed for _ in range(2000))
    assert 140 < low < 260  # half of a fifth


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("records", "batch", "epochs"), [(100, 10, 1), (50, 10, 3), (97, 10, 2)])
def test_a_shuffle_claimed_as_poisson_is_refused(seed, records, batch, epochs) -> None:
    rule = ShuffledBatches(batch_size=batch, epochs=epochs)
    draws = rule.draw(records, tree(seed).stream("batches"))
    verdict = check_poisson(draws, population=records, rate=batch / records)
    assert not verdict.passed
    assert "no certificate" in verdict.words


@pytest.mark.parametrize("seed", range(20))
def test_poisson_batches_and_cohorts_pass(seed) -> None:
    batches = PoissonBatches(sampling_rate=0.1, steps=30).draw(100, tree(seed).stream("batches"))
    assert check_poisson(batches, population=100, rate=0.1).passed
    cohorts = [
        np.array(PoissonCohorts(rate=0.3).sample(40, Randomness.of(seed), round=at), np.int64)
        for at in range(10)
    ]
    assert check_poisson(cohorts, population=40, rate=0.3, what="cohorts").passed


def test_fixed_sizes_and_fixed_cohorts_are_refused() -> None:
    fixed = FixedSize(size=10)
    drawn = [np.array(fixed.sample(100, Randomness.of(8), round=at), np.int64) for at in range(10)]
    verdict = check_poisson(drawn, population=100, rate=0.1, what="cohorts")
    assert not verdict.passed
    assert "10 of 10 cohorts have the same size, 10" in verdict.words
    cohort = np.array(PoissonCohorts(rate=0.1).sample(200, Randomness.of(9), round=0), np.int64)
    assert not check_poisson([cohort] * 8, population=200, rate=0.1).passed


def test_everyone_exactly_thrice_is_refused_at_any_size_of_batch() -> None:
    rng = np.random.default_rng(12)
    steps = np.array([rng.choice(30, 3, replace=False) for _ in range(40)])  # [members, 3]
    draws = [np.flatnonzero((steps == at).any(axis=1)) for at in range(30)]
    verdict = check_poisson(draws, population=40, rate=0.1)
    assert not verdict.passed
    assert "40 of 40 took part equally often, in 3 of 30 batches" in verdict.words


def test_nobody_twice_is_refused_in_half_an_epoch() -> None:
    bins = np.random.default_rng(13).integers(0, 10, 300)  # each in one of ten batches of any size
    draws = [np.flatnonzero(bins == at) for at in range(5)]
    verdict = check_poisson(draws, population=300, rate=0.1)
    assert not verdict.passed
    assert "0 of 300 took part more than once in 5 batches" in verdict.words


def test_another_rate_than_the_claimed_one_is_refused() -> None:
    draws = PoissonBatches(sampling_rate=0.2, steps=50).draw(200, tree(10).stream("batches"))
    verdict = check_poisson(draws, population=200, rate=0.1)
    assert not verdict.passed
    assert verdict.found > verdict.high


def test_sampling_checks_fail_by_chance_no_more_often_than_they_say() -> None:
    rng = np.random.default_rng(11)
    failed = 0
    for _ in range(400):
        population, steps = int(rng.integers(5, 100)), int(rng.integers(1, 20))
        rate = rng.random()
        draws = [np.flatnonzero(rng.random(population) < rate) for _ in range(steps)]
        failed += not check_poisson(draws, population=population, rate=rate, rare=0.05).passed
    assert failed <= 20 + 3 * np.sqrt(20)
    assert RARE <= 1e-6


def test_draws_that_are_none_are_an_error() -> None:
    for draw in ([1, 1], [0, 7], [-1]):
        with pytest.raises(ValueError, match="a draw of batches"):
            check_poisson([np.array(draw)], population=5, rate=0.5)
    assert check_poisson([np.zeros(0, np.int64)] * 2, population=5, rate=0.01).passed


def test_a_verdict_is_plain_data() -> None:
    verdict = Verdict("v", "check", 1.0, float("inf"), 0.0, float("nan"), True, "words")
    written = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert written["found"] == "inf"
    assert written["kind"] == "check"
    assert written["passed"] is True

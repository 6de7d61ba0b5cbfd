"""Figures from one noised sum: nobody adds more than is accounted, and noise is what is said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pools import pool_of

from codex_ray.data.column_statistics import QUARTILES, Ranges, of_table
from codex_ray.federation.pooled_sums import NoisedSum
from codex_ray.preparation.noised_statistics import LEAST_DEVIATION, Sketch
from codex_ray.privacy.events import relations
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, SkellamNoise
from codex_ray.randomness import Randomness, SeedTree
from codex_ray.secagg.protocols import Ideal, SecAgg

PUBLIC = Ranges(-np.ones(4), np.ones(4))
NOISE = 3.0


def points(count, seed=0):
    rng = np.random.default_rng(seed)
    values = np.clip(rng.normal(0.2, 0.4, (count, 4)), -1, 1)
    values[rng.random(values.shape) < 0.1] = np.nan
    return values


def sketch(**fields):
    return Sketch(**({"columns": 4, "moments": True, "quantiles": True, "bins": 16} | fields))


@given(arrays(np.float64, (3, 4), elements=st.floats(-1, 1)), st.booleans(), st.booleans())
def test_no_record_adds_more_than_the_norm(values, moments, quantiles):
    values[0, 0] = np.nan
    made = sketch(moments=moments or not quantiles, quantiles=quantiles)
    rows = made.rows(values)
    assert rows.shape == (3, made.dimension)
    assert np.linalg.norm(rows, axis=1).max() <= made.norm * (1 + 1e-12)
    assert np.linalg.norm(made.mean(values)) <= made.norm * (1 + 1e-12)


def test_the_norm_is_reached():
    made = sketch()
    assert np.linalg.norm(made.rows(np.ones((1, 4)))) == pytest.approx(made.norm)


def test_without_noise_it_tells_the_figures_of_the_table():
    values, made = points(500), sketch(bins=64)
    found = made.found(made.sum(values))
    exact = of_table(values, PUBLIC, moments=True, quantiles=True)
    np.testing.assert_allclose(found.mean, exact.mean, atol=1e-12)
    np.testing.assert_allclose(found.variance, exact.variance, atol=1e-12)
    assert np.abs(found.quartiles - exact.quartiles).max() <= 1 / 64 + 1e-12


def test_of_a_client_as_the_unit_each_counts_for_one():
    parts, made = [points(10), points(1000, seed=1)], sketch(quantiles=False)
    found = made.found(sum(made.mean(part) for part in parts))
    there = [(~np.isnan(part)).mean(axis=0) for part in parts]
    sums = [np.nansum(part, axis=0) / len(part) for part in parts]
    np.testing.assert_allclose(found.mean, sum(sums) / sum(there), atol=1e-12)


def test_what_noise_leaves_of_nothing_is_the_middle():
    made = sketch()
    found = made.found(np.full(made.dimension, -5.0))
    assert found.mean.tolist() == [0] * 4
    assert found.variance.tolist() == [1] * 4
    assert found.quartiles[:, 0].tolist() == [-1, 0, 1]
    many = made.found(np.full(made.dimension, 100.0) - 99 * np.eye(made.dimension)[8])
    assert np.all(many.variance >= LEAST_DEVIATION**2)


def released(summed, protocol, vectors, randomness):
    """The noised sum of the clients' vectors."""

    def answer(question, client):
        return summed.summand(vectors(client), client, randomness=randomness, number=0)

    pool = pool_of(protocol, summed.population, answer)
    return summed.release(None, pool, randomness=randomness, number=0)


def mechanisms():
    central = {"clip_norm": sketch().norm, "noise_multiplier": NOISE}
    return [
        CentralGaussian(**central),
        LocalGaussian(**central),
        DiscreteGaussianNoise(**central),
        SkellamNoise(**central),
    ]


@pytest.mark.parametrize("mechanism", mechanisms(), ids=lambda m: m.kind)
def test_the_release_is_the_sum_and_the_noise_that_is_said(mechanism):
    parts, made = [points(20, seed) for seed in range(5)], sketch()
    summed = NoisedSum(mechanism, len(parts), made.dimension)
    true = sum(made.mean(part) for part in parts)
    drawn = []
    for seed in range(12):
        randomness = Randomness(SeedTree(bytes(32)), SeedTree(bytes([seed]) * 32))
        found = released(summed, Ideal(), lambda one: made.mean(parts[one]), randomness)
        drawn.append(found - true)
    off = np.concatenate(drawn)
    # 912 draws: four standard errors of a deviation are 9.4 %, of a mean 13 % of one.
    assert off.std() == pytest.approx(summed.deviation, rel=0.1)
    assert abs(off.mean()) < 0.14 * summed.deviation
    assert "replace_one" in relations(summed.event())


@pytest.mark.parametrize("kind", [DiscreteGaussianNoise, SkellamNoise])
def test_records_are_rounded_by_themselves_and_the_noise_is_that_of_the_fewest_honest(kind):
    parts, made = [points(40, seed) for seed in range(4)], sketch()
    mechanism = kind(clip_norm=made.norm, noise_multiplier=NOISE)
    summed = NoisedSum(mechanism, len(parts), made.dimension, records=160)
    honest = mechanism.honest(4)
    at_least = NOISE * made.norm * np.sqrt(4 / honest)
    assert summed.deviation == pytest.approx(at_least, rel=1e-6)
    found = released(summed, SecAgg(), lambda one: made.rows(parts[one]), Randomness.of(0))
    true = sum(made.sum(part) for part in parts)
    assert (found - true).std() == pytest.approx(summed.deviation, rel=0.35)


def test_a_seed_draws_the_noise_again_and_another_draws_other():
    parts, made = [points(20, seed) for seed in range(4)], sketch()
    summed = NoisedSum(mechanisms()[2], 4, made.dimension)

    def found(seed):
        return released(summed, SecAgg(), lambda one: made.mean(parts[one]), Randomness.of(seed))

    assert found(0).tobytes() == found(0).tobytes() != found(1).tobytes()


def test_quartiles_of_a_noised_histogram_are_near_the_true_ones():
    values, made = points(2000), sketch(moments=False, bins=32)
    rng = np.random.default_rng(0)
    noised = made.sum(values) + rng.normal(0, 12, made.dimension)
    found = made.found(noised).quartiles
    true = np.nanquantile(values, QUARTILES, axis=0, method="inverted_cdf")
    assert np.abs(found - true).max() < 0.15

"""Cohorts drawn block by block are those of the whole stream, and a million clients cost little."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from codex_ray.federation import drawing
from codex_ray.federation.drawing import below, smallest
from codex_ray.federation.sampling import FixedSize, PoissonCohorts
from codex_ray.randomness import Randomness, Stream

POPULATIONS = (1, 2, 1000, 65_535, 65_536, 65_537, 200_000)


def stream(number: int = 0) -> Stream:
    return Randomness.of(3).secret.stream("cohort", number)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("rate", [1e-4, 0.3, 1.0])
def test_poisson_cohorts_are_those_of_the_whole_stream(population, rate) -> None:
    whole = np.flatnonzero(stream().uniform(population) < rate)
    assert np.array_equal(below(stream(), population, rate=rate), whole)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_fixed_cohorts_are_the_first_of_the_permutation(population, share) -> None:
    count = max(1, int(share * population))
    whole = np.sort(stream().permutation(population)[:count])
    assert np.array_equal(smallest(stream(), population, count=count), whole)


def test_words_that_tie_go_by_the_clients_number(monkeypatch) -> None:
    class Tied:
        def words(self, count: int) -> np.ndarray:
            return np.repeat(np.array([5, 1], dtype=np.uint64), [count // 2, count - count // 2])

    assert smallest(Tied(), 8, count=6).tolist() == [0, 1, 4, 5, 6, 7]
    monkeypatch.setattr(drawing, "BLOCK", 4)
    assert smallest(Tied(), 8, count=5).tolist() == [0, 2, 3, 6, 7]


def test_too_few_small_words_are_no_cohort() -> None:
    class Large:
        def words(self, count: int) -> np.ndarray:
            return np.full(count, 2**64 - 1, dtype=np.uint64)

    with pytest.raises(ArithmeticError, match="far too few"):
        smallest(Large(), 100_000, count=10)


@pytest.mark.parametrize(
    "sampler", [PoissonCohorts(rate=1e-3), FixedSize(size=1000)], ids=lambda one: one.kind
)
def test_a_cohort_of_a_million_takes_little_memory(sampler) -> None:
    randomness = Randomness.of(0)
    tracemalloc.start()
    try:
        cohort = sampler.sample(1_000_000, randomness, round=7)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 800 < len(cohort) < 1200 and list(cohort) == sorted(set(cohort))
    assert most < 4_000_000

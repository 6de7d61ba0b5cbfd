"""Cohorts that take turns keep the schedule that correlated noise is made for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import ConfigError
from codex_ray.federation.spaced_sampling import SpacedCohorts
from codex_ray.privacy.accountants import account
from codex_ray.privacy.claims import SPACED
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.ledger import Ledger
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import Randomness, SeedTree

RANDOMNESS = Randomness.of(0)
SIZES = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def cohorts(sampler: SpacedCohorts, population: int, rounds: int, randomness=RANDOMNESS):
    """The cohorts of rounds 0, 1, ..."""
    return [sampler.sample(population, randomness, round=number) for number in range(rounds)]


@settings(deadline=None)
@given(SIZES, st.integers(1, 100), st.integers(0, 5))
def test_every_run_keeps_its_schedule(sizes, rounds, seed) -> None:
    population, separation = sizes
    sampler = SpacedCohorts(separation=separation)
    drawn = cohorts(sampler, population, rounds, Randomness.of(seed))
    schedule = sampler.schedule(rounds)
    schedule.check(drawn)
    assert schedule == Schedule(rounds, separation, -(-rounds // separation))
    assert all(list(cohort) == sorted(set(cohort)) for cohort in drawn)


@settings(deadline=None)
@given(SIZES)
def test_a_turn_of_all_cohorts_has_every_client_once(sizes) -> None:
    population, separation = sizes
    sampler = SpacedCohorts(separation=separation)
    drawn = cohorts(sampler, population, separation)
    assert sorted(itertools.chain(*drawn)) == list(range(population))
    assert {len(cohort) for cohort in drawn} <= {
        population // separation,
        sampler.largest(population),
    }
    smallest = min(len(cohort) for cohort in drawn)
    assert sampler.chance_below(smallest, population) == 0
    assert sampler.chance_below(smallest + 1, population) == 1
    assert sampler.expected(population) == population / separation


@settings(deadline=None)
@given(SIZES, st.integers(1, 20))
def test_who_else_is_there_does_not_move_a_client(sizes, more) -> None:
    """Or the sum of a round would differ by more than the one client that is added."""
    population, separation = sizes
    sampler = SpacedCohorts(separation=separation)
    for few, many in zip(
        cohorts(sampler, population, separation),
        cohorts(sampler, population + more, separation),
        strict=True,
    ):
        assert few == tuple(client for client in many if client < population)


def test_cohorts_mix_the_blocks() -> None:
    sampler, population = SpacedCohorts(separation=10), 20_000
    first = sampler.sample(population, RANDOMNESS, round=0)
    places = [sum(client % 10 == place for client in first) for place in range(10)]
    assert sum((found - 200) ** 2 / 200 for found in places) < 34  # chi-squared of 9, 1e-4
    assert sampler.sample(population, Randomness.of(1), round=0) != first


def test_a_run_that_goes_on_without_a_seed_has_the_same_cohorts() -> None:
    sampler = SpacedCohorts(separation=7)
    one, other = Randomness.of(None), Randomness.of(None)
    assert cohorts(sampler, 50, 14, one) == cohorts(sampler, 50, 14, other)
    secret = Randomness(RANDOMNESS.public, SeedTree(bytes(32)))
    assert cohorts(sampler, 50, 7, secret) == cohorts(sampler, 50, 7)


def test_a_cohort_of_a_great_population_is_found_by_its_own_size() -> None:
    sampler = SpacedCohorts(separation=10**7)
    drawn = sampler.sample(10**9, RANDOMNESS, round=123)
    assert len(drawn) == 100
    assert [client // 10**7 for client in drawn] == list(range(100))


def test_more_cohorts_than_clients_are_refused() -> None:
    SpacedCohorts(separation=10).check(10)
    with pytest.raises(ConfigError, match=r"separation is 11.*only 10 clients.*lower it"):
        SpacedCohorts(separation=11).check(10)


def test_a_client_pays_for_the_rounds_that_it_is_in() -> None:
    """Cohorts are known, so each client has an entry, and nothing is amplified."""
    sampler, mechanism = (
        SpacedCohorts(separation=4),
        CorrelatedGaussian(clip_norm=1, noise_multiplier=3),
    )
    event = mechanism.event()
    assert event is not None
    ledger = Ledger(SPACED.unit, 1e-6, relation=SPACED.relation)
    away = 5  # a client that drops out of its second round
    for number, cohort in enumerate(cohorts(sampler, 20, 10)):
        there = [client for client in cohort if not (client == away and 4 <= number < 8)]
        ledger.charge(sampler.event(event, 20), there)
    paid = {client: counts[event] for client, counts in ledger.paid.items()}
    late = {client for cohort in cohorts(sampler, 20, 4)[2:] for client in cohort}
    expected = {client: 3 - (client in late) - (client == away) for client in range(20)}
    assert paid == expected
    most = sampler.schedule(10).participations
    assert ledger.largest() == account(((event, most),), 1e-6).epsilon

"""Noise for a target epsilon: the published tables, and never a thousandth above the target."""

from __future__ import annotations

import math
from collections.abc import Callable

import dp_accounting as dp
import pytest

from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import _account, account
from codex_ray.privacy.calibration import calibrate
from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum


def sampled(rate: float) -> Callable[[float], dp.DpEvent]:
    return lambda noise: dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))


COHORTS = [  # population, cohort, rounds, noise for epsilon 1, 2, 4 and 8; delta = population^-1.1
    (1_000, 50, 200, (2.15, 1.34, 0.93, 0.69)),
    (10_000, 100, 500, (1.08, 0.81, 0.65, 0.52)),
    (3_400, 100, 500, (2.22, 1.36, 0.93, 0.70)),
    (100_000, 1_000, 1_000, (1.49, 1.00, 0.76, 0.60)),
]
UNSAMPLED = {2: (2.23, 3.86, 5.46, 7.05), 8: (0.65, 1.13, 1.60, 2.07)}  # 1, 3, 6, 10 releases
EMNIST = [(1, 3.42, 3.79), (3, 1.49, 1.61), (5, 1.10, 1.17), (10, 0.79, 0.83), (20, 0.61, 0.64)]
SIMULATED = [  # noise cohort, rounds, noise by PLD and by RDP; population 10^6, epsilon 2
    (1_000, 1_500, 0.617, 0.715),
    (1_000, 3_000, 0.633, 0.726),
    (5_000, 2_000, 0.865, 0.940),
    (5_000, 5_000, 1.057, 1.107),
]
CENTRAL = [(1, 1.416, 1.513), (3, 0.814, 0.865), (8, 0.586, 0.616)]

ROWS = [
    *(
        (sampled(m / n), rounds, epsilon, n**-1.1, "pld", noise)
        for n, m, rounds, noises in COHORTS
        for epsilon, noise in zip((1, 2, 4, 8), noises, strict=True)
    ),
    *(
        (dp.GaussianDpEvent, count, epsilon, 1e-6, "pld", noise)
        for epsilon, noises in UNSAMPLED.items()
        for count, noise in zip((1, 3, 6, 10), noises, strict=True)
    ),
    *((sampled(100 / 3400), 1500, e, 1 / 3400, "pld", noise) for e, noise, _ in EMNIST),
    *((sampled(100 / 3400), 1500, e, 1 / 3400, "rdp", noise) for e, _, noise in EMNIST),
    *((sampled(m / 1e6), rounds, 2, 1e-6, "pld", noise) for m, rounds, noise, _ in SIMULATED),
    *((sampled(m / 1e6), rounds, 2, 1e-6, "rdp", noise) for m, rounds, _, noise in SIMULATED),
    *((sampled(0.01), 1000, epsilon, 1e-5, "pld", noise) for epsilon, noise, _ in CENTRAL),
    *((sampled(0.01), 1000, epsilon, 1e-5, "rdp", noise) for epsilon, _, noise in CENTRAL),
]


@pytest.mark.parametrize(("event", "count", "epsilon", "delta", "accountant", "noise"), ROWS)
def test_the_published_tables(event, count, epsilon, delta, accountant, noise) -> None:
    """Within a hundredth of the tables, never above the target, a thousandth below at most."""
    _account.cache_clear()
    found = calibrate(event, count, epsilon=epsilon, delta=delta, accountant=accountant)
    asked = _account.cache_info().misses
    assert found == pytest.approx(noise, rel=0.01)
    reached = account(((event(found), count),), delta, accountant=accountant)
    assert 0.999 * epsilon <= reached.epsilon <= epsilon
    assert reached.accountant == accountant
    assert asked <= 16  # each some milliseconds: 1.5 CPU seconds are far away


def test_replacing_asks_for_about_twice_the_noise() -> None:
    add = calibrate(dp.GaussianDpEvent, 5, epsilon=3, delta=1e-6)
    replace = calibrate(dp.GaussianDpEvent, 5, epsilon=3, delta=1e-6, relation="replace_one")
    assert replace == pytest.approx(2 * add, rel=1e-3)
    sampled_add = calibrate(sampled(0.01), 500, epsilon=1, delta=1e-6)
    moved = calibrate(sampled(0.01), 500, epsilon=1, delta=1e-6, relation="replace_one")
    assert 1.2 * sampled_add < moved < 2 * sampled_add


def test_every_kind_of_noise_can_be_calibrated() -> None:
    """On a grid where a client's norm is 1000, 100 clients' noise of a given multiplier."""
    kinds: dict[str, Callable[[float], dp.DpEvent]] = {
        "skellam": lambda z: SkellamSum((1e3 * z) ** 2, 1e3, 1e5),
        "discrete": lambda z: DiscreteGaussianSum(100, 100 * z, 1e3, 1e5, 10_000),
        "sampled skellam": lambda z: dp.PoissonSampledDpEvent(
            0.01, SkellamSum((1e3 * z) ** 2, 1e3, 1e5)
        ),
    }
    found = {k: calibrate(e, 100, epsilon=4, delta=1e-6) for k, e in kinds.items()}
    for kind, noise in found.items():
        reached = account(((kinds[kind](noise), 100),), 1e-6)
        assert 0.999 * 4 <= reached.epsilon <= 4 and reached.accountant == "rdp"
    plain = calibrate(dp.GaussianDpEvent, 100, epsilon=4, delta=1e-6, accountant="rdp")
    assert found["skellam"] == pytest.approx(plain, rel=2e-3)
    assert found["discrete"] == pytest.approx(plain, rel=2e-3)
    assert found["sampled skellam"] < plain / 5


def test_without_replacement_is_calibrated_under_replace_one() -> None:
    def event(noise: float) -> dp.DpEvent:
        return dp.SampledWithoutReplacementDpEvent(10_000, 100, dp.GaussianDpEvent(noise))

    noise = calibrate(event, 1000, epsilon=3.5761, delta=1e-5, relation="replace_one")
    assert noise == pytest.approx(2.0, rel=0.01)
    with pytest.raises(PrivacyError, match="under replace_one only, not under add_or_remove_one"):
        calibrate(event, 1000, epsilon=3, delta=1e-5)


def test_entries_and_composed_events_are_calibrated_as_a_whole() -> None:
    """A round of five steps, and a fixed cost beside what can be calibrated."""
    one = sampled(0.1)
    steps = calibrate(lambda z: dp.SelfComposedDpEvent(one(z), 5), 20, epsilon=2, delta=1e-6)
    assert steps == pytest.approx(calibrate(one, 100, epsilon=2, delta=1e-6), rel=1e-6)
    count = dp.GaussianDpEvent(10.0)
    both = calibrate(lambda z: ((dp.GaussianDpEvent(z), 1), (count, 1)), 4, epsilon=2, delta=1e-6)
    alone = calibrate(dp.GaussianDpEvent, 4, epsilon=2, delta=1e-6)
    assert 1 / both**2 + 1 / 10**2 == pytest.approx(1 / alone**2, rel=2e-3)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 30.0, 200.0])
def test_far_targets_are_reached_too(epsilon) -> None:
    for event in (dp.GaussianDpEvent, sampled(0.05)):
        noise = calibrate(event, 50, epsilon=epsilon, delta=1e-6)
        assert 0.998 * epsilon <= account(((event(noise), 50),), 1e-6).epsilon <= epsilon


def test_what_cannot_be_reached_is_one_clear_line() -> None:
    fixed = dp.GaussianDpEvent(1.0)
    with pytest.raises(PrivacyError, match=r"no noise reaches epsilon 1: .* still .*; raise"):
        calibrate(lambda z: ((dp.GaussianDpEvent(z), 1), (fixed, 1)), 10, epsilon=1, delta=1e-5)
    for epsilon in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(PrivacyError, match=r"target epsilon is .*: it must be positive"):
            calibrate(dp.GaussianDpEvent, 1, epsilon=epsilon, delta=1e-5)
    with pytest.raises(PrivacyError, match="there is nothing to protect"):
        calibrate(dp.GaussianDpEvent, 0, epsilon=1, delta=1e-5)
    with pytest.raises(PrivacyError, match="accountant 'gdp'"):
        calibrate(dp.GaussianDpEvent, 1, epsilon=1, delta=1e-5, accountant="gdp")

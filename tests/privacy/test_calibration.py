"""Noise for a target epsilon: the published tables, and never a thousandth above the target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import dp_accounting as dp
import pytest

from codex_ray.bench.published_noise import published
from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import _account, account
from codex_ray.privacy.calibration import calibrate
from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum


def sampled(rate: float) -> Callable[[float], dp.DpEvent]:
    return lambda noise: dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))


@pytest.mark.parametrize("setting", list(published()), ids=lambda setting: setting.words)
def test_the_published_tables(setting) -> None:
    """Within a hundredth of the tables, never above the target, a thousandth below at most."""
    _account.cache_clear()
    found = calibrate(
        setting.event,
        setting.releases,
        epsilon=setting.epsilon,
        delta=setting.delta,
        accountant=setting.accountant,
    )
    asked = _account.cache_info().misses
    assert found == pytest.approx(setting.noise, rel=0.01)
    entries = ((setting.event(found), setting.releases),)
    reached = account(entries, setting.delta, accountant=setting.accountant)
    assert 0.999 * setting.epsilon <= reached.epsilon <= setting.epsilon
    assert reached.accountant == setting.accountant
    assert asked <= 16  # each some milliseconds: 1.5 CPU seconds are far away


def test_the_published_tables_are_whole() -> None:
    by_table = Counter(setting.table for setting in published())
    assert sorted(by_table.values()) == [6, 8, 8, 10, 16]
    assert Counter(setting.accountant for setting in published()) == {"pld": 36, "rdp": 12}


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

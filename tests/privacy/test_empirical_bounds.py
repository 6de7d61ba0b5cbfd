"""Lower bounds: never above the truth on honest scores, as sharp as the published methods allow,
and able to refute a claim that is false.
"""

from __future__ import annotations

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.stats import binom, norm

from codex_ray.privacy.empirical_bounds import (
    Guesses,
    clopper_pearson_bound,
    excess_over,
    f_dp_bound,
    gaussian_curve,
    gaussian_epsilon,
    guess,
    highest_bound,
    lower_bound,
    one_run_bound,
    profile_curve,
)

DELTA = 1e-5


def mu_of(epsilon: float) -> float:
    return brentq(lambda mu: gaussian_epsilon(mu, DELTA) - epsilon, 1e-3, 50)


def ideal(mu: float, canaries: int, seed: int):
    """Scores of canaries that are in or out by coins, as one Gaussian release gives them."""
    rng = np.random.default_rng(seed)
    inside = rng.random(canaries) < 0.5
    return rng.normal(size=canaries) + mu * inside, inside


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.6, 1.4, 3.7, 50])
def test_the_epsilon_of_a_gaussian_is_dp_accountings(sigma) -> None:
    expected = dp.get_epsilon_gaussian(sigma, DELTA)
    assert gaussian_epsilon(1 / sigma, DELTA) == pytest.approx(expected, abs=1e-8)


def test_no_sensitivity_costs_nothing_and_no_noise_everything() -> None:
    assert gaussian_epsilon(0, DELTA) == 0
    assert gaussian_epsilon(1e-6, DELTA) == 0
    assert gaussian_epsilon(np.inf, DELTA) == np.inf


@pytest.mark.parametrize("method", ["f_dp", "one_run"])
@pytest.mark.parametrize("epsilon", [1, 2, 3, 5, 8])
def test_an_honest_build_is_never_refuted(method, epsilon) -> None:
    mu = mu_of(epsilon)
    for seed in range(20):
        assert lower_bound(*ideal(mu, 400, seed), delta=DELTA, method=method) <= epsilon


def test_a_bound_fails_no_more_often_than_it_says() -> None:
    # At a confidence of one half, so that the failures can be counted, and at a small epsilon,
    # where the bounds are sharpest.
    mu = mu_of(0.5)
    above = sum(
        lower_bound(*ideal(mu, 100, seed), delta=DELTA, confidence=0.5) > 0.5 for seed in range(300)
    )
    assert 0 < above <= 150 + 3 * np.sqrt(75)


PUBLISHED = {  # (canaries, epsilon): one-run and f-DP bounds of the reference implementation
    (200, 3): (0.39, 0.57),
    (200, 8): (1.68, 2.58),
    (1000, 1): (0.14, 0.18),
    (1000, 2): (0.44, 0.58),
    (1000, 3): (0.89, 1.18),
    (1000, 8): (2.30, 3.27),
    (5000, 2): (0.61, 0.97),
    (5000, 3): (0.96, 1.42),
    (5000, 8): (2.03, 3.74),
}


@pytest.mark.parametrize(("canaries", "epsilon"), PUBLISHED)
def test_bounds_are_as_sharp_as_the_published_ones(canaries, epsilon) -> None:
    mu, repeats = mu_of(epsilon), 8 if canaries < 5000 else 3
    drawn = [ideal(mu, canaries, seed) for seed in range(repeats)]
    one_run, f_dp = PUBLISHED[canaries, epsilon]
    found = [lower_bound(*scores, delta=DELTA, method="one_run") for scores in drawn]
    assert np.mean(found) >= 0.9 * one_run
    found = [lower_bound(*scores, delta=DELTA) for scores in drawn]
    assert 0.9 * f_dp <= np.mean(found) < epsilon


@pytest.mark.parametrize("epsilon", [1, 3, 8])
@pytest.mark.parametrize("louder", [4, 10])  # a quarter of the noise; no clip
def test_a_broken_build_is_refuted(epsilon, louder) -> None:
    mu = mu_of(epsilon)
    for seed in range(10):
        assert lower_bound(*ideal(louder * mu, 1000, seed), delta=DELTA) > epsilon


def test_guesses_are_the_two_ends_and_nobody_between() -> None:
    scores = np.array([5.0, 1, 4, 2, 3, 0, np.nan, 6, -1, 2.5])
    inside = np.array([True, True, True, False, True, False, False, False, False, True])
    assert guess(scores, inside, fraction=0.4) == Guesses(10, 4, 3)
    assert guess(scores, inside, fraction=0.5) == Guesses(10, 4, 3)  # as many below as above
    assert guess(scores, inside, fraction=0.1) == Guesses(10, 0, 0)
    with pytest.raises(ValueError, match="one score a canary"):
        guess(scores[1:], inside, fraction=0.4)


def test_one_run_without_delta_is_a_binomial_test() -> None:
    guesses = Guesses(100, 60, 50)
    epsilon = one_run_bound(guesses, delta=0.0)
    chance = np.exp(epsilon) / (1 + np.exp(epsilon))
    assert binom.sf(49, 60, chance) == pytest.approx(0.05, rel=1e-4)
    assert one_run_bound(guesses, delta=1e-3) < epsilon
    assert one_run_bound(Guesses(1000, 60, 50), delta=1e-3) < one_run_bound(guesses, delta=1e-3)


def test_more_right_guesses_show_more() -> None:
    for bound in (one_run_bound, f_dp_bound):
        shown = [bound(Guesses(500, 100, right), delta=DELTA) for right in range(50, 101, 10)]
        assert shown[0] == 0
        assert shown[1:] == sorted(shown[1:])
        assert shown[-1] > 2


def test_the_recursion_agrees_with_a_bound_worked_out_by_hand() -> None:
    # One canary and one guess: r = a, h = 0, then h = f(1 - a), and r stays (i = 0). The claim is
    # refuted when a + f(1 - a) > 1, so never for a proper curve.
    curve = gaussian_curve(1.0)
    expected = 0.05 + norm.cdf(norm.ppf(0.05) - 1) - 1
    assert excess_over(curve, Guesses(1, 1, 1), significance=0.05) == pytest.approx(expected)
    # Two canaries, two guesses, both right: one step of the recursion moves both.
    h1 = norm.cdf(norm.ppf(0.05) - 1)
    r1 = 0.05 + (1 / 1) * h1
    h2 = norm.cdf(norm.ppf(r1) - 1)
    found = excess_over(curve, Guesses(2, 2, 2), significance=0.05)
    assert found == pytest.approx(r1 + h2 - 1)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1, 1000), (0.1, 0.6, 10)])
def test_a_subsampled_gaussian_is_nearer_to_chance_than_its_gaussian(rate, noise, steps) -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-2)
    accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), steps)
    epsilons = np.linspace(0, 12, 600)
    exact = profile_curve(epsilons, accountant.get_delta(epsilons))
    gauss = gaussian_curve(mu_of(accountant.get_epsilon(DELTA)))
    for x in (0.003, 0.03, 0.3, 0.5, 0.7, 0.97, 0.997):
        assert exact(x) >= gauss(x) - 1e-3


def test_a_profile_gives_back_the_curve_of_its_gaussian() -> None:
    epsilons = np.linspace(0, 12, 2000)
    with np.errstate(divide="ignore"):
        deltas = norm.cdf(0.5 - epsilons) - np.exp(epsilons) * norm.cdf(-0.5 - epsilons)
    profile, curve = profile_curve(epsilons, deltas), gaussian_curve(1.0)
    for x in (0.01, 0.2, 0.5, 0.8, 0.99):
        assert profile(x) == pytest.approx(curve(x), abs=1e-4)
    guesses = Guesses(500, 100, 90)
    shown = [excess_over(c, guesses, significance=0.05) for c in (profile, curve)]
    assert shown[0] == pytest.approx(shown[1], abs=1e-3)


def test_the_highest_bound_is_what_right_guesses_give() -> None:
    inside = np.arange(1000) < 490
    perfect = lower_bound(inside * 1.0, inside, delta=DELTA)
    assert highest_bound(1000, delta=DELTA) == pytest.approx(perfect)
    assert highest_bound(1000, delta=DELTA) > 8
    assert highest_bound(200, delta=DELTA) < 8


def test_clopper_pearson_holds_and_finds() -> None:
    mu = mu_of(8)
    rng = np.random.default_rng(5)
    shown = [
        clopper_pearson_bound(
            rng.normal(size=500) + mu, rng.normal(size=500), delta=DELTA, threshold=2.0
        )
        for _ in range(20)
    ]
    assert max(shown) < 8
    assert np.mean(shown) > 1.5
    hits, alarms = 1 - 3 / 500, 3 / 500  # nothing missed, no alarm: about 3/n at 95 %
    perfect = clopper_pearson_bound(np.ones(500), np.zeros(500), delta=DELTA, threshold=0.5)
    assert perfect == pytest.approx(np.log(hits / alarms), abs=0.3)
    assert clopper_pearson_bound(np.zeros(50), np.ones(50), delta=DELTA, threshold=0.5) == 0

"""The canary estimate: within 15 % where it promises so, with an interval that covers, and loud
about builds that do not clip or do not add their noise.
"""

from __future__ import annotations

import math

import dp_accounting as dp
import numpy as np
import pytest
from scipy.optimize import brentq

from codex_ray.errors import ConfigError
from codex_ray.privacy.empirical_bounds import gaussian_epsilon
from codex_ray.privacy.empirical_estimates import (
    RoundMeasure,
    canary_estimate,
    check_canaries,
    measure_round,
)

DELTA = 1e-5


def mu_of(epsilon: float) -> float:
    return brentq(lambda mu: gaussian_epsilon(mu, DELTA) - epsilon, 1e-3, 50)


def ideal(rng, canaries: int, noise: float, gain: float = 1.0) -> RoundMeasure:
    """What `measure_round` gives for Gaussian noise, drawn from its law in one step."""
    d = 100 * canaries
    energy = canaries * (1 + rng.normal() * math.sqrt(2 / d))
    found = gain + noise / math.sqrt(energy) * rng.normal()
    return RoundMeasure(found, noise * math.sqrt(rng.chisquare(d - 1) / (d - 1)), energy)


def test_a_round_is_measured_by_regression() -> None:
    rng = np.random.default_rng(1)
    d, canaries, gain, noise = 20_000, 200, 1.3, 0.7
    directions = (2.0 * (rng.random((canaries, d)) < 0.5) - 1) / math.sqrt(d)
    seen = gain * directions.sum(axis=0) + noise * rng.normal(size=d)
    found = measure_round(seen, directions.sum(axis=0))
    assert found.gain == pytest.approx(gain, abs=4 * noise / math.sqrt(canaries))
    assert found.noise == pytest.approx(noise, rel=4 / math.sqrt(2 * d))
    assert found.energy == pytest.approx(canaries, rel=0.1)
    mean_dot = float((directions @ seen).mean())
    assert found.gain * found.energy / canaries == pytest.approx(mean_dot)


def test_the_shortcut_of_these_tests_has_the_law_of_a_real_round() -> None:
    rng = np.random.default_rng(2)
    d, canaries, noise = 10_000, 100, 1.0
    directions = (2.0 * (rng.random((canaries, d)) < 0.5) - 1).sum(axis=0) / math.sqrt(d)
    real = [measure_round(directions + noise * rng.normal(size=d), directions) for _ in range(400)]
    short = [ideal(rng, canaries, noise) for _ in range(400)]
    for field in ("gain", "noise"):
        ours, theirs = (np.array([getattr(one, field) for one in x]) for x in (real, short))
        assert ours.mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() / 20)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.2)


@pytest.mark.parametrize("rounds", [1, 20])
@pytest.mark.parametrize(
    ("epsilon", "canaries"), [(1, 3000), (2, 1000), (3, 500), (5, 500), (8, 500)]
)
def test_within_15_per_cent_in_95_of_100(epsilon, canaries, rounds) -> None:
    rng = np.random.default_rng(3)
    noise, repeats = math.sqrt(rounds) / mu_of(epsilon), 1000 if rounds == 1 else 300
    found = [
        canary_estimate(
            [ideal(rng, canaries, noise) for _ in range(rounds)], [noise] * rounds, delta=DELTA
        )
        for _ in range(repeats)
    ]
    near = np.mean([abs(one.epsilon / epsilon - 1) <= 0.15 for one in found])
    covered = np.mean([one.low <= epsilon <= one.high for one in found])
    slack = 2 * math.sqrt(0.05 * 0.95 / repeats)
    assert near >= 0.95 - slack
    assert 0.95 - 2 * slack <= covered <= 0.95 + 2 * slack


def test_rounds_are_composed_with_what_the_sampler_makes_of_them() -> None:
    rng = np.random.default_rng(4)

    def amplified(event):
        return dp.PoissonSampledDpEvent(0.1, event)

    exact = dp.pld.PLDAccountant(value_discretization_interval=1e-3)
    exact.compose(amplified(dp.GaussianDpEvent(0.8)), 50)
    found = canary_estimate(
        [ideal(rng, 500, 0.8) for _ in range(50)], [0.8] * 50, delta=DELTA, amplified=amplified
    )
    truth = exact.get_epsilon(DELTA)
    assert found.epsilon == pytest.approx(truth, rel=0.05)
    assert found.low < truth < found.high


def test_lost_noise_and_a_missing_clip_show() -> None:
    rng = np.random.default_rng(5)
    claimed = [1.0] * 4
    thin = canary_estimate([ideal(rng, 500, 0.25) for _ in claimed], claimed, delta=DELTA)
    loud = canary_estimate([ideal(rng, 500, 1.0, 10.0) for _ in claimed], claimed, delta=DELTA)
    honest = gaussian_epsilon(2.0, DELTA)
    assert thin.low > gaussian_epsilon(7.5, DELTA) > 2 * honest
    assert loud.low > gaussian_epsilon(19, DELTA)
    assert loud.gain == pytest.approx(10, abs=0.2)


def test_one_loud_round_among_many_is_not_averaged_away() -> None:
    rng = np.random.default_rng(6)
    rounds = [ideal(rng, 500, 1.0, 10.0 if at == 3 else 1.0) for at in range(20)]
    found = canary_estimate(rounds, [1.0] * 20, delta=DELTA)
    assert found.low > gaussian_epsilon(9.5, DELTA)
    mean = np.mean([one.gain for one in rounds])
    assert gaussian_epsilon(mean * math.sqrt(20), DELTA) < found.low


def test_no_noise_at_all_is_infinite_and_no_signal_is_nothing() -> None:
    assert canary_estimate([RoundMeasure(1, 0, 500)], [1.0], delta=DELTA).epsilon == math.inf
    quiet = canary_estimate([RoundMeasure(-0.1, 1, 500)], [1.0], delta=DELTA)
    assert quiet.epsilon == 0


def test_a_claim_for_each_round() -> None:
    with pytest.raises(ValueError, match="one for each"):
        canary_estimate([RoundMeasure(1, 1, 500)], [1.0, 1.0], delta=DELTA)


@pytest.mark.parametrize(
    ("canaries", "parameters", "said"),
    [
        (499, 10**6, "at least 500"),
        (1000, 99_999, "use at most 999"),
        (500, 7850, "use a model of 50000"),
    ],
)
def test_canaries_that_say_nothing_are_refused_in_a_line(canaries, parameters, said) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        check_canaries(canaries, parameters=parameters)
    assert "\n" not in str(refusal.value)
    check_canaries(500, parameters=50_000)

"""The curve beside the epsilon: exact for the Gaussian mechanism, where all of it is known."""

from __future__ import annotations

import json
import math

import dp_accounting as dp
import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import account
from codex_ray.privacy.curve import privacy_curve, zcdp_rho
from codex_ray.privacy.distributed_events import SkellamSum

SAMPLED = dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(1.0))


@pytest.mark.parametrize(("relation", "moved"), [("add_or_remove_one", 1), ("replace_one", 2)])
@pytest.mark.parametrize(("noise", "count"), [(1.0, 10), (4.0, 3)])
def test_a_gaussian_is_its_own_mu(noise, count, relation, moved) -> None:
    """mu = sqrt(count) / z, and the best test has power Phi(Phi^-1(rate) + mu)."""
    curve = privacy_curve(((dp.GaussianDpEvent(noise), count),), 1e-5, relation=relation)
    mu = moved * math.sqrt(count) / noise
    assert curve.mu == pytest.approx(mu, rel=1e-4) and curve.mu_excess < 1e-5
    assert curve.rho == pytest.approx(mu**2 / 2)
    for rate, power in curve.true_positive_rates:
        assert power == pytest.approx(ndtr(ndtri(rate) + mu), rel=1e-4)


def test_epsilons_are_the_ledgers() -> None:
    curve = privacy_curve(((SAMPLED, 1000),), 1e-5, deltas=(1e-3, 1e-7))
    assert [delta for delta, _ in curve.epsilons] == [1e-3, 1e-5, 1e-7]
    for delta, epsilon in curve.epsilons:
        assert epsilon == account(((SAMPLED, 1000),), delta).epsilon
    assert curve.rho is None and "PLD" in curve.accountant
    assert json.loads(json.dumps(curve.to_json()))["mu"] == curve.mu


def test_power_is_bounded_by_every_epsilon_and_reached_by_a_real_test() -> None:
    """One sampled release: the likelihood-ratio test attains the curve, nothing exceeds it."""
    rate, noise, entries = 0.3, 0.8, ((dp.PoissonSampledDpEvent(0.3, dp.GaussianDpEvent(0.8)), 1),)
    curve = privacy_curve(entries, 1e-5)
    for fpr, power in curve.true_positive_rates:
        threshold = -noise * ndtri(fpr)
        best = rate * ndtr((1 - threshold) / noise) + (1 - rate) * fpr
        assert best <= power * (1 + 1e-6) and power == pytest.approx(best, rel=1e-3)
        epsilon = account(entries, 1e-5).epsilon
        assert power <= math.exp(epsilon) * fpr + 1e-5


def test_mu_lies_above_the_whole_curve_and_is_not_larger_than_it_must_be() -> None:
    curve = privacy_curve(((SAMPLED, 1000),), 1e-5)
    for rate, power in curve.true_positive_rates:
        above = ndtr(ndtri(rate) + curve.mu)
        assert power <= above + 1e-9 <= power + curve.mu_excess + 1e-9
    gaussian = privacy_curve(((dp.GaussianDpEvent(1 / curve.mu), 1),), 1e-5)
    assert gaussian.epsilons[2][1] >= curve.epsilons[2][1]


def test_bounds_have_a_looser_curve() -> None:
    exact = privacy_curve(((SAMPLED, 1000),), 1e-5)
    bounds = privacy_curve(((SAMPLED, 1000),), 1e-5, accountant="rdp")
    assert "RDP" in bounds.accountant and bounds.mu > exact.mu
    for (_, tight), (_, loose) in zip(
        exact.true_positive_rates, bounds.true_positive_rates, strict=True
    ):
        assert tight < loose < 2 * tight


def test_distributed_noise_has_a_curve_of_bounds() -> None:
    skellam = privacy_curve(((SkellamSum(1e8, 1e3, 1e5), 10),), 1e-5)
    gaussian = privacy_curve(((dp.GaussianDpEvent(10.0), 10),), 1e-5, accountant="rdp")
    assert skellam.rho is None and "RDP" in skellam.accountant
    assert skellam.mu == pytest.approx(gaussian.mu, rel=5e-3)


def test_rho_of_matrix_mechanisms() -> None:
    """The deployed figures: noise 1.411, at most 3 ... as one Gaussian of rho 0.15 and 0.0144."""
    for rho in (0.15, 0.0144):
        event = dp.GaussianDpEvent(1 / math.sqrt(2 * rho))
        assert zcdp_rho(((event, 1),)) == pytest.approx(rho)
    strict = account(((dp.GaussianDpEvent(1 / math.sqrt(0.3)), 1),), 1e-10).epsilon
    assert strict == pytest.approx(3.42, abs=0.01)
    assert zcdp_rho(()) == 0 and zcdp_rho(((SAMPLED, 1),)) is None


def test_nothing_released_is_a_blind_guess_and_no_noise_has_no_curve() -> None:
    curve = privacy_curve((), 1e-5)
    assert curve.mu == 0 and all(rate == power for rate, power in curve.true_positive_rates)
    assert np.all([epsilon == 0 for _, epsilon in curve.epsilons])
    with pytest.raises(PrivacyError, match="without noise there is no privacy curve"):
        privacy_curve(((dp.GaussianDpEvent(0.0), 1),), 1e-5)

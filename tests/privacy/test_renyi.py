"""The Renyi bounds: beside dp-accounting's, and beside the divergence itself where it is small."""

from __future__ import annotations

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_delta, compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, logsumexp

from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum
from codex_ray.privacy.renyi import (
    INTEGERS,
    ORDERS,
    between,
    delta_from,
    epsilon_from,
    poisson_gaussian,
    poisson_sampled,
    renyi_curve,
)

ADD_REMOVE = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
REPLACE = dp.NeighboringRelation.REPLACE_ONE
SOME = [2, 3, 5, 8, 16]


def at(event, orders, relation="add_or_remove_one"):
    return renyi_curve(event, relation)[np.searchsorted(ORDERS, orders)]


def divergence(upper, lower, order) -> float:
    """D_order(upper || lower) of two lists of log masses."""
    seen = (upper > -600) & (lower > -600)
    return float(logsumexp(order * upper[seen] + (1 - order) * lower[seen]) / (order - 1))


def skellam(variance: float):
    """Log masses of symmetric Skellam noise on -400 .. 400."""
    with np.errstate(divide="ignore"):
        return np.log(ive(np.abs(np.arange(-400.0, 401.0)), variance))


def discrete_gaussians(sigma: float, summands: int):
    """Log masses of a sum of discrete Gaussians, by convolution."""
    k = np.arange(-60, 61)
    one = np.exp(-(k**2) / (2 * sigma**2))
    one /= one.sum()
    total = one
    for _ in range(summands - 1):
        total = np.convolve(total, one)
    with np.errstate(divide="ignore"):
        return np.log(total)


@pytest.mark.parametrize("noise", [0.3, 0.6, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3, 0.99])
def test_a_sampled_gaussian_has_dp_accountings_divergence(rate, noise) -> None:
    orders = [2, 7, 30, 64, 128]
    theirs = RdpAccountant(orders, ADD_REMOVE)
    theirs.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)))
    ours = at(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), orders)
    known = np.array(orders) / noise**2 < 2000
    np.testing.assert_allclose(ours[known], theirs._rdp[known], rtol=1e-6)
    np.testing.assert_array_less(theirs._rdp[~known], ours[~known])


def test_fractional_orders_against_a_direct_integral() -> None:
    """dp-accounting adds up the absolute values of an alternating series: a little more."""
    x, rate, noise = np.linspace(-20, 40, 200_001), 0.02, 1.2
    weight = np.exp(-(x**2) / (2 * noise**2)) / (noise * np.sqrt(2 * np.pi)) * (x[1] - x[0])
    event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))
    loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * noise**2)))
    for order in (1.1, 1.5, 2.7, 9.9):
        direct = np.log(weight @ np.exp(order * loss)) / (order - 1)
        (ours,) = at(event, [order - 1e-9])
        theirs = RdpAccountant([order], ADD_REMOVE).compose(event)._rdp[0]
        assert ours == pytest.approx(direct, rel=1e-6)
        assert ours < theirs < 1.2 * ours


def test_replacing_is_between_one_and_four_times_adding() -> None:
    for rate, noise in ((0.01, 1.0), (0.3, 2.0), (0.9, 5.0)):
        event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))
        add, replace = renyi_curve(event, "add_or_remove_one"), renyi_curve(event, "replace_one")
        assert (replace >= add).all() and (replace <= 4.0 * add * (1 + 1e-9)).all()


def test_replacing_against_a_direct_integral() -> None:
    x = np.linspace(-30, 60, 400_001)
    rate, noise = 0.2, 1.5

    def mixture(shift):
        return np.logaddexp(
            np.log(1 - rate) - x**2 / (2 * noise**2),
            np.log(rate) - (x - shift) ** 2 / (2 * noise**2),
        ) - np.log(noise * np.sqrt(2 * np.pi) / (x[1] - x[0]))

    for order in (1.5, 2, 5, 12):
        direct = logsumexp(order * mixture(1) + (1 - order) * mixture(-1)) / (order - 1)
        ours = poisson_gaussian(rate, noise, "replace_one")[np.searchsorted(ORDERS, order)]
        assert ours == pytest.approx(direct, rel=1e-9)


def test_a_noise_multiplier_means_the_same_under_both_relations() -> None:
    """dp-accounting's own takes it relative to what a replacement moves: twice the clip norm."""
    plain = renyi_curve(dp.GaussianDpEvent(3.0), "replace_one")
    np.testing.assert_allclose(plain, 4 * renyi_curve(dp.GaussianDpEvent(3.0), "add_or_remove_one"))
    event = dp.SampledWithoutReplacementDpEvent(10_000, 100, dp.GaussianDpEvent(2.0))
    theirs = RdpAccountant([2, 3, 16, 64, 128], REPLACE)
    theirs.compose(dp.SampledWithoutReplacementDpEvent(10_000, 100, dp.GaussianDpEvent(1.0)))
    ours = at(event, [2, 3, 16, 64, 128], "replace_one")
    np.testing.assert_allclose(ours, theirs._rdp, rtol=1e-9)


def test_without_replacement_gives_the_published_figure() -> None:
    event = dp.SampledWithoutReplacementDpEvent(10_000, 100, dp.GaussianDpEvent(2.0))
    epsilon, _ = epsilon_from(1000 * renyi_curve(event, "replace_one"), 1e-5)
    assert epsilon == pytest.approx(3.5761, abs=0.01)


@pytest.mark.parametrize("variance", [2.0, 10.0, 100.0])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_skellam_bounds_its_own_divergence(variance, shift) -> None:
    """The bound holds, and is near for all but little noise and high orders."""
    noise = skellam(variance)
    event = SkellamSum(variance, float(shift), float(shift))
    for order, bound in zip(SOME, at(event, SOME), strict=True):
        direct = divergence(noise[: -shift or None], noise[shift:], order)
        assert direct <= bound
    direct = divergence(noise[: -shift or None], noise[shift:], 2)
    assert at(event, [2])[0] <= direct * (1 + 15 / variance)


def test_the_skellam_bound_is_the_papers() -> None:
    """By hand, where the first and where the second term of its minimum is the smaller."""
    assert at(SkellamSum(10.0, 2.0, 3.0), [4])[0] == pytest.approx(0.8 + 46 / 400)
    assert at(SkellamSum(1.0, 2.0, 3.0), [4])[0] == pytest.approx(8 + 4.5)
    replaced = at(SkellamSum(10.0, 2.0, 3.0), [4], "replace_one")[0]
    assert replaced == pytest.approx(3.2 + (7 * 16 + 36) / 400)


def test_skellam_bounds_a_vector() -> None:
    """The divergence of independent coordinates adds up; the bound knows only the two norms."""
    noise, shifts = skellam(20.0), [3, 1, 1, 2]
    event = SkellamSum(20.0, float(np.linalg.norm(shifts)), float(sum(shifts)))
    for order, bound in zip(SOME, at(event, SOME), strict=True):
        assert sum(divergence(noise[:-s], noise[s:], order) for s in shifts) <= bound


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.5])
@pytest.mark.parametrize("summands", [1, 2, 4])
def test_sums_of_discrete_gaussians_are_bounded(sigma, summands) -> None:
    noise = discrete_gaussians(sigma, summands)
    for shift in (1, 2):
        event = DiscreteGaussianSum(summands, sigma, float(shift), float(shift), 1)
        for order, bound in zip(SOME, at(event, SOME), strict=True):
            direct = divergence(noise[:-shift], noise[shift:], order)
            assert direct <= bound * (1 + 1e-9)
            if sigma > 1:
                assert bound <= direct * 1.001


def test_the_sum_of_little_noise_needs_its_tau() -> None:
    """At sigma 0.6 a sum is no discrete Gaussian: its divergence exceeds that of one."""
    noise = discrete_gaussians(0.6, 2)
    gaussian = 2 / (2 * 2 * 0.6**2)
    direct = divergence(noise[:-1], noise[1:], 2)
    assert gaussian < direct <= at(DiscreteGaussianSum(2, 0.6, 1.0, 1.0, 1), [2])[0]


def test_below_half_a_grid_step_nothing_is_claimed() -> None:
    curve = renyi_curve(DiscreteGaussianSum(10, 0.49, 1.0, 1.0, 1), "add_or_remove_one")
    assert np.isinf(curve).all() and epsilon_from(curve, 1e-5)[0] == np.inf


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_sampling_bounds_the_divergence_of_sampled_skellam(rate) -> None:
    """Zhu and Wang's bound for any mechanism, in both directions, and it does amplify."""
    noise, shift = skellam(30.0), 3
    apart = np.logaddexp(np.log1p(-rate) + noise[shift:], np.log(rate) + noise[:-shift])
    event = dp.PoissonSampledDpEvent(rate, SkellamSum(30.0, 3.0, 3.0))
    for order, bound in zip(SOME, at(event, SOME), strict=True):
        direct = divergence(apart, noise[shift:], order)
        assert max(direct, divergence(noise[shift:], apart, order)) <= bound
        assert bound < 0.5 * at(event.event, [order])[0]


def test_sampling_a_gaussian_by_the_general_bound_is_never_below_the_exact_one() -> None:
    for rate, noise in ((0.01, 1.0), (0.1, 3.0), (0.5, 0.8)):
        inner = np.arange(2, INTEGERS[-1] + 1) / (2 * noise**2)
        exact = poisson_gaussian(rate, noise, "add_or_remove_one")[
            np.searchsorted(ORDERS, INTEGERS)
        ]
        general = poisson_sampled(rate, inner)
        known = INTEGERS / noise**2 < 2000
        assert (general[known] >= exact[known] * (1 - 1e-9)).all()
        assert general[0] == pytest.approx(exact[0], rel=1e-9)


def test_between_integers_a_curve_is_never_below_the_truth() -> None:
    exact = poisson_gaussian(0.05, 1.3, "add_or_remove_one")
    filled = between(exact[np.searchsorted(ORDERS, INTEGERS)])
    assert (filled >= exact * (1 - 1e-12)).all()


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
def test_the_conversions_are_dp_accountings(delta) -> None:
    for count in (1, 100, 100_000):
        curve = count * renyi_curve(
            dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(2.0)), "add_or_remove_one"
        )
        epsilon, order = compute_epsilon(ORDERS, curve, delta)
        assert epsilon_from(curve, delta) == (pytest.approx(epsilon), order or ORDERS[0])
        expected = compute_delta(ORDERS, curve, 1.0)[0]
        assert delta_from(curve, np.array([1.0]))[0] == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(4, 30),
    st.integers(1, 1000),
    st.floats(1.0, 1e3),
    st.sampled_from(["add_or_remove_one", "replace_one"]),
)
def test_much_noise_makes_both_grids_gaussian(log_variance, summands, l2, relation) -> None:
    """Renyi divergence over the Gaussian's of the same variance tends to 1."""
    variance = float(np.exp(log_variance)) * 100 * l2**2
    gaussian = at(dp.GaussianDpEvent(np.sqrt(variance) / l2), SOME, relation)
    for event in (
        SkellamSum(variance, l2, l2**2),
        DiscreteGaussianSum(summands, float(np.sqrt(variance / summands)), l2, l2**2, 10),
    ):
        if isinstance(event, DiscreteGaussianSum) and event.local_sigma < 3:
            continue
        ratio = at(event, SOME, relation) / gaussian
        assert (ratio >= 1 - 1e-9).all() and (ratio <= 1 + 200 * l2**2 / variance).all()

"""The best of a random number of tries: the bound against another accountant, and the law drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import renyi_of
from codex_ray.privacy.renyi import ORDERS, epsilon_from
from codex_ray.randomness import Randomness
from codex_ray.sweeping.repeat_and_select import Law

LAWS = [(10, 1.0), (10, 0.0), (30, 0.5), (10, 2.0), (10, math.inf), (1.5, 1.0)]


def _entries(rate: float, noise: float, rounds: int):
    import dp_accounting as dp

    return ((dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), rounds),)


@pytest.mark.parametrize(("mean", "shape"), LAWS)
def test_the_bound_is_that_of_another_accountant(mean: float, shape: float) -> None:
    import dp_accounting as dp
    from dp_accounting.dp_event import RepeatAndSelectDpEvent
    from dp_accounting.rdp import RdpAccountant

    ((event, rounds),) = entries = _entries(0.1, 1.8, 50)
    accountant = RdpAccountant(list(ORDERS))
    whole = dp.SelfComposedDpEvent(event, rounds)
    accountant.compose(RepeatAndSelectDpEvent(whole, mean=mean, shape=shape))
    ours = epsilon_from(Law(mean, shape).selected(renyi_of(entries)), 1e-5)[0]
    # Curves of one try may differ a little below integer orders; the selection adds nothing to it.
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


@pytest.mark.parametrize(("mean", "shape"), LAWS)
def test_choosing_costs_more_than_one_try_and_less_than_paying_for_all(mean, shape) -> None:
    curve = renyi_of(_entries(0.1, 1.8, 50))
    one = epsilon_from(curve, 1e-5)[0]
    best = epsilon_from(Law(mean, shape).selected(curve), 1e-5)[0]
    assert one < best < mean * one or mean < 2


def test_on_a_pure_guarantee_the_geometric_law_costs_three_times_one_try() -> None:
    """Corollary: with shape 1 an eps-DP try gives at most (2 + 1) eps, however many tries."""
    pure = np.full_like(ORDERS, 0.1)
    best = Law(1000, 1.0).selected(pure)
    assert best[-1] == pytest.approx(3 * 0.1, rel=0.05)


@pytest.mark.parametrize(("mean", "shape"), LAWS)
def test_the_number_of_tries_follows_its_law(mean: float, shape: float) -> None:
    law, stream = Law(mean, shape), Randomness.of(0).public.stream("test")
    counts = np.array([law.draw(stream) for _ in range(4000)])
    assert counts.min() >= (0 if math.isinf(shape) else 1)
    error = counts.std() / math.sqrt(len(counts))
    assert abs(counts.mean() - mean) < 4 * error
    if shape == 1:
        assert np.mean(counts == 1) == pytest.approx(1 / mean, abs=0.03)


def test_the_same_seed_draws_the_same_number() -> None:
    draws = [Law(10, 1.0).draw(Randomness.of(s).public.stream("k")) for s in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1] and len(set(draws)) > 1


@pytest.mark.parametrize(("mean", "shape"), [(0.5, 1.0), (math.inf, 1.0), (10, -1.0)])
def test_there_is_no_such_law(mean: float, shape: float) -> None:
    with pytest.raises(PrivacyError):
        Law(mean, shape)

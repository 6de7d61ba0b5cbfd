"""Discrete Gaussian and Skellam draws against their probabilities, worked out another way."""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chi2

from codex_ray.privacy import discrete_gaussian, skellam
from codex_ray.privacy.discrete_gaussian import discrete_gaussian_pmf
from codex_ray.privacy.inverse_cdf import BITS, WIDEST
from codex_ray.privacy.skellam import skellam_pmf
from codex_ray.randomness import SeedTree

TREE = SeedTree(b"whole numbers drawn by the book!")
COUNT = 1_000_000
FINE = 512
"""Bits after the point in the reference."""


@cache
def reference(kind: str, sigma: float) -> list[int]:
    """P(|X| = k) 2^512 for k = 0 ... K [K + 1], so far that less than 2^-200 is left beyond K.

    Exponentials one by one for the Gaussian; for Skellam the sum over all pairs of Poissons.
    """
    if kind == "skellam":
        poisson = poissons(sigma**2 / 2)
        farthest = len(poisson) // 2
        return [pairs(poisson, k) for k in range(farthest)]
    with localcontext() as context:
        context.prec = 170
        square, top = 2 * Decimal(sigma) ** 2, math.ceil(17 * sigma) + 1
        weights = [(-(k**2) / square).exp() for k in range(top)]
        total = 2 * sum(weights) - 1
        return [int(weight / total * 2**FINE) for weight in weights]


@cache
def poissons(mean: float) -> list[int]:
    """P(N = n) 2^512 of a Poisson, wherever that is above 0, by what one is to the next."""
    above, below = mean.as_integer_ratio()
    mode, start = int(mean), 1 << FINE
    masses = [start]
    while masses[-1]:
        masses.append(masses[-1] * above // (below * (mode + len(masses))))
    masses.reverse()
    for n in range(mode, 0, -1):
        masses.append(masses[-1] * n * below // above)
        if not masses[-1]:
            break
    total = sum(masses)
    return [(mass << FINE) // total for mass in reversed(masses)]


def pairs(poisson: list[int], k: int) -> int:
    """P(N - M = k) 2^512 of two such Poissons."""
    return sum(n * m for n, m in zip(poisson[k:], poisson, strict=False)) >> FINE


def mass(table, k: int) -> int:
    """P(X = k) 2^192 in a table."""
    upper = table.step(k) if k < table.farthest else 1 << BITS
    return upper - (table.step(k - 1) if k > -table.farthest else 0)


def table_of(kind: str, sigma: float):
    return skellam.table(sigma**2) if kind == "skellam" else discrete_gaussian.table(sigma)


def draws(kind: str, sigma: float, *, count: int = COUNT, name: str = "draws"):
    stream = TREE.stream(name, kind, f"{sigma:g}")
    if kind == "skellam":
        return skellam.skellam(stream, count, variance=sigma**2)
    return discrete_gaussian.discrete_gaussian(stream, count, sigma=sigma)


def pmf(kind: str, k, sigma: float):
    if kind == "skellam":
        return skellam_pmf(k, variance=sigma**2)
    return discrete_gaussian_pmf(k, sigma=sigma)


def chi_square_p(drawn, masses, *, cells: int | None = None) -> float:
    """The p-value of draws, if P(|X| = k) = masses[k]: each value by itself, or in so many cells.

    Values that are to be expected less than 25 times are taken together.
    """
    far = len(masses) - 1
    seen = np.bincount(np.clip(drawn, -far, far) + far, minlength=2 * far + 1)
    expected = len(drawn) * np.concatenate([masses[:0:-1], masses])
    least = len(drawn) / cells if cells else 25.0
    cell = np.floor((np.cumsum(expected) - expected / 2) / least)
    if not cells:
        common = np.flatnonzero(expected > least)
        cell = np.clip(np.arange(2 * far + 1.0), common[0], common[-1])
    _, cell = np.unique(cell, return_inverse=True)
    seen, expected = np.bincount(cell, seen), np.bincount(cell, expected)
    return float(chi2.sf(((seen - expected) ** 2 / expected).sum(), len(expected) - 1))


KINDS = pytest.mark.parametrize("kind", ["discrete_gaussian", "skellam"])
SIGMAS = pytest.mark.parametrize("sigma", [0.3, 3.0, 30.0, 300.0])


@KINDS
@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 3.0, 30.0])
def test_the_table_has_every_probability_to_140_bits(kind, sigma) -> None:
    """All of them together, and what is beyond the table with them: the total variation."""
    table, exact = table_of(kind, sigma), reference(kind, sigma)
    here = [mass(table, k) << FINE - BITS for k in range(table.farthest + 1)]
    here += [0] * (len(exact) - len(here))
    exact = exact + [0] * (len(here) - len(exact))
    distance = abs(here[0] - exact[0]) / 2 + sum(
        abs(a - b) for a, b in zip(here[1:], exact[1:], strict=True)
    )
    assert abs(2 * sum(exact) - exact[0] - 2**FINE) < 2 ** (FINE - 190)
    assert distance < 2 ** (FINE - 180)


@KINDS
def test_so_has_a_wide_one(kind) -> None:
    """At sigma 300, for some of its values."""
    table, some = table_of(kind, 300.0), [0, 1, 2, 300, 301, 1000, 3000, 4500]
    if kind == "skellam":
        exact = [pairs(poissons(45000.0), k) for k in some]
    else:
        exact = [reference(kind, 300.0)[k] for k in some]
    assert table.farthest > 4800
    for k, true in zip(some, exact, strict=True):
        assert abs((mass(table, k) << FINE - BITS) - true) < 2 ** (FINE - 185)


@KINDS
@pytest.mark.parametrize("sigma", [0.01, 0.3, 3.0, 300.0, 3000.0])
def test_the_table_is_symmetric_to_the_bit_and_keeps_its_order(kind, sigma) -> None:
    table = table_of(kind, sigma)
    steps = [table.step(k) for k in range(-table.farthest, table.farthest)]
    assert all(low + high == 1 << BITS for low, high in zip(steps, steps[::-1], strict=True))
    assert steps == sorted(steps)
    # What the last value holds beyond its own share is the tail that is cut off.
    assert table.farthest == 0 or mass(table, table.farthest) < 2**20


@KINDS
@SIGMAS
def test_a_million_draws_have_these_probabilities(kind, sigma) -> None:
    if kind == "skellam":
        # The reference in floating point: 10^7 products.
        one = np.array([mass / 2**FINE for mass in poissons(sigma**2 / 2)])
        one = one[one > 1e-30]
        masses = np.convolve(one, one[::-1])[len(one) - 1 :]
    else:
        masses = np.array([mass / 2**FINE for mass in reference(kind, sigma)])
    drawn = draws(kind, sigma)
    assert 1e-3 < chi_square_p(drawn, masses) < 1 - 1e-3
    assert 1e-3 < chi_square_p(drawn, masses, cells=30) < 1 - 1e-3
    wider = pmf(kind, np.arange(len(masses)), 1.01 * sigma)
    assert chi_square_p(drawn, wider, cells=30) < 1e-9


@KINDS
@SIGMAS
def test_mean_variance_and_signs_are_right_and_neighbours_unrelated(kind, sigma) -> None:
    drawn = draws(kind, sigma, name="moments").astype(np.float64)
    k = np.arange(-20.0 * sigma - 20, 20 * sigma + 21).round()
    probabilities = pmf(kind, k, sigma)
    variance, fourth = float(probabilities @ k**2), float(probabilities @ k**4)
    if kind == "skellam" or sigma > 1:
        assert variance == pytest.approx(sigma**2, rel=1e-12)
    assert abs(drawn.mean()) < 4 * math.sqrt(variance / COUNT)
    assert abs((drawn**2).mean() - variance) < 4 * math.sqrt((fourth - variance**2) / COUNT)
    assert abs(np.sign(drawn).sum()) < 4 * math.sqrt(COUNT)
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 4 * variance / math.sqrt(COUNT)


def test_a_sum_of_skellams_is_a_skellam() -> None:
    total = sum(
        skellam.skellam(TREE.stream("sum", client), COUNT, variance=9.0) for client in range(10)
    )
    assert 1e-3 < chi_square_p(total, skellam_pmf(np.arange(200), variance=90.0)) < 1 - 1e-3


@KINDS
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3, 0.99, 1.0, 3.0, 30.0])
def test_the_floating_point_probabilities_are_right(kind, sigma) -> None:
    exact = [mass / 2**FINE for mass in reference(kind, sigma)]
    k = np.arange(len(exact))
    known = np.array(exact) > 1e-40
    np.testing.assert_allclose(pmf(kind, k, sigma)[known], np.array(exact)[known], rtol=2e-12)
    assert (pmf(kind, -k, sigma) == pmf(kind, k, sigma)).all()


@pytest.mark.parametrize("sigma", [100.0, 101.0, 300.0])
def test_debyes_expansion_takes_over_at_a_variance_of_ten_thousand(sigma) -> None:
    some = [0, 1, 50, 300, 900]
    exact = [pairs(poissons(sigma**2 / 2), k) / 2**FINE for k in some]
    np.testing.assert_allclose(skellam_pmf(some, variance=sigma**2), exact, rtol=1e-11)


def test_debyes_terms_are_right_where_they_matter_more() -> None:
    """At a variance of 300, where scipy's function is sure and each term still shows."""
    order = np.array([0.0, 20.0, 100.0, 300.0, 500.0])
    np.testing.assert_allclose(skellam._debye(order, 300.0), ive(order, 300.0), rtol=3e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sigma", [1e-300, 1e-160, 1e-9])
def test_next_to_no_noise_is_none(sigma) -> None:
    assert discrete_gaussian_pmf([-1, 0, 1], sigma=sigma).tolist() == [0, 1, 0]
    assert skellam_pmf([-1, 0, 1], variance=sigma) == pytest.approx([sigma / 2, 1, sigma / 2])
    assert not discrete_gaussian.discrete_gaussian(TREE.stream("0"), 100, sigma=sigma).any()
    assert not skellam.skellam(TREE.stream("0"), 100, variance=sigma).any()


@KINDS
@pytest.mark.slow
def test_the_widest_table_holds_what_it_should(kind) -> None:
    drawn = draws(kind, WIDEST).astype(np.float64)
    assert (drawn**2).mean() == pytest.approx(WIDEST**2, rel=4 * math.sqrt(2 / COUNT))
    table = table_of(kind, WIDEST)
    for k in (0, 1000, 100_000, 400_000):
        assert mass(table, k) / 2**BITS == pytest.approx(float(pmf(kind, k, WIDEST)), rel=1e-10)


FROZEN = {
    ("discrete_gaussian", 3.0): "919ae112974d5f3d",
    ("discrete_gaussian", 300.0): "8b0208ff39c1b32a",
    ("discrete_gaussian", 1000.0): "c832d206907706ab",
    ("skellam", 3.0): "762fd64529e0e185",
    ("skellam", 300.0): "e0bb52c0ba2eb63c",
    ("skellam", 1000.0): "54de88b1d9a119ec",
}


@pytest.mark.parametrize(("kind", "sigma"), FROZEN)
def test_a_seed_gives_the_same_draws_on_every_machine_and_in_every_version(kind, sigma) -> None:
    """Other figures here mean that seeded runs change: say so in the changelog."""
    drawn = draws(kind, sigma, count=100_000, name="frozen")
    digest = hashlib.sha256(drawn.astype("<i4").tobytes()).hexdigest()[:16]
    assert digest == FROZEN[kind, sigma]

"""The symmetric Skellam distribution: the difference of two Poissons of equal mean.

With a variance of mu, each has mean mu / 2, and P(k) = e^-mu I_k(mu), with I the modified Bessel
function (Skellam 1946; Agarwal, Kairouz and Liu 2021, arXiv:2110.04995). Sums of independent ones
are Skellam again, their variances added: exactly, which the discrete Gaussian's are not.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from codex_ray.privacy.inverse_cdf import PRECISION, TAIL_BITS, Draws, InverseCdf, check_width
from codex_ray.randomness import Stream

_LARGE = 1e4
"""A variance from which on four terms of Debye's expansion leave an error below 1e-15."""


def skellam(stream: Stream, count: int, *, variance: float) -> Draws:
    """`count` independent symmetric Skellams [count], exact to `inverse_cdf.TOTAL_VARIATION`.

    Args:
        stream: the next 2 bytes a draw (4 where the deviation is above 408), and a few more.
        count: how many.
        variance: in squared steps of the grid; at most `inverse_cdf.WIDEST` squared.

    Raises:
        PrivacyError: the variance is not positive or too large.
    """
    return table(variance).draw(count, stream)


def skellam_pmf(k: npt.ArrayLike, *, variance: float) -> npt.NDArray[np.float64]:
    """The probability of each integer `k` [...]: e^-mu I_k(mu)."""
    check_variance(variance)
    order = np.abs(np.asarray(k, np.float64))
    if variance < _LARGE:
        from scipy.special import ive  # slow to import, and most hosts draw no Skellam

        return np.asarray(ive(order, variance), np.float64)
    return _debye(order, variance)


def check_variance(variance: float) -> None:
    """Accept a variance.

    Raises:
        PrivacyError: it is not a positive number, or too large.
    """
    check_width(math.sqrt(variance) if variance > 0 else variance)


@lru_cache(maxsize=4)
def table(variance: float) -> InverseCdf:
    """The distribution to draw from; made once for each variance.

    Raises:
        PrivacyError: the variance is not positive or too large.
    """
    check_variance(variance)
    return InverseCdf(_weights(variance))


def _weights(variance: float) -> list[int]:
    """Integers in proportion to I_k(mu) for k = 0, 1, ..., K, by Miller's algorithm.

    I_{k-1} = I_{k+1} + (2k / mu) I_k, from K down, is stable, and adds only positive numbers. It
    starts as if I_{K+1} = I_K. An error in the ratio of two neighbours shrinks in each step by the
    square of that ratio, as s -> 1 / (2k / mu + s) does, so it costs P(k) at most K P(K)^2 / P(k),
    and all of them K^2 P(K) < 2^(42 - 192). Each of K roundings is by 2^-384 of the first number.
    """
    farthest = _farthest(variance)
    mu = Fraction(variance)
    weights = [1 << PRECISION, 1 << PRECISION]  # of K + 1 and K
    for k in range(farthest, 0, -1):
        weights.append(weights[-2] + 2 * k * mu.denominator * weights[-1] // mu.numerator)
    return weights[:0:-1]


def _farthest(variance: float) -> int:
    """The least K with P(X >= K) < 2^-192 by Chernoff's bound, which is also above P(K)."""

    def log_tail(k: int) -> float:
        """min over t of mu (cosh t - 1) - t k, at sinh t = k / mu."""
        return k * (k / (math.hypot(k, variance) + variance) - math.asinh(k / variance))

    below, above = 0, 1
    while log_tail(above) > -TAIL_BITS * math.log(2):
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        if log_tail(middle) > -TAIL_BITS * math.log(2):
            below = middle
        else:
            above = middle
    return above


def _debye(order: npt.NDArray[np.float64], mu: float) -> npt.NDArray[np.float64]:
    """e^-mu I_order(mu) by Debye's expansion, uniform in the order (DLMF 10.41.3 and 10.41.10).

    There it is in powers of 1 / order; with u_k(p) / order^k = v_k(p^2) / root^k it serves 0 too.
    """
    root = np.hypot(order, mu)
    p2 = (order / root) ** 2
    exponent = order * (order / (root + mu) - np.arcsinh(order / mu))
    terms = (
        (3 - 5 * p2) / 24,
        (81 - 462 * p2 + 385 * p2**2) / 1152,
        (30375 - 369603 * p2 + 765765 * p2**2 - 425425 * p2**3) / 414720,
        (4465125 - 94121676 * p2 + 349922430 * p2**2 - 446185740 * p2**3 + 185910725 * p2**4)
        / 39813120,
    )
    series = 1 + sum(term / root**k for k, term in enumerate(terms, 1))
    return np.asarray(np.exp(exponent) * series / np.sqrt(2 * math.pi * root), np.float64)

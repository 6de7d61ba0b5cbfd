"""The discrete Gaussian: weight exp(-k^2 / 2 sigma^2) at every integer k.

As defined by Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for Differential Privacy",
arXiv:2004.00010, Definition 1). Its variance is below sigma^2, and almost that from sigma = 1 on.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from codex_ray.privacy.inverse_cdf import PRECISION, TAIL_BITS, Draws, InverseCdf, check_width
from codex_ray.randomness import Stream


def discrete_gaussian(stream: Stream, count: int, *, sigma: float) -> Draws:
    """`count` independent discrete Gaussians [count], exact to `inverse_cdf.TOTAL_VARIATION`.

    Args:
        stream: the next 2 bytes a draw (4 where sigma is above 408), and a few more.
        count: how many.
        sigma: in steps of the grid; at most `inverse_cdf.WIDEST`.

    Raises:
        PrivacyError: sigma is not positive or too large.
    """
    return table(sigma).draw(count, stream)


def discrete_gaussian_pmf(k: npt.ArrayLike, *, sigma: float) -> npt.NDArray[np.float64]:
    """The probability of each integer `k` [...]."""
    check_width(sigma)
    total = float(_weight(np.arange(-40.0, 41.0), sigma).sum()) if sigma < 1 else _by_waves(sigma)
    return np.asarray(_weight(np.asarray(k, np.float64), sigma) / total, np.float64)


@lru_cache(maxsize=4)
def table(sigma: float) -> InverseCdf:
    """The distribution to draw from; made once for each sigma.

    Raises:
        PrivacyError: sigma is not positive or too large.
    """
    check_width(sigma)
    return InverseCdf(_weights(sigma))


def _weights(sigma: float) -> list[int]:
    """exp(-k^2 / 2 sigma^2) 2^PRECISION for k = 0, 1, ... until 2^-192 is left (or nothing is).

    One ratio to the next is q^(2k + 1), with q = exp(-1 / 2 sigma^2). Each rounding is by 2^-384,
    and k^2 of them are in the k-th weight: together below 2^-384 (2^21)^3.
    """
    with localcontext() as context:
        context.prec = PRECISION // 3  # decimal digits, of which log10(2) a bit are needed
        q = int((-1 / (2 * Decimal(sigma) ** 2)).exp() * 2**PRECISION)
    # P(X > k) <= exp(-k^2 / 2 sigma^2): X is sub-Gaussian (there, Lemma 19 and Chernoff's bound).
    farthest = math.ceil(sigma * math.sqrt(2 * math.log(2) * TAIL_BITS))
    weights, ratio, square = [1 << PRECISION], q, q * q >> PRECISION
    while len(weights) <= farthest and weights[-1] * ratio >> PRECISION:
        weights.append(weights[-1] * ratio >> PRECISION)
        ratio = ratio * square >> PRECISION
    return weights


def _weight(k: npt.NDArray[np.float64], sigma: float) -> npt.NDArray[np.float64]:
    """exp(-k^2 / 2 sigma^2) [...], which is 0 where the quotient is too large for a number."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(-((k / sigma) ** 2) / 2), np.float64)


def _by_waves(sigma: float) -> float:
    """The sum of exp(-k^2 / 2 sigma^2) over all integers, by Poisson summation; sigma >= 1."""
    waves = sum(math.exp(-2 * (math.pi * sigma * k) ** 2) for k in range(1, 4))
    return sigma * math.sqrt(2 * math.pi) * (1 + 2 * waves)

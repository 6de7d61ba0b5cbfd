"""Noise inside the sum: how fine a grid may be before some coordinate of a round wraps around.

Without noise a sum is bounded and a grid is chosen on which it cannot wrap. Noise has no bound, so
here a grid is chosen on which wrapping is rare, and how rare is computed. A coordinate of the
rotated sum of n vectors of norm c has a variance of at most about n^2 c^2 / D (all n alike), the
noise its own, and the rounding of n summands n/4 steps^2 (Kairouz, Liu & Steinke 2021).
"""

from __future__ import annotations

import math


def deviation_in_steps(
    *, summands: int, scale: float, clip_norm: float, noise: float, dimension: int
) -> float:
    """The standard deviation of a coordinate of the rotated, noised sum, in steps of the grid.

    `noise` is that of the noise in the sum, in the units of the update; `scale` is the number of
    steps in such a unit.
    """
    signal = (clip_norm * summands) ** 2 / dimension
    return math.sqrt(summands / 4 + scale**2 * (signal + noise**2))


def wrap_probability(
    *, bits: int, summands: int, scale: float, clip_norm: float, noise: float, dimension: int
) -> float:
    """The probability that any of the D coordinates of a round leaves [-2^(bits-1), 2^(bits-1)).

    Computed as D 2 Q(2^(bits-1) / deviation): the union over the coordinates, each taken as
    Gaussian. For the rotated signal by itself the true tail is at most 3.18 times that (Bentkus &
    Dzindzalieta 2015, on sums of random signs).
    """
    deviation = deviation_in_steps(
        summands=summands, scale=scale, clip_norm=clip_norm, noise=noise, dimension=dimension
    )
    return min(1.0, dimension * two_sided_tail(2 ** (bits - 1) / deviation))


def two_sided_tail(deviations: float) -> float:
    """2 Q(k): the probability that a Gaussian lies more than k standard deviations off its mean."""
    return math.erfc(deviations / math.sqrt(2))


def scale_for(
    *,
    bits: int,
    summands: int,
    clip_norm: float,
    noise: float,
    dimension: int,
    headroom: float,
) -> float:
    """The scale, in steps to a unit, at which `headroom` standard deviations fill half the range.

    s = sqrt(2^(2b) - n k^2) / (2 k sqrt(c^2 n^2 / D + noise^2)), which is `deviation_in_steps` =
    2^(b-1) / k solved for s.

    Raises:
        ValueError: the rounding of so many summands fills the range by itself.
    """
    room = 2.0 ** (2 * bits) - summands * headroom**2
    if room <= 0:
        raise ValueError(f"rounding {summands} summands alone fills {bits} bits")
    signal = (clip_norm * summands) ** 2 / dimension
    return math.sqrt(room) / (2 * headroom * math.sqrt(signal + noise**2))

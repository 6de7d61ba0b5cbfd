"""Stochastic rounding that never lengthens a vector beyond a bound: unbiased, and safe to count on.

A coordinate goes up with a probability equal to its fraction, so its mean is right. By chance the
rounded vector may be longer than the norm that the sensitivity of the sum allows. It is then
rounded again: conditional rounding, Kairouz, Liu & Steinke 2021 ("The Distributed Discrete Gaussian
Mechanism", theorem 1). All vectors here are in units of the grid's step.
"""

from __future__ import annotations

import math

import torch

from codex_ray.randomness import Stream

BETA = math.exp(-0.5)
"""A vector within the norm that `norm_before` allows is rounded again with at most this chance."""

TRIES = 64
"""They all fail with probability below BETA^64 = 1.3e-14."""


def norm_after(norm: float, dimension: int) -> float:
    """The bound on the rounded norm of a vector [dimension] of that norm, in steps.

    min(C + sqrt(D), sqrt(C^2 + D/4 + sqrt(2 ln(1/beta)) (C + sqrt(D)/2))) (there): the
    first holds always, the second with probability 1 - beta.
    """
    root = math.sqrt(dimension)
    likely = norm**2 + dimension / 4 + math.sqrt(-2 * math.log(BETA)) * (norm + root / 2)
    return min(norm + root, math.sqrt(likely))


def norm_before(limit: float, dimension: int) -> float:
    """The largest norm whose `norm_after` is at most `limit`, in steps; 0 if there is none."""
    root, slope = math.sqrt(dimension), math.sqrt(-2 * math.log(BETA))
    # The positive root of C^2 + slope C + (D/4 + slope sqrt(D)/2 - limit^2) = 0.
    square = slope**2 / 4 - dimension / 4 - slope * root / 2 + limit**2
    likely = math.sqrt(max(0.0, square)) - slope / 2
    return max(0.0, limit - root, likely)


def round_stochastically(vector: torch.Tensor, draws: Stream) -> torch.Tensor:
    """The vector [d] with each coordinate at one of its two neighbours, its mean being itself."""
    down = vector.floor()
    # A draw is never 0, so an integer stays what it is, and the outermost level is not left.
    up = torch.from_numpy(draws.uniform(len(vector))) < vector - down
    return down.add_(up)


def round_within(vector: torch.Tensor, draws: Stream, *, limit: float) -> torch.Tensor:
    """The vector [d] rounded stochastically, its norm being at most `limit`, always.

    If every try is too long, it is rounded towards zero, which lengthens nothing. Where the norm is
    at most `norm_before(limit, d)`, that happens about never, and the condition moves the mean by
    less than one step in Euclidean norm: half the square root of the odds against acceptance, as
    the error along any direction has a standard deviation of at most 1/2 (Cauchy-Schwarz).
    """
    # A sum of D squares in float64 may be too small by a share of D 2^-53.
    square = limit**2 * (1 - len(vector) * 2.0**-52)
    for _ in range(TRIES):
        rounded = round_stochastically(vector, draws)
        if float(torch.dot(rounded, rounded)) <= square:
            return rounded
    return vector.trunc()

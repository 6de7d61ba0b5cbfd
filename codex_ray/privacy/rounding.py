"""Stochastic rounding that never lengthens a vector beyond a bound: unbiased, and safe to count on.

A coordinate goes up with a probability equal to its fraction, so its mean is right. By chance the
rounded vector may be longer than the norm that the sensitivity of the sum allows. It is then
rounded again: conditional rounding, Kairouz, Liu & Steinke 2021 ("The Distributed Discrete Gaussian
Mechanism", theorem 1). All vectors here are in units of the grid's step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from codex_ray.randomness import Stream

StreamOf: TypeAlias = Callable[[int], Stream]
"""The secret stream of a chunk's i-th client, for one purpose."""

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


def uniforms(draws: Sequence[Stream], dimension: int, *, device: torch.device) -> torch.Tensor:
    """The next uniforms [n, dimension] of n streams, on `device`, in float64.

    They are drawn here, because a stream of AES is the same whatever the device is.
    """
    if len(draws) == 1:
        drawn = draws[0].uniform(dimension)[None]
    else:
        drawn = np.empty((len(draws), dimension))
        for row, stream in zip(drawn, draws, strict=True):
            row[:] = stream.uniform(dimension)
    return torch.from_numpy(drawn).to(device)


def round_stochastically(vectors: torch.Tensor, draws: Sequence[Stream]) -> torch.Tensor:
    """The vectors [n, d], each coordinate at one of its two neighbours, its mean being itself."""
    down = vectors.floor()
    # A draw is never 0, so an integer stays what it is, and the outermost level is not left.
    drawn = uniforms(draws, vectors.shape[1], device=vectors.device)
    return down.add_(drawn.lt_(vectors - down))


def round_within(vectors: torch.Tensor, draws: Sequence[Stream], *, limit: float) -> torch.Tensor:
    """The vectors [n, d] rounded stochastically, the norm of each at most `limit`, always.

    One whose every try is too long is rounded towards zero, which lengthens nothing. Where its norm
    is at most `norm_before(limit, d)`, that happens about never, and the condition moves the mean
    by less than one step in Euclidean norm: half the square root of the odds against acceptance, as
    the error along any direction has a standard deviation of at most 1/2 (Cauchy-Schwarz).

    Of a device one flag is read for each vector and try: whether it is to be rounded again.
    """
    # A sum of D squares in float64 may be too small by a share of D 2^-53, in whatever order.
    square = limit**2 * (1 - vectors.shape[1] * 2.0**-52)
    found = round_stochastically(vectors, draws)
    left = _too_long(found, range(len(found)), square)
    for _ in range(TRIES - 1):
        if not left:
            return found
        at = torch.tensor(left).to(vectors.device)
        again = round_stochastically(vectors.index_select(0, at), [draws[row] for row in left])
        found.index_copy_(0, at, again)
        left = _too_long(again, left, square)
    if left:
        at = torch.tensor(left).to(vectors.device)
        found.index_copy_(0, at, vectors.index_select(0, at).trunc_())
    return found


def _too_long(rounded: torch.Tensor, rows: Sequence[int], square: float) -> list[int]:
    """Those of `rows` whose vector among `rounded` [len(rows), d] has a squared norm above that."""
    fits = (torch.linalg.vecdot(rounded, rounded) <= square).cpu().tolist()
    return [row for row, good in zip(rows, fits, strict=True) if not good]

"""Means, variances and quantiles of all clients' columns by exact secure sums, in public units.

Every number that a client sends is whole, so a sum is what it is whoever adds it up, and the
results are the same to the bit however clients are spread. They are those of the pooled records but
for rounding to fixed point. With C clients, N values in the column that has most of them and N_j in
column j, sums are taken in steps of 2^-k, where 2^k is the largest power of two with
N 2^k + C < 2^31. Each client rounds once, by half a step at most, so in units of half a range

* a mean is off by at most e_j = C 2^-(k+1) / N_j, that is below C (N / N_j) 2^-30;
* a variance by at most e_j + e_j^2, because it is taken about that mean;
* a quantile by at most 1 / bins^2, half of the cell of a range that is found to hold it.

What floating point adds (about 1e-16 for each value of a client's sum) is far below that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codex_ray.data.column_statistics import (
    QUARTILES,
    Counts,
    Floats,
    Found,
    middle,
    rank,
)
from codex_ray.errors import DataError
from codex_ray.federation.pooled_sums import LARGEST, Pool
from codex_ray.preparation.questions import Count, Histogram, Total, Whole


@dataclass(frozen=True)
class Bounds:
    """How far figures may be from those of the pooled records, in units of half a range.

    Attributes:
        mean: [m].
        variance: [m].
        quantile: of every column.
    """

    mean: Floats
    variance: Floats
    quantile: float


def bounds(counts: Counts, *, clients: int, bins: int) -> Bounds:
    """The bounds of this file's first lines, for so many values in each column [m]."""
    error = clients * 2.0 ** -(scale_bits(counts, clients=clients) + 1) / np.maximum(counts, 1)
    return Bounds(error, error + error**2, 1.0 / bins**2)


def scale_bits(counts: Counts, *, clients: int) -> int:
    """The k of the steps of 2^-k in which no sum wraps."""
    return math.floor(math.log2((LARGEST - clients) / max(1, int(counts.max()))))


def pooled(
    pool: Pool[Whole],
    *,
    columns: Sequence[str],
    moments: bool,
    quantiles: bool,
    bins: int,
) -> tuple[Found, Counts]:
    """What is known of the columns of all clients, and how many values each has [m].

    Raises:
        DataError: a column has no value anywhere, or a client more than can be counted.
        SumAborted: somebody is not in a sum.
    """
    counts = _counts(pool, columns)
    mean = variance = quartiles = None
    if moments:
        mean, variance = _moments(pool, counts)
    if quantiles:
        quartiles = _quartiles(pool, counts, bins)
    return Found(mean, variance, quartiles), counts


def _counts(pool: Pool[Whole], columns: Sequence[str]) -> Counts:
    counts = pool.whole(Count(most=LARGEST // pool.population), dimension=len(columns), number=0)
    if not counts.all():
        place = int(np.flatnonzero(counts == 0)[0])
        raise DataError(
            f"data.prepare: no client has a value in column {columns[place]!r}, so there are no "
            "figures of it: leave it out"
        )
    return counts


def _moments(pool: Pool[Whole], counts: Counts) -> tuple[Floats, Floats]:
    """Mean and variance [m]: two sums."""
    step = 2.0 ** -scale_bits(counts, clients=pool.population)
    width = len(counts)
    mean = pool.whole(Total(step=step), dimension=width, number=1) * step / counts
    about = Total(step=step, mean=tuple(mean.tolist()))
    return mean, pool.whole(about, dimension=width, number=2) * step / counts


def _quartiles(pool: Pool[Whole], counts: Counts, bins: int) -> Floats:
    """The quartiles [3, m]: which cell holds each, and then which part of it."""
    fine, width = bins * bins, len(counts)
    whole = pool.whole(Histogram(bins=bins), dimension=width * bins, number=3).reshape(width, bins)
    ranks = np.array([[rank(share, count) for count in counts] for share in QUARTILES])  # [3, m]
    below = np.cumsum(whole, axis=1)
    held = np.array(
        [[np.searchsorted(b, r) for b, r in zip(below, row, strict=True)] for row in ranks]
    )
    parts = Histogram(bins=bins, divided=tuple(map(tuple, held.tolist())))
    divided = pool.whole(parts, dimension=3 * width * bins, number=4).reshape(3, width, bins)
    found = np.zeros((len(QUARTILES), width))
    for place, column in np.ndindex(found.shape):
        cell = held[place, column]
        before = below[column, cell] - whole[column, cell]
        part = np.searchsorted(np.cumsum(divided[place, column]), ranks[place, column] - before)
        found[place, column] = middle(cell * bins + part, fine)
    return found

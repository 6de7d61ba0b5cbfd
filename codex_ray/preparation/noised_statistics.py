"""Means, variances and quantiles from one noised sum: what a record adds to it is bounded.

In public units, where values lie in [-1, 1], a record adds to column j's part of the vector

* (1, x, x^2 - 1/2) for its moments, of norm at most 3/2: 1 + x^2 + (x^2 - 1/2)^2 = 5/4 + x^4;
* a 1 in the cell that holds x for its quantiles, of norm 1;
* nothing where its value is missing.

So with m columns the vector of a record has a norm of at most sqrt(9/4 m) or sqrt(m), and with both
sqrt(13/4 m). A client as the unit adds the mean over its records, which is no longer: it counts for
one, however many it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from codex_ray.data.column_statistics import QUARTILES, Counts, Floats, Found, cells, middle

LEAST_DEVIATION: Final = 0.05
"""A noised standard deviation below this, in units of half a range, is taken for it."""
FEWEST: Final = 1.0
"""With fewer values in a column than this, by the noised count, nothing is said of it: its middle
and half its range are taken."""


@dataclass(frozen=True)
class Sketch:
    """The vector in which a record shows itself.

    Attributes:
        columns: m.
        moments, quantiles: what it is to tell.
        bins: cells of each column's histogram.
    """

    columns: int
    moments: bool
    quantiles: bool
    bins: int

    @property
    def dimension(self) -> int:
        """Its length."""
        return self.columns * (3 * self.moments + self.bins * self.quantiles)

    @property
    def norm(self) -> float:
        """The largest Euclidean norm of one."""
        return math.sqrt(self.columns * (2.25 * self.moments + 1.0 * self.quantiles))

    def rows(self, points: Floats) -> Floats:
        """The vectors [n, d] of records [n, m] in public units; NaN is a missing value."""
        there = ~np.isnan(points)
        known = np.where(there, points, 0.0)
        parts: list[Floats] = []
        if self.moments:
            parts += [there.astype(np.float64), known, np.where(there, known**2 - 0.5, 0.0)]
        if self.quantiles:
            places = cells(points, self.bins)
            marks = places[:, :, None] == np.arange(self.bins)  # [n, m, bins]
            parts.append(marks.reshape(len(points), -1).astype(np.float64))
        return np.concatenate(parts, axis=1)

    def sum(self, points: Floats) -> Floats:
        """The sum [d] of a client's vectors."""
        total: Floats = self.rows(points).sum(axis=0)
        return total

    def mean(self, points: Floats) -> Floats:
        """The mean [d] of a client's vectors; zeros where it has none."""
        return self.sum(points) / max(1, len(points))

    def found(self, total: Floats) -> Found:
        """What the noised sum [d] tells of the columns."""
        mean = variance = quartiles = None
        if self.moments:
            count, first, second = total[: 3 * self.columns].reshape(3, self.columns)
            known = count >= FEWEST
            count = np.where(known, count, 1.0)
            mean = np.where(known, np.clip(first / count, -1.0, 1.0), 0.0)
            spread = np.clip(second / count + 0.5 - mean**2, LEAST_DEVIATION**2, 1.0)
            variance = np.where(known, spread, 1.0)
        if self.quantiles:
            counts = total[3 * self.columns * self.moments :].reshape(self.columns, self.bins)
            quartiles = np.stack([_quartiles(row) for row in counts], axis=1)
        return Found(mean, variance, quartiles)


def _quartiles(counts: Floats) -> Floats:
    """The quartiles [3] by one column's noised histogram [bins]."""
    below = np.cumsum(counts)
    if below[-1] < FEWEST:
        return np.array([-1.0, 0.0, 1.0])
    # Noise makes the sums fall here and there: what lies between both ways to mend that.
    up = np.maximum.accumulate(below)
    down = np.minimum.accumulate(below[::-1])[::-1]
    found: Counts = np.searchsorted((up + down) / 2, np.array(QUARTILES) * below[-1])
    return middle(np.minimum(found, len(counts) - 1), len(counts))

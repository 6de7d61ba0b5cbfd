"""Means, deviations and quantiles of columns that have public ranges: of one table, or of sums.

Everything is computed in public units, in which a column's range is [-1, 1] and a value outside is
cut to it, and comes out in the column's own. NaN is a missing value, and counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

QUARTILES = (0.25, 0.5, 0.75)
TO_DEVIATION = 0.7413
"""The standard deviation of a normal variable over the distance of its quartiles."""
NARROWEST = 1e-6
"""A spread below this share of half the range counts as none: the column says nothing, and is
divided by half its range instead."""


@dataclass(frozen=True)
class Ranges:
    """The public ranges of some columns."""

    low: Floats  # [m]
    high: Floats  # [m]

    @property
    def half(self) -> Floats:
        """Half of each range [m]."""
        return (self.high - self.low) / 2

    def public(self, values: Floats) -> Floats:
        """Values [n, m] in public units, cut to [-1, 1]; NaN stays."""
        return np.clip(2.0 * (values - self.low) / (self.high - self.low) - 1.0, -1.0, 1.0)

    def own(self, points: Floats) -> Floats:
        """Points [m] of public units, in each column's own."""
        return self.low + (points + 1.0) * self.half


@dataclass(frozen=True)
class Figures:
    """By what each column is scaled and filled [m], in its own units."""

    centre: Floats
    spread: Floats
    fill: Floats

    def scale(self, values: Floats, ranges: Ranges, *, cut: float) -> Floats:
        """Values [n, m], cut to their ranges, in spreads from the centre, and cut to `cut`."""
        inside = np.clip(values, ranges.low, ranges.high)
        filled = np.where(np.isnan(inside), self.fill, inside)
        scaled: Floats = np.clip((filled - self.centre) / self.spread, -cut, cut)
        return scaled


@dataclass(frozen=True)
class Found:
    """What is known of columns [m] in public units; None for what nobody asked for.

    Attributes:
        mean: of the values that are not missing; 0 where all are.
        variance: over their number, not one less.
        quartiles: [3, m].
    """

    mean: Floats | None = None
    variance: Floats | None = None
    quartiles: Floats | None = None


def figures(found: Found, ranges: Ranges, *, by: str, imputation: str | None) -> Figures:
    """What the columns are scaled and filled by.

    Args:
        found: what is known of them; it has what `by` and `imputation` need.
        ranges: theirs.
        by: `moments` or `quartiles`.
        imputation: `middle`, `mean` or `median`; None fills with the centre, where nothing is
            missing that would be filled.
    """
    if by == "moments":
        assert found.mean is not None and found.variance is not None
        centre, spread = found.mean, np.sqrt(np.maximum(found.variance, 0.0))
    else:
        assert found.quartiles is not None
        first, centre, third = found.quartiles
        spread = TO_DEVIATION * (third - first)
    fill = centre
    if imputation == "middle":
        fill = np.zeros_like(centre)
    elif imputation == "mean":
        assert found.mean is not None
        fill = found.mean
    elif imputation == "median":
        assert found.quartiles is not None
        fill = found.quartiles[1]
    wide = np.where(spread < NARROWEST, 1.0, spread)
    return Figures(ranges.own(centre), wide * ranges.half, ranges.own(fill))


def of_table(values: Floats, ranges: Ranges, *, moments: bool, quantiles: bool) -> Found:
    """What is true of one table [n, m], computed without rounding to any grid.

    A quantile at q is the least value that a share of q of the values does not exceed, as by
    numpy's `inverted_cdf`.
    """
    points = ranges.public(values)
    there = ~np.isnan(points)
    count = np.maximum(there.sum(axis=0), 1)
    mean = variance = quartiles = None
    if moments:
        mean = np.where(there, points, 0.0).sum(axis=0) / count
        variance = np.where(there, (points - mean) ** 2, 0.0).sum(axis=0) / count
    if quantiles:
        quartiles = np.zeros((len(QUARTILES), points.shape[1]))
        for column in range(points.shape[1]):
            known = np.sort(points[there[:, column], column])
            if len(known):
                places = [rank(share, len(known)) - 1 for share in QUARTILES]
                quartiles[:, column] = known[places]
    return Found(mean, variance, quartiles)


def rank(share: float, count: float) -> int:
    """Which value in increasing order, from 1, the quantile at `share` of so many is."""
    return max(1, int(np.ceil(share * count - 1e-9)))


def cells(points: Floats, count: int) -> Counts:
    """In which of `count` equal cells of [-1, 1] each point lies, from 0; -1 for a missing one."""
    placed = np.floor((np.nan_to_num(points, nan=-1.0) + 1.0) / 2.0 * count).astype(np.int64)
    found: Counts = np.where(np.isnan(points), -1, np.minimum(placed, count - 1))
    return found


def histogram(places: Counts, count: int) -> Counts:
    """How many of the places [n, m] are each of 0 to `count` - 1, [m, count]; others are not."""
    rows = np.zeros((places.shape[1], count), dtype=np.int64)
    for column in range(places.shape[1]):
        known = places[:, column]
        rows[column] = np.bincount(known[(known >= 0) & (known < count)], minlength=count)
    return rows


def middle(cell: Counts, count: int) -> Floats:
    """The middles of cells of [-1, 1]."""
    found: Floats = (2.0 * cell + 1.0) / count - 1.0
    return found

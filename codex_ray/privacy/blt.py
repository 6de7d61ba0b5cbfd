"""Noise with a memory of all rounds in a few vectors: C is a buffered linear Toeplitz matrix.

The first column of C is 1 and then a sum of a few geometric series, c_j = sum_i w_i theta_i^(j-1),
so all past noise is kept in one vector for each series, whose older part fades (Dvijotham, McMahan,
Pillutla, Steinke & Thakurta 2024, arXiv:2404.16706; for clients that come again, McMahan, Xu &
Zhang 2024, arXiv:2408.08868). With positive scales that add up to at most 1 the column never
increases, which its sensitivity needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field

from codex_ray.privacy.correlated import Aim, Floats, error, loss
from codex_ray.privacy.schedule import Schedule
from codex_ray.types import Component

SLOWEST = 1e-9
"""No series fades by less than this share a round."""
HIGHEST = 1 - 1e-12
"""What the scales may add up to; a hair below 1, so that rounding makes no column increase."""
STEEP = 10.0
"""How much a column that would increase counts as a loss."""


class Buffered(Component):
    """Noise that takes back some of the noise of all rounds before, the more the nearer."""

    kind: Literal["buffered"] = "buffered"
    buffers: int = Field(
        default=3, ge=1, le=8, description="Vectors of the model's size that are kept."
    )

    def fit(self, schedule: Schedule, *, aim: Aim = "mean") -> BufferedFactor:
        """The matrix of at most so many buffers with the least error.

        It has none, which is independent noise, where no correlation is of any use: when every
        client is in every round.
        """
        return _fitted(self.buffers, schedule, aim)


@dataclass(frozen=True)
class BufferedFactor:
    """A matrix C whose first column is 1, and then sum_i scales_i fades_i^(j-1)."""

    fades: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def kept(self) -> int:
        """A vector for each series."""
        return len(self.fades)

    def column(self, count: int) -> Floats:
        """The first column of C [count]."""
        found = np.ones(count)
        powers = np.arange(count - 1, dtype=np.float64)
        found[1:] = sum(w * t**powers for t, w in zip(self.fades, self.scales, strict=True))
        return found

    def undone(self, count: int) -> Floats:
        """The first column of C^-1 [count]."""
        return _undone(np.array(self.fades), np.array(self.scales), count)

    def memory(self, dimension: int) -> BufferedMemory:
        """The noise before round 0: none."""
        return BufferedMemory(self, dimension)


class BufferedMemory:
    """For each series the faded sum of the rows of C^-1 z before [buffers, d]."""

    def __init__(self, factor: BufferedFactor, dimension: int) -> None:
        self._factor = factor
        self._sums = np.zeros((factor.kept, dimension))

    def follow(self, fresh: Floats) -> Floats:
        """z_t less the scaled sums [d] (arXiv:2404.16706, algorithm 1, solved for C^-1).

        Element by element, so that it has the same bits on every machine and after every resume.
        """
        found = fresh.copy()
        for scale, kept in zip(self._factor.scales, self._sums, strict=True):
            found -= scale * kept
        for at, fade in enumerate(self._factor.fades):
            self._sums[at] *= fade
            self._sums[at] += found
        return found


def _undone(fades: Floats, scales: Floats, count: int) -> Floats:
    """The first column of C^-1 [count].

    As a power series C is P(x) / Q(x), with Q the product of the (1 - theta_i x) and P = Q plus x
    times the scales' share; so C^-1 is the filter Q / P, in a few operations an entry.
    """
    from scipy.signal import lfilter  # slow to import, and most runs fit nothing

    below = np.ones(1)
    for fade in fades:
        below = np.convolve(below, [1.0, -fade])
    above = below.copy()
    for at, scale in enumerate(scales):
        others = np.ones(1)
        for fade in np.delete(fades, at):
            others = np.convolve(others, [1.0, -fade])
        above[1:] += scale * others
    start = np.zeros(count)
    start[0] = 1.0
    found: Floats = lfilter(below, above, start)
    return found


@lru_cache(maxsize=32)
def _fitted(buffers: int, schedule: Schedule, aim: Aim) -> BufferedFactor:
    """The best of 0 to `buffers` buffers, each fit begun from the one before and from scratch."""
    best = BufferedFactor((), ())
    for count in range(1, min(buffers, schedule.rounds - 1) + 1):
        spread = np.geomspace(1 / schedule.rounds, 0.5, count) if count > 1 else np.array([0.1])
        starts = [(spread, 0.3 * np.sqrt(spread))]
        if best.kept == count - 1 and count > 1:
            new = float(np.sqrt((1 - max(best.fades)) * (1 - min(best.fades))))
            gaps = np.append(1 - np.array(best.fades), new)
            starts.append((gaps, np.append(best.scales, 0.01)))
        for gaps, scales in starts:
            found = _settled(gaps, scales, schedule, aim)
            if error(found, schedule, aim=aim) < error(best, schedule, aim=aim) * (1 - 1e-6):
                best = found
    return best


def _settled(gaps: Floats, scales: Floats, schedule: Schedule, aim: Aim) -> BufferedFactor:
    """The factor to which L-BFGS descends, over the logarithms of 1 - fades and of scales."""
    n, count = schedule.rounds, len(gaps)
    powers = np.arange(n - 1, dtype=np.float64)

    def objective(point: Floats) -> tuple[float, Floats]:
        gap, scale = np.exp(point[:count]), np.exp(point[count:])
        fade = 1 - gap
        series = fade[:, None] ** powers  # [buffers, n - 1]
        column = np.concatenate([[1.0], np.sum(scale[:, None] * series, axis=0)])
        undone = _undone(fade, scale, n)
        value, by_column = loss(column, undone, schedule, meet=True, aim=aim)
        by_scale = np.sum(series * by_column[1:], axis=1)
        slope = np.zeros_like(series)
        slope[:, 1:] = powers[1:] * series[:, :-1]
        by_fade = scale * np.sum(slope * by_column[1:], axis=1)
        over = max(0.0, float(scale.sum()) - 1)
        by_scale = by_scale + 2 * STEEP * over
        return value + STEEP * over**2, np.concatenate([-by_fade * gap, by_scale * scale])

    from scipy.optimize import minimize  # as above

    start = np.log(np.concatenate([gaps, scales]))
    bounds = [(np.log(SLOWEST), -1e-3)] * count + [(-30.0, 0.0)] * count
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 300}
    )
    gap, scale = np.exp(found.x[:count]), np.exp(found.x[count:])
    scale *= min(1.0, HIGHEST / float(scale.sum()))
    order = np.argsort(gap)
    fades = tuple(float(1 - one) for one in gap[order])
    return BufferedFactor(fades, tuple(float(one) for one in scale[order]))

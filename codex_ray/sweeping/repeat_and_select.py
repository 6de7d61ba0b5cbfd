"""What it costs to try a random number of times and publish the best: Papernot and Steinke 2022.

"Hyperparameter tuning with Renyi differential privacy" (arXiv:2110.03620). One try is: draw a
setting, train, measure. The number of tries K is drawn, before anything runs, from a law with a
known mean; only the best try is ever shown. Theorem 2 is for the truncated negative binomial law
(geometric at shape 1, logarithmic at shape 0), Theorem 6 for Poisson.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from codex_ray.errors import PrivacyError
from codex_ray.privacy.renyi import ORDERS, Floats, delta_from
from codex_ray.randomness import Stream

LawName = Literal["geometric", "logarithmic", "poisson", "truncated_negative_binomial"]
SHAPES: dict[LawName, float] = {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}
"""The shape parameter that each name stands for; that of the last law is free."""
MOST = 1_000_000
"""Nobody waits for more tries; the mass beyond is below what a uniform of 52 bits resolves."""


@dataclass(frozen=True)
class Law:
    """The distribution of the number of tries.

    Attributes:
        mean: of the number of tries; at least 1.
        shape: infinite for Poisson, else that of the truncated negative binomial (0 or more).

    Raises:
        PrivacyError: there is no such law.
    """

    mean: float
    shape: float

    def __post_init__(self) -> None:
        """Refuses a mean or a shape that the theorems do not have."""
        if not (math.isfinite(self.mean) and self.mean >= 1):
            raise PrivacyError(f"a mean of {self.mean:g} tries: it must be at least 1")
        if math.isnan(self.shape) or self.shape < 0:
            raise PrivacyError(f"shape {self.shape:g}: it must be 0 or more")

    @property
    def stop(self) -> float:
        """gamma of Definition 1: the law's chance of stopping, found from its mean by halving."""
        low, high = 0.0, 1.0
        while high - low > 1e-12 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if _mean(middle, self.shape) < self.mean else (middle, high)
        return low  # the lower end understates nothing: the bound grows with log(1 / gamma)

    def draw(self, stream: Stream) -> int:
        """A number of tries: the first whose cumulated probability is above the next uniform."""
        share, total = float(stream.uniform(1)[0]), 0.0
        for count, chance in enumerate(self._chances()):
            total += chance
            if share < total or count >= MOST:
                return count
        raise AssertionError("the chances do not end")

    def _chances(self) -> Iterator[float]:
        """P(K = 0), P(K = 1), ... without end."""
        if math.isinf(self.shape):
            chance, count = math.exp(-self.mean), 0
            while True:
                yield chance
                count += 1
                chance *= self.mean / count
        yield 0.0
        gamma, shape = self.stop, self.shape
        fail = 1 - gamma
        chance = fail / -math.log(gamma) if shape == 0 else fail * shape / (gamma**-shape - 1)
        count = 1
        while True:
            yield chance
            chance *= fail * (count + shape) / (count + 1)
            count += 1

    def selected(self, curve: Floats) -> Floats:
        """The Renyi divergence at ORDERS of publishing the best try, given the `curve` of one."""
        if math.isinf(self.shape):
            found = self._poisson(curve)
        else:
            constant = (1 + self.shape) * np.min(
                (1 - 1 / ORDERS) * curve - math.log(self.stop) / ORDERS
            )
            found = curve + constant + math.log(self.mean) / (ORDERS - 1)
        # A divergence grows with its order, so that a bound at a larger one holds below it too.
        return np.asarray(np.minimum.accumulate(found[::-1])[::-1])

    def _poisson(self, curve: Floats) -> Floats:
        deltas = delta_from(curve, np.log1p(1 / (ORDERS - 1)))
        return np.asarray(curve + self.mean * deltas + math.log(self.mean) / (ORDERS - 1))


def _mean(gamma: float, shape: float) -> float:
    """The mean of the truncated negative binomial with this chance of stopping."""
    if shape == 1:
        return 1 / gamma
    if gamma > 1 - 1e-9:
        return 1.0
    if shape == 0:
        return (1 / gamma - 1) / -math.log(gamma)
    return shape * (1 / gamma - 1) / -math.expm1(shape * math.log(gamma))

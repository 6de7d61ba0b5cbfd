"""Events of noise that many clients add in parts: what the sum of their noise tells about one.

dp_accounting has no such events. Everything is in units of the integer grid on which the summands
lie. The neighbouring relation is the one under which distributed noise is analysed: the client's
summand becomes zero while its share of the noise stays ("zero-out"), and the number of survivors
is public. It stands for add-or-remove-one here; a client whose own noise is not to be counted is
left out of `summands` or of `variance`, as are colluding ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dp_accounting import DpEvent

from codex_ray.errors import PrivacyError


def _check(what: str, **positive: float) -> None:
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise PrivacyError(f"{what}: {name} must be positive and finite, not {value!r}")


@dataclass(frozen=True)
class DiscreteGaussianSum(DpEvent):  # type: ignore[misc]  # dp_accounting ships no types
    """A sum to which each of `summands` clients has added discrete Gaussian noise.

    Kairouz, Liu and Steinke 2021 (arXiv:2102.06387), Theorem 1.

    Attributes:
        summands: how many clients' noise is in the sum: survivors that do not collude.
        local_sigma: the sigma parameter of each client's noise, in grid units.
        l2: largest Euclidean norm of one client's summand, rounding included.
        l1: largest sum of its absolute coordinates.
        dimension: coordinates that carry noise.

    Raises:
        PrivacyError: a field that is no positive number.
    """

    summands: int
    local_sigma: float
    l2: float
    l1: float
    dimension: int

    def __post_init__(self) -> None:
        """Refuses what no sum of noise can be."""
        _check("DiscreteGaussianSum", **self.__dict__)


@dataclass(frozen=True)
class SkellamSum(DpEvent):  # type: ignore[misc]  # dp_accounting ships no types
    """A sum that holds symmetric Skellam noise of this variance, whoever added which part of it.

    Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995). Skellam noise is closed under addition, so
    only the sum of the variances of those who survive and do not collude matters.

    Attributes:
        variance: of the noise on each coordinate of the sum, in squared grid units.
        l2: largest Euclidean norm of one client's summand, rounding included.
        l1: largest sum of its absolute coordinates.

    Raises:
        PrivacyError: a field that is no positive number.
    """

    variance: float
    l2: float
    l1: float

    def __post_init__(self) -> None:
        """Refuses what no sum of noise can be."""
        _check("SkellamSum", **self.__dict__)

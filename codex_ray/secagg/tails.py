"""How many of a random sample are marked: exact hypergeometric tails, and where they get small.

A committee is a sample of the cohort. So many of it are corrupt, so many will answer, and both
counts are bounded up to a chance that the caller states.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def most_in_sample(members: int, marked: int, drawn: int, *, chance: float) -> int:
    """The smallest t with Pr[more than t marked among `drawn` of `members`] <= chance."""
    first, p = _hypergeometric(members, marked, drawn)
    more = np.append(np.cumsum(p[::-1])[::-1][1:], 0.0)  # more[i] = Pr[count > first + i]
    return first + int(np.argmax(more <= chance))


def fewest_in_sample(members: int, marked: int, drawn: int, *, chance: float) -> int:
    """The largest t with Pr[fewer than t marked among `drawn` of `members`] <= chance."""
    first, p = _hypergeometric(members, marked, drawn)
    up_to = np.cumsum(p)  # up_to[i] = Pr[count <= first + i]
    return first + int(np.count_nonzero(up_to <= chance))


def _hypergeometric(members: int, marked: int, drawn: int) -> tuple[int, npt.NDArray[np.float64]]:
    """The first possible count of marked among `drawn`, and the probabilities from there on."""
    logs = log_factorials(members)
    first, last = max(0, drawn - (members - marked)), min(drawn, marked)
    count = np.arange(first, last + 1)
    log_p = (
        logs[marked] - logs[count] - logs[marked - count]
        + logs[members - marked] - logs[drawn - count] - logs[members - marked - drawn + count]
        - logs[members] + logs[drawn] + logs[members - drawn]
    )  # fmt: skip  # one line for each of C(marked, i), C(n - marked, k - i), C(n, k)
    return first, np.exp(log_p)


@lru_cache(maxsize=8)
def log_factorials(members: int) -> npt.NDArray[np.float64]:
    """The logarithm of each factorial from 0! to `members`! [members + 1]."""
    return np.array([math.lgamma(count + 1.0) for count in range(members + 1)])

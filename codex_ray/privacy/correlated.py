"""What noise is worth that a round partly takes back from earlier ones: its error and its price.

The model is a sum of updates x over rounds, so what counts is the error of the sums A x (A is the
lower triangle of ones). A mechanism releases x + C^-1 z, with z independent normal noise and C a
lower triangular Toeplitz matrix with unit diagonal: whoever looks learns C x + z, one Gaussian
release of the whole run, however the clients choose x by what they have seen (Denisov et al. 2022,
arXiv:2202.08312, theorem 2.1), and the sums are off by A C^-1 z. C = I is independent noise.

Everything here speaks of C by its first column c = (1, c_1, ..., c_{n-1}); both errors and
sensitivities are those of a client whose every update has norm 1.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.errors import PrivacyError
from codex_ray.privacy.schedule import Schedule

Floats: TypeAlias = npt.NDArray[np.float64]
Aim = Literal["mean", "last"]
"""Which rounds' sums should be right: all of them alike, or the last (the largest error)."""


class Memory(Protocol):
    """What a process keeps of the noise of past rounds. Whoever reads it can undo the noise."""

    def follow(self, fresh: Floats) -> Floats:
        """The next row of C^-1 z [d], where z [d] of that round is `fresh`."""
        ...


class Factor(Protocol):
    """A matrix C, fitted to a schedule."""

    @property
    def kept(self) -> int:
        """How many vectors of past noise a process keeps."""
        ...

    def column(self, count: int) -> Floats:
        """The first `count` entries of the first column of C."""
        ...

    def undone(self, count: int) -> Floats:
        """The first `count` entries of the first column of C^-1."""
        ...

    def memory(self, dimension: int) -> Memory:
        """The noise before round 0: none."""
        ...


def square_root(count: int) -> Floats:
    """The first column of A^(1/2): 1, 1/2, 3/8, ... (Fichtenberger, Henzinger & Upadhyay 2023).

    The coefficients of (1 - x)^(-1/2). For a client that takes part once it is optimal to within a
    constant; others start from it.
    """
    steps = np.arange(1, count, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])


def inverse(column: Floats, count: int) -> Floats:
    """The first `count` entries of the first column of C^-1, by forward substitution."""
    from scipy.signal import lfilter  # slow to import, and most runs fit nothing

    start = np.zeros(count)
    start[0] = 1.0
    found: Floats = lfilter([1.0], column[:count], start)
    return found


def sum_errors(undone: Floats) -> Floats:
    """The standard deviation [n] of the sum after each round, for z of unit variance.

    Row t of A C^-1 has the first t + 1 running sums of `undone`, the first column of C^-1.
    """
    found: Floats = np.sqrt(np.cumsum(np.cumsum(undone) ** 2))
    return found


def sensitivities(column: Floats, schedule: Schedule) -> Floats:
    """How far C x moves with a client that takes part 1, 2, ..., k times [k], at most.

    If c never increases and never gets negative, the worst that a client can do is to send one
    and the same update in rounds 0, b, 2b, ... (Kalinin & Lampert 2024, arXiv:2405.13763, theorem
    2). If c is zero from its b-th entry on, the participations of a client do not meet, and
    each adds at most |c|^2 (Choquette-Choo et al. 2023, arXiv:2306.08153, theorem 2).

    Raises:
        PrivacyError: c is neither of the two, so nothing is known.
    """
    n, b, k = schedule.rounds, schedule.separation, schedule.participations
    full = np.zeros(n)
    full[: len(column[:n])] = column[:n]
    if not full[b:].any():
        apart: Floats = np.sqrt(np.arange(1, k + 1) * float(np.sum(full**2)))
        return apart
    if (np.diff(full) > 0).any() or (full < 0).any():
        raise PrivacyError(
            f"nothing is known of the sensitivity: the first column of C reaches beyond its first "
            f"{b} entries, so it must be non-negative and must not increase"
        )
    found, moved = np.empty(k), np.zeros(n)
    for times in range(k):
        moved[times * b :] += full[: n - times * b]
        found[times] = math.sqrt(float(np.sum(moved**2)))
    return found


def stretch(column: Floats, schedule: Schedule) -> float:
    """How much larger z must be than independent noise, for the same price of a participation.

    With z of standard deviation `stretch` times s, a client that took part j times, for every j up
    to k, has moved C x by at most sqrt(j) / s standard deviations: no more than j Gaussian releases
    of noise multiplier s cost, which compose to just that. So a ledger may go on charging each
    participation by itself; where the columns of a client do not meet nothing is lost by it, and
    elsewhere only clients with fewer than k participations pay a little too much.
    """
    moved = sensitivities(column, schedule)
    return float(np.max(moved / np.sqrt(np.arange(1, len(moved) + 1))))


def error(factor: Factor, schedule: Schedule, *, aim: Aim = "mean") -> float:
    """The root mean square error of the sums at noise multiplier 1, or that of the last sum.

    In units of the clip norm, over all coordinates alike; independent noise has sqrt((n + 1) / 2),
    and sqrt(n) in the last.
    """
    n = schedule.rounds
    off = sum_errors(factor.undone(n))
    typical = float(off[-1]) if aim == "last" else math.sqrt(float(np.mean(off**2)))
    return stretch(factor.column(n), schedule) * typical


def loss(
    column: Floats, undone: Floats, schedule: Schedule, *, meet: bool, aim: Aim = "mean"
) -> tuple[float, Floats]:
    """(log of sensitivity times error, its gradient [n] by each entry of c), to be minimised.

    `column` and `undone` [n] are the first columns of C and C^-1. `meet` tells whether columns of
    one client overlap; where they do not, one of them stands for all. Sums are not left to a linear
    algebra library, whose bits depend on the number of threads: a fit must come out the same again.
    """
    from scipy.signal import fftconvolve  # as above

    n, b = schedule.rounds, schedule.separation
    shifts = [times * b for times in range(schedule.participations if meet else 1)]
    moved = np.zeros(n)
    for shift in shifts:
        moved[shift:] += column[: n - shift]
    square = float(np.sum(moved**2))
    by_square = np.zeros(n)
    for shift in shifts:
        by_square[: n - shift] += 2 * moved[shift:]
    weights = np.ones(n) if aim == "last" else np.arange(n, 0, -1) / n
    sums = np.cumsum(undone)
    off = float(np.sum(weights * sums**2))
    # d(1/c) = -(1/c) (1/c) dc as power series, so d sums = -(sums * undone) * dc.
    turned = fftconvolve(sums, undone)[:n]
    by_off = -2 * fftconvolve(weights * sums, turned[::-1])[n - 1 :]
    value = (math.log(square) + math.log(off)) / 2
    return value, by_square / (2 * square) + by_off / (2 * off)

"""Deterministic checks of noise and of sampling: what an audit runs before any statistics.

Each takes arrays and gives a verdict. The limits come from the exact law of a sound build, so that
one fails by chance less than once in a million audits. Noise is had by running a mechanism or a
trainer on nothing: zero updates, or no records, leave the noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from codex_ray.assurance.verdict import Verdict

RARE = 1e-6
"""The chance at which a sound build fails a check."""
STRETCH = 1000
"""Noise is also looked at in stretches of so many coordinates, each of which must have its own."""

Floats = npt.NDArray[np.float64]
Draw = npt.NDArray[np.int64]


def check_streams(noises: Floats, *, whose: str = "clients", rare: float = RARE) -> Verdict:
    """Whether the noises [n, d] of n clients, hosts or rounds are unlike each other.

    The cosine r of two independent noises, of which one is Gaussian, has r^2 ~ Beta(1/2, (d-1)/2).
    The largest of all pairs is judged at its share of `rare`. Equal seeds give r = 1.
    """
    from scipy.stats import beta

    count, d = noises.shape
    if count < 2 or d < 2:
        raise ValueError(f"noises are {count} x {d}: give two of 2 coordinates or more")
    norms = np.linalg.norm(noises, axis=1, keepdims=True)
    unit = noises / np.where(norms > 0, norms, 1.0)
    likeness = np.abs(unit @ unit.T)
    pairs = list(combinations(range(count), 2))
    one, other = max(pairs, key=lambda pair: float(likeness[pair]))
    found = float(likeness[one, other])
    limit = math.sqrt(float(beta.isf(rare / len(pairs), 0.5, (d - 1) / 2)))
    passed = found <= limit
    words = (
        f"noise of {count} {whose}: the two most alike ({one} and {other}) have a correlation of "
        f"{found:.2g}, where independent ones of {d} coordinates stay below {limit:.2g}"
    )
    if not passed:
        words += ": they share a seed, so one's noise can be subtracted by means of the other's"
    return Verdict("noise streams", "check", 0.0, found, 0.0, limit, passed, words)


def check_variance(noise: Floats, deviation: float, *, rare: float = RARE) -> Verdict:
    """Whether the released noise [n] is as large as the event says: a standard deviation of that.

    The sum of squares over the variance is chi-square with n degrees of freedom. Too little fails,
    as a whole or in a stretch of coordinates; too much is no breach of privacy, and is told. The
    claim, the finding and the range are shares of the variance that the event says.
    """
    from scipy.stats import chi2

    count = len(noise)
    squares = (noise / deviation) ** 2
    found = float(squares.mean())
    low, high = float(chi2.ppf(rare / 2, count)) / count, float(chi2.isf(rare, count)) / count
    stretches = squares[: count // STRETCH * STRETCH].reshape(-1, STRETCH).mean(axis=1)
    floor = float(chi2.ppf(rare / 2 / max(1, len(stretches)), STRETCH)) / STRETCH
    thin = int(stretches.argmin()) if len(stretches) else 0
    gap = len(stretches) > 0 and float(stretches[thin]) < floor
    words = (
        f"released noise: {found:.1%} of the variance that the event says, over {count} "
        f"coordinates (a sound build: {low:.1%} to {high:.1%})"
    )
    if found < low:
        words += f": {1 - found:.0%} of the noise is lost, so the claim is false"
    elif gap:
        words += (
            f": coordinates {thin * STRETCH} to {(thin + 1) * STRETCH - 1} have only "
            f"{stretches[thin]:.0%} of it, so the claim is false"
        )
    elif found > high:
        words += ": there is more noise than is accounted for, which is safe but costs accuracy"
    passed = found >= low and not gap
    return Verdict("released noise", "check", 1.0, found, low, high, passed, words)


def check_poisson(
    draws: Sequence[Draw],
    *,
    population: int,
    rate: float,
    what: str = "batches",
    rare: float = RARE,
) -> Verdict:
    """Whether cohorts or batches were drawn as Poisson sampling draws them.

    `draws` are the members of each, numbered below `population`. Four figures have an exact law
    when every member joins by its own coin of this rate: the total, how many draws have the same
    size, how many members take part equally often, and how many take part twice or more.

    Raises:
        ValueError: a draw names a member twice, or one outside the population.
    """
    figures = _figures(draws, population=population, rate=rate, what=what)
    chance, odd = min(figures)
    passed = chance >= rare / len(figures)
    words = f"{what} against Poisson sampling at rate {rate:g}: " + (
        f"nothing odd in {len(draws)} of them"
        if passed
        else f"{odd}, which has a probability of {chance:.1e}: the claim assumes another sampling "
        "than is implemented, so there is no certificate"
    )
    seen = max(1, len(draws) * population)
    found = sum(len(draw) for draw in draws) / seen
    width = 5 * math.sqrt(rate * (1 - rate) / seen)
    low, high = max(0.0, rate - width), min(1.0, rate + width)
    return Verdict(f"sampling of {what}", "check", rate, found, low, high, passed, words)


def _figures(
    draws: Sequence[Draw], *, population: int, rate: float, what: str
) -> list[tuple[float, str]]:
    """Each figure's probability under Poisson sampling, and the figure in words."""
    from scipy.stats import binom

    steps = len(draws)
    sizes = np.array([len(draw) for draw in draws], dtype=np.int64)
    joined = np.zeros(population, dtype=np.int64)
    for draw in draws:
        if len(np.unique(draw)) < len(draw) or not np.isin(draw, np.arange(population)).all():
            raise ValueError(f"a draw of {what} names a member twice, or an unknown one")
        joined[draw] += 1
    total, twice = int(sizes.sum()), int((joined >= 2).sum())
    size, of_that_size = _most_common(sizes)
    often, as_often = _most_common(joined)
    return [
        (
            _two_sided(total, steps * population, rate),
            f"{total} took part in all where {steps * population * rate:.0f} were to be expected",
        ),
        (
            _as_many_alike(of_that_size, steps, of=population, chance=rate),
            f"{of_that_size} of {steps} {what} have the same size, {size}",
        ),
        (
            _as_many_alike(as_often, population, of=steps, chance=rate),
            f"{as_often} of {population} took part equally often, in {often} of {steps} {what}",
        ),
        (
            _two_sided(twice, population, float(binom.sf(1, steps, rate))),
            f"{twice} of {population} took part more than once in {steps} {what}",
        ),
    ]


def _most_common(counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The most common number, and how often it occurs."""
    if len(counts) == 0:
        return 0, 0
    values, times = np.unique(counts, return_counts=True)
    at = int(times.argmax())
    return int(values[at]), int(times[at])


def _two_sided(count: int, of: int, chance: float) -> float:
    """The probability of a binomial count so far out: twice the smaller tail."""
    from scipy.stats import binom

    tails = float(binom.cdf(count, of, chance)), float(binom.sf(count - 1, of, chance))
    return min(1.0, 2 * min(tails))


def _as_many_alike(alike: int, among: int, *, of: int, chance: float) -> float:
    """A bound on the probability that so many `among` independent binomials are equal.

    The sum, over each number k, of the probability that so many of them are k.
    """
    from scipy.stats import binom

    each = binom.pmf(np.arange(of + 1), of, chance)
    return min(1.0, float(np.sum(binom.sf(alike - 1, among, each))))

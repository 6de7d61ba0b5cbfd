"""Lower bounds on epsilon from what an attacker gets right about canaries.

A canary is in the data or out of it by a coin. The attacker sees only what was released, and says
of some canaries where the coin fell. Being right too often for a claim refutes the claim. All
canaries may share one run: the two one-run bounds hold however the canaries disturb each other.

How many guesses are made is fixed before anyone looks: choosing the best number afterwards would
need a price for every number that was looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Scores: TypeAlias = npt.NDArray[np.float64]
Inside: TypeAlias = npt.NDArray[np.bool_]
Curve: TypeAlias = Callable[[float], float]
"""x -> the least probability, without a canary, of what has the probability x with it. It is
f(1 - x) for a symmetric trade-off function f (Dong, Roth & Su 2022)."""
Method = Literal["f_dp", "one_run"]

FRACTIONS = (0.2, 0.5)
"""Shares of the canaries that are guessed about: the first is near the best for an honest build of
epsilon 1 to 8 and 200 to 5000 canaries, the second shows a broken build of a large claim."""
LARGEST_MU = 64.0


@dataclass(frozen=True)
class Guesses:
    """How many of `canaries` were guessed about, and how many of the guesses were right."""

    canaries: int
    made: int
    right: int


def guess(scores: Scores, inside: Inside, *, fraction: float) -> Guesses:
    """The outcome of calling the highest scores [m] in and as many of the lowest out.

    `inside` [m] is where the coins fell; the rest of the canaries are not guessed about. A score
    that is not a number lies in the middle.

    Raises:
        ValueError: the lengths differ, or the fraction is not in (0, 1].
    """
    if len(scores) != len(inside) or not 0 < fraction <= 1:
        raise ValueError(
            f"{len(scores)} scores of {len(inside)} canaries at a fraction of {fraction}: give one "
            "score a canary, and a fraction in (0, 1]"
        )
    known = scores[~np.isnan(scores)]
    middle = float(np.median(known)) if len(known) else 0.0
    order = np.argsort(np.where(np.isnan(scores), middle, scores), kind="stable")
    side = int(fraction * len(scores)) // 2
    right = int(inside[order[len(order) - side :]].sum() + (~inside[order[:side]]).sum())
    return Guesses(len(scores), 2 * side, right)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon at `delta` of a Gaussian of sensitivity mu and standard deviation 1.

    It solves delta = Q(e/mu - mu/2) - exp(e) Q(e/mu + mu/2) (Balle & Wang 2018, theorem 8); 0 where
    already epsilon 0 has a smaller delta, and infinite for an infinite mu.
    """
    from scipy.optimize import brentq  # slow to import, and hosts never audit
    from scipy.special import log_ndtr

    if not mu < math.inf:
        return math.inf

    def excess(epsilon: float) -> float:
        more = float(log_ndtr(mu / 2 - epsilon / mu))
        less = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        return more + math.log1p(-math.exp(min(less - more, -1e-300))) - math.log(delta)

    if mu <= 0 or 2 * math.erf(mu / 2**1.5) <= 2 * delta:
        return 0.0
    return float(brentq(excess, 0.0, mu**2 / 2 + 40 * mu, xtol=1e-9))


def gaussian_curve(mu: float) -> Curve:
    """The curve of a Gaussian of sensitivity mu and standard deviation 1: Phi(Phi^-1(x) - mu)."""
    from scipy.special import ndtr, ndtri

    return lambda x: float(ndtr(ndtri(min(x, 1.0)) - mu))


def profile_curve(epsilons: Sequence[float], deltas: Sequence[float]) -> Curve:
    """The curve of a mechanism that is (epsilon, delta)-private for each given pair.

    So a claim can be tested that no Gaussian describes, such as that of a subsampled mechanism:
    take the pairs from its accountant. f is the highest of the lines of the pairs (Dong, Roth & Su
    2022, proposition 6).
    """
    shrink = np.exp(-np.asarray(epsilons, dtype=np.float64))
    lost = np.asarray(deltas, dtype=np.float64)

    def curve(x: float) -> float:
        lines = np.maximum(shrink * (x - lost), 1 - lost - (1 - x) / shrink)
        return max(0.0, float(lines.max()))

    return curve


def excess_over(curve: Curve, guesses: Guesses, *, significance: float) -> float:
    """Above 0 where so many right guesses refute the curve at this significance.

    Suppose that as many are right with probability `significance`. Then r, the mass of right
    guesses, and h, that of wrong ones, are each at least what the recursion builds from the last
    count downwards, and together they cannot exceed the share of canaries that is guessed about
    (Mahloujifar, Melis & Chaudhuri 2024, algorithm 3).
    """
    made, m = guesses.made, guesses.canaries
    r = significance * guesses.right / m
    h = significance * (made - guesses.right) / m
    for i in range(guesses.right - 1, -1, -1):
        more = max(h, curve(r))
        if more == h:
            break  # Neither can change from here on.
        r = min(1.0, r + i / (made - i) * (more - h))
        h = more
    return r + h - made / m


def f_dp_bound(guesses: Guesses, *, delta: float, significance: float = 0.05) -> float:
    """The epsilon at `delta` of the widest Gaussian curve that the guesses refute.

    A lower bound for mechanisms whose curve is Gaussian, and for those whose curve is nearer to
    chance than a Gaussian's wherever guesses are made (subsampled Gaussians). For others, such as
    randomised response, use `one_run_bound`, or test the claim itself by `excess_over` and
    `profile_curve`.
    """
    from scipy.optimize import brentq

    def excess(mu: float) -> float:
        return excess_over(gaussian_curve(mu), guesses, significance=significance)

    if guesses.made == 0 or excess(1e-9) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > LARGEST_MU:
            return gaussian_epsilon(LARGEST_MU, delta)
    return gaussian_epsilon(float(brentq(excess, 1e-9, high, xtol=1e-6)), delta)


def one_run_bound(guesses: Guesses, *, delta: float, significance: float = 0.05) -> float:
    """The largest epsilon that the guesses refute at `delta`, whatever the mechanism.

    Under (epsilon, delta) the number of right guesses is dominated by a binomial W of chance
    e^eps / (1 + e^eps), up to 2 m delta max_i P(v > W >= v - i) / i (Steinke, Nasr & Jagielski
    2023, theorem 5.2).
    """
    from scipy.optimize import brentq
    from scipy.special import expit
    from scipy.stats import binom

    made, right = guesses.made, guesses.right

    def excess(epsilon: float) -> float:
        chance = float(expit(epsilon))
        tail = float(binom.sf(right - 1, made, chance))
        steps = np.arange(1, right + 1)
        between = binom.sf(right - steps - 1, made, chance) - tail
        slack = float(np.max(between / steps, initial=0.0))
        return significance - tail - 2 * guesses.canaries * delta * slack

    if made == 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-6))


def lower_bound(
    scores: Scores,
    inside: Inside,
    *,
    delta: float,
    method: Method = "f_dp",
    confidence: float = 0.95,
    fractions: Sequence[float] = FRACTIONS,
) -> float:
    """The epsilon that one run's scores [m] show at least, with this confidence.

    Each fraction is tested at its share of the significance, and the highest bound stands.
    """
    bound = f_dp_bound if method == "f_dp" else one_run_bound
    share = (1 - confidence) / len(fractions)
    return max(
        bound(guess(scores, inside, fraction=fraction), delta=delta, significance=share)
        for fraction in fractions
    )


def highest_bound(
    canaries: int,
    *,
    delta: float,
    method: Method = "f_dp",
    confidence: float = 0.95,
    fractions: Sequence[float] = FRACTIONS,
) -> float:
    """What `lower_bound` gives if every guess is right: a claim above it cannot be refuted."""
    inside = np.arange(canaries) % 2 == 0
    return lower_bound(
        inside.astype(np.float64),
        inside,
        delta=delta,
        method=method,
        confidence=confidence,
        fractions=fractions,
    )


def clopper_pearson_bound(
    within: Scores, without: Scores, *, delta: float, threshold: float, confidence: float = 0.95
) -> float:
    """The epsilon shown by independent scores with [n] and without [k] the canary, by a threshold.

    ln((P(hit) - delta) / P(false alarm)), each probability at its Clopper-Pearson limit (Nasr et
    al. 2021). The threshold must not be chosen from these scores, and the scores must be
    independent: one canary of many runs, or directions that do not meet.
    """
    from scipy.stats import beta

    def upper(count: int, of: int) -> float:
        return float(beta.ppf((1 + confidence) / 2, count + 1, of - count)) if count < of else 1.0

    hits = 1 - upper(int((within < threshold).sum()), len(within))
    alarms = upper(int((without >= threshold).sum()), len(without))
    return max(0.0, math.log((hits - delta) / alarms)) if hits > delta else 0.0

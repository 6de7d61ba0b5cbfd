"""An estimate of epsilon from canary clients that were in the sum: how loud, under how much noise.

Canaries are random unit directions, far longer than the clip norm when they are sent. The released
sum less the others' sum is, in clip norms, gain x (sum of the directions) + noise: a gain of 1 says
that each canary was clipped, and the noise left over is what the mechanism really added. Each
canary's effect on the release is then a Gaussian of multiplier noise / gain (after Andrew et al.
2024, "One-shot Empirical Privacy Estimation for Federated Learning"; here by the mean of the dot
products alone, since the noise can be measured on every coordinate). The others are removed because
differential privacy holds against somebody who knows them.

It is no lower bound: it takes for granted that the noise is Gaussian and that the rate at which
clients are sampled is the one that is claimed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ConfigError
from codex_ray.privacy.empirical_bounds import gaussian_epsilon
from codex_ray.privacy.ledger import epsilon_bound, epsilon_of

if TYPE_CHECKING:
    from dp_accounting import DpEvent

FEWEST_CANARIES = 500
COORDINATES_A_CANARY = 100
NOISE_GRID = 0.01
"""Measured noise is rounded to a hundredth of the claimed one, so that rounds that are alike are
composed at once. An honest round of 50 000 parameters strays by a third of that."""
LOUDEST = 100.0
"""Above it the cheap upper bound of the composition is as good an answer as any."""
DIFFERENT = 1e-6

Amplified = Callable[["DpEvent"], "DpEvent"]


@dataclass(frozen=True)
class RoundMeasure:
    """What one round did to its canaries, in clip norms.

    Attributes:
        gain: the norm with which a canary entered the sum, on average; 1 if it was clipped.
        noise: standard deviation of the noise on a coordinate of the sum.
        energy: squared norm of the sum of the directions, close to the number of canaries; the gain
            has a standard error of noise / sqrt(energy).
    """

    gain: float
    noise: float
    energy: float


@dataclass(frozen=True)
class Estimate:
    """An estimated epsilon with the ends of its confidence interval, and the mean gain."""

    epsilon: float
    low: float
    high: float
    gain: float


def check_canaries(canaries: int, *, parameters: int) -> None:
    """Refuses canaries too few to say anything, or so many that they drown each other.

    Two random directions of d coordinates meet with a standard deviation of 1 / sqrt(d).

    Raises:
        ConfigError: it says how many there may be.
    """
    most = parameters // COORDINATES_A_CANARY
    if canaries < FEWEST_CANARIES:
        raise ConfigError(
            f"audit.canaries is {canaries}, too few for an estimate of epsilon: use at least "
            f"{FEWEST_CANARIES}"
        )
    if canaries > most:
        raise ConfigError(
            f"audit.canaries is {canaries}, but an estimate needs {COORDINATES_A_CANARY} "
            f"parameters for each, and the model has {parameters}: "
            + (
                f"use at most {most}"
                if most >= FEWEST_CANARIES
                else f"use a model of {FEWEST_CANARIES * COORDINATES_A_CANARY} or leave it out"
            )
        )


def measure_round(
    seen: npt.NDArray[np.float64], directions: npt.NDArray[np.float64]
) -> RoundMeasure:
    """The gain and the noise of one round: the regression of what was seen on the canaries.

    `seen` [d] is the released sum less the others' sum, in clip norms; `directions` [d] the sum of
    the unit directions of the canaries that are in it. The mean of the canaries' dot products with
    `seen` is gain x energy / canaries.
    """
    energy = float(directions @ directions)
    gain = float(seen @ directions) / energy
    rest = seen - gain * directions
    return RoundMeasure(gain, math.sqrt(float(rest @ rest) / max(1, len(seen) - 1)), energy)


def canary_estimate(
    rounds: Sequence[RoundMeasure],
    claimed: Sequence[float],
    *,
    delta: float,
    amplified: Amplified | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """The epsilon of all rounds together, if each is as loud and as noisy as it was measured.

    Each round's noise is known to a fraction of a per cent, the gain only from all of them: so
    one gain is fitted to the whole run, unless the rounds differ by more than chance allows. Every
    round is then a Gaussian of multiplier noise / gain, and PLD composes them. `claimed` [rounds]
    are the noise multipliers that the ledger was charged for, and `amplified` what the sampler
    makes of an event.

    Raises:
        ValueError: there is no round, or not one claim for each.
    """
    from scipy.stats import norm

    if not rounds or len(rounds) != len(claimed):
        raise ValueError(f"{len(rounds)} rounds with {len(claimed)} claims: give one for each")
    gains, errors = _gains(rounds)
    width = float(norm.ppf((1 + confidence) / 2)) * errors
    noise = [_on_grid(one.noise, claim) for one, claim in zip(rounds, claimed, strict=True)]
    low, found, high = (
        _composed(noise, shifted, delta=delta, amplified=amplified)
        for shifted in (gains - width, gains, gains + width)
    )
    return Estimate(found, low, high, float(np.mean(gains)))


def _gains(
    rounds: Sequence[RoundMeasure],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The gain of each round, and its standard error: all alike unless the rounds differ."""
    from scipy.stats import chi2

    gains = np.array([one.gain for one in rounds])
    errors = np.array([max(one.noise, 1e-300) / math.sqrt(one.energy) for one in rounds])
    weights = (errors.min() / errors) ** 2
    common = float((weights * gains).sum() / weights.sum())
    error = float(errors.min() / math.sqrt(weights.sum()))
    strayed = float((((gains - common) / errors) ** 2).sum())
    if len(rounds) > 1 and strayed > chi2.isf(DIFFERENT, len(rounds) - 1):
        return gains, errors
    return np.full(len(rounds), common), np.full(len(rounds), error)


def _on_grid(noise: float, claimed: float) -> float:
    """The noise, to the nearest hundredth of what is claimed."""
    if noise <= 0:
        return 0.0
    step = math.log1p(NOISE_GRID)
    return claimed * math.exp(step * round(math.log(noise / claimed) / step))


def _composed(
    noise: Sequence[float],
    gains: npt.NDArray[np.float64],
    *,
    delta: float,
    amplified: Amplified | None,
) -> float:
    """The epsilon of one Gaussian of multiplier noise / gain a round; a gain of 0 costs nothing."""
    from dp_accounting import GaussianDpEvent  # slow to import, and hosts never account

    heard = [(s, float(g)) for s, g in zip(noise, gains, strict=True) if g > 0]
    if any(s == 0 for s, _ in heard):
        return math.inf
    if amplified is None:
        return gaussian_epsilon(math.sqrt(sum((g / s) ** 2 for s, g in heard)), delta)
    counts = Counter(amplified(GaussianDpEvent(s / g)) for s, g in heard)
    entries = tuple(counts.items())
    bound = epsilon_bound(entries, delta)
    return bound if bound > LOUDEST else epsilon_of(entries, delta)

"""The distribution of the privacy loss (PLD) of sampled Gaussians: the exact accountant.

A step's loss is put on a grid by connecting the dots of its privacy profile (Doroshenko et al.
2022, arXiv:2207.04380, Algorithm 1), which never understates it; steps compose by one FFT over all
of them. The same method, and the same numbers, as dp_accounting's PLD accountant, which the tests
hold beside it; here every part is a vector operation, so that a grid may be fine and a ledger may
hold a hundred different events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import lfilter
from scipy.special import log_ndtr, ndtr

from codex_ray.privacy.events import Relation

Floats: TypeAlias = npt.NDArray[np.float64]

REACH = 9.8
"""Noise beyond this many standard deviations (6e-23 of it) counts as an infinite loss."""
TAIL = 1e-15
"""Mass of the composed loss outside the window of the FFT; it counts as an infinite loss."""


@dataclass(frozen=True)
class Losses:
    """A privacy loss on the grid (low, low + 1, ...) * step, in one direction of the relation.

    Attributes:
        step: the distance of two grid points.
        low: the first one, in steps.
        mass: the probability of each [n].
        infinite: the probability of an infinite loss.
    """

    step: float
    low: int
    mass: Floats
    infinite: float

    def deltas(self) -> tuple[Floats, Floats]:
        """(epsilons, deltas): the privacy profile at the grid points from 0 upwards."""
        first = max(0, -self.low)
        mass = self.mass[first:][::-1]
        above = np.concatenate([[0.0], np.cumsum(mass)])[:-1]
        shrink = math.exp(-self.step)  # E[e^(epsilon - loss); loss > epsilon], point by point
        weighed = lfilter([0.0, shrink], [1.0, -shrink], mass)
        epsilons = _points(max(0, self.low), len(mass), self.step)
        return epsilons, np.asarray((self.infinite + above - weighed)[::-1], np.float64)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at which the profile is at most `delta`; infinity if there is none.

        Between two grid points the profile is a - b e^epsilon, exactly.
        """
        if self.infinite > delta:
            return math.inf
        epsilons, deltas = self.deltas()
        if not len(deltas) or deltas[0] <= delta:
            return 0.0
        k = int(np.argmax(deltas <= delta)) - 1
        fall = (deltas[k] - deltas[k + 1]) / math.expm1(self.step)
        return float(epsilons[k] + math.log1p((deltas[k] - delta) / fall))

    def renyi(self, order: float) -> float:
        """The Renyi divergence of the finite losses: what the grid has made of it."""
        tilt = (order - 1) * self.step * (np.arange(len(self.mass)) + self.low)
        top = float(tilt.max())
        return (top + math.log(_dot(self.mass, np.exp(tilt - top)))) / (order - 1)


Directions: TypeAlias = tuple[Losses, ...]
"""The losses of removing and of adding one; a single one where they are the same."""


@lru_cache(maxsize=128)
def sampled_gaussian(rate: float, noise: float, relation: Relation, step: float) -> Directions:
    """The losses of one Gaussian of this noise multiplier on a Poisson sample.

    Args:
        rate: with which each client is drawn, in (0, 1].
        noise: standard deviation over the largest norm of one summand; positive.
        relation: replace-one moves the sum by twice that norm.
        step: distance of two grid points.
    """
    if relation == "replace_one":
        top = float(_pair_loss(rate, noise, 1 + noise * REACH))
        epsilons = _points(0, math.ceil(top / step) + 1, step)
        upper = _replace_profile(rate, noise, epsilons)
        mirrored = np.exp(-epsilons[:0:-1]) * upper[:0:-1]
        return (_connect(step, 1 - len(epsilons), np.concatenate([mirrored, upper])),)
    top, bottom = (
        float(_mixture_loss(rate, noise, x)) for x in (1 + noise * REACH, -noise * REACH)
    )
    above, lowest = _points(0, math.ceil(top / step) + 1, step), math.floor(bottom / step)
    below = _points(lowest, -lowest, step)
    upper, lower = _profile(rate, noise, above), _mirror(rate, noise, below)
    remove = _connect(step, -len(below), np.concatenate([lower, upper]))
    if rate >= 1:
        return (remove,)
    # Adding is the same pair the other way round: delta'(e) = e^e (delta(-e) - 1 + e^-e).
    added = np.exp(-above[:0:-1]) * upper[:0:-1]
    lost = np.concatenate([upper[:1], (np.exp(-below) * lower)[::-1]])
    return remove, _connect(step, 1 - len(above), np.concatenate([added, lost]))


@lru_cache(maxsize=128)
def randomised_response(kept: float, other: float, step: float) -> Directions:
    """The losses of an answer at random, between any two true labels.

    Args:
        kept: the probability of the true label.
        other: that of each other one; lower, and positive.
        step: distance of two grid points.
    """
    epsilons = _points(0, math.ceil(math.log(kept / other) / step) + 1, step)
    upper = np.maximum(0.0, kept - np.exp(epsilons) * other)
    mirrored = np.exp(-epsilons[:0:-1]) * upper[:0:-1]
    return (_connect(step, 1 - len(epsilons), np.concatenate([mirrored, upper])),)


def _points(first: int, count: int, step: float) -> Floats:
    """`count` grid points, the first of them at `first` steps."""
    return np.asarray(np.arange(first, first + count) * step, np.float64)


def compose(parts: Sequence[tuple[Losses, int]]) -> Losses:
    """The losses of all parts together, each as often as its count says."""
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    step, low = parts[0][0].step, sum(count * part.low for part, count in parts)
    start, stop = _window(parts)
    size = next_fast_len(max(stop - start + 1, *(len(part.mass) for part, _ in parts)), real=True)
    log_spectrum = np.zeros(size // 2 + 1, np.complex128)
    for part, count in parts:
        factor = rfft(part.mass, size)
        log_spectrum += count * np.log(np.where(factor == 0, 1e-300, factor))
    spectrum = np.zeros_like(log_spectrum)  # e^-90 is nothing, and denormal numbers are slow
    heard = log_spectrum.real > -90
    spectrum[heard] = np.exp(log_spectrum[heard])
    mass = np.roll(irfft(spectrum, size), low - start)[: stop - start + 1]
    finite = sum(count * math.log1p(-part.infinite) for part, count in parts)
    # The FFT's errors, some 1e-17 a point and of either sign, are left in: cut off at zero, those
    # that remain would add up.
    return Losses(step, start, mass, TAIL - math.expm1(finite))


def _window(parts: Sequence[tuple[Losses, int]]) -> tuple[int, int]:
    """Grid points between which all but TAIL of the composed losses lie, by Chernoff's bound."""
    low = sum(count * part.low for part, count in parts)
    high = sum(count * (part.low + len(part.mass) - 1) for part, count in parts)
    variance = 0.0
    for part, count in parts:
        points = np.arange(float(len(part.mass)))
        mean = _dot(part.mass, points)
        variance += count * max(1.0, _dot(part.mass, (points - mean) ** 2))
    slack = math.log(2 / TAIL)
    for slope in math.sqrt(2 * slack / variance) * 2.0 ** np.arange(-8, 2.5, 1.25):
        up, down = (
            sum(count * _log_moment(part, sign * slope) for part, count in parts)
            for sign in (1, -1)
        )
        high = min(high, math.ceil((up + slack) / slope))
        low = max(low, math.floor(-(down + slack) / slope))
    return low, max(low, high)


def _log_moment(part: Losses, slope: float) -> float:
    """log E[e^(slope i)] over the grid points i of the finite losses."""
    tilt = slope * (np.arange(len(part.mass)) + part.low)
    top = float(tilt.max())
    return top + math.log(_dot(part.mass, np.exp(np.maximum(tilt - top, -700))))


def _dot(left: Floats, right: Floats) -> float:
    """Their inner product; not by BLAS, whose threads burn more than they save here."""
    return float(np.einsum("i,i->", left, right))


def _connect(step: float, low: int, profile: Floats) -> Losses:
    """The pessimistic losses on a grid whose profile passes through these points.

    Args:
        step: distance of two grid points.
        low: the first one, in steps; negative.
        profile: delta(epsilon) for epsilon >= 0, and delta(epsilon) - 1 + e^epsilon below 0: what
            is taken off there adds nothing to any mass but that at 0, and only without it are the
            small differences of the lower tail exact.
    """
    rise = np.diff(profile)
    mass = np.empty_like(profile)
    mass[1:-1] = (rise[1:] - math.exp(step) * rise[:-1]) / math.expm1(step)
    mass[0] = rise[0] / math.expm1(step) - profile[0]
    mass[-1] = rise[-1] / math.expm1(-step)
    mass[-low] += 1.0
    return Losses(step, low, np.maximum(mass, 0.0), float(max(0.0, profile[-1])))


def _mixture_loss(rate: float, noise: float, x: float) -> float:
    """log((1 - q) + q e^((2x - 1) / 2z^2)): the loss of removing, at the noisy sum x."""
    whole = (2 * x - 1) / (2 * noise**2)
    if rate >= 1:
        return whole
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + whole))


def _pair_loss(rate: float, noise: float, x: float) -> float:
    """The loss of replacing, at the noisy sum x."""
    return _mixture_loss(rate, noise, x) - _mixture_loss(rate, noise, -x)


def _profile(rate: float, noise: float, epsilons: Floats) -> Floats:
    """delta(epsilon >= 0) of removing: P(x > t) - e^epsilon Q(x > t), t where the loss is it."""
    # log(e^epsilon - 1 + q), with nothing lost when epsilon and q are small
    log_gap = epsilons + np.log(rate * np.exp(-epsilons) - np.expm1(-epsilons))
    t = noise**2 * (log_gap - math.log(rate)) + 0.5
    return np.asarray(
        rate * ndtr((1 - t) / noise) - np.exp(log_gap + log_ndtr(-t / noise)), np.float64
    )


def _mirror(rate: float, noise: float, epsilons: Floats) -> Floats:
    """delta(epsilon < 0) - 1 + e^epsilon of removing: e^epsilon Q(x < t) - P(x < t)."""
    gap = np.expm1(epsilons) + rate
    t = np.full_like(epsilons, -np.inf)
    reached = gap > 0  # no loss is below log(1 - q)
    t[reached] = noise**2 * np.log(gap[reached] / rate) + 0.5
    return np.asarray(gap * ndtr(t / noise) - rate * ndtr((t - 1) / noise), np.float64)


def _replace_profile(rate: float, noise: float, epsilons: Floats) -> Floats:
    """delta(epsilon >= 0) of replacing: (1 - q) N(0) + q N(1) against (1 - q) N(0) + q N(-1)."""
    half = epsilons / 2
    if rate >= 1:
        t = noise**2 * half
    else:
        with np.errstate(divide="ignore"):
            log_sinh = half + np.log(-np.expm1(-epsilons)) - math.log(2)
        log_w = math.log1p(-rate) - math.log(rate) + 1 / (2 * noise**2) + log_sinh
        big = log_w + math.log(2)
        t = noise**2 * (half + np.where(log_w > 20, big, np.arcsinh(np.exp(np.minimum(log_w, 20)))))
    delta = rate * (ndtr((1 - t) / noise) - np.exp(epsilons + log_ndtr(-(t + 1) / noise)))
    if rate < 1:
        with np.errstate(divide="ignore"):
            gap = epsilons + np.log(-np.expm1(-epsilons))
        delta -= (1 - rate) * np.exp(gap + log_ndtr(-t / noise))
    return np.asarray(delta, np.float64)

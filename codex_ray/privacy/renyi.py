"""Renyi divergences of the events: upper bounds that compose by adding, at a fixed set of orders.

A noise multiplier is the noise's standard deviation over the largest norm of one summand, whatever
the relation: under replace-one the sum can move by twice that norm, and the formulas here say so.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from codex_ray.privacy.events import Relation, answers, check_relation

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum

Floats: TypeAlias = npt.NDArray[np.float64]

INTEGERS = np.array(
    [*range(2, 65), 72, 80, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192], np.float64
)
"""Orders at which every bound holds; the large ones serve small epsilons."""
ORDERS = np.union1d([1.02, 1.05, *(1 + np.arange(1, 100) / 10)], INTEGERS)
"""Orders of a curve; the small ones serve large epsilons."""
EVERY_ORDER = np.arange(2.0, INTEGERS[-1] + 1)
HOPELESS = 2000.0
"""Where alpha / noise_multiplier^2 is above this, the bound without sampling is good enough."""


@lru_cache(maxsize=4096)
def renyi_curve(event: DpEvent, relation: Relation) -> Floats:
    """An upper bound on the Renyi divergence of one `event` at each of ORDERS.

    Raises:
        PrivacyError: the event cannot be accounted under the relation.
    """
    import dp_accounting as dp

    from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum

    check_relation(event, relation)
    factor = 1 if relation == "add_or_remove_one" else 2
    match event:
        case dp.GaussianDpEvent():
            return gaussian(event.noise_multiplier / factor, ORDERS)
        case DiscreteGaussianSum():
            return discrete_gaussian_sum(event, ORDERS, factor)
        case SkellamSum():
            return between(skellam_sum(event, INTEGERS, factor))
        case dp.PoissonSampledDpEvent(sampling_probability=rate, event=dp.GaussianDpEvent()):
            return poisson_gaussian(rate, event.event.noise_multiplier, relation)
        case dp.PoissonSampledDpEvent(sampling_probability=rate, event=DiscreteGaussianSum()):
            inner = discrete_gaussian_sum(event.event, EVERY_ORDER, 1)
            return between(poisson_sampled(rate, inner))
        case dp.PoissonSampledDpEvent(sampling_probability=rate):
            inner = skellam_sum(event.event, EVERY_ORDER, 1)
            return between(poisson_sampled(rate, inner))
        case dp.RandomizedResponseDpEvent():
            return randomised_response(*answers(event), event.num_buckets, ORDERS)
        case dp.ComposedDpEvent():
            return np.asarray(sum(renyi_curve(part, relation) for part in event.events), np.float64)
    rate = event.sample_size / event.source_dataset_size
    if isinstance(event.event, DiscreteGaussianSum | SkellamSum):
        bound = (
            discrete_gaussian_sum if isinstance(event.event, DiscreteGaussianSum) else skellam_sum
        )
        return between(any_without_replacement(rate, bound(event.event, EVERY_ORDER, factor)))
    return between(without_replacement(rate, event.event.noise_multiplier / factor))


def epsilon_from(curve: Floats, delta: float) -> tuple[float, float]:
    """(epsilon, order) that a `curve` over ORDERS proves at `delta`.

    Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), Proposition 12; zero where the divergence
    is so small that Bretagnolle and Huber's bound gives delta already.
    """
    with np.errstate(invalid="ignore"):
        epsilon = curve + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
        epsilon[delta**2 + np.expm1(-curve) > 0] = 0.0
    best = int(np.argmin(epsilon))
    return max(0.0, float(epsilon[best])), float(ORDERS[best])


def delta_from(curve: Floats, epsilon: Floats) -> Floats:
    """The delta [n] that a `curve` over ORDERS proves at each `epsilon` [n]: the same bounds."""
    if not np.isfinite(curve).any():
        return np.ones_like(epsilon)
    known = np.isfinite(curve)
    a, r = ORDERS[known, None], curve[known, None]
    log_delta = (a - 1) * (r - epsilon + np.log1p(-1 / a)) - np.log(a)
    with np.errstate(divide="ignore"):
        log_delta = np.minimum(log_delta, 0.5 * np.log(-np.expm1(-r)))
    return np.asarray(np.exp(np.minimum(0.0, log_delta.min(axis=0))))


def _log_sum(terms: Floats) -> float:
    """log(sum(e^terms))."""
    top = float(terms.max())
    return top + math.log(float(np.exp(terms - top).sum())) if math.isfinite(top) else top


def between(integers: Floats) -> Floats:
    """A curve over ORDERS from its values at INTEGERS: (order - 1) x divergence is convex."""
    growth = np.interp(ORDERS, [1.0, *INTEGERS], [0.0, *((INTEGERS - 1) * integers)])
    return np.asarray(growth / (ORDERS - 1), np.float64)


def gaussian(noise_multiplier: float, orders: Floats) -> Floats:
    """alpha / (2 z^2) (Mironov 2017, Proposition 7); infinite without noise."""
    if noise_multiplier <= 0:
        return np.full_like(orders, np.inf)
    return orders / (2 * noise_multiplier**2)


def randomised_response(kept: float, other: float, labels: int, orders: Floats) -> Floats:
    """Of an answer at random between any two true labels (Mironov 2017, Proposition 5, k-ary)."""
    p, q = math.log(kept), math.log(other)
    terms = [orders * p + (1 - orders) * q, orders * q + (1 - orders) * p]
    if labels > 2:
        terms.append(np.full_like(orders, math.log(labels - 2) + q))
    return np.asarray(np.logaddexp.reduce(terms) / (orders - 1), np.float64)


def discrete_gaussian_sum(event: DiscreteGaussianSum, orders: Floats, factor: int) -> Floats:
    """Kairouz, Liu and Steinke 2021, Theorem 1 with Proposition 14, at each of `orders`.

    Their bound on how far a sum of discrete Gaussians is from one needs a sigma of at least 1/2 for
    each; below that nothing is claimed.
    """
    if event.local_sigma < 0.5:
        return np.full_like(orders, np.inf)
    sigma = math.sqrt(event.summands) * event.local_sigma
    scaled2, scaled1 = factor * event.l2 / sigma, factor * event.l1 / sigma
    tau, dimension = _distance_of_sums(event.summands, event.local_sigma), event.dimension
    by_l1 = orders / 2 * (scaled2**2 + 2 * scaled1 * tau + tau**2 * dimension)
    by_l2 = orders / 2 * (scaled2 + math.sqrt(dimension) * tau) ** 2
    return np.minimum(orders / 2 * scaled2**2 + tau * dimension, np.minimum(by_l1, by_l2))


@lru_cache(maxsize=1024)
def _distance_of_sums(summands: int, sigma: float) -> float:
    """The tau of Theorem 1: how far the sum of discrete Gaussians is from a discrete Gaussian."""
    j = np.arange(1, summands)
    return 10 * float(np.exp(-2 * (math.pi * sigma) ** 2 * j / (j + 1)).sum())


def skellam_sum(event: SkellamSum, orders: Floats, factor: int) -> Floats:
    """Agarwal, Kairouz and Liu 2021: their bound for vectors, at integer `orders`."""
    squared, absolute, variance = (factor * event.l2) ** 2, factor * event.l1, event.variance
    excess = ((2 * orders - 1) * squared + 6 * absolute) / (4 * variance**2)
    excess = np.minimum(excess, 3 * absolute / (2 * variance))
    return np.asarray(orders * squared / (2 * variance) + excess, np.float64)


def poisson_sampled(rate: float, inner: Floats) -> Floats:
    """Zhu and Wang 2019, Theorem 5, at INTEGERS, for any mechanism, add-or-remove-one.

    Args:
        rate: with which each client is drawn, independently.
        inner: the mechanism's divergence at each order from 2 to the largest of INTEGERS.
    """
    at = INTEGERS.astype(int)
    if rate <= 0 or rate >= 1:
        return np.asarray(inner[at - 2] * float(rate > 0), np.float64)
    curve, order = np.empty(len(at)), np.arange(2.0, at[-1] + 1)
    weight = math.log(rate) * order - gammaln(order + 1) + (order - 1) * inner
    weight[1:] += math.log(3)  # without further assumptions on the mechanism
    for i, top in enumerate(at):
        j = order[: top - 1]
        ways = gammaln(top + 1) - gammaln(top - j + 1) + (top - j) * math.log1p(-rate)
        first = (top - 1) * math.log1p(-rate) + math.log1p((top - 1) * rate)
        curve[i] = np.logaddexp(first, _log_sum(ways + weight[: top - 1])) / (top - 1)
    return np.asarray(np.minimum(curve, inner[at - 2]), np.float64)


def _grid(noise: float, below: float, above: float) -> tuple[Floats, Floats]:
    """(points, log weights) of N(0, noise^2), fine enough for the trapezoid rule to be exact.

    The integrands are analytic in a strip of half-width pi noise^2, so an error of
    exp(-2 pi^2 noise^2 / step) is left: nothing.
    """
    step = min(noise / 8, noise**2 / 4)
    x = np.arange(-below - 12 * noise, above + 12 * noise + step, step)
    return x, -(x**2) / (2 * noise**2) + math.log(step / (noise * math.sqrt(2 * math.pi)))


def poisson_gaussian(rate: float, noise: float, relation: Relation) -> Floats:
    """The exact divergence of a Poisson-sampled Gaussian at each of ORDERS, by quadrature.

    Add-or-remove-one: of (1 - q) N(0) + q N(1) from N(0) (Mironov, Talwar and Zhang 2019, Theorem
    5). Replace-one: from (1 - q) N(0) + q N(-1), the pair on which dp_accounting's PLD rests too.
    Closed forms exist for integer orders of the first only.
    """
    replace = relation == "replace_one"
    whole = gaussian(noise / 2 if replace else noise, ORDERS)
    if rate <= 0 or rate >= 1 or noise <= 0:
        return whole if rate > 0 else np.zeros_like(ORDERS)
    curve = whole.copy()
    usable = ORDERS / noise**2 < HOPELESS
    if not usable.any():
        return whole
    reach = 2 if replace else 1
    x, log_weight = _grid(noise, 1.0, reach * float(ORDERS[usable][-1]))
    up = (2 * x - 1) / (2 * noise**2)
    log_upper = _mixture(rate, up)
    log_lower = _mixture(rate, (-2 * x - 1) / (2 * noise**2)) if replace else np.zeros_like(x)
    for i in np.flatnonzero(usable):
        order = ORDERS[i]
        n = int(np.searchsorted(x, reach * order + 12 * noise))
        tilt = order * log_upper[:n] + (1 - order) * log_lower[:n]
        log_a = _log_sum(tilt + log_weight[:n])
        if log_a < 0.1 and not replace:
            log_a = math.log1p(_excess(tilt, order * rate, up[:n], log_weight[:n]))
        curve[i] = max(0.0, log_a) / (order - 1)
    return np.minimum(curve, whole)


def _mixture(rate: float, loss: Floats) -> Floats:
    """log(1 - rate + rate e^loss)."""
    return np.asarray(
        np.where(
            loss < 30,
            np.log1p(rate * np.expm1(np.minimum(loss, 30))),
            np.logaddexp(math.log1p(-rate), math.log(rate) + loss),
        )
    )


def _excess(tilt: Floats, slope: float, loss: Floats, log_weight: Floats) -> float:
    """E[e^tilt] - 1 without cancellation, as E[e^tilt - 1 - slope (e^loss - 1)]; E[e^loss] = 1."""
    small = np.abs(tilt) < 0.5
    near = np.expm1(np.where(small, tilt, 0)) - slope * np.expm1(np.minimum(loss, 700))
    weight = np.exp(log_weight)
    far = np.exp(np.minimum(tilt + log_weight, 700)) - weight
    far -= slope * (np.exp(loss + log_weight) - weight)
    return max(0.0, float(np.where(small, near * weight, far).sum()))


def without_replacement(rate: float, noise: float) -> Floats:
    """Wang, Balle and Kasiviswanathan 2019, Theorem 27, of a Gaussian at INTEGERS, replace-one.

    Args:
        rate: cohort over population.
        noise: standard deviation over the distance by which a replacement can move the sum.
    """
    whole = gaussian(noise, INTEGERS)
    if rate >= 1 or noise <= 0:
        return whole
    top = int(INTEGERS[-1])
    j = np.arange(2.0, top + 1)
    growth = j * (j - 1) / (2 * noise**2)
    terms = math.log(2) + growth
    moments = _even_moments(noise, 256)
    n = 2 * len(moments) - 3  # beyond them the coarser bound 2 E[L^j] stands
    half = j[:n].astype(int) // 2
    middle = (moments[half] + moments[j[:n].astype(int) - half]) / 2
    terms[:n] = np.minimum(terms[:n], math.log(4) + middle)
    terms += j * math.log(rate)
    curve = np.empty(len(INTEGERS))
    for i, order in enumerate(INTEGERS.astype(int)):
        k = j[: order - 1]
        ways = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        curve[i] = np.logaddexp(0.0, _log_sum(ways + terms[: order - 1])) / (order - 1)
    return np.minimum(curve, whole)


def any_without_replacement(rate: float, inner: Floats) -> Floats:
    """The same of any mechanism (there, Theorem 9), from its curve `inner` at EVERY_ORDER.

    Nothing is assumed of how large a single loss may be.
    """
    at = INTEGERS.astype(int)
    if rate <= 0 or rate >= 1:
        return np.asarray(inner[at - 2] * float(rate > 0), np.float64)
    terms = math.log(2) + (EVERY_ORDER - 1) * inner
    with np.errstate(divide="ignore", over="ignore"):
        terms[0] = min(terms[0], math.log(4) + float(np.log(np.expm1(inner[0]))))
    terms += EVERY_ORDER * math.log(rate)
    curve = np.empty(len(at))
    for i, top in enumerate(at):
        j = EVERY_ORDER[: top - 1]
        ways = gammaln(top + 1) - gammaln(j + 1) - gammaln(top - j + 1)
        curve[i] = np.logaddexp(0.0, _log_sum(ways + terms[: top - 1])) / (top - 1)
    return np.asarray(np.minimum(curve, inner[at - 2]), np.float64)


def _even_moments(noise: float, top: int) -> Floats:
    """log E[(L - 1)^(2k)] for k from 0 to top / 2, of a Gaussian's likelihood ratio L."""
    top = max(2, min(top, int(HOPELESS * noise**2) // 2 * 2))
    x, log_weight = _grid(noise, 1.0, float(top))
    loss = (2 * x - 1) / (2 * noise**2)
    with np.errstate(divide="ignore"):
        log_gap = np.where(loss > 30, loss, np.log(np.abs(np.expm1(np.minimum(loss, 30)))))
    moments = [0.0]
    for k in range(1, top // 2 + 1):
        moments.append(_log_sum(2 * k * log_gap + log_weight))
    return np.array(moments)

"""The whole privacy curve of what was paid: the figures beside one epsilon that a certificate has.

One (epsilon, delta) says little about an attacker who is content with few sure hits. Beside it
stand epsilon at other deltas, the power of the best membership test at a low false positive rate,
and the one number of Gaussian differential privacy, with how far it is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import (
    AccountantName,
    account,
    loss_directions,
    merged,
    renyi_of,
)
from codex_ray.privacy.events import Entries, Relation, has_loss_distribution
from codex_ray.privacy.renyi import Floats, delta_from

FALSE_POSITIVE_RATES = (0.001, 0.01)
DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10)
_RATES = np.geomspace(1e-6, 0.5, 200)


@dataclass(frozen=True)
class PrivacyCurve:
    """What the composed events say about one holder, as upper bounds on any attack.

    Attributes:
        accountant: which one gave the figures, in words.
        epsilons: (delta, epsilon) pairs.
        true_positive_rates: (false positive rate, largest true positive rate) pairs.
        mu: the least mu for which mu-GDP holds as far as false positive rates of `mu_floor`.
        mu_floor: nothing is claimed of mu at lower rates.
        mu_excess: by how much the true positive rate of this mu exceeds that of the curve at most:
            where it is below 0.01, mu alone tells the whole story (Gomez et al. 2025,
            arXiv:2503.10945).
        rho: of zero-concentrated privacy; None unless everything was plain Gaussian noise.
    """

    accountant: str
    epsilons: tuple[tuple[float, float], ...]
    true_positive_rates: tuple[tuple[float, float], ...]
    mu: float
    mu_floor: float
    mu_excess: float
    rho: float | None

    def to_json(self) -> dict[str, Any]:
        """The curve as plain data."""
        return asdict(self)


def privacy_curve(
    entries: Entries,
    delta: float,
    *,
    relation: Relation = "add_or_remove_one",
    accountant: AccountantName = "pld",
    deltas: Sequence[float] = DELTAS,
) -> PrivacyCurve:
    """The curve of `entries`, by the accountant and grid with which epsilon is found at `delta`.

    Raises:
        PrivacyError: as `account`; or there is no noise, and so no curve.
    """
    found = account(entries, delta, relation=relation, accountant=accountant)
    if math.isinf(found.epsilon):
        raise PrivacyError("without noise there is no privacy curve: every attack succeeds")
    wanted = sorted({*deltas, delta}, reverse=True)
    costs = [account(entries, d, relation=relation, accountant=accountant).epsilon for d in wanted]
    epsilons, profile = _profile(entries, relation, found.discretisation)
    rates = _power(epsilons, profile, _RATES)
    mu = max(0.0, float(np.max(ndtri(rates) - ndtri(_RATES))))
    return PrivacyCurve(
        accountant=found.words,
        epsilons=tuple(zip(wanted, costs, strict=True)),
        true_positive_rates=tuple(
            (rate, float(_power(epsilons, profile, np.array([rate]))[0]))
            for rate in FALSE_POSITIVE_RATES
        ),
        mu=mu,
        mu_floor=float(_RATES[0]),
        mu_excess=max(0.0, float(np.max(ndtr(ndtri(_RATES) + mu) - rates))),
        rho=zcdp_rho(entries, relation),
    )


def zcdp_rho(entries: Entries, relation: Relation = "add_or_remove_one") -> float | None:
    """The rho of zero-concentrated privacy (Bun and Steinke 2016); None unless all is Gaussian."""
    import dp_accounting as dp

    entries = merged(entries)
    if not entries:
        return 0.0
    if len(entries) > 1 or not isinstance(entries[0][0], dp.GaussianDpEvent):
        return None
    noise = entries[0][0].noise_multiplier
    if noise <= 0:
        return math.inf
    return float((1 if relation == "add_or_remove_one" else 4) / (2 * noise**2))


def _profile(
    entries: Entries, relation: Relation, discretisation: float | None
) -> tuple[Floats, Floats]:
    """(epsilons, deltas): the larger delta of both directions at each epsilon."""
    entries = merged(entries)
    if discretisation is None or not all(has_loss_distribution(event) for event, _ in entries):
        curve = renyi_of(entries, relation)
        epsilons = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, 2000)])
        return epsilons, np.minimum(1.0, delta_from(curve, epsilons))
    if not entries:
        return np.zeros(1), np.zeros(1)
    profiles = [way.deltas() for way in loss_directions(entries, relation, discretisation)]
    epsilons = max((grid for grid, _ in profiles), key=len)
    together = np.max(
        [np.interp(epsilons, grid, deltas, right=deltas[-1]) for grid, deltas in profiles], axis=0
    )
    return epsilons, np.clip(together, 0.0, 1.0)


def _power(epsilons: Floats, deltas: Floats, rates: Floats) -> Floats:
    """The largest true positive rate [k] of any test at each false positive rate [k].

    Every (epsilon, delta) bounds it from two sides (Kairouz, Oh and Viswanath 2015): by
    delta + e^epsilon rate, and by 1 - e^-epsilon (1 - delta - rate).
    """
    power = np.ones_like(rates)
    for i, rate in enumerate(rates):
        first = deltas + np.exp(np.minimum(epsilons, 700)) * rate
        second = 1 - np.exp(-epsilons) * (1 - deltas - rate)
        power[i] = min(1.0, float(first.min()), float(second.min()))
    return power

"""Which accountant gives an epsilon: the exact one wherever there is one, Renyi bounds elsewhere.

Two are ours to choose from, `pld` and `rdp`; `pld` is the default, and a ledger that holds one
event whose loss distribution is unknown (distributed noise, sampling without replacement) is
accounted by `rdp` as a whole, and says so. The Renyi bound is also the cross-check of the other:
an exact epsilon above an upper bound shows that the grid, and not the mechanism, makes the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from codex_ray.errors import PrivacyError
from codex_ray.privacy.events import (
    Entries,
    Relation,
    answers,
    check_relation,
    event_in_words,
    has_loss_distribution,
    parts_of,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from codex_ray.privacy.losses import Directions
    from codex_ray.privacy.renyi import Floats

AccountantName: TypeAlias = Literal["pld", "rdp"]

DISCRETISATIONS = (1e-3, 1e-4, 1e-5)
GRID_SHARE = 1.01
"""How much of the Renyi divergence the grid may add before a finer one is taken."""

LARGEST = 10_000.0
"""An epsilon above this promises nothing; its losses would need gigabytes of grid."""
NEGLIGIBLE = 1e-3
"""An epsilon that lies less than this above the bound is an upper bound like any other."""

_REFUSED: Mapping[str, str] = {
    "gdp": "its central limit under-reports (1.62 where the truth is 1.83)",
    "prv": "it is a second opinion in the tests, and needs Opacus",
}


def accountant_named(name: str) -> AccountantName:
    """`name`, if it is an accountant's.

    Raises:
        PrivacyError: it is not.
    """
    if name in ("pld", "rdp"):
        return cast("AccountantName", name)
    why = _REFUSED.get(name.lower(), "there is no such accountant")
    raise PrivacyError(f"accountant {name!r}: {why}; use pld (exact where possible) or rdp")


@dataclass(frozen=True)
class Account:
    """An epsilon, and how it was found.

    Attributes:
        epsilon: of everything together; infinite without noise.
        accountant: which one gave it.
        discretisation: the grid of losses, where there was one.
        order: the order at which the Renyi bound is smallest.
        bound: the epsilon that this bound proves, the cross-check.
    """

    epsilon: float
    accountant: AccountantName
    discretisation: float | None
    order: float
    bound: float

    @property
    def words(self) -> str:
        """Which accountant gave the epsilon, with its version and grid."""
        if self.discretisation is None:
            return rdp_in_words()
        return accountant_in_words(self.discretisation)


def accountant_in_words(discretisation: float = DISCRETISATIONS[0]) -> str:
    """The exact accountant, with what its numbers are tested against and its grid."""
    return (
        f"PLD (checked against dp-accounting {version('dp-accounting')}, "
        f"discretisation {discretisation:g})"
    )


def rdp_in_words() -> str:
    """The accountant of Renyi bounds: an upper bound that is not tight."""
    return "RDP (Renyi bounds, an upper bound that is not tight)"


def account(
    entries: Entries,
    delta: float,
    *,
    relation: Relation = "add_or_remove_one",
    accountant: AccountantName = "pld",
) -> Account:
    """What the composed `entries` cost at `delta`.

    Where the exact accountant applies, its grid is refined by tens for as long as it comes out
    above the Renyi bound, or adds more than 1 % to the divergence at the bound's own order.

    Raises:
        PrivacyError: an event cannot be accounted under the relation; the accountant is unknown;
            at the finest grid the exact epsilon lies more than 1 % above the bound.
    """
    name = accountant_named(accountant)
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta:g}: it must lie between 0 and 1")
    return _account(merged(entries), delta, relation, name)


@lru_cache(maxsize=4096)
def _account(entries: Entries, delta: float, relation: Relation, name: AccountantName) -> Account:
    from codex_ray.privacy.renyi import ORDERS, epsilon_from

    curve = renyi_of(entries, relation)
    bound, order = epsilon_from(curve, delta)
    exact = name == "pld" and all(has_loss_distribution(event) for event, _ in entries)
    if not exact or bound > LARGEST:
        return Account(bound, "rdp", None, order, bound)
    if bound == 0 or math.isinf(bound):
        return Account(bound, "pld", DISCRETISATIONS[0], order, bound)
    proved = float(curve[np.searchsorted(ORDERS, order)])
    for step in DISCRETISATIONS:
        epsilon, divergence = _by_losses(entries, delta, relation, step, order)
        if epsilon <= bound and divergence <= GRID_SHARE * proved:
            break
    if epsilon > allowed(bound):
        raise PrivacyError(
            f"PLD gives epsilon {epsilon:.4f} where RDP proves {bound:.4f}: no discretisation down "
            f"to {step:g} is fine enough for this ledger: account it by rdp"
        )
    return Account(epsilon, "pld", step, order, bound)


def allowed(bound: float) -> float:
    """The largest exact epsilon that is reported beside this Renyi bound."""
    return max(bound * 1.01, bound + NEGLIGIBLE)


def renyi_of(entries: Entries, relation: Relation = "add_or_remove_one") -> Floats:
    """An upper bound on the Renyi divergence of the composed `entries`, at each of ORDERS."""
    from codex_ray.privacy.renyi import ORDERS, renyi_curve

    total = np.zeros_like(ORDERS)
    for event, count in entries:
        total = total + count * renyi_curve(event, relation)
    return total


def loss_directions(entries: Entries, relation: Relation, step: float) -> Directions:
    """The composed losses of `entries`: of removing and adding, or one where they are the same."""
    from codex_ray.privacy.losses import compose

    parts = [(_losses(event, relation, step), count) for event, count in entries]
    ways = max(len(directions) for directions, _ in parts)
    return tuple(
        compose([(directions[min(way, len(directions) - 1)], count) for directions, count in parts])
        for way in range(ways)
    )


def _losses(event: DpEvent, relation: Relation, step: float) -> Directions:
    import dp_accounting as dp

    from codex_ray.privacy.losses import randomised_response, sampled_gaussian

    check_relation(event, relation)
    if isinstance(event, dp.GaussianDpEvent):
        return sampled_gaussian(1.0, event.noise_multiplier, relation, step)
    if isinstance(event, dp.RandomizedResponseDpEvent):
        return randomised_response(*answers(event), step)
    rate, noise = event.sampling_probability, event.event.noise_multiplier
    return sampled_gaussian(rate, noise, relation, step)


def _by_losses(
    entries: Entries, delta: float, relation: Relation, step: float, order: float
) -> tuple[float, float]:
    """(epsilon, Renyi divergence at `order`) of the composed losses on a grid of `step`."""
    parts = [(_losses(event, relation, step), count) for event, count in entries]
    divergence = sum(count * max(way.renyi(order) for way in ways) for ways, count in parts)
    composed = loss_directions(entries, relation, step)
    return max(losses.epsilon(delta) for losses in composed), divergence


def merged(entries: Entries) -> Entries:
    """The same composition in its parts, all plain Gaussians as one, without what costs nothing.

    Gaussians compose exactly: the squares of 1 / noise multiplier add up.
    """
    import dp_accounting as dp

    kept: dict[DpEvent, int] = {}
    squares = 0.0
    for event, count in ((part, count) for whole, count in entries for part in parts_of(whole)):
        if count < 0:
            raise PrivacyError(f"{event_in_words(event)} was paid {count} times: no such count")
        inner = event
        if isinstance(event, dp.PoissonSampledDpEvent):
            if event.sampling_probability == 0:
                continue
            if event.sampling_probability == 1:
                inner = event.event
        if count == 0:
            continue
        if isinstance(inner, dp.GaussianDpEvent):
            noise = inner.noise_multiplier
            squares += count / noise**2 if noise > 0 else math.inf
        else:
            kept[inner] = kept.get(inner, 0) + count
    if squares:
        kept[dp.GaussianDpEvent(1 / math.sqrt(squares))] = 1
    return tuple(sorted(kept.items(), key=lambda item: repr(item[0])))

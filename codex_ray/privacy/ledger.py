"""The ledger: which events each holder of data has paid, and the epsilon that they add up to.

There is one ledger for each unit (record or client), and they are never merged: the two say
different things about different people. The reported epsilon is that of dp_accounting's PLD
accountant; its RDP accountant, which composes by adding, is the cheap first answer to whether a
budget holds, and the cross-check. RDP
never reports less than PLD.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.errors import PrivacyError
from codex_ray.privacy.events import event_from_json, event_in_words, event_to_json, flatten
from codex_ray.types import ClientId

if TYPE_CHECKING:
    from dp_accounting import DpEvent

DISCRETISATIONS = (1e-3, 1e-4, 1e-5)
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)
"""Integer orders have a closed form; fractional ones are slow, and do not always converge."""
EVERYONE = -1
"""The holder of a client-level ledger: one entry stands for every client alike."""

Unit = Literal["record", "client"]
Entries: TypeAlias = "tuple[tuple[DpEvent, int], ...]"


def accountant_in_words(discretisation: float = DISCRETISATIONS[0]) -> str:
    """Which accountant gave an epsilon, with its version and grid."""
    return f"PLD (dp-accounting {version('dp-accounting')}, discretisation {discretisation:g})"


@dataclass(frozen=True)
class PrivacySpend:
    """What one holder has spent, and every word that the number needs beside it."""

    unit: Unit
    client: ClientId | None
    epsilon: float
    delta: float
    accountant: str
    neighbouring_relation: str
    sampling: str
    releases: int
    assumptions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The spend as plain data."""
        return asdict(self)


@lru_cache(maxsize=4096)
def accounted(entries: Entries, delta: float) -> tuple[float, float]:
    """(epsilon, discretisation) of the composed `entries` at `delta`, add-or-remove-one, by PLD.

    The discretisation is refined by tens for as long as PLD comes out above RDP, which is an upper
    bound itself: then the grid, and not the mechanism, makes the number. Infinite without noise.

    Raises:
        PrivacyError: at the finest grid the two still disagree by more than 1 %.
    """
    bound = epsilon_bound(entries, delta)
    for discretisation in DISCRETISATIONS:
        epsilon = _pld(entries, delta, discretisation)
        if epsilon <= bound * 1.01:
            return epsilon, discretisation
    raise PrivacyError(
        f"PLD gives epsilon {epsilon:.4f} where RDP proves {bound:.4f}: no discretisation down to "
        f"{discretisation:g} is fine enough for this ledger"
    )


def epsilon_of(entries: Entries, delta: float) -> float:
    """The epsilon that is reported for `entries`: see `accounted`."""
    return accounted(entries, delta)[0] if entries else 0.0


def _pld(entries: Entries, delta: float, discretisation: float) -> float:
    from dp_accounting import NeighboringRelation  # slow to import, and hosts never account
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, discretisation)
    for event, count in entries:
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def _rdp_curve(event: DpEvent) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(event)
    return np.asarray(accountant.orders), np.asarray(accountant.rdp)


def epsilon_bound(entries: Entries, delta: float) -> float:
    """The RDP epsilon of the same composition: an upper bound that is cheap to have."""
    from dp_accounting.rdp import compute_epsilon

    if not entries:
        return 0.0
    orders = _rdp_curve(entries[0][0])[0]
    total = np.sum([count * _rdp_curve(event)[1] for event, count in entries], axis=0)
    return float(compute_epsilon(orders, total, delta)[0])


def _within(counts: frozenset[tuple[DpEvent, int]], other: frozenset[tuple[DpEvent, int]]) -> bool:
    """Whether nobody with `counts` has spent more than somebody with `other`."""
    more = dict(other)
    return all(count <= more.get(event, 0) for event, count in counts)


@dataclass
class Ledger:
    """How often each holder has paid each event.

    Attributes:
        unit: what one entry protects.
        delta: the delta at which epsilon is stated.
        paid: holder -> event -> count. A client-level ledger has the one holder `EVERYONE`.
    """

    unit: Unit
    delta: float
    paid: dict[ClientId, dict[DpEvent, int]] = field(default_factory=dict)

    def entries(self, holder: ClientId, *, extra: DpEvent | None = None) -> Entries:
        """The holder's events and counts, with `extra` once more, as they were first paid."""
        counts = dict(self.paid.get(holder, {}))
        if extra is not None:
            event, times = flatten(extra)
            counts[event] = counts.get(event, 0) + times
        return tuple(counts.items())

    def affords(self, event: DpEvent, holders: Iterable[ClientId], budget: float) -> bool:
        """Whether every holder could pay `event` once more and stay within the epsilon `budget`."""
        for entries in {self.entries(holder, extra=event) for holder in holders}:
            # The reported epsilon may lie a hundredth above the bound, and it is what must fit.
            if epsilon_bound(entries, self.delta) * 1.01 <= budget:
                continue
            if epsilon_of(entries, self.delta) > budget:
                return False
        return True

    def charge(self, event: DpEvent, holders: Iterable[ClientId]) -> None:
        """Writes down that each of `holders` has paid `event`."""
        inner, times = flatten(event)
        for holder in holders:
            counts = self.paid.setdefault(holder, {})
            counts[inner] = counts.get(inner, 0) + times

    def largest(self) -> float:
        """The epsilon of the holder who has spent most; 0 while nobody has paid."""
        all_counts = {frozenset(counts.items()) for counts in self.paid.values()}
        most = [
            tuple(sorted(counts, key=repr))
            for counts in all_counts
            if not any(counts != other and _within(counts, other) for other in all_counts)
        ]
        return max((epsilon_of(entries, self.delta) for entries in most), default=0.0)

    def spends(
        self, holders: Iterable[ClientId], *, assumptions: tuple[str, ...]
    ) -> list[PrivacySpend]:
        """The reported spend of each holder, in increasing order.

        Raises:
            PrivacyError: no discretisation is fine enough.
        """
        return [self._spend(holder, assumptions) for holder in sorted(holders)]

    def _spend(self, holder: ClientId, assumptions: tuple[str, ...]) -> PrivacySpend:
        entries = self.entries(holder)
        epsilon, grid = accounted(entries, self.delta) if entries else (0.0, DISCRETISATIONS[0])
        sampling = "; ".join(f"{count} x {event_in_words(event)}" for event, count in entries)
        return PrivacySpend(
            unit=self.unit,
            client=None if holder == EVERYONE else holder,
            epsilon=epsilon,
            delta=self.delta,
            accountant=accountant_in_words(grid),
            neighbouring_relation="add_or_remove_one",
            sampling=sampling or "nothing released",
            releases=sum(count for _, count in entries),
            assumptions=assumptions,
        )

    def worst(self) -> Ledger:
        """A ledger of one holder, who has paid each event as often as anyone has."""
        counts: dict[DpEvent, int] = {}
        for paid in self.paid.values():
            for event, count in paid.items():
                counts[event] = max(count, counts.get(event, 0))
        return Ledger(self.unit, self.delta, {EVERYONE: counts})

    def to_json(self) -> dict[str, Any]:
        """The ledger as plain data, for a checkpoint."""
        return {
            "unit": self.unit,
            "delta": self.delta,
            "paid": [
                [holder, [[event_to_json(e), n] for e, n in counts.items()]]
                for holder, counts in sorted(self.paid.items())
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        """The ledger that `to_json` wrote."""
        paid = {
            int(holder): {event_from_json(e): int(n) for e, n in counts}
            for holder, counts in data["paid"]
        }
        return cls(data["unit"], float(data["delta"]), paid)

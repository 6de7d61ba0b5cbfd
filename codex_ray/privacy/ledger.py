"""The ledger: which events each holder of data has paid, and the epsilon that they add up to.

There is one ledger for each unit (record or client), and they are never merged: the two say
different things about different people. How an epsilon is found is told in `accountants`: exactly
(PLD) where that can be done, by Renyi bounds (RDP) elsewhere. The Renyi bound, which composes by
adding, is also the running meter: the cheap first answer to whether a budget holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from codex_ray.privacy.accountants import (
    AccountantName,
    account,
    accountant_in_words,
    accountant_named,
    allowed,
    renyi_of,
)
from codex_ray.privacy.events import (
    Entries,
    Relation,
    check_relation,
    event_from_json,
    event_in_words,
    event_to_json,
    flatten,
)
from codex_ray.privacy.payments import Payments
from codex_ray.types import ClientId

if TYPE_CHECKING:
    from dp_accounting import DpEvent

__all__ = ["EVERYONE", "Ledger", "PrivacySpend", "Unit", "accountant_in_words", "accounted"]

EVERYONE = -1
"""The holder of a client-level ledger: one entry stands for every client alike."""

APART = 1000
"""Up to so many holders are written down each for itself."""

Unit = Literal["record", "client"]


@dataclass(frozen=True)
class PrivacySpend:
    """What a holder has spent, and every word that the number needs beside it.

    Attributes:
        client: the holder; None where this stands for several, or for everyone.
        clients: how many have spent just this, where they are too many to be told apart.
    """

    unit: Unit
    client: ClientId | None
    epsilon: float
    delta: float
    accountant: str
    neighbouring_relation: str
    sampling: str
    releases: int
    assumptions: tuple[str, ...] = ()
    clients: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The spend as plain data."""
        found = asdict(self)
        if self.clients is None:
            del found["clients"]
        return found


def accounted(
    entries: Entries, delta: float, *, relation: Relation = "add_or_remove_one"
) -> tuple[float, float | None]:
    """(epsilon, discretisation or None) of the composed `entries` at `delta`: see `account`."""
    found = account(entries, delta, relation=relation)
    return found.epsilon, found.discretisation


def epsilon_of(
    entries: Entries,
    delta: float,
    *,
    relation: Relation = "add_or_remove_one",
    accountant: AccountantName = "pld",
) -> float:
    """The epsilon that is reported for `entries`: see `account`."""
    return account(entries, delta, relation=relation, accountant=accountant).epsilon


def epsilon_bound(
    entries: Entries, delta: float, *, relation: Relation = "add_or_remove_one"
) -> float:
    """The RDP epsilon of the same composition: an upper bound that is cheap to have."""
    from codex_ray.privacy.renyi import epsilon_from

    return epsilon_from(renyi_of(entries, relation), delta)[0] if entries else 0.0


def _with(history: Entries, extra: DpEvent) -> Entries:
    """The history after `extra` was paid once more."""
    event, times = flatten(extra)
    counts = dict(history)
    counts[event] = counts.get(event, 0) + times
    return tuple(counts.items())


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
        paid: holder -> event -> count. A client-level ledger has the one holder `EVERYONE`; others
            may have a million.
        relation: what counts as a neighbour; an event that is not known under it is refused.
        accountant: `pld`, or `rdp` for Renyi bounds throughout.

    Raises:
        PrivacyError: no accountant has that name.
    """

    unit: Unit
    delta: float
    paid: Payments = field(default_factory=Payments)
    relation: Relation = "add_or_remove_one"
    accountant: AccountantName = "pld"

    def __post_init__(self) -> None:
        """Refuses an accountant that there is not."""
        accountant_named(self.accountant)

    def entries(self, holder: ClientId, *, extra: DpEvent | None = None) -> Entries:
        """The holder's events and counts, with `extra` once more, as they were first paid."""
        history = self.paid.history(holder)
        return history if extra is None else _with(history, extra)

    def affords(self, event: DpEvent, holders: Iterable[ClientId], budget: float) -> bool:
        """Whether every holder could pay `event` once more and stay within the epsilon `budget`."""
        for entries in {_with(history, event) for history in self.paid.different(holders)}:
            # The reported epsilon may lie a little above the bound, and it is what must fit.
            if allowed(epsilon_bound(entries, self.delta, relation=self.relation)) <= budget:
                continue
            if self._epsilon(entries) > budget:
                return False
        return True

    def charge(self, event: DpEvent, holders: Iterable[ClientId]) -> None:
        """Writes down that each of `holders` has paid `event`.

        Raises:
            PrivacyError: nothing is known of the event under the ledger's relation.
        """
        inner, times = flatten(event)
        check_relation(inner, self.relation)
        self.paid.charge(inner, times, holders)

    def largest(self) -> float:
        """The epsilon of the holder who has spent most; 0 while nobody has paid."""
        all_counts = {frozenset(history) for history in self.paid.different()}
        most = [
            tuple(sorted(counts, key=repr))
            for counts in all_counts
            if not any(counts != other and _within(counts, other) for other in all_counts)
        ]
        return max((self._epsilon(entries) for entries in most), default=0.0)

    def _epsilon(self, entries: Entries) -> float:
        return account(
            entries, self.delta, relation=self.relation, accountant=self.accountant
        ).epsilon

    def spends(
        self, holders: Iterable[ClientId], *, assumptions: tuple[str, ...]
    ) -> list[PrivacySpend]:
        """The reported spend of each holder, in increasing order.

        Raises:
            PrivacyError: no discretisation is fine enough.
        """
        return [
            self._spend(self.entries(holder), None if holder == EVERYONE else holder, assumptions)
            for holder in sorted(holders)
        ]

    def spends_of_all(self, population: int, *, assumptions: tuple[str, ...]) -> list[PrivacySpend]:
        """The reported spend of each of so many clients; of each history, where they are many.

        Raises:
            PrivacyError: no discretisation is fine enough.
        """
        if population <= APART:
            return self.spends(range(population), assumptions=assumptions)
        groups = [(history, len(holders)) for history, holders in self.paid.groups()]
        rest = population - sum(count for _, count in groups)
        found = [
            replace(self._spend(history, None, assumptions), clients=count)
            for history, count in [*groups, *([((), rest)] if rest else [])]
        ]
        return sorted(found, key=lambda spend: (spend.epsilon, spend.sampling))

    def _spend(
        self, entries: Entries, client: ClientId | None, assumptions: tuple[str, ...]
    ) -> PrivacySpend:
        found = account(entries, self.delta, relation=self.relation, accountant=self.accountant)
        sampling = "; ".join(f"{count} x {event_in_words(event)}" for event, count in entries)
        return PrivacySpend(
            unit=self.unit,
            client=client,
            epsilon=found.epsilon,
            delta=self.delta,
            accountant=found.words,
            neighbouring_relation=self.relation,
            sampling=sampling or "nothing released",
            releases=sum(count for _, count in entries),
            assumptions=assumptions,
        )

    def worst(self) -> Ledger:
        """A ledger of one holder, who has paid each event as often as anyone has."""
        counts: dict[DpEvent, int] = {}
        for history in self.paid.different():
            for event, count in history:
                counts[event] = max(count, counts.get(event, 0))
        everyone = Payments({EVERYONE: counts})
        return Ledger(self.unit, self.delta, everyone, self.relation, self.accountant)

    def to_json(self) -> dict[str, Any]:
        """The ledger as plain data, for a checkpoint.

        Each holder has a line of its own, or, where there are more than APART, shares one with all
        who have paid the same.
        """
        lines: list[tuple[ClientId | list[ClientId], Entries]]
        if len(self.paid) <= APART:
            lines = [(holder, self.paid.history(holder)) for holder in self.paid]
        else:
            lines = [(holders, history) for history, holders in self.paid.groups()]
        return {
            "unit": self.unit,
            "delta": self.delta,
            "relation": self.relation,
            "accountant": self.accountant,
            "paid": [
                [holders, [[event_to_json(e), n] for e, n in history]] for holders, history in lines
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        """The ledger that `to_json` wrote."""
        paid = Payments()
        for holders, counts in data["paid"]:
            history = tuple((event_from_json(e), int(n)) for e, n in counts)
            paid.set(history, holders if isinstance(holders, list) else [int(holders)])
        relation = data.get("relation", "add_or_remove_one")
        return cls(
            data["unit"], float(data["delta"]), paid, relation, data.get("accountant", "pld")
        )

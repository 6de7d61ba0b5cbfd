"""The ledgers once more, from what rounds.jsonl tells of each round and nothing else.

Where a claim rests on nobody knowing who was in a cohort, the lines do not tell. A ledger in which
everyone pays for every round follows from them all the same; of one in which only the cohort pays,
what is published is the most that anyone has paid of each event, and the lines bound that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from codex_ray.certifying.terms import Terms, published
from codex_ray.federation.charges import Charge
from codex_ray.privacy.events import event_in_words, flatten
from codex_ray.privacy.ledger import EVERYONE, Ledger

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Line = dict[str, Any]


@dataclass
class Bounds:
    """The fewest and the most times that whoever has paid most can have paid each event."""

    least: dict[DpEvent, int] = field(default_factory=dict)
    most: dict[DpEvent, int] = field(default_factory=dict)

    def breach(self, ledger: Ledger) -> str | None:
        """Why the published `ledger` cannot be; None if it can."""
        paid = ledger.paid.get(EVERYONE, {})
        if ledger.paid.keys() - {EVERYONE}:
            return "it tells who paid, where that is to stay hidden"
        for event in {**self.most, **paid}:
            count = paid.get(event, 0)
            low, high = self.least.get(event, 0), self.most.get(event, 0)
            if not low <= count <= high:
                return (
                    f"{event_in_words(event)} was paid {count} times, and the rounds allow "
                    f"{low} to {high}"
                )
        return None


def charges_of(lines: Sequence[Line], unsettled: Sequence[Line]) -> list[Line]:
    """Everything that was charged, in order: of each round, and of one that never ended."""
    return [paid for line in lines for paid in line["charged"]] + list(unsettled)


def rebuilt(terms: Terms, charged: Sequence[Line]) -> list[Ledger | Bounds]:
    """Each claim's ledger after all of `charged`, or what bounds it where the payers are hidden."""
    return [
        _ledger(charge, ledger, charged)
        if charge.hidden or all(paid["members"] is not None for paid in charged)
        else _bounds(charge, charged, terms=terms)
        for charge, ledger in zip(terms.charges, terms.fresh_ledgers(), strict=True)
    ]


def differences(terms: Terms, charged: Sequence[Line], shown: Sequence[Ledger]) -> list[str]:
    """How the ledgers that are `shown` differ from what was charged; none if they do not."""
    again = rebuilt(terms, charged)
    if len(again) != len(shown):
        return [f"there are {len(shown)} ledgers, and the configuration makes {len(again)} claims"]
    found = []
    for number, (mine, theirs) in enumerate(zip(again, shown, strict=True)):
        if isinstance(mine, Ledger):
            wrong = _first_difference(published(terms, [mine])[0], theirs)
        else:
            fresh = terms.fresh_ledgers()[number]
            wrong = _first_difference(replace(fresh, paid=theirs.paid), theirs)
            wrong = wrong or mine.breach(theirs)
        if wrong is not None:
            found.append(f"ledgers.{number} ({terms.charges[number].claim.label}): {wrong}")
    return found


def _ledger(charge: Charge, ledger: Ledger, charged: Sequence[Line]) -> Ledger:
    events: dict[int | None, DpEvent] = {}
    for paid in charged:
        if not charge.owed(ledger):
            break
        survivors = paid["survivors"]
        if survivors not in events:
            events[survivors] = charge.event(survivors)
        ledger.charge(events[survivors], charge.holders(tuple(paid["members"] or ())))
    return ledger


def _bounds(charge: Charge, charged: Sequence[Line], *, terms: Terms) -> Bounds:
    """Nobody can have paid more often than there was something to pay; on average all did less."""
    clients: dict[DpEvent, int] = {}
    found = Bounds()
    if terms.figures is not None:
        event, times = flatten(terms.figures)  # Everybody has paid for those.
        found.most[event], clients[event] = times, times * terms.population
    events: dict[int | None, tuple[DpEvent, int]] = {}
    for paid in charged:
        survivors = paid["survivors"]
        if survivors not in events:
            events[survivors] = flatten(charge.event(survivors))
        event, times = events[survivors]
        if paid["clients"]:
            found.most[event] = found.most.get(event, 0) + times
            clients[event] = clients.get(event, 0) + times * paid["clients"]
    found.least = {event: math.ceil(count / terms.population) for event, count in clients.items()}
    return found


def _first_difference(wanted: Ledger, shown: Ledger) -> str | None:
    """The first thing in which a ledger is not what it should be; None if it is."""
    for name in ("unit", "delta", "relation", "accountant"):
        mine, theirs = getattr(wanted, name), getattr(shown, name)
        if mine != theirs:
            return f"{name} is {theirs!r}, and the configuration makes it {mine!r}"
    for holder in sorted({*wanted.paid, *shown.paid}):
        mine, theirs = wanted.paid.get(holder, {}), shown.paid.get(holder, {})
        if mine != theirs:
            who = "everyone" if holder == EVERYONE else f"client {holder}"
            return f"{who} has paid {_in_words(theirs)}, and the rounds make it {_in_words(mine)}"
    return None


def _in_words(paid: dict[DpEvent, int]) -> str:
    return " + ".join(f"{n} x ({event_in_words(e)})" for e, n in paid.items()) or "nothing"

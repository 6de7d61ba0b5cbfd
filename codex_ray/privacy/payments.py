"""Who has paid which events how often, for as many holders as there are clients.

A holder's payments are a history, and holders with the same one share it: a million clients are a
million small numbers, which are copied in a millisecond, and a few dozen histories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.privacy.events import Entries
from codex_ray.types import ClientId

if TYPE_CHECKING:
    from dp_accounting import DpEvent

NOTHING: Final = 0
"""The number of the history in which nothing was paid."""
SPARE: Final = 64
"""Histories that nobody has any more are forgotten when there are more of them than of others,
and than so many."""
_FIRST: Final = -1
"""The least number of a holder: everyone's entry."""


class Payments(Mapping[ClientId, "dict[DpEvent, int]"]):
    """Holder -> event -> count, read like a dictionary of those who have paid anything."""

    def __init__(self, paid: Mapping[ClientId, Mapping[DpEvent, int]] | None = None) -> None:
        """What `paid` says; nothing by default."""
        self._histories: list[Entries] = [()]
        self._numbers: dict[Entries, int] = {(): NOTHING}
        self._of: npt.NDArray[np.int32] = np.zeros(2, dtype=np.int32)
        for holder, counts in (paid or {}).items():
            self.set(tuple(counts.items()), [holder])

    def __getitem__(self, holder: ClientId) -> dict[DpEvent, int]:
        """The holder's counts, as a copy."""
        history = self.history(holder)
        if not history:
            raise KeyError(holder)
        return dict(history)

    def __iter__(self) -> Iterator[ClientId]:
        """Everyone who has paid, in increasing order."""
        return iter((np.flatnonzero(self._of) + _FIRST).tolist())

    def __len__(self) -> int:
        """How many have paid."""
        return int(np.count_nonzero(self._of))

    def __contains__(self, holder: object) -> bool:
        """Whether that holder has paid anything."""
        return isinstance(holder, int) and bool(self.history(holder))

    def __deepcopy__(self, memo: dict[int, Any]) -> Payments:
        """A copy to write to; histories are never changed, and stay shared."""
        copy = Payments()
        copy._histories, copy._numbers = list(self._histories), dict(self._numbers)
        copy._of = self._of.copy()
        return copy

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} holders)"

    def history(self, holder: ClientId) -> Entries:
        """The holder's events and counts, as they were first paid."""
        place = holder - _FIRST
        return self._histories[self._of[place]] if 0 <= place < len(self._of) else ()

    def different(self, holders: Iterable[ClientId] | None = None) -> list[Entries]:
        """The histories of `holders`, each once; of all who have paid, where none are named."""
        if holders is None:
            numbers = np.setdiff1d(self._of, [NOTHING])
        else:
            places = self._places(holders)
            numbers = np.unique(self._of[places])
        return [self._histories[number] for number in numbers]

    def groups(self) -> Iterator[tuple[Entries, list[ClientId]]]:
        """(history, its holders in increasing order), by the first of them."""
        payers = np.flatnonzero(self._of)
        order = np.argsort(self._of[payers], kind="stable")
        starts = np.flatnonzero(np.diff(self._of[payers][order], prepend=NOTHING))
        alike = np.split(payers[order], starts[1:]) if len(starts) else []
        for group in sorted(alike, key=lambda some: int(some[0])):
            yield self._histories[self._of[group[0]]], (group + _FIRST).tolist()

    def charge(self, event: DpEvent, times: int, holders: Iterable[ClientId]) -> None:
        """Writes down that each of `holders` has paid `event` so many times more."""
        places = self._places(holders)
        held = self._of[places]
        after = held.copy()
        for number in np.unique(held):
            counts = dict(self._histories[number])
            counts[event] = counts.get(event, 0) + times
            after[held == number] = self._number(tuple(counts.items()))
        self._of[places] = after
        self._forget()

    def set(self, history: Entries, holders: Iterable[ClientId]) -> None:
        """Makes this the history of each of `holders`."""
        places = self._places(holders)
        self._of[places] = self._number(history)

    def _places(self, holders: Iterable[ClientId]) -> npt.NDArray[np.int64]:
        """Where the holders' numbers stand; there is room for them afterwards.

        Raises:
            ValueError: a holder has no number that one can have.
        """
        places = np.fromiter(holders, dtype=np.int64) - _FIRST
        if len(places) and places.min() < 0:
            raise ValueError(f"holder {places.min() + _FIRST}: clients are numbered from 0")
        most = int(places.max(initial=-1)) + 1
        if most > len(self._of):
            room = np.zeros(max(most, 2 * len(self._of)), dtype=np.int32)
            room[: len(self._of)] = self._of
            self._of = room
        return places

    def _number(self, history: Entries) -> int:
        """The number of the history, a new one if it has none."""
        if history not in self._numbers:
            self._numbers[history] = len(self._histories)
            self._histories.append(history)
        return self._numbers[history]

    def _forget(self) -> None:
        """Lets go of histories that nobody has any more, once there are many."""
        if len(self._histories) <= SPARE:
            return
        used = np.union1d(self._of, [NOTHING])
        if len(self._histories) <= 2 * len(used) + SPARE:
            return
        self._of = np.searchsorted(used, self._of).astype(np.int32)
        self._histories = [self._histories[number] for number in used]
        self._numbers = {history: number for number, history in enumerate(self._histories)}

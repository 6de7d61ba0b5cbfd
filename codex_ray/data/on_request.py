"""A sequence whose items are made when they are asked for; of those made, what fits is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final, Protocol, TypeVar, overload

KEPT: Final = 1 << 30
"""Bytes of records that a process keeps for when they are asked for again."""


class Sized(Protocol):
    """Something that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        ...


_Item = TypeVar("_Item", bound=Sized)


class OnRequest(Sequence[_Item]):
    """So many items, each of which is the same whenever and however often it is made.

    Any thread may ask. Two that ask for one item at once may both make it.

    Attributes:
        missed: whether the item that was asked for last had to be made; true before any was.
    """

    def __init__(self, count: int, make: Callable[[int], _Item], *, most: int = KEPT) -> None:
        """Nothing is made yet.

        Args:
            count: how many items there are.
            make: makes one.
            most: bytes that may be kept. What was asked for longest ago goes first, and the last
                one stays however large it is; with 0 nothing is kept.
        """
        self._count, self._make, self._most = count, make, most
        self._kept: OrderedDict[int, _Item] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self.missed = True

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> _Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[_Item]: ...

    def __getitem__(self, place: int | slice) -> _Item | Sequence[_Item]:
        """An item; or several, all of which are made and held at once."""
        if isinstance(place, slice):
            return [self[one] for one in range(self._count)[place]]
        place = range(self._count)[place]
        with self._lock:
            found = self._kept.get(place)
            self.missed = found is None
            if found is not None:
                self._kept.move_to_end(place)
                return found
        made = self._make(place)
        if self._most:
            self._keep(place, made)
        return made

    def _keep(self, place: int, made: _Item) -> None:
        with self._lock:
            if place not in self._kept:
                self._kept[place] = made
                self._bytes += made.nbytes
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

"""How many records a key may ever ask about: counted on disk, never exceeded, whoever crashes.

A model can be copied, and its training records probed for, by asking often enough; a rate only
says how long that takes. So a budget does not refill. It is lent out in small pieces: a server
asks the file once for several records, and gives back what it has left when it is stopped. What it
had borrowed when it died is gone. Never is more answered than the budget; a crash may lose up to a
piece for each server.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from codex_ray.errors import InputError
from codex_ray.serving.http import Refused, later

PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes the file."""
LARGEST_PIECE: Final = 256
PIECES: Final = 100
"""A budget is lent in about so many pieces, so that a crash loses about a hundredth of it."""


class Lend(Protocol):
    """Where a server borrows."""

    async def __call__(self, account: str, least: int, budget: int) -> int:
        """How many records are lent, `least` or more; 0: the whole budget has not so many left.

        Raises:
            Refused: 503, nobody can tell now.
        """

    async def give_back(self, account: str, records: int) -> None:
        """Takes back what was lent and not used.

        Raises:
            Refused: 503, nobody can tell now whether it did.
        """


class Book:
    """What every account has been lent, in one SQLite file that several processes may share."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(
                file, isolation_level=None, timeout=PATIENCE, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            # FULL: what was lent stays lent when the machine loses its power.
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS lent "
                "(account TEXT PRIMARY KEY, records INTEGER NOT NULL) STRICT"
            )
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{file}: cannot keep the budgets: {error}") from None

    def lend(self, account: str, least: int, budget: int) -> int:
        """How many records may be answered: `least` or some more, or 0 where it is spent.

        From any thread.

        Raises:
            sqlite3.Error: others hold the file for long, or the disk refuses.
        """
        with self._lock:
            return self._lend(account, least, budget)

    def _lend(self, account: str, least: int, budget: int) -> int:
        piece = max(least, min(LARGEST_PIECE, budget // PIECES))
        try:
            self._database.execute("BEGIN IMMEDIATE")
            found = self._database.execute(
                "SELECT records FROM lent WHERE account = ?", (account,)
            ).fetchone()
            left = budget - (found[0] if found else 0)
            given = min(piece, left) if left >= least else 0
            if given:
                self._database.execute(
                    "INSERT INTO lent VALUES (?, ?) "
                    "ON CONFLICT (account) DO UPDATE SET records = records + excluded.records",
                    (account, given),
                )
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        return given

    def give_back(self, account: str, records: int) -> None:
        """Takes back so many records of what an account has been lent. From any thread.

        Raises:
            sqlite3.Error: others hold the file for long, or the disk refuses.
        """
        with self._lock:
            self._database.execute(
                "UPDATE lent SET records = max(0, records - ?) WHERE account = ?",
                (records, account),
            )

    def lent(self, account: str) -> int:
        """How many records an account has been lent."""
        found = self._database.execute(
            "SELECT records FROM lent WHERE account = ?", (account,)
        ).fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()


class Budgets:
    """The pieces that one server has borrowed and not yet used."""

    def __init__(self, lend: Lend) -> None:
        self._lend = lend
        self._pieces: dict[str, int] = {}
        self._spent: dict[str, int] = {}
        self._borrowing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def is_spent(self, account: str, budget: int) -> bool:
        """Whether it is known already that not one record is left of the account's budget."""
        return self._spent.get(account, -1) >= budget

    async def take(self, account: str, records: int, budget: int) -> bool:
        """Uses up so many records of the account; False, and nothing used, if it has not so many.

        An account whose last records are lent to several servers is refused where they are not,
        until those are stopped.

        Raises:
            Refused: 503, nobody can tell now.
        """
        if not self._use(account, records):
            # One at a time, or requests that come together would borrow a piece each.
            async with self._borrowing.setdefault(account, asyncio.Lock()):
                while not self._use(account, records):
                    missing = records - self._pieces.get(account, 0)
                    given = await self._lend(account, missing, budget)
                    if not given:
                        if missing == 1 == records:
                            self._spent[account] = budget
                        return False
                    # Read again: another request may have used some while this one waited.
                    self._pieces[account] = self._pieces.get(account, 0) + given
        return True

    async def give_back(self) -> None:
        """Gives back what is left of every piece; nothing is answered out of them any more.

        Raises:
            Refused: 503, nobody can tell now: what was not given back is lost.
        """
        pieces, self._pieces = self._pieces, {}
        for account, records in pieces.items():
            if records:
                await self._lend.give_back(account, records)

    def _use(self, account: str, records: int) -> bool:
        left = self._pieces.get(account, 0) - records
        if left >= 0:
            self._pieces[account] = left
        return left >= 0


@dataclass(frozen=True)
class LentHere:
    """Lending from a book that this process has open: a write of about a millisecond.

    In another thread, because the disk, or another process, may take its time.
    """

    book: Book

    async def __call__(self, account: str, least: int, budget: int) -> int:
        """As `Lend`."""
        try:
            return await asyncio.to_thread(self.book.lend, account, least, budget)
        except sqlite3.Error:
            raise unreachable() from None

    async def give_back(self, account: str, records: int) -> None:
        """As `Lend`."""
        try:
            await asyncio.to_thread(self.book.give_back, account, records)
        except sqlite3.Error:
            raise unreachable() from None


def unreachable() -> Refused:
    """What a caller with a budget is told while the book cannot be reached: 503, come again."""
    return later(503, "budget_unreachable", 1)

"""The index: the rows of the event log and its head, in one SQLite file.

A rollback journal, not a write-ahead log: writes are few, readers need no right to write beside
the file, one file is the whole index, and network file systems keep its locks. Every write is one
transaction under SQLite's own lock, synchronous to the disk, so a crash leaves the rows of before.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from codex_ray.registry.refusals import RegistryError, TamperError

NAME: Final = "registry.sqlite"
PATIENCE: Final = 60.0
"""Seconds to wait for another process that writes."""
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), "
    "body BLOB NOT NULL) STRICT",
)
Rows = list[tuple[int, bytes]]


class Index:
    """The index of the registry in `folder`; every use opens the file anew, from any thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def exists(self) -> bool:
        """Whether a registry was ever made there, to the end."""
        if not self.path.is_file():
            return False
        with self._opened(write=False) as connection:
            return _has_tables(connection)

    def read(self) -> tuple[Rows, bytes]:
        """Every event (number, bytes) in order, and the head, as of one moment.

        Raises:
            TamperError: it is no index, or not laid out as one.
        """
        with self._opened(write=False) as connection:
            connection.execute("BEGIN")
            return _rows(connection, of=self.path)

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator[Writing]:
        """All that is written in the block, or nothing of it; nobody else writes meanwhile.

        Raises:
            RegistryError: others write all the time, or the disk refuses.
        """
        with self._opened(write=True, create=create) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if create:
                    for statement in _TABLES:
                        connection.execute(statement)
                yield Writing(connection, self.path)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _opened(self, *, write: bool, create: bool = False) -> Iterator[sqlite3.Connection]:
        # A reader that may write opens the file so, or it could not undo what a crash left.
        mode = "rwc" if create else "rw" if write or os.access(self.path, os.W_OK) else "ro"
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        try:
            with closing(
                sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None)
            ) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA synchronous = EXTRA")
                if not write:
                    connection.execute("PRAGMA query_only = ON")
                yield connection
        except sqlite3.Error as error:
            raise _refused(self.path, error) from None
        except UnicodeDecodeError:  # of SQLite's own message about names that are no text any more
            raise _damaged(self.path, "it holds bytes that are no text") from None


class Writing:
    """A transaction that has begun."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def read(self) -> tuple[Rows, bytes]:
        """What there is, and what no other process changes before the block ends."""
        return _rows(self._connection, of=self._path)

    def append(self, number: int, body: bytes, *, head: bytes) -> None:
        """Adds the event of that number, and puts the head over it."""
        self._connection.execute("INSERT INTO events VALUES (?, ?)", (number, body))
        self._connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?)", (head,))


def _has_tables(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {"events", "head"} <= {name for (name,) in found}


def _rows(connection: sqlite3.Connection, *, of: Path) -> tuple[Rows, bytes]:
    rows = connection.execute("SELECT number, body FROM events ORDER BY number").fetchall()
    heads = connection.execute("SELECT body FROM head").fetchall()
    if any(type(number) is not int or type(body) is not bytes for number, body in rows):
        raise TamperError(f"{of}: holds something that is no event")
    if not rows and not heads:
        return [], b""
    if len(heads) != 1 or type(heads[0][0]) is not bytes:
        raise TamperError(f"{of}: has {len(heads)} heads, and one is signed")
    return rows, heads[0][0]


def _refused(path: Path, error: sqlite3.Error) -> Exception:
    """What SQLite says, as what it means here."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_BUSY:
        return RegistryError(f"{path}: others have been writing for {PATIENCE:g} s: try again")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL):
        return RegistryError(f"{path}: cannot be used: {error}")
    if primary == sqlite3.SQLITE_IOERR:
        return RegistryError(f"{path}: the disk refuses: {error}")
    return _damaged(path, str(error))


def _damaged(path: Path, why: str) -> TamperError:
    return TamperError(f"{path}: is damaged, or no index of a registry: {' '.join(why.split())}")

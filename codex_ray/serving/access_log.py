"""Who asked what, in JSON lines, without personal data: no address, no input, no path as sent.

An address is written as a keyed hash, whose key is another one each day and never written: within a
day one can see that a hundred refusals came from one place, and nobody can find out which. A caller
is written by the key's public id, because a review of rights has to see which key did what; the
holder of a token as a keyed hash too, since a subject may be a person.

Nobody without a key can fill the disk: what one place is told again and again is a line a minute
with a count, and the file has an end, after which it begins anew and the one before it is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from codex_ray.serving.caller import TOKEN

MOST_BYTES: Final = 64 * 2**20
TOGETHER: Final = 60.0
"""Seconds in which what one place is told again and again is one line."""
MOST_PLACES: Final = 10_000


@dataclass
class _Repeated:
    """What came again since a line was written about it."""

    since: float
    line: dict[str, Any]
    times: int = 0


class AccessLog:
    """Appends a line for each request to a file of its owner's alone.

    Several processes may write to one file: a line is one write, and appended.

    Args:
        file: where to; None writes nothing.
        secret: of this server, from which each day's key is derived.
        clock: seconds since 1970.
        most: bytes of the file; then it goes on as FILE.1, and a new one begins.
    """

    def __init__(
        self,
        file: Path | None,
        *,
        secret: bytes,
        clock: Callable[[], float],
        most: int = MOST_BYTES,
    ) -> None:
        self._secret = secret
        self._clock = clock
        self._most = most
        self._day: tuple[str, bytes] = ("", b"")
        self._repeated: OrderedDict[tuple[Any, ...], _Repeated] = OrderedDict()
        self._file = file
        self._out: int | None = None
        if file is not None:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._out = _opened(file)

    def write(
        self,
        *,
        route: str,
        status: int,
        seconds: float,
        caller: str | None,
        address: str,
        code: str | None,
        decided_by: str | None,
        version: str | None,
    ) -> bool:
        """Writes a line, or counts it; False where the disk takes none.

        Every text in it is ours but `caller`, which has no odd characters.
        """
        if self._file is None:
            return True
        now = self._clock()
        at = datetime.fromtimestamp(now, UTC)
        day = at.date().isoformat()
        said = {
            "at": at.isoformat(timespec="milliseconds"),
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "caller": self._named(caller, day),
            "from": self.hidden(address, day),
            "code": code,
            "decided_by": decided_by,
            "version": version,
        }
        lines = self._counted(now)
        if not self._again(said, now, stranger=caller is None or status == 429):
            lines.append(said)
        return not lines or self._append(lines)

    def _named(self, caller: str | None, day: str) -> str | None:
        if caller is None or not caller.startswith(TOKEN):
            return caller
        return f"{TOKEN}{self.hidden(caller, day)}"

    def _again(self, said: dict[str, Any], now: float, *, stranger: bool) -> bool:
        """Whether a line of a moment ago stands for this one too."""
        if not stranger:
            return False
        key = tuple(said[name] for name in ("from", "caller", "route", "status", "code"))
        if key in self._repeated:
            self._repeated[key].times += 1
            return True
        if len(self._repeated) < MOST_PLACES:  # beyond, each is a line, and the file has an end
            self._repeated[key] = _Repeated(now, said)
        return False

    def _counted(self, now: float) -> list[dict[str, Any]]:
        """A line for each thing that came again in the minute after it was first written."""
        lines = []
        while self._repeated:
            key, first = next(iter(self._repeated.items()))
            if now - first.since < TOGETHER:
                break
            del self._repeated[key]
            if first.times:
                lines.append({**first.line, "repeated": first.times})
        return lines

    def _append(self, lines: list[dict[str, Any]]) -> bool:
        content = "".join(
            json.dumps({name: value for name, value in line.items() if value is not None}) + "\n"
            for line in lines
        ).encode()
        try:
            self._make_room(len(content))
            assert self._out is not None  # there is a file
            return os.write(self._out, content) == len(content)
        except OSError:
            return False

    def _make_room(self, size: int) -> None:
        """Begins the file anew where it is full, or where another process has done so."""
        assert self._file is not None
        if self._out is None:
            self._out = _opened(self._file)
        state = os.fstat(self._out)
        if state.st_nlink and state.st_size + size <= self._most:
            return
        old, self._out = self._out, None
        try:
            # Whoever holds the lock on the full file moves it; the others find that it has moved.
            fcntl.flock(old, fcntl.LOCK_EX)
            if self._file.exists() and os.path.samestat(self._file.stat(), state):
                self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        finally:
            os.close(old)
        self._out = _opened(self._file)

    def hidden(self, address: str, day: str) -> str:
        """The address under the day's key, in 16 hexadecimal digits."""
        if self._day[0] != day:
            self._day = day, hmac.digest(self._secret, day.encode(), "sha256")
        return hmac.new(self._day[1], address.encode(), hashlib.sha256).hexdigest()[:16]

    def close(self) -> None:
        """Lets go of the file."""
        if self._out is not None:
            os.close(self._out)
            self._out = None
        self._file = None


def _opened(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

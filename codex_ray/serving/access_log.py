"""Who asked what, in JSON lines, without personal data: no address, no input, no path as sent.

An address is written as a keyed hash, whose key is another one each day and never written: within a
day one can see that a hundred refusals came from one place, and nobody can find out which. A caller
is written by the key's public id, because a review of rights has to see which key did what.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


class AccessLog:
    """Appends a line for each request to a file of its owner's alone.

    Several processes may write to one file: a line is one write, and appended.

    Args:
        file: where to; None writes nothing.
        secret: of this server, from which each day's key is derived.
        clock: seconds since 1970.
    """

    def __init__(self, file: Path | None, *, secret: bytes, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock
        self._day: tuple[str, bytes] = ("", b"")
        self._out: int | None = None
        if file is not None:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

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
    ) -> None:
        """A line; every text in it is ours but `caller`, which has no odd characters."""
        if self._out is None:
            return
        at = datetime.fromtimestamp(self._clock(), UTC)
        said = {
            "at": at.isoformat(timespec="milliseconds"),
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "caller": caller,
            "from": self.hidden(address, at.date().isoformat()),
            "code": code,
            "decided_by": decided_by,
            "version": version,
        }
        line = json.dumps({name: value for name, value in said.items() if value is not None})
        os.write(self._out, line.encode() + b"\n")

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

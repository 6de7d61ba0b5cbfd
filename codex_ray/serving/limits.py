"""How much a server takes: of bytes, seconds, requests and failures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from codex_ray.serving.buckets import Rate

LEAST_FAILURES: Final = 3
"""Wrong keys of one address that a replica takes before it locks it out, of how many it is one."""


@dataclass(frozen=True)
class Limits:
    """The numbers that a guard holds everyone to.

    Attributes:
        body_bytes: of a request.
        body_seconds: until all of it has come.
        per_key: requests of one key, unless the key says otherwise.
        per_address: requests of one address, with or without a key.
        lockout_failures: wrong keys from one address until it waits.
        lockout_seconds: for which it waits, and in which failures are counted.
        ongoing: requests in one server at a time; one more is told 503 at once.
        ongoing_per_caller: of them, those of one caller.
        parts: among how many a rate that a key says for itself is divided as well.
    """

    body_bytes: int = 256 * 1024
    body_seconds: float = 5.0
    per_key: Rate = field(default_factory=lambda: Rate(100.0, 200.0))
    per_address: Rate = field(default_factory=lambda: Rate(200.0, 400.0))
    lockout_failures: int = 10
    lockout_seconds: float = 60.0
    ongoing: int = 64
    ongoing_per_caller: int = 48
    parts: int = 1

    def shared_by(self, replicas: int) -> Limits:
        """What each of `replicas` takes, if together they are to take no more than this.

        Bodies and requests at a time are of a process; rates and failures are of them all. The
        proxy spreads requests evenly, so a share each comes close to one count for all, needs no
        messages between them, and errs to the safe side.
        """
        return replace(
            self,
            per_key=self.per_key.divided(replicas),
            per_address=self.per_address.divided(replicas),
            # One wrong key is a slip, however many replicas there are.
            lockout_failures=max(
                min(self.lockout_failures, LEAST_FAILURES), self.lockout_failures // replicas
            ),
            parts=self.parts * replicas,
        )

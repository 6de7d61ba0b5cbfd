"""Every change of a registry as a signed event that holds the hash of the one before it.

An event that is edited breaks its signature and the chain; one that is removed or moved breaks the
chain; the last ones removed leave a signed head that counts more. A whole registry put back to an
older day is consistent in itself: only who has seen the newer one can tell, which is what
`Registry` does while it is open, and `--head` for those who wrote a head down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from codex_ray.records.keys import TrustedKey
from codex_ray.records.signed import Signed
from codex_ray.registry.manifest import Name, Sha256
from codex_ray.registry.refusals import TamperError
from codex_ray.registry.signed import parsed

BEGINNING: Final = "0" * 64
Kind = Literal["created", "registered", "promoted", "rolled back", "revoked"]
Switch = Literal["allow_uncertified", "skip_recompute"]
"""What may be asked for that is not safe: to serve a model that has no certificate, and not to
compute its certificate again. Whoever promotes with one signs that they did."""
RegistryId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Event(Signed):
    """One change.

    Attributes:
        registry: which one, so that no event is moved into another.
        number: from 0.
        before: SHA-256 of the event before it, as it is stored.
        at: when, in UTC, by the clock of whoever made it.
        manifest: of the version that is registered, and `run_digest` that of its run.
        reason: why a version is revoked.
        unsafe: the unsafe switches with which a version was promoted.
    """

    format: Literal["codex_ray registry event 1"] = "codex_ray registry event 1"
    registry: RegistryId
    number: int = Field(ge=0)
    before: Sha256
    at: str
    kind: Kind
    name: Name | None = None
    version: int | None = Field(default=None, ge=1)
    stage: Name | None = None
    manifest: Sha256 | None = None
    run_digest: Sha256 | None = None
    reason: str | None = None
    unsafe: tuple[Switch, ...] = ()


class Head(Signed):
    """How many events there are, and the SHA-256 of the last one."""

    format: Literal["codex_ray registry head 1"] = "codex_ray registry head 1"
    registry: RegistryId
    events: int = Field(ge=1)
    last: Sha256

    @property
    def words(self) -> str:
        """What a person writes down, and gives to `--head`."""
        return f"{self.events}:{self.last}"


@dataclass(frozen=True)
class Chain:
    """Events whose signatures and order have been checked.

    Attributes:
        hashes: of each event, as the next one holds it.
    """

    events: tuple[Event, ...] = ()
    hashes: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """What the next event holds of this chain."""
        return self.hashes[-1] if self.hashes else BEGINNING

    def extended(
        self, rows: Sequence[tuple[int, bytes]], *, trusted: Iterable[TrustedKey], of: str
    ) -> Chain:
        """This chain with the stored events (number, bytes) that come after it.

        Raises:
            TamperError: one of them is not what a trusted key signed, or not in its place.
        """
        keys, events, hashes = tuple(trusted), list(self.events), list(self.hashes)
        for number, content in rows:
            at = f"{of}: event {len(events)}"
            if number != len(events):
                raise TamperError(f"{at}: is missing: the next that there is has number {number}")
            event = parsed(Event, content, trusted=keys, of=at)
            before = hashes[-1] if hashes else BEGINNING
            if event.number != number or event.before != before:
                raise TamperError(f"{at}: does not follow the one before it")
            if event.registry != (events[0].registry if events else event.registry):
                raise TamperError(f"{at}: is of another registry")
            if (event.kind == "created") != (number == 0):
                raise TamperError(f"{at}: {event.kind!r} is only ever the first")
            events.append(event)
            hashes.append(hashlib.sha256(content).hexdigest())
        return Chain(tuple(events), tuple(hashes))

    def check_kept(self, rows: Sequence[tuple[int, bytes]], *, of: str) -> None:
        """Refuses rows that are not, to the byte, those that this chain was made of.

        Raises:
            TamperError: one of them was changed since.
        """
        for (number, content), event, sha256 in zip(rows, self.events, self.hashes, strict=True):
            if number != event.number or hashlib.sha256(content).hexdigest() != sha256:
                raise TamperError(f"{of}: event {event.number} is not the one that it was")

    def check_head(self, content: bytes, *, trusted: Iterable[TrustedKey], of: str) -> None:
        """Refuses a head that says something else.

        Raises:
            TamperError: events were removed at the end or added, or the head was changed.
        """
        head = parsed(Head, content, trusted=trusted, of=f"{of}: head")
        if head.registry != self.events[0].registry or head.events != len(self.events):
            raise TamperError(
                f"{of}: its signed head counts {head.events} events, and there are "
                f"{len(self.events)}"
            )
        if head.last != self.last:
            raise TamperError(f"{of}: its signed head is not over the last event")

    def check_holds(self, head: str, *, of: str) -> None:
        """Refuses a log that does not go on from `head`, written "EVENTS:HASH".

        Raises:
            TamperError: it is older, or another.
        """
        events, _, last = head.partition(":")
        if not events.isdecimal() or not 1 <= int(events) <= len(self.hashes):
            raise TamperError(f"{of}: has {len(self.hashes)} events, and had those up to {head}")
        if self.hashes[int(events) - 1] != last:
            raise TamperError(f"{of}: event {int(events) - 1} is not the one that it was: {head}")

"""The event log as whoever uses it sees it: checked, folded into states, and only ever growing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codex_ray.records.keys import SigningKey, TrustedKey
from codex_ray.registry.events import Chain, Event, Head
from codex_ray.registry.index import Index, Rows
from codex_ray.registry.refusals import RegistryError, TamperError
from codex_ray.registry.states import States


class Log:
    """The events of the registry in `folder` that a trusted key signed, from any thread.

    Events that were checked once are kept: a log that later lacks one of them is refused.
    """

    def __init__(
        self,
        folder: Path,
        *,
        trusted: tuple[TrustedKey, ...],
        key: SigningKey | None,
        head: str | None,
    ) -> None:
        self._index = Index(folder)
        self._of = str(folder)
        self._trusted = trusted
        self._key = key
        self._head = head
        self._chain = Chain()
        self._states = States(self._of)
        self._lock = threading.Lock()

    def states(self) -> States:
        """The states as of now.

        Raises:
            TamperError: an event or the head is not what a trusted key signed.
        """
        rows, head = self._index.read()
        with self._lock:
            return self._checked(rows, head)

    def head(self) -> str:
        """The head as of now, to write down: "EVENTS:HASH"."""
        rows, head = self._index.read()
        with self._lock:
            self._checked(rows, head)
            return f"{len(self._chain.events)}:{self._chain.last}"

    def events(self) -> tuple[Event, ...]:
        """Every event as of now."""
        rows, head = self._index.read()
        with self._lock:
            self._checked(rows, head)
            return self._chain.events

    def create(self) -> None:
        """Makes the log with its first event, if there is none."""
        with self._index.writing(create=True) as writing:
            rows, _ = writing.read()
            if not rows:
                self._append(writing.append, Chain(), os.urandom(16).hex(), {"kind": "created"})

    def add(self, decide: Callable[[States], dict[str, Any] | None]) -> Event | None:
        """The event that was added: what `decide` made of the states that it follows.

        Nobody else adds one meanwhile. None where `decide` found that there is nothing to do.

        Raises:
            RegistryError: there is no key to sign with, or `decide` refused.
        """
        self.signing()  # before anything is locked
        with self._index.writing() as writing:
            rows, head = writing.read()
            with self._lock:
                states = self._checked(rows, head)
                chain = self._chain
            fields = decide(states)
            if fields is None:
                return None
            return self._append(writing.append, chain, chain.events[0].registry, fields)

    def _append(
        self, append: Callable[..., None], chain: Chain, registry: str, fields: dict[str, Any]
    ) -> Event:
        key, number = self.signing(), len(chain.events)
        event = Event(
            registry=registry,
            number=number,
            before=chain.last,
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **fields,
        ).signed_by(key)
        head = Head(registry=registry, events=number + 1, last=event.address).signed_by(key)
        # The rules are for writers too: what nobody may read back is never written.
        States(self._of).applied((*chain.events, event))
        append(number, event.to_bytes(), head=head.to_bytes())
        return event

    def signing(self) -> SigningKey:
        """The key that signs changes.

        Raises:
            RegistryError: there is none.
        """
        if self._key is None:
            raise RegistryError(
                f"{self._of}: every change is signed, and there is no key to sign with: "
                "codex-ray keys init"
            )
        return self._key

    def _checked(self, rows: Rows, head: bytes) -> States:
        """The states after `rows`, of which those that were checked before must be the first."""
        known = len(self._chain.events)
        if not rows:
            raise TamperError(f"{self._of}: has no event, not even its first")
        if len(rows) < known:
            raise TamperError(
                f"{self._of}: has {len(rows)} events, and had {known} a moment ago: somebody put "
                "back an older index"
            )
        self._chain.check_kept(rows[:known], of=self._of)
        chain = self._chain.extended(rows[known:], trusted=self._trusted, of=self._of)
        chain.check_head(head, trusted=self._trusted, of=self._of)
        if self._head is not None:
            chain.check_holds(self._head, of=self._of)
        if len(rows) > known:
            self._states = States(self._of).applied(chain.events)
            self._chain = chain
        return self._states

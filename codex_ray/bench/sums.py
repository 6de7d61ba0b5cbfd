"""One round of a sum protocol in this process: every message produced, each side's CPU time kept.

Clients answer one after the other, each for itself alone: nothing is shared between them that would
not be between two machines. Masked inputs are added up as they come, so that a thousand vectors of
a million words need not be held at once; that addition counts as the server's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from codex_ray.errors import ProtocolError
from codex_ray.federation.bare_sums import Samples
from codex_ray.federation.folding import Folding
from codex_ray.secagg.cost import Attendance
from codex_ray.secagg.identity import Enrolment, Identity, Membership
from codex_ray.secagg.one_shot_session import committee_of
from codex_ray.secagg.protocols import OneShot, SumClient, SumProtocol
from codex_ray.secagg.trips import Session
from codex_ray.types import ClientId, Residues, SessionContext, SessionResult, Stage
from codex_ray.wire import Message, read_frame


@dataclass
class Clock:
    """CPU seconds by who spent them."""

    spent: dict[str, float] = field(default_factory=dict)
    _paused: float = 0.0

    @contextmanager
    def of(self, who: str) -> Iterator[None]:
        """Adds the CPU time of the block to `who`, less what `aside` took of it."""
        began, paused = time.process_time(), self._paused
        try:
            yield
        finally:
            took = time.process_time() - began - (self._paused - paused)
            self.spent[who] = self.spent.get(who, 0.0) + took

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that belongs to nobody: what a benchmark does to have something to sum."""
        began = time.process_time()
        try:
            yield
        finally:
            self._paused += time.process_time() - began


@dataclass(frozen=True)
class Summed:
    """What one round took.

    Attributes:
        clients: how many clients were invited.
        active: how many spoke in the trip that costs most.
        client_seconds, server_seconds: CPU seconds of all clients together, and of the server.
        bytes_up: that all clients sent.
        attendance: how many answered each trip.
        masks_recovered: pair masks of dropped clients that were rebuilt.
        exact: whether the sum is the one of the survivors' summands.
    """

    clients: int
    active: int
    client_seconds: float
    server_seconds: float
    bytes_up: int
    attendance: Attendance
    masks_recovered: int
    exact: bool


def run_round(
    protocol: SumProtocol,
    context: SessionContext,
    *,
    clients: int,
    silent_from: Mapping[ClientId, Stage],
) -> Summed:
    """One round among clients 0 to `clients` - 1, some of which go silent at a stage."""
    bits: Literal[16, 32] = 16 if context.bits == 16 else 32
    clock, samples = Clock(), Samples(context.dimension, bits=bits)
    members = tuple(range(clients))
    identities = {one: Identity.fresh() for one in members} if protocol.identified else {}
    enrolment = Enrolment({one: it.public for one, it in identities.items()})

    def summand_of(client: ClientId) -> Residues:
        with clock.aside():
            return samples.of(client)

    seats = {
        one: protocol.client(
            one,
            context,
            lambda one=one: summand_of(one),  # type: ignore[misc]  # as above
            membership=Membership(identities[one], enrolment) if identities else None,
        )
        for one in members
    }
    silent = dict(silent_from)
    if isinstance(protocol, OneShot):
        sizes = protocol.plan(clients)
        committee = committee_of(context, sizes, members, enrolment=enrolment.digest)
        silent = _sparing(committee, silent)
    wire = _Wire(seats, silent, clock, bits=context.bits, folds=protocol.folds)
    result = wire.run(protocol.session(members, context, enrolment=enrolment))
    group = result.groups[0]
    answered = wire.answered
    return Summed(
        clients=clients,
        active=answered.get(Stage.MASKED_INPUT, 0),
        client_seconds=clock.spent["clients"],
        server_seconds=clock.spent["server"],
        bytes_up=wire.bytes_up,
        attendance=Attendance(
            answered.get(Stage.ADVERTISE_KEYS, 0),
            answered.get(Stage.SHARE_KEYS, 0),
            answered.get(Stage.MASKED_INPUT, 0),
            answered.get(Stage.UNMASK, 0),
        ),
        masks_recovered=result.masks_recovered,
        exact=bool(np.array_equal(group.total, samples.total(group.members))),
    )


COMMITTEE_DROPOUT = 0.05


def _sparing(
    committee: tuple[ClientId, ...], silent_from: Mapping[ClientId, Stage]
) -> dict[ClientId, Stage]:
    """The same dropouts but for the committee, of which a twentieth speaks and then drops."""
    absent = committee[: int(COMMITTEE_DROPOUT * len(committee))]
    outside = {one: stage for one, stage in silent_from.items() if one not in committee}
    return outside | dict.fromkeys(absent, Stage.UNMASK)


@dataclass
class _Wire:
    """Carries frames between the two sides, and keeps the time of each."""

    clients: dict[ClientId, SumClient]
    silent_from: dict[ClientId, Stage]
    clock: Clock
    bits: int
    folds: bool
    bytes_up: int = 0
    answered: dict[Stage, int] = field(default_factory=dict)

    def run(self, session: Session) -> SessionResult:
        """The result of the session, driven to its end."""
        with self.clock.of("server"):
            outbox = next(session)
        while True:
            frames: dict[int, bytes] = {}
            replies: dict[ClientId, Message] = {}
            folding = Folding(bits=self.bits) if self.folds else None
            for one, request in outbox.items():
                if request.stage >= self.silent_from.get(one, Stage.DEBUG):
                    continue
                if id(request) not in frames:
                    with self.clock.of("server"):
                        frames[id(request)] = request.to_frame()
                reply = self._ask(one, frames[id(request)])
                if reply is not None:
                    self.answered[request.stage] = self.answered.get(request.stage, 0) + 1
                    with self.clock.of("server"):
                        came = read_frame(reply)
                        replies[one] = folding.fold(came) if folding else came
            try:
                with self.clock.of("server"):
                    outbox = session.send(replies)
            except StopIteration as end:
                result: SessionResult = end.value
                return result

    def _ask(self, one: ClientId, frame: bytes) -> bytes | None:
        """The client's reply, as a frame."""
        with self.clock.of("clients"):
            try:
                reply = self.clients[one].answer(read_frame(frame)).to_frame()
            except ProtocolError:
                return None
        self.bytes_up += len(reply)
        return reply

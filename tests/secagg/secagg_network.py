"""An in-memory network for sessions: every message crosses it as a frame, clients can go silent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from codex_ray.errors import ProtocolError
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.identity import Enrolment, Identity, Membership
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import SumClient
from codex_ray.secagg.server import run_session
from codex_ray.secagg.trips import Session
from codex_ray.types import ClientId, Residues, SessionContext, SessionResult, Stage
from codex_ray.wire import Message, read_frame


def a_context(dimension: int, *, round: int = 0, model: bytes = b"m" * 32) -> SessionContext:
    """A context for tests: run and attempt fixed, the rest as asked."""
    return SessionContext(b"r" * 16, round, 0, model, dimension)


def summands(members: tuple[ClientId, ...], dimension: int) -> dict[ClientId, Residues]:
    """A uniform summand [d] for each member."""
    return {
        one: np.frombuffer(os.urandom(4 * dimension), dtype=np.uint32).copy() for one in members
    }


def plain_sum(parts: Mapping[ClientId, Residues], members: tuple[ClientId, ...]) -> Residues:
    """The sum that every protocol has to give."""
    return np.sum([parts[one] for one in members], axis=0, dtype=np.uint32)


@dataclass
class Network:
    """Carries frames between a session and its clients, and keeps a transcript of them.

    Attributes:
        drops: the stage from which on a client is silent.
        sent, answered: for each stage the messages to and from each client.
        refusals: what clients refused, which counts as silence.
    """

    clients: Mapping[ClientId, SumClient]
    drops: Mapping[ClientId, Stage] = field(default_factory=dict)
    sent: dict[Stage, dict[ClientId, Message]] = field(default_factory=dict)
    answered: dict[Stage, dict[ClientId, Message]] = field(default_factory=dict)
    late: dict[ClientId, Message] = field(default_factory=dict)
    refusals: dict[ClientId, str] = field(default_factory=dict)
    bytes_carried: int = 0

    def run(self, session: Session) -> SessionResult:
        """Drive the session to its end."""
        outbox = next(session)
        while True:
            inbox = {}
            for one, request in outbox.items():
                self.sent.setdefault(request.stage, {})[one] = request
                reply = self._deliver(one, request)
                if reply is not None:
                    self.answered.setdefault(request.stage, {})[one] = reply
                    inbox[one] = self.tamper(one, reply)
            try:
                outbox = session.send(inbox)
            except StopIteration as end:
                return end.value

    def tamper(self, one: ClientId, reply: Message) -> Message:
        """What arrives of the reply of `one`: a hook for tests."""
        return reply

    def _deliver(self, one: ClientId, request: Message) -> Message | None:
        silent = one in self.drops and request.stage >= self.drops[one]
        if silent and not (request.stage == self.drops[one] == Stage.MASKED_INPUT):
            return None
        try:
            reply = self.clients[one].answer(self._carry(request))
        except ProtocolError as error:
            self.refusals[one] = str(error)
            return None
        if silent:
            # Its masked input comes too late: the server has it, but counts it as dropped.
            self.late[one] = reply
            return None
        return self._carry(reply)

    def _carry(self, message: Message) -> Message:
        frame = message.to_frame()
        self.bytes_carried += len(frame)
        return read_frame(frame)


@cache
def an_identity(client: ClientId) -> Identity:
    """The identity that a client has in all tests of a process."""
    return Identity.fresh()


@cache
def an_enrolment(members: tuple[ClientId, ...]) -> Enrolment:
    """The list of exactly those members."""
    return Enrolment({one: an_identity(one).public for one in members})


def a_membership(one: ClientId, members: tuple[ClientId, ...]) -> Membership:
    """What a member brings to a session of `members`."""
    return Membership(an_identity(one), an_enrolment(members))


def a_network(protocol, members, context, parts, *, drops=None) -> Network:
    """A network with one client of `protocol` for each member, each with a summand of its own."""
    clients = {
        one: protocol.client(
            one, context, parts[one].copy(), membership=a_membership(one, tuple(members))
        )
        for one in members
    }
    return Network(clients, drops or {})


def a_session(protocol, members, context, **others) -> Session:
    """The server's half that goes with it."""
    return protocol.session(members, context, enrolment=an_enrolment(tuple(members)), **others)


def a_planned_network(sizes: Plan, members, context, parts, *, drops=None) -> Network:
    """A network with one masking client for each member, all of which plan `sizes` by hand."""
    clients = {
        one: SecAggClient(
            one,
            context,
            parts[one].copy(),
            plan=lambda _: sizes,
            membership=a_membership(one, tuple(members)),
        )
        for one in members
    }
    return Network(clients, drops or {})


def a_planned_session(sizes: Plan, members, context) -> Session:
    """The server's half that goes with it."""
    return run_session(members, context, sizes, enrolment=an_enrolment(tuple(members)))

"""Rounds of secure aggregation with nothing trained: clients only have something to sum.

For figures that are pooled before a run, and for measuring protocols at sizes at which the summands
of a round would not fit into memory: each is made when its client is asked for it. To measure, it
is made from a common random vector and the client's id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ProtocolError
from codex_ray.federation.folding import weight_of
from codex_ray.federation.messages import EnrolmentList, Trained, TrainTask
from codex_ray.federation.sessions import Sessions
from codex_ray.federation.transport import Transport, TransportWorkers
from codex_ray.randomness import SeedTree
from codex_ray.secagg.identity import Enrolment, admissible
from codex_ray.secagg.protocols import SumProtocol
from codex_ray.secagg.trips import Session
from codex_ray.types import (
    WORD_BITS,
    ClientId,
    Residues,
    SessionContext,
    SessionResult,
    Stage,
    word_type,
)
from codex_ray.wire import Frame, Message, frames_of, kind_of, read_frame

LOG = logging.getLogger(__name__)


class Samples:
    """Summands [d] of whole words: a random vector that all share, plus the client's id."""

    def __init__(self, dimension: int, *, bits: Literal[16, 32] = 32) -> None:
        """Summands of that length and width."""
        stream = SeedTree(bytes(32)).stream("samples")
        self._kind = word_type(bits).type
        self._bits = bits
        self._common = np.frombuffer(stream.bytes(bits // 8 * dimension), dtype=self._kind)

    def of(self, client: ClientId) -> Residues:
        """The summand [d] of a client."""
        return self._shifted(self._common, client)

    def total(self, clients: tuple[ClientId, ...]) -> Residues:
        """The sum [d] over those clients modulo 2^bits."""
        times = np.multiply(self._common, self._kind(len(clients)), dtype=self._kind)
        return self._shifted(times, sum(clients))

    def _shifted(self, words: npt.NDArray[Any], number: int) -> Residues:
        shift = self._kind(number % (1 << self._bits))
        moved: Residues = np.add(words, shift, dtype=self._kind)
        return moved


class SumHost:
    """Carries clients that take a task without parameters, and sum."""

    def __init__(
        self,
        protocol: SumProtocol,
        *,
        dimension: int,
        bits: int = WORD_BITS,
        summand_of: Callable[[ClientId], Residues] | None = None,
        ahead: bool = False,
    ) -> None:
        """A host for clients of the protocol, with summands of that length.

        Args:
            protocol: how they sum.
            dimension: of the summands.
            bits: of their words.
            summand_of: makes a client's; samples by default.
            ahead: whether it is made, and kept, as soon as the client has its task: hosts get tasks
                for a few clients at a time, and are not waited for while they make everybody's.
        """
        self._sessions = Sessions(protocol, fold=True)
        self._dimension, self._bits = dimension, bits
        self._summand_of = summand_of or Samples(dimension).of
        self._ahead = ahead

    def handle(self, frames: Mapping[ClientId, Frame]) -> dict[ClientId, bytes]:
        """The reply of each client that was sent a frame; whoever refuses is missing.

        Raises:
            HostLost: a client is asked to sum that has no task here.
        """
        read: dict[int, Message] = {}
        folding = self._sessions.folding(bits=self._bits)
        replies: dict[ClientId, Message] = {}
        for client, frame in sorted(frames.items()):
            if id(frame) not in read:
                read[id(frame)] = read_frame(frame)
            message = read[id(frame)]
            try:
                reply = self._reply(client, message)
            except ProtocolError as refusal:
                LOG.warning("client %d gives no answer: %s", client, refusal)
                continue
            replies[client] = folding.fold(reply) if folding else reply
        return {client: reply.to_frame() for client, reply in replies.items()}

    def _reply(self, client: ClientId, message: Message) -> Message:
        if not isinstance(message, TrainTask):
            return self._sessions.answer(client, message)
        context = context_of(message, self._dimension, bits=self._bits)
        made = self._summand_of(client) if self._ahead else None
        self._sessions.seat(
            client, context, summand=lambda: self._summand_of(client) if made is None else made
        )
        return Trained(self._sessions.identity(client))


def context_of(task: TrainTask, dimension: int, *, bits: int = WORD_BITS) -> SessionContext:
    """What a session without a model is bound to."""
    return SessionContext(task.run, task.round, task.attempt, bytes(32), dimension, bits)


@dataclass
class BareSum:
    """One round over a transport, of clients on such hosts.

    Attributes:
        transport: how the clients are reached.
        protocol: how they sum.
        dimension: length of the summands.
        silent_from: from which stage on a client gives no answer.
        bytes_up: what clients sent, each as if it had sent its own masked input.
        answered: how many answered each stage.
        bits: summands are residues modulo 2^bits.
        run_id: 16 bytes that the session is bound to.
    """

    transport: Transport
    protocol: SumProtocol
    dimension: int
    silent_from: Mapping[ClientId, Stage] = field(default_factory=dict)
    bytes_up: int = 0
    answered: dict[Stage, int] = field(default_factory=dict)
    bits: int = WORD_BITS
    run_id: bytes = b"bare sums".ljust(16)

    def run(self, clients: int, *, round: int = 0) -> SessionResult:
        """The result of one session among the clients 0 to `clients` - 1.

        Raises:
            SumAborted: too few answered.
        """
        members = tuple(range(clients))
        task = TrainTask(self.run_id, round, 0, np.zeros(0, dtype=np.float32))
        trained = self._exchange(dict.fromkeys(members, task))
        enrolment = None
        if self.protocol.identified:
            sent = {one: it.identity for one, it in trained.items() if isinstance(it, Trained)}
            listed = admissible(sent)
            enrolment = Enrolment(listed)
            self._exchange(dict.fromkeys(members, EnrolmentList(listed)))
        session: Session = self.protocol.session(
            members,
            context_of(task, self.dimension, bits=self.bits),
            enrolment=enrolment,
            workers=TransportWorkers(self.transport),
        )
        outbox = next(session)
        while True:
            try:
                outbox = session.send(self._exchange(outbox))
            except StopIteration as end:
                result: SessionResult = end.value
                return result

    def _exchange(self, outbox: Mapping[ClientId, Message]) -> dict[ClientId, Message]:
        frames = {
            one: frame
            for one, frame in frames_of(outbox).items()
            if kind_of(frame).stage < self.silent_from.get(one, Stage.DEBUG)
        }
        inbox = {}
        for one, frame in self.transport.exchange(frames).items():
            reply = inbox[one] = read_frame(frame)
            self.bytes_up += weight_of(reply) or len(frame)
            self.answered[reply.stage] = self.answered.get(reply.stage, 0) + 1
        return inbox

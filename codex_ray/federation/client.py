"""The client side of a round: a host carries clients, and each keeps its update to itself."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from codex_ray.errors import HostLost, ProtocolError
from codex_ray.federation.folding import Folding
from codex_ray.federation.messages import (
    DebugReport,
    DebugRequest,
    Trained,
    TrainTask,
)
from codex_ray.federation.sessions import Sessions
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.mechanism import Fact, Means, PrivacyMechanism
from codex_ray.privacy.noise_inside import NoiseInside, rounded_sum
from codex_ray.privacy.passengers import Told
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Randomness
from codex_ray.secagg.protocols import SumProtocol
from codex_ray.types import ClientId, Residues, SessionContext
from codex_ray.wire import Frame, FrameReader, Message, frames_of, read_frame

LOG = logging.getLogger(__name__)

PORTION = 2**24
"""Bytes of updates that are worked on at a time: few enough to stay near the processor."""


class LocalTrainer(Protocol):
    """What a host needs of learning: the updates of some of its clients."""

    def train(
        self, params: torch.Tensor, clients: Sequence[ClientId], round: int
    ) -> torch.Tensor:  # [n, d]
        """The updates [n, d] of `clients`, in their order."""
        ...

    def summed(
        self,
        params: torch.Tensor,
        client: ClientId,
        round: int,
        *,
        clip_norm: float,
        take: Callable[[Iterator[torch.Tensor]], Residues],
    ) -> Residues:
        """What `take` makes of the clipped steps of the client's records, chunk by chunk [n, d]."""
        ...

    def tell(
        self, params: torch.Tensor, clients: Sequence[ClientId], asked: Collection[Fact]
    ) -> list[Told]:
        """What each client has to tell of its records beside its update, in their order."""
        ...

    def clipping(self, client: ClientId) -> tuple[int, int, int]:
        """(records met, clipped, not finite) in the client's last training; for debugging only."""
        ...


@dataclass(frozen=True)
class _Assignment:
    """A task, unpacked once for all the clients of a host, in however many chunks they come."""

    task: TrainTask
    params: torch.Tensor  # [d], a copy that torch may write to
    context: SessionContext
    rotation: Rotation | None

    @property
    def order(self) -> tuple[int, int]:
        """What a later task has more of."""
        return self.task.round, self.task.attempt

    def holds(self, task: TrainTask) -> bool:
        """Whether `task` is the same one. Frames do not change, so the same memory has the same
        parameters for as long as it is held, which it is here."""
        same = (self.task.run, *self.order) == (task.run, task.round, task.attempt)
        one, other = self.task.params, task.params
        return (
            same
            and (one.ctypes.data, one.size) == (other.ctypes.data, other.size)
            and np.array_equal(self.task.mechanism, task.mechanism)
        )


@contextmanager
def _refusing(*clients: ClientId) -> Iterator[None]:
    """Turns a refusal into silence; the log says why, and holds nothing secret."""
    try:
        yield
    except ProtocolError as refusal:
        beside = f" nor do the {len(clients) - 1} beside it" if len(clients) > 1 else ""
        LOG.warning("client %d gives no answer%s: %s", clients[0], beside, refusal)


class Host:
    """Carries clients: trains them, and answers for each of them and for it alone.

    A host trusts nothing that a server says about the session: the run, round and attempt come from
    the task, and the digest is that of the parameters it trained on itself.
    """

    def __init__(
        self,
        *,
        trainer: LocalTrainer,
        mechanism: PrivacyMechanism,
        protocol: SumProtocol,
        codec: Codec,
        randomness: Randomness,
        by_record: bool = False,
        debug: bool = False,
        fold: bool = True,
        together: int = 1,
    ) -> None:
        """A host of clients that have all this in common.

        Args:
            trainer: trains them.
            mechanism: encodes their updates.
            protocol: adds them up.
            codec: the summands' form.
            randomness: of the run.
            by_record: whether a client's records are each rounded by themselves.
            debug: whether it answers the simulator's own questions.
            fold: whether it adds up what its clients send, where the protocol allows that.
            together: how many clients the trainer trains in one program.
        """
        self._trainer = trainer
        self._mechanism = mechanism
        self._codec = codec
        self._randomness = randomness
        self._by_record = by_record
        self._debug = debug
        self._sessions = Sessions(protocol, fold=fold)
        self._portion = together * max(1, PORTION // (4 * codec.length * together))
        self._assignment: _Assignment | None = None
        self._trained: dict[ClientId, tuple[float, ...]] = {}
        """Who was trained in the last attempt at a round, with the figures to debug by."""

    def handle(self, frames: Mapping[ClientId, Frame]) -> dict[ClientId, bytes]:
        """The reply of each client that was sent a frame, in increasing order of the client.

        A client that refuses says nothing: to the server it has dropped out.

        Raises:
            HostLost: a client is asked to sum that was not trained on this host.
        """
        reader = FrameReader()
        folding = self._sessions.folding(bits=self._codec.bits)
        tasks: dict[int, tuple[TrainTask, list[ClientId]]] = {}
        replies: dict[ClientId, Message] = {}
        for client in sorted(frames):
            message = reader.read(frames[client])
            if isinstance(message, TrainTask):
                tasks.setdefault(id(message), (message, []))[1].append(client)
            else:
                with _refusing(client):
                    replies[client] = self._answer(client, message, folding)
        for task, asked in tasks.values():
            replies |= self._train(task, asked, folding)
        return frames_of({client: replies[client] for client in sorted(replies)})

    def _train(
        self, task: TrainTask, asked: list[ClientId], folding: Folding | None
    ) -> dict[ClientId, Message]:
        """Trains those who have not yet answered this attempt or a later one.

        Two summands of one attempt, over two models, would show an update by subtraction. Where
        the session begins with the task, a portion's summands are on their way before the next
        portion is trained.
        """
        if not self._takes(task):
            return {}
        clients = [client for client in asked if client not in self._trained]
        self._sessions.begin()
        opening = read_frame(task.opening) if task.opening else None
        replies: dict[ClientId, Message] = {}
        for first in range(0, len(clients), self._portion):
            portion = clients[first : first + self._portion]
            together = False
            if self._by_record:
                self._train_by_record(portion)
            else:
                together = self._train_updates(portion, opening)
            for client in portion:
                replies[client] = Trained(self._sessions.identity(client))
                if opening is not None and not together:
                    with _refusing(client):
                        replies[client] = self._answer(client, opening, folding)
            if opening is not None and folding is not None and together:
                with _refusing(*portion):
                    replies |= self._sessions.answer_together(portion, opening, folding)
        return replies

    def _takes(self, task: TrainTask) -> bool:
        """Whether the task is of the present attempt or a later one, which then is the present one.

        What clients hold of an earlier attempt is forgotten: nobody will ask for it.
        """
        held, order = self._assignment, (task.round, task.attempt)
        if held is None or order > held.order:
            self._trained.clear()
            self._sessions.forget()
        elif order < held.order:
            return False
        if held is None or not held.holds(task):
            self._assignment = self._unpacked(task)
        return True

    def _unpacked(self, task: TrainTask) -> _Assignment:
        return _Assignment(
            task,
            torch.from_numpy(task.params.copy()),
            SessionContext(
                run=task.run,
                round=task.round,
                attempt=task.attempt,
                model_digest=hashlib.sha256(task.params.data).digest(),
                dimension=self._codec.length,
                bits=self._codec.bits,
            ),
            self._codec.rotation(self._randomness.public.stream("rotation", task.round)),
        )

    def _train_by_record(self, clients: list[ClientId]) -> None:
        """Has each client's records rounded step by step, and keeps its summand for the session."""
        given = self._assignment
        assert given is not None
        for client in clients:
            summand = self._sum_of_steps(
                given.params, client, given.task.round, rotation=given.rotation
            )
            self._sessions.seat(client, given.context, summand=summand)
            self._trained[client] = ()

    def _train_updates(self, clients: list[ClientId], opening: Message | None) -> bool:
        """Trains `clients` and keeps each one's encoded update for the session to come.

        Updates on another device are added there, where the session allows it; whether they were.
        """
        given = self._assignment
        assert given is not None
        task, params = given.task, given.params
        state = tuple(float(number) for number in task.mechanism)
        secret, round = self._randomness.secret, task.round
        updates = self._trainer.train(params, clients, round)  # [n, d], on the trainer's device
        means = Means(
            rotation=given.rotation,
            draws=lambda row: secret.stream("rounding", round, clients[row]),
            noise=lambda row: secret.stream("noise share", round, clients[row]),
            told=self._told(params, clients),
            state=state,
        )
        away = updates.device.type != "cpu"
        if away and not self._debug and self._sessions.adds_ahead(opening):
            total = self._mechanism.encode_sum(updates, self._codec, means)
            self._sessions.seat_together(clients, given.context, total=total)
            self._trained |= dict.fromkeys(clients, ())
            return True
        summands = self._mechanism.encode_all(updates, self._codec, means)
        norms = torch.linalg.vector_norm(updates.double(), dim=1).tolist() if self._debug else []
        for row, client in enumerate(clients):
            # A copy: a row would keep the whole chunk for as long as its client is waited for.
            summand = summands[row] if task.opening else summands[row].copy()
            self._sessions.seat(client, given.context, summand=summand)
            figures: tuple[float, ...] = ()
            if self._debug:
                sent = self._mechanism.sent_norm(summands[row], self._codec, state=state)
                figures = (norms[row], sent, *self._trainer.clipping(client))
            self._trained[client] = figures
        return False

    def _sum_of_steps(
        self, params: torch.Tensor, client: ClientId, round: int, *, rotation: Rotation | None
    ) -> Residues:
        """The client's records' steps, each rounded by itself, and its part of the noise."""
        mechanism, codec, secret = self._mechanism, self._codec, self._randomness.secret
        assert isinstance(mechanism, NoiseInside)  # The experiment was checked for it.
        draws = secret.stream("rounding", round, client)
        words = self._trainer.summed(
            params,
            client,
            round,
            clip_norm=codec.allowed_norm,
            take=lambda steps: rounded_sum(steps, codec, rotation=rotation, draws=draws),
        )
        noise = secret.stream("noise share", round, client)
        return mechanism.noised(words, codec, noise=noise)

    def _told(self, params: torch.Tensor, clients: Sequence[ClientId]) -> Sequence[Told | None]:
        """What each client adds to the sum beside its update; None where nothing is asked."""
        asked = self._mechanism.asks
        return self._trainer.tell(params, clients, asked) if asked else [None] * len(clients)

    def _answer(self, client: ClientId, message: Message, folding: Folding | None) -> Message:
        """The client's reply; of a summand, what is left when others were added to it."""
        if client not in self._trained:
            # The host that trained it is gone, and this one has taken its place.
            raise HostLost(f"client {client} was not trained here")
        if isinstance(message, DebugRequest):
            if not self._debug:
                raise ProtocolError("debug figures were asked for in a run that has debug off")
            return DebugReport(np.array(self._trained[client], dtype=np.float32))
        reply = self._sessions.answer(client, message)
        return folding.fold(reply) if folding else reply

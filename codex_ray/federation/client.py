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
from codex_ray.federation.messages import (
    DebugReport,
    DebugRequest,
    Trained,
    TrainTask,
)
from codex_ray.federation.sessions import Sessions
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.mechanisms import Fact, PrivacyMechanism
from codex_ray.privacy.noise_inside import NoiseInside, rounded_sum
from codex_ray.privacy.passengers import Told
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Randomness
from codex_ray.secagg.protocols import SumProtocol
from codex_ray.types import ClientId, Residues, SessionContext
from codex_ray.wire import Frame, Message, read_frame

LOG = logging.getLogger(__name__)


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


@dataclass
class _Client:
    """What one client holds between the messages of one attempt at one round."""

    task: tuple[int, int]
    figures: tuple[float, ...] = ()


@contextmanager
def _refusing(client: ClientId) -> Iterator[None]:
    """Turns a refusal into silence; the log says why, and holds nothing secret."""
    try:
        yield
    except ProtocolError as refusal:
        LOG.warning("client %d gives no answer: %s", client, refusal)


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
    ) -> None:
        self._trainer = trainer
        self._mechanism = mechanism
        self._codec = codec
        self._randomness = randomness
        self._by_record = by_record
        self._debug = debug
        self._sessions = Sessions(protocol, fold=fold)
        self._clients: dict[ClientId, _Client] = {}

    def handle(self, frames: Mapping[ClientId, Frame]) -> dict[ClientId, bytes]:
        """The reply of each client that was sent a frame, in increasing order of the client.

        A client that refuses says nothing: to the server it has dropped out.

        Raises:
            HostLost: a client is asked to sum that was not trained on this host.
        """
        read: dict[int, Message] = {}  # a broadcast is one frame for all: decode it once
        folding = self._sessions.folding(bits=self._codec.bits)
        tasks: dict[int, list[ClientId]] = {}
        replies: dict[ClientId, Message] = {}
        for client in sorted(frames):
            frame = frames[client]
            if id(frame) not in read:
                read[id(frame)] = read_frame(frame)
            message = read[id(frame)]
            if isinstance(message, TrainTask):
                tasks.setdefault(id(frame), []).append(client)
            else:
                with _refusing(client):
                    reply = self._answer(client, message)
                    replies[client] = folding.fold(reply) if folding else reply
        for key, asked in tasks.items():
            task = read[key]
            assert isinstance(task, TrainTask)
            clients = [client for client in asked if self._is_new(client, task)]
            self._train(task, clients)
            replies |= {client: Trained(self._sessions.identity(client)) for client in clients}
        return {client: replies[client].to_frame() for client in sorted(replies)}

    def _train(self, task: TrainTask, clients: list[ClientId]) -> None:
        """Trains `clients` and keeps each one's encoded update for the session to come."""
        self._sessions.begin()
        params = torch.from_numpy(np.require(task.params, requirements=["W"]))
        context = SessionContext(
            run=task.run,
            round=task.round,
            attempt=task.attempt,
            model_digest=hashlib.sha256(task.params.tobytes()).digest(),
            dimension=self._codec.length,
            bits=self._codec.bits,
        )
        state = tuple(float(number) for number in task.mechanism)
        rotation = self._codec.rotation(self._randomness.public.stream("rotation", task.round))
        if self._by_record:
            for client in clients:
                summand = self._sum_of_steps(params, client, task.round, rotation=rotation)
                self._sessions.seat(client, context, summand=summand)
                self._clients[client] = _Client((task.round, task.attempt))
            return
        updates = self._trainer.train(params, clients, task.round)  # [n, d]
        for client, update, told in zip(clients, updates, self._told(params, clients), strict=True):
            summand = self._mechanism.encode(
                update,
                self._codec,
                rotation=rotation,
                draws=self._randomness.secret.stream("rounding", task.round, client),
                told=told,
                noise=self._randomness.secret.stream("noise share", task.round, client),
                state=state,
            )
            self._sessions.seat(client, context, summand=summand)
            figures: tuple[float, ...] = ()
            if self._debug:
                norm = float(torch.linalg.vector_norm(update.double()))
                sent = self._mechanism.sent_norm(summand, self._codec, state=state)
                figures = (norm, sent, *self._trainer.clipping(client))
            self._clients[client] = _Client((task.round, task.attempt), figures)

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

    def _is_new(self, client: ClientId, task: TrainTask) -> bool:
        """Whether the client has not yet answered this attempt or a later one.

        Two summands of one attempt, over two models, would show an update by subtraction.
        """
        held = self._clients.get(client)
        return held is None or (task.round, task.attempt) > held.task

    def _answer(self, client: ClientId, message: Message) -> Message:
        held = self._clients.get(client)
        if held is None:
            # The host that trained it is gone, and this one has taken its place.
            raise HostLost(f"client {client} was not trained here")
        if isinstance(message, DebugRequest):
            if not self._debug:
                raise ProtocolError("debug figures were asked for in a run that has debug off")
            return DebugReport(np.array(held.figures, dtype=np.float32))
        return self._sessions.answer(client, message)

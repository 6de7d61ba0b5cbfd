"""One round: sample -> train -> sum -> release -> step."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from codex_ray.errors import ConfigError, ProtocolError, SumAborted
from codex_ray.federation.charges import Charge, Survivors
from codex_ray.federation.federation import Federation
from codex_ray.federation.field import FieldClock
from codex_ray.federation.folding import weight_of
from codex_ray.federation.messages import (
    DebugReport,
    DebugRequest,
    EnrolmentList,
    Trained,
    TrainTask,
)
from codex_ray.federation.state import ServerState
from codex_ray.federation.transport import Transport, TransportWorkers
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.ledger import Ledger
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import Randomness, Stream
from codex_ray.secagg.cost import Attendance
from codex_ray.secagg.identity import Enrolment, admissible
from codex_ray.secagg.protocols import Ideal
from codex_ray.secagg.trips import add_up
from codex_ray.types import ClientId, GroupSum, SessionContext, SessionResult, Stage
from codex_ray.wire import FrameReader, Message, frames_of, kind_of

LOG = logging.getLogger(__name__)


class BudgetSpent(Exception):  # noqa: N818  # the end of a run, not an error
    """The next round could cost more than the budget has left."""


@dataclass
class RoundTrace:
    """What the server saw of a round, filled in as it goes."""

    cohort: tuple[ClientId, ...] = ()
    silent: dict[ClientId, Stage] = field(default_factory=dict)
    bytes_up: dict[ClientId, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    field_seconds: Mapping[str, float] = field(default_factory=dict)
    members: tuple[ClientId, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    privacy: Mapping[str, float] = field(default_factory=dict)
    masks_recovered: int = 0
    would_cost: Mapping[str, float] = field(default_factory=dict)
    aborted: str | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to the stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Begun:
    """What a session goes on from, once the cohort has trained.

    Attributes:
        context: what it is bound to.
        enrolment: the list of clients that may take part, where the protocol asks for one.
        opened: the answers to its first message, where that went out with the task.
    """

    context: SessionContext
    enrolment: Enrolment | None = None
    opened: dict[ClientId, Message] | None = None


@dataclass(frozen=True)
class Round:
    """What every round of a run has in common."""

    federation: Federation
    codec: Codec
    population: int
    charges: Sequence[Charge]
    budget: float | None
    delta: float
    randomness: Randomness
    transport: Transport
    divisor: float
    """What a released sum is divided by: public, and never the number that were really there."""
    noise_of: Callable[[int], Stream]
    """The stream from which the release of a round draws its noise."""
    clock: FieldClock | None = None
    """What the trips would have taken in the field; `transport` tells it of them."""

    def run(
        self,
        state: ServerState,
        *,
        cohort: tuple[ClientId, ...],
        attempt: int,
        opening: Callable[[], None] = lambda: None,
    ) -> tuple[ServerState, RoundTrace]:
        """The state after round `state.round`, and what the server saw of it.

        `state` itself stays as it was.

        Two sums of one round, over survivors that differ by one, would show that client's summand.
        So a round is not begun again once its sum may be known. Masked inputs, those of `one_shot`
        too, show nothing as long as nobody has helped to unmask them: under `secagg`,
        `secagg_plus` and `one_shot` a sum can be known from the first unmask request on, and
        `opening` is called right before that one leaves. Under `clear` and `ideal` the summands
        come as they are, along with the training: see `opens_at_once`.

        Args:
            state: before the round.
            cohort: who is asked.
            attempt: the number of this one, which no earlier one of the round had.
            opening: called before the trip that opens the sum; if it raises, nobody is asked.

        Raises:
            HostLost: try again with the next attempt, unless `opening` was called.
        """
        trace = RoundTrace(cohort=cohort)
        if self.clock is not None:
            self.clock.begin(state.round)
        with trace.timed("train"):
            begun = self._train(state, attempt, trace)
        with trace.timed("sum"):
            group = self._sum(begun, trace, opening)
        if self.clock is not None:
            trace.field_seconds = self.clock.seconds
        ledgers = self._settle(state.ledgers, trace)
        after = replace(state, round=state.round + 1, ledgers=ledgers)
        if group is None:
            return after, trace
        with trace.timed("release"):
            federation = self.federation
            released = federation.mechanism.release(
                group,
                codec=self.codec,
                expected=self.divisor,
                noise=self.noise_of(state.round),
                rotation=self.codec.rotation(
                    self.randomness.public.stream("rotation", state.round)
                ),
                state=state.mechanism,
            )
            trace.metrics, trace.privacy = released.metrics, released.privacy
        with trace.timed("step"):
            params, optimiser = federation.algorithm.step(
                state.params, released.update, state.optimiser
            )
        learnt = replace(after, mechanism=released.state)
        return replace(learnt, params=params, optimiser=optimiser), trace

    def sample(self, state: ServerState) -> tuple[ClientId, ...]:
        """The cohort of round `state.round`."""
        sampler = self.federation.sampler
        return sampler.sample(self.population, self.randomness, round=state.round)

    def reserve(self, state: ServerState, cohort: tuple[ClientId, ...]) -> ServerState:
        """The state in which everyone in the cohort has paid for the round, its worst case.

        Raises:
            BudgetSpent: somebody cannot; nothing was asked of anyone.
        """
        for ledger, charge in zip(state.ledgers, self.charges, strict=True):
            if charge.claim.outside or not charge.owed(ledger):
                continue  # A budget is kept against the server, who sees more than outsiders.
            event, holders = charge.event(None), charge.holders(cohort)
            if self.budget is not None and not ledger.affords(event, holders, self.budget):
                raise BudgetSpent(
                    f"round {state.round} could take the {ledger.unit}-level epsilon past the "
                    f"budget of {self.budget:g}"
                )
        return replace(state, ledgers=self._charged(state.ledgers, cohort))

    def _train(self, state: ServerState, attempt: int, trace: RoundTrace) -> _Begun:
        """Lets the cohort train, and enrols it or, where nobody is, opens the session at once.

        Otherwise the updates stay with the clients.
        """
        params = state.params.numpy()
        told = np.array(state.mechanism, dtype=np.float32)
        opening = self.federation.protocol.opening if self.opens_at_once(trace.cohort) else None
        first = b"" if opening is None else opening.to_frame()
        task = TrainTask(state.run, state.round, attempt, params, told, first).to_frame()
        trained = self._exchange(dict.fromkeys(trace.cohort, task), trace)
        digest = hashlib.sha256(np.ascontiguousarray(params).tobytes()).digest()
        context = SessionContext(
            run=state.run,
            round=state.round,
            attempt=attempt,
            model_digest=digest,
            dimension=self.codec.length,
            bits=self.codec.bits,
        )
        if opening is not None:
            answers = {one: it for one, it in trained.items() if not isinstance(it, Trained)}
            return _Begun(context, opened=answers)
        if not self.federation.protocol.identified or not trained:
            return _Begun(context)
        sent = {one: it.identity for one, it in trained.items() if isinstance(it, Trained)}
        listed = admissible(sent)
        for one in sent.keys() - listed.keys():
            LOG.warning("client %d is not admitted: its identity cannot be used", one)
            trace.silent.setdefault(one, Stage.ENROL)
        self._exchange(dict.fromkeys(listed, EnrolmentList(listed).to_frame()), trace)
        return _Begun(context, enrolment=Enrolment(listed))

    def opens_at_once(self, cohort: tuple[ClientId, ...]) -> bool:
        """Whether a round of that cohort asks for summands, as they are, with the first trip.

        What came of that trip adds up to a sum. A trip that failed has given the server nothing,
        but nobody knows how far a server was that is gone: so then it counts from the task on.
        """
        alone = self.federation.releases_noise_alone(len(cohort))
        return not alone and self.federation.protocol.opening is not None

    def _sum(
        self, begun: _Begun, trace: RoundTrace, opening: Callable[[], None]
    ) -> GroupSum | None:
        """The sum over the survivors, or None when the session had to be abandoned."""
        context, inbox = begun.context, begun.opened
        ready = tuple(c for c in trace.cohort if c not in trace.silent)
        if self.federation.releases_noise_alone(len(trace.cohort)):
            return GroupSum((), no_words(context.dimension, bits=context.bits))
        session = self.federation.protocol_for(self.population).session(
            ready, context, enrolment=begun.enrolment, workers=TransportWorkers(self.transport)
        )
        try:
            outbox = next(session)
            if inbox is not None:  # It went out with the task.
                for one in outbox.keys() - inbox.keys():
                    trace.silent.setdefault(one, outbox[one].stage)
                outbox = session.send(inbox)
            while True:
                if any(it.stage >= Stage.UNMASK for it in outbox.values()):
                    opening()
                outbox = session.send(self._exchange(frames_of(outbox), trace))
        except StopIteration as stop:
            result: SessionResult = stop.value
        except (SumAborted, ProtocolError) as reason:
            trace.aborted = str(reason)
            return None
        trace.members, trace.masks_recovered = result.members, result.masks_recovered
        trace.would_cost = self._would_cost(context, trace, asked=len(ready))
        total = add_up((group.total for group in result.groups), context)
        return GroupSum(result.members, total)

    def _would_cost(
        self, context: SessionContext, trace: RoundTrace, *, asked: int
    ) -> dict[str, float]:
        """What cryptography would have cost, where a sum is taken on trust."""
        protocol = self.federation.protocol
        if not isinstance(protocol, Ideal):
            return {}
        staying = sum(trace.silent.get(one) is not Stage.UNMASK for one in trace.members)
        seen = Attendance(asked, asked, len(trace.members), staying)
        try:
            return asdict(protocol.would_cost(seen, context))
        except ConfigError:  # A trusted sum may be too small for a secure one.
            return {}

    def _exchange(
        self, outbox: dict[ClientId, bytes], trace: RoundTrace
    ) -> dict[ClientId, Message]:
        """One trip over the seam: the replies, with the bytes sent and the silence written down.

        A frame that cannot be read is no reply: its client has dropped out.
        """
        frames = self.transport.exchange(outbox)
        reader = FrameReader()
        inbox: dict[ClientId, Message] = {}
        for client in sorted(frames.keys() & outbox.keys()):
            weight = len(frames[client])
            try:
                reply = inbox[client] = reader.read(frames[client])
                weight = weight_of(reply) or weight
            except ProtocolError as error:
                LOG.warning("client %d sent a frame that cannot be read: %s", client, error)
            trace.bytes_up[client] = trace.bytes_up.get(client, 0) + weight
        for client, frame in outbox.items():
            if client not in inbox and client not in self.transport.lost:
                trace.silent.setdefault(client, kind_of(frame).stage)
        return inbox

    def _settle(self, ledgers: list[Ledger], trace: RoundTrace) -> list[Ledger]:
        """The ledgers after the round: the survivors pay, or, after an abort, everyone asked.

        Dropouts are drawn independently of the data, so a client whose summand is in no sum has
        paid nothing. What an abandoned session showed depends on where it stopped: the reservation
        stands.
        """
        if trace.aborted:
            return self._charged(ledgers, trace.cohort)
        return self._charged(ledgers, trace.members, survivors=len(trace.members))

    def _charged(
        self,
        ledgers: list[Ledger],
        clients: tuple[ClientId, ...],
        *,
        survivors: Survivors = None,
    ) -> list[Ledger]:
        """Copies of the ledgers in which a round of `clients` is paid for."""
        charged = deepcopy(ledgers)
        for ledger, charge in zip(charged, self.charges, strict=True):
            charge.pay(ledger, clients, survivors=survivors)
        return charged

    def debug_figures(self, trace: RoundTrace) -> dict[str, float]:
        """Over the simulator's own channel: norms, and what was clipped. Outside the guarantee."""
        trained = [one for one in trace.cohort if trace.silent.get(one) is not Stage.TRAIN]
        asked = {client: DebugRequest().to_frame() for client in trained}
        frames = self.transport.exchange(asked).values()
        figures = [DebugReport.from_frame(frame).figures for frame in frames]
        if not figures:
            return {}
        before, after, met, shortened, lost = np.array(figures, dtype=np.float64).T
        sound = np.isfinite(before)
        return {
            "update_norm": float(before[sound].mean()) if sound.any() else 0.0,
            "clipped_fraction": float(np.mean(after < before * (1 - 1e-3))),
            "updates_not_finite": float(np.sum(~sound)),
            "records_clipped_fraction": float(shortened.sum() / max(1.0, met.sum())),
            "records_not_finite": float(lost.sum()),
        }

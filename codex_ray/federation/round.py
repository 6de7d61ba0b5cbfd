"""One round: sample -> train -> sum -> release -> step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from codex_ray.errors import SumAborted
from codex_ray.federation.federation import Federation
from codex_ray.federation.messages import DebugReport, DebugRequest, Trained, TrainTask
from codex_ray.federation.state import ServerState, holders_of
from codex_ray.federation.transport import Transport
from codex_ray.privacy.ledger import Ledger, Unit
from codex_ray.privacy.quantisation import FixedPoint
from codex_ray.randomness import Randomness
from codex_ray.types import ClientId, GroupSum, SessionContext, SessionResult, Stage
from codex_ray.wire import kind_of, read_frame

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class BudgetSpent(Exception):  # noqa: N818  # the end of a run, not an error
    """The next round could cost more than the budget has left."""


@dataclass
class RoundTrace:
    """What the server saw of a round, filled in as it goes."""

    cohort: tuple[ClientId, ...] = ()
    silent: dict[ClientId, Stage] = field(default_factory=dict)
    bytes_up: dict[ClientId, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    members: tuple[ClientId, ...] = ()
    masks_recovered: int = 0
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
class Round:
    """What every round of a run has in common."""

    federation: Federation
    grid: FixedPoint
    population: int
    events: Mapping[Unit, DpEvent]
    budget: float | None
    randomness: Randomness
    transport: Transport

    def run(self, state: ServerState, *, attempt: int) -> tuple[ServerState, RoundTrace]:
        """The state after round `state.round`, and what the server saw of it. `state` stays as it
        was.

        Raises:
            BudgetSpent: the round's worst case does not fit the budget; nothing was asked of
            anyone.
            HostLost: try again with the next attempt.
        """
        trace = RoundTrace(cohort=self._cohort(state))
        self._reserve(state, trace.cohort)
        with trace.timed("train"):
            context = self._train(state, attempt, trace)
        with trace.timed("sum"):
            group = self._sum(context, trace)
        ledgers = self._settle(state.ledgers, trace)
        if group is None:
            return _next(state, state.params, state.optimiser, ledgers), trace
        with trace.timed("release"):
            federation = self.federation
            update = federation.mechanism.release(
                group,
                grid=self.grid,
                expected=federation.sampler.expected(self.population),
                noise=self.randomness.secret.stream("release", state.round),
            )
            params, optimiser = federation.algorithm.step(state.params, update, state.optimiser)
        return _next(state, params, optimiser, ledgers), trace

    def _cohort(self, state: ServerState) -> tuple[ClientId, ...]:
        stream = self.randomness.secret.stream("cohort", state.round)
        return self.federation.sampler.sample(self.population, stream)

    def _reserve(self, state: ServerState, cohort: tuple[ClientId, ...]) -> None:
        """Checks that everyone could pay for the round if it went to its end."""
        for ledger in state.ledgers:
            holders = holders_of(ledger, cohort)
            event = self.events[ledger.unit]
            if self.budget is not None and not ledger.affords(event, holders, self.budget):
                raise BudgetSpent(
                    f"round {state.round} could take the {ledger.unit}-level epsilon past the "
                    "budget of "
                    f"{self.budget:g}"
                )

    def _train(self, state: ServerState, attempt: int, trace: RoundTrace) -> SessionContext:
        """Lets the cohort train; the updates stay with the clients."""
        params = state.params.numpy()
        task = TrainTask(state.run, state.round, attempt, params).to_frame()
        for frame in self._exchange(dict.fromkeys(trace.cohort, task), trace).values():
            Trained.from_frame(frame)
        digest = hashlib.sha256(np.ascontiguousarray(params).tobytes()).digest()
        return SessionContext(state.run, state.round, attempt, digest, len(params))

    def _sum(self, context: SessionContext, trace: RoundTrace) -> GroupSum | None:
        """The sum over the survivors, or None when the session had to be abandoned."""
        ready = tuple(c for c in trace.cohort if c not in trace.silent)
        if not trace.cohort:
            # An empty Poisson cohort is a round like any other: its sum is zero, and it is
            # released.
            return GroupSum((), np.zeros(context.dimension, dtype=np.uint32))
        session = self.federation.protocol.session(ready, context)
        try:
            outbox = next(session)
            while True:
                frames = self._exchange({c: m.to_frame() for c, m in outbox.items()}, trace)
                outbox = session.send({c: read_frame(f) for c, f in frames.items()})
        except StopIteration as stop:
            result: SessionResult = stop.value
        except SumAborted as reason:
            trace.aborted = str(reason)
            return None
        trace.members, trace.masks_recovered = result.members, result.masks_recovered
        total = np.zeros(context.dimension, dtype=np.uint32)
        for group in result.groups:
            total += group.total
        return GroupSum(result.members, total)

    def _exchange(self, outbox: dict[ClientId, bytes], trace: RoundTrace) -> dict[ClientId, bytes]:
        """One trip over the seam: the replies, with the bytes sent and the silence written down."""
        inbox = self.transport.exchange(outbox)
        stages = {client: kind_of(frame).stage for client, frame in outbox.items()}
        for client, stage in stages.items():
            if client not in inbox and client not in self.transport.lost:
                trace.silent.setdefault(client, stage)
        for client, frame in inbox.items():
            trace.bytes_up[client] = trace.bytes_up.get(client, 0) + len(frame)
        return {client: inbox[client] for client in sorted(inbox)}

    def _settle(self, ledgers: list[Ledger], trace: RoundTrace) -> list[Ledger]:
        """The ledgers after the round: the survivors pay, and after an abort everyone who was
        asked.

        Dropouts are drawn independently of the data, so a client whose summand is in no sum has
        paid nothing. What an abandoned session showed depends on where it stopped: the reservation
        stands.
        """
        paid = trace.cohort if trace.aborted is not None else trace.members
        settled = [
            Ledger(led.unit, led.delta, {h: dict(c) for h, c in led.paid.items()})
            for led in ledgers
        ]
        for ledger in settled:
            ledger.charge(self.events[ledger.unit], holders_of(ledger, paid))
        return settled

    def debug_figures(self, trace: RoundTrace) -> dict[str, float]:
        """Over the simulator's own channel: the cohort's update norms. Outside the guarantee."""
        asked = {client: DebugRequest().to_frame() for client in trace.cohort}
        frames = self.transport.exchange(asked).values()
        figures = [DebugReport.from_frame(frame).figures for frame in frames]
        if not figures:
            return {}
        before, after = np.array(figures, dtype=np.float64).T
        return {
            "update_norm": float(before.mean()),
            "clipped_fraction": float(np.mean(after < before * (1 - 1e-3))),
        }


def _next(
    state: ServerState, params: torch.Tensor, optimiser: torch.Tensor, ledgers: list[Ledger]
) -> ServerState:
    return ServerState(
        run=state.run,
        round=state.round + 1,
        params=params,
        optimiser=optimiser,
        ledgers=ledgers,
        totals=state.totals,
    )

"""A run: rounds until they are done or the budget is, each persisted before anyone hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Protocol

import torch

from codex_ray.errors import HostLost
from codex_ray.federation.round import BudgetSpent, Round, RoundTrace
from codex_ray.federation.state import RoundResult, ServerState, Totals, count_dropped

Evaluate = Callable[[torch.Tensor], dict[str, float]]


class Journal(Protocol):
    """Where a run's state is kept; after `save` returns, a crash loses nothing before it."""

    def save(self, state: ServerState) -> None:
        """Persists the state, or raises; a half-written state never replaces a whole one."""
        ...


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: test metrics, and the largest epsilon of each unit."""

    metrics: dict[str, float] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A round, repeated.

    Attributes:
        round: what every round has in common.
        rounds: how many there shall be.
        evaluate: test metrics of parameters [d].
        evaluate_every: how many rounds lie between two evaluations; the last round always has one.
        journal: where each round is persisted before it is published.
        attempts: how often a round is tried when hosts are lost.
        debug: whether the simulator's own channel is used.
    """

    round: Round
    rounds: int
    evaluate: Evaluate
    evaluate_every: int
    journal: Journal
    attempts: int = 5
    debug: bool = False

    def results(self, state: ServerState) -> Iterator[tuple[ServerState, RoundResult]]:
        """(state, result) after each round, from `state` on, already persisted.

        Raises:
            HostLost: a round failed in all its attempts.
        """
        while state.round < self.rounds:
            started = time.perf_counter()
            try:
                state, trace, attempts = self._one(state)
            except BudgetSpent:
                return
            measured = Measured()
            if state.round == self.rounds or state.round % self.evaluate_every == 0:
                with trace.timed("evaluate"):
                    epsilon = {str(ledger.unit): ledger.largest() for ledger in state.ledgers}
                    measured = Measured(self.evaluate(state.params), epsilon)
            figures = self.round.debug_figures(trace) if self.debug else {}
            state.totals = _added(state.totals, trace, time.perf_counter() - started)
            self.journal.save(state)
            yield state, _result(state, trace, attempts, measured, figures)

    def _one(self, state: ServerState) -> tuple[ServerState, RoundTrace, int]:
        """One round, tried again for as long as hosts are lost in it and not too often.

        A lost host is no dropout: the whole cohort starts over, under keys bound to the new
        attempt.
        """
        for attempt in range(self.attempts):
            try:
                after, trace = self.round.run(state, attempt=attempt)
                return after, trace, attempt + 1
            except HostLost:
                if attempt + 1 == self.attempts:
                    raise
                self.round.transport.recover()
        raise AssertionError("a run has at least one attempt")


def _added(totals: Totals, trace: RoundTrace, seconds: float) -> Totals:
    after = deepcopy(totals)
    after.dropped += len(trace.silent)
    after.aborted += trace.aborted is not None
    after.masks_recovered += trace.masks_recovered
    after.seconds += seconds
    for client, count in trace.bytes_up.items():
        after.bytes_up[client] = after.bytes_up.get(client, 0) + count
    return after


def _result(
    state: ServerState,
    trace: RoundTrace,
    attempts: int,
    measured: Measured,
    figures: dict[str, float],
) -> RoundResult:
    sent = trace.bytes_up.values()
    return RoundResult(
        round=state.round - 1,
        attempts=attempts,
        cohort=len(trace.cohort),
        survivors=len(trace.members),
        dropped=count_dropped(trace.silent),
        aborted=trace.aborted,
        masks_recovered=trace.masks_recovered,
        bytes_up={"total": sum(sent), "largest": max(sent, default=0)},
        seconds={stage: round(spent, 4) for stage, spent in trace.seconds.items()},
        epsilon=measured.epsilon,
        metrics=measured.metrics,
        debug=figures,
    )

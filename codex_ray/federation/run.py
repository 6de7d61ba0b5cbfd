"""A run: rounds until they are done or the budget is, each persisted before anyone hears of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from codex_ray.errors import HostLost
from codex_ray.federation.round import BudgetSpent, Round, RoundTrace
from codex_ray.federation.state import RoundResult, ServerState, Totals, count_dropped
from codex_ray.types import ClientId

LOG = logging.getLogger(__name__)
EXTRAPOLATED = "client_extrapolated"
"""How the epsilon of a larger run is called in figures: it is none of this one."""
APART = 1000
"""Up to so many clients each one's bytes are counted by themselves; of more only the sum is."""
Evaluate = Callable[[torch.Tensor], dict[str, float]]


class Journal(Protocol):
    """Where a run's state is kept; after `save` returns, a crash loses nothing before it."""

    def save(self, state: ServerState) -> None:
        """Persists the state, or raises; a half-written state never replaces a whole one."""
        ...


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
        replayable: whether a second try of a round draws the noise of the first (a seeded run).
        debug: whether the simulator's own channel is used.
    """

    round: Round
    rounds: int
    evaluate: Evaluate
    evaluate_every: int
    journal: Journal
    replayable: bool
    attempts: int = 5
    debug: bool = False

    def results(self, state: ServerState) -> Iterator[tuple[ServerState, RoundResult]]:
        """(state, result) after each round, from `state` on, already persisted.

        A state that comes from a checkpoint first tells of its last round once more, in case the
        run was killed before it could.

        Raises:
            HostLost: a round failed in all its attempts.
        """
        if state.last is not None:
            yield state, self._measured(state, state.last)
        while state.round < self.rounds:
            started = time.perf_counter()
            try:
                state, trace, attempts = self._one(state)
            except BudgetSpent:
                return
            figures = self.round.debug_figures(trace) if self.debug else {}
            paid = self._charged(state.totals.unsettled, trace)
            state.last = _result(state, trace, attempts, figures, charged=paid)
            state.totals = self._added(state.totals, trace, time.perf_counter() - started)
            yield state, self._measured(state, self._saved(state, state.last))

    def _one(self, state: ServerState) -> tuple[ServerState, RoundTrace, int]:
        """One round, tried again for as long as hosts are lost in it and not too often.

        A lost host is no dropout: the whole cohort starts over, under keys bound to the new
        attempt. Where noise cannot be replayed, every attempt pays, and its worst case is persisted
        before anything is asked of anyone: what a killed attempt has shown is shown. There cohort
        and dropouts may be others in another process, so once a sum may have been opened, which is
        persisted too, the round has had its last attempt: see `Round.run`.
        """
        if state.totals.opened:
            return _abandoned(state, "its process ended when its sum may have been opened")
        # A number that an attempt of a process that was killed may have had is not used again.
        first = 0 if self.replayable else len(state.totals.unsettled)
        for attempt in range(first, first + self.attempts):
            started = time.perf_counter()
            cohort = self.round.sample(state)
            reserved = self.round.reserve(state, cohort)
            if not self.replayable:
                opened = self.round.opens_at_once(cohort)
                reserved = replace(reserved, totals=_unsettled(state.totals, cohort, opened=opened))
                self.journal.save(reserved)
            opening = _Opening(self.journal, reserved, silent=self.replayable)
            prepared = {"sample": time.perf_counter() - started}
            try:
                after, trace = self.round.run(
                    state, cohort=cohort, attempt=attempt, opening=opening
                )
                trace.seconds = prepared | trace.seconds
                return after, trace, attempt + 1
            except HostLost as lost:
                where = {"round": state.round, "attempt": attempt, "event": "attempt_failed"}
                LOG.warning(
                    "attempt %d at round %d failed: %s", attempt, state.round, lost, extra=where
                )
                if opening.said:
                    self.round.transport.recover()
                    return _abandoned(opening.reserved, f"{lost}, when its sum was being opened")
                if attempt + 1 == first + self.attempts:
                    raise
                state = state if self.replayable else reserved
                self.round.transport.recover()
        raise AssertionError("a run has at least one attempt")

    def _saved(self, state: ServerState, result: RoundResult) -> RoundResult:
        """The result with the seconds that it took to persist the state, which are not in it."""
        started = time.perf_counter()
        self.journal.save(state)
        spent = {"checkpoint": round(time.perf_counter() - started, 4)}
        return replace(result, seconds=result.seconds | spent)

    def _measured(self, state: ServerState, result: RoundResult) -> RoundResult:
        """The result with its metrics and epsilon, in rounds that are evaluated."""
        if state.round != self.rounds and state.round % self.evaluate_every:
            return result
        started = time.perf_counter()
        epsilon = {
            charge.claim.label: ledger.largest()
            for ledger, charge in zip(state.ledgers, self.round.charges, strict=True)
        }
        larger = self.round.federation.extrapolated(rounds=state.round, delta=self.round.delta)
        if larger is not None:
            epsilon[EXTRAPOLATED] = larger
        metrics = {**result.metrics, **self.evaluate(state.params)}
        spent = {"evaluate": round(time.perf_counter() - started, 4)}
        return replace(result, metrics=metrics, epsilon=epsilon, seconds=result.seconds | spent)

    def _charged(self, unsettled: list[list[ClientId]], trace: RoundTrace) -> list[dict[str, Any]]:
        """Who paid for a round: the cohorts of lost attempts, and those of the one that ended it.

        Who that was is told only where a client has a ledger of its own, and no claim rests on
        nobody knowing.
        """
        told = not self.round.federation.hides_cohorts and not all(
            charge.hidden for charge in self.round.charges
        )
        lost = [(None, cohort) for cohort in unsettled]
        last = (None, trace.cohort) if trace.aborted else (len(trace.members), trace.members)
        return [
            {
                "survivors": survivors,
                "clients": len(clients),
                "members": list(clients) if told else None,
            }
            for survivors, clients in [*lost, last]
        ]

    def _added(self, totals: Totals, trace: RoundTrace, seconds: float) -> Totals:
        after = replace(totals, bytes_up=dict(totals.bytes_up), unsettled=[], opened=False)
        after.dropped += len(trace.silent)
        after.aborted += trace.aborted is not None
        after.masks_recovered += trace.masks_recovered
        after.seconds += seconds
        after.field_seconds += sum(trace.field_seconds.values())
        apart = self.round.population <= APART and not self.round.federation.hides_cohorts
        for client, count in trace.bytes_up.items():
            after.bytes_total += count
            if apart:
                after.bytes_up[client] = after.bytes_up.get(client, 0) + count
        return after


def _result(
    state: ServerState,
    trace: RoundTrace,
    attempts: int,
    figures: dict[str, float],
    *,
    charged: list[dict[str, Any]],
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
        field_seconds={stage: round(it, 4) for stage, it in trace.field_seconds.items()},
        epsilon={},
        metrics=dict(trace.metrics),
        privacy=dict(trace.privacy),
        debug=figures,
        would_cost=dict(trace.would_cost),
        charged=charged,
    )


@dataclass
class _Opening:
    """Persists that the sum of an attempt is about to be opened, where it cannot be replayed.

    Attributes:
        journal: where that is written down.
        reserved: the state in which the attempt is paid for.
        silent: whether nothing has to be said.
        said: whether it was.
    """

    journal: Journal
    reserved: ServerState
    silent: bool
    said: bool = False

    def __call__(self) -> None:
        """Returns once it is written down that the sum may be known."""
        if self.silent or self.said:
            return
        if not self.reserved.totals.opened:
            opened = replace(self.reserved.totals, opened=True)
            self.reserved = replace(self.reserved, totals=opened)
            self.journal.save(self.reserved)
        self.said = True


def _abandoned(state: ServerState, why: str) -> tuple[ServerState, RoundTrace, int]:
    """The end of a round without a sum, whose attempts are all paid for in `state`."""
    *lost, last = state.totals.unsettled
    trace = RoundTrace(
        cohort=tuple(last),
        aborted=f"{why}: a second sum of the round, less the first, could show a summand",
    )
    after = replace(state, round=state.round + 1, totals=replace(state.totals, unsettled=lost))
    return after, trace, len(lost) + 1


def _unsettled(totals: Totals, cohort: tuple[ClientId, ...], *, opened: bool) -> Totals:
    """The totals while one more cohort has paid for a round that has not ended."""
    unsettled = [*totals.unsettled, list(cohort)]
    return replace(totals, unsettled=unsettled, opened=totals.opened or opened)

"""A run as Prometheus sees it: a file for its textfile collector, and a page on loopback if asked.

Only what was published or is public is here: figures of releases, and never one from before the
noise. Where a claim rests on cohorts staying hidden, whatever depends on who was in one carries
scope="coordinator": it stays in the run directory, as rounds.jsonl does, and is on no page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from codex_ray.records.json_logs import COORDINATOR_LOST, HOST_LOST, HOST_REPLACED
from codex_ray.records.metrics_page import serving
from codex_ray.records.prometheus_text import Sample, Series, to_text
from codex_ray.records.run_directory import write_atomically
from codex_ray.records.tally import EXTRAPOLATED, Tally

if TYPE_CHECKING:
    from codex_ray.federation.state import RoundResult

PUBLIC: Final = "public"
COORDINATOR: Final = "coordinator"
OWN: Final = (
    '; with scope="coordinator" it depends on who was in hidden cohorts: the coordinator\'s own, '
    "outside the guarantee, and not for whoever the claim is against"
)
EVERY: Final = 1.0
"""Seconds between two files, at the least: nobody scrapes more often."""


def _gauge(name: str, said: str) -> Series:
    return Series(f"codex_ray_{name}", "gauge", said)


def _counter(name: str, said: str) -> Series:
    return Series(f"codex_ray_{name}_total", "counter", said)


PLANNED = _gauge("rounds_planned", "Rounds that the experiment asks for")
ROUNDS = _counter("rounds", "Rounds that have ended, with a sum or without")
RETRIES = _counter("round_retries", "Attempts at a round beyond its first, after a host was lost")
HOSTS_LOST = _counter("hosts_lost", "Times that a host was lost: it died, or did not answer")
HOSTS_REPLACED = _counter(
    "hosts_replaced", "Hosts in whose place another was started, because they kept failing"
)
COORDINATORS = _counter("coordinators_lost", "Coordinators that were lost, and replaced by another")
STAGES = _counter("stage_seconds", "Seconds spent, by stage of the round")
LAST_STAGES = _gauge("last_round_stage_seconds", "Seconds of the last round, by stage")
FIELD = _counter(
    "field_seconds",
    "Seconds that the trips would have taken on the clients' devices and networks" + OWN,
)
EPSILON = _gauge(
    "epsilon_spent", "Epsilon so far of the holder who has spent most, by unit, at the delta" + OWN
)
LARGER = _gauge(
    "epsilon_extrapolated", "Epsilon of a larger run that noise was scaled for: not of this one"
)
BUDGET = _gauge("epsilon_budget", "Epsilon before which the run stops; absent without a budget")
DELTA = _gauge("delta", "The delta that epsilon is stated at")
COHORT = _gauge("cohort_clients", "Clients that were asked in the last round" + OWN)
SURVIVORS = _gauge("survivor_clients", "Clients whose summand is in the last sum" + OWN)
ASKED = _counter("clients_asked", "Clients that were asked, over all rounds" + OWN)
DROPPED = _counter("clients_dropped", "Times that a client fell silent, by stage" + OWN)
ABORTED = _counter("rounds_aborted", "Rounds that ended without a sum" + OWN)
MASKS = _counter("masks_recovered", "Pair masks rebuilt because a client dropped out" + OWN)
BYTES = _counter("bytes_up", "Bytes that clients sent" + OWN)
METRIC = _gauge(
    "metric",
    "Figures of the released model on the pooled test set, at its last evaluation: exact, so they "
    "cover nobody whose records are in it",
)
RELEASE = _gauge(
    "release", "What the last release itself tells of clipping and noise, at no further cost"
)
ALL: Final = (
    PLANNED, ROUNDS, RETRIES, HOSTS_LOST, HOSTS_REPLACED, COORDINATORS, STAGES, LAST_STAGES,
    FIELD, EPSILON, LARGER, BUDGET, DELTA, COHORT, SURVIVORS, ASKED, DROPPED, ABORTED, MASKS, BYTES,
    METRIC, RELEASE,
)  # fmt: skip
"""Every series that there may be."""
EVENTS: Final = {
    HOSTS_LOST: HOST_LOST, HOSTS_REPLACED: HOST_REPLACED, COORDINATORS: COORDINATOR_LOST
}  # fmt: skip
"""What a run's own machines did, as its log calls it."""


@dataclass(frozen=True)
class Subject:
    """Whose figures these are.

    Attributes:
        run: names it in every label.
        rounds: planned.
        delta: that epsilon is stated at.
        budget: of epsilon, if there is one.
        hides_cohorts: whether the claim rests on nobody learning who was in a round.
        own_epsilon: units whose epsilon depends on who was in a hidden cohort.
    """

    run: str
    rounds: int
    delta: float
    budget: float | None = None
    hides_cohorts: bool = False
    own_epsilon: frozenset[str] = frozenset()

    def figures(
        self, tally: Tally, happened: Mapping[str, int] | None = None
    ) -> Iterator[tuple[Series, list[Sample]]]:
        """Every series of the run after these rounds, and these events of its machines."""
        own = COORDINATOR if self.hides_cohorts else PUBLIC
        yield PLANNED, [self._sample(self.rounds)]
        yield DELTA, [self._sample(self.delta)]
        if self.budget is not None:
            yield BUDGET, [self._sample(self.budget)]
        yield ROUNDS, [self._sample(tally.rounds)]
        yield RETRIES, [self._sample(tally.retries)]
        for series, event in EVENTS.items():
            yield series, [self._sample((happened or {}).get(event, 0))]
        yield STAGES, self._by("stage", tally.seconds)
        yield LAST_STAGES, self._by("stage", tally.last.get("seconds", {}))
        if tally.field_seconds is not None:
            yield FIELD, [self._sample(tally.field_seconds, scope=own)]
        yield (
            EPSILON,
            [
                self._sample(spent, unit=unit, scope=self._scope_of(unit))
                for unit, spent in tally.epsilon.items()
                if unit != EXTRAPOLATED
            ],
        )
        if EXTRAPOLATED in tally.epsilon:
            yield LARGER, [self._sample(tally.epsilon[EXTRAPOLATED])]
        if tally.last:
            yield COHORT, [self._sample(tally.last["cohort"], scope=own)]
            yield SURVIVORS, [self._sample(tally.last["survivors"], scope=own)]
        yield ASKED, [self._sample(tally.clients, scope=own)]
        yield DROPPED, self._by("stage", tally.dropped, scope=own)
        yield ABORTED, [self._sample(tally.aborted, scope=own)]
        yield MASKS, [self._sample(tally.masks_recovered, scope=own)]
        yield BYTES, [self._sample(tally.bytes_up, scope=own)]
        yield METRIC, self._by("metric", tally.metrics)
        yield RELEASE, self._by("figure", tally.privacy)

    def _scope_of(self, unit: str) -> str:
        return COORDINATOR if unit in self.own_epsilon else PUBLIC

    def _sample(self, value: float, **labels: str) -> Sample:
        return Sample(float(value), {"run": self.run, **labels})

    def _by(self, label: str, values: Mapping[str, float], **labels: str) -> list[Sample]:
        return [self._sample(value, **{label: name}, **labels) for name, value in values.items()]


def published(
    figures: Iterable[tuple[Series, list[Sample]]],
) -> Iterator[tuple[Series, list[Sample]]]:
    """The figures without those that are the coordinator's own."""
    for series, samples in figures:
        yield series, [it for it in samples if it.labels.get("scope") != COORDINATOR]


class Metrics:
    """An observer that keeps a run's figures where Prometheus finds them."""

    def __init__(
        self,
        file: Path,
        *,
        subject: Subject,
        earlier: Iterable[Mapping[str, Any]] = (),
        happened: Mapping[str, int] | None = None,
        port: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Those of a run that begins, or goes on.

        Args:
            file: that is replaced whole, at most once a second, and when the run ends.
            subject: the run.
            earlier: the lines of the rounds before, so that counters go on where they were.
            happened: how often each event of the run's log was, as it grows.
            port: of a page on loopback; 0 for any free one, None for none.
            clock: tells seconds.

        Raises:
            ConfigError: the port is taken.
            RunDirectoryError: the disk refuses.
        """
        self._file, self._subject, self._clock = file, subject, clock
        self._tally, self._lock, self._stack = Tally(), Lock(), ExitStack()
        self._happened = {} if happened is None else happened
        for line in earlier:
            self._tally.add(line)
        self._write()
        self.port = None
        if port is not None:
            self.port = self._stack.enter_context(serving(self.page, port=port))

    def round(self, result: RoundResult) -> None:
        """Adds the round, and replaces the file if it is a second old."""
        with self._lock:
            self._tally.add(result.to_json())
        self._stale = True
        if self._clock() - self._written >= EVERY:
            self._write()

    def close(self) -> None:
        """Writes the last figures and takes the page down."""
        with self._stack:
            if self._stale:
                self._write()

    def page(self) -> bytes:
        """The figures for whoever asks: without the coordinator's own."""
        with self._lock:
            return to_text(published(self._figures()))

    def _figures(self) -> Iterator[tuple[Series, list[Sample]]]:
        return self._subject.figures(self._tally, self._happened)

    def _write(self) -> None:
        with self._lock:
            text = to_text(self._figures())
        # Not waited for: when the machine goes down, the next scrape finds what the resumed run
        # writes first.
        write_atomically(self._file, text, sync=False)
        self._written, self._stale = self._clock(), False

"""A run on disk: the same steps whether the hosts are in this process or on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from codex_ray.assembly import Assembled
from codex_ray.certifying.figures import GENERALISED, preparation
from codex_ray.certifying.issue import extrapolated, issue
from codex_ray.certifying.sections import GENERALISED_COLUMNS
from codex_ray.certifying.terms import Terms, all_spends, published
from codex_ray.config import to_yaml
from codex_ray.errors import ConfigError, RunDirectoryError
from codex_ray.experiment import Experiment
from codex_ray.federation.run import Run
from codex_ray.federation.state import RoundResult, ServerState
from codex_ray.federation.transport import Transport
from codex_ray.learning.evaluation import METRICS
from codex_ray.records.canonical import plain
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.copied import held_at, newest
from codex_ray.records.copies import Copies
from codex_ray.records.elsewhere import Elsewhere, elsewhere
from codex_ray.records.json_logs import JsonLog
from codex_ray.records.mending import forget_rounds
from codex_ray.records.metrics import Metrics, Subject
from codex_ray.records.observers import Observer, RoundLines, TensorBoard, show_audit
from codex_ray.records.ownership import Claim, claimed
from codex_ray.records.reservations import Cohorts
from codex_ray.records.restoring import refresh
from codex_ray.records.result import (
    DEBUG,
    SIMULATION,
    UNPROTECTED,
    UNSEEDED,
    RunResult,
    parameters_sha256,
    write_model,
)
from codex_ray.records.run_directory import (
    RunDirectory,
    clear_temporaries,
    to_json_bytes,
    unwritable,
    write_atomically,
)
from codex_ray.records.run_status import run_name
from codex_ray.records.tally import lines_of

LOG = logging.getLogger(__name__)


def rounds(
    assembled: Assembled, directory: RunDirectory, transport: Transport
) -> Iterator[RoundResult]:
    """Each round's result, persisted first, from the directory's last checkpoint on.

    Raises:
        RunDirectoryError: the disk refuses, or another process writes to the run; what is there
            can be gone on with.
    """
    experiment = assembled.experiment
    with ExitStack() as stack:
        stack.callback(transport.close)
        claim = stack.enter_context(claimed(directory.checkpoint, of=directory.path))
        clear_temporaries(directory.path)
        clear_temporaries(directory.checkpoint)
        copies = _copies(assembled, directory)
        checkpoints = _checkpoints(assembled, directory, claim=claim, copies=copies)
        found = checkpoints.recover()
        state = _paid(assembled, _of_this_run(assembled, directory, found.state), found.owed)
        if copies is not None:
            copies.go_on(state)
        checkpoints.put_aside(found, state)
        run = Run(
            round=assembled.round(transport),
            rounds=experiment.rounds,
            evaluate=assembled.evaluate,
            evaluate_every=experiment.evaluate_every,
            journal=checkpoints,
            replayable=experiment.seed is not None,
            debug=experiment.debug,
        )
        # The last round is told of once more: the run may have been killed before it was.
        first = max(0, state.round - 1)
        observers: list[Observer] = []
        for observer in _observers(assembled, directory, first=first):
            stack.callback(observer.close)
            observers.append(observer)
        if copies is not None:
            stack.callback(copies.close)
        for words in found.said:
            LOG.warning("%s", words)
        for _, result in run.results(state):
            for observer in observers:
                _tell(observer, result, directory)
            yield result


def _tell(observer: Observer, result: RoundResult, directory: RunDirectory) -> None:
    """Tells an observer of a round; the round itself is safe by now.

    Raises:
        RunDirectoryError: the disk refuses.
    """
    try:
        observer.round(result)
    except OSError as error:
        raise unwritable(directory.path, error) from error


def copied_to(experiment: Experiment) -> Elsewhere | None:
    """Where the experiment's checkpoints are copied to, if anywhere.

    Raises:
        RunDirectoryError: nothing here knows how to reach it.
    """
    url = experiment.cluster.checkpoints
    return None if url is None else elsewhere(url)


def _copies(assembled: Assembled, directory: RunDirectory, *, new: bool = False) -> Copies | None:
    """Where the run's checkpoints go as well; None if they are only here.

    If what is there is newer than what is here, it is what the run goes on from, unless it is a
    new one: this disk may be another one than it began with.

    Raises:
        RunDirectoryError: the place cannot be reached, or holds nothing that is whole.
    """
    place = copied_to(assembled.experiment)
    if place is None:
        return None
    if not new:
        _catch_up(directory, place)
    home = Checkpoints(directory.checkpoint).home()
    return Copies(place, directory, home=home, replayable=assembled.experiment.seed is not None)


def _catch_up(directory: RunDirectory, place: Elsewhere) -> None:
    """Brings what is elsewhere into the run directory, if it is of later than what is there.

    Raises:
        RunDirectoryError: it is another run's, or it should be there and is not whole.
    """
    there, checkpoints = held_at(place), Checkpoints(directory.checkpoint)
    try:
        here = checkpoints.load().order
    except RunDirectoryError:
        here = (-1, 0)
    if there is None or there <= here:
        return
    copy = newest(place)
    if checkpoints.home() not in ("", copy.home):
        raise RunDirectoryError(f"{place.url}: holds another run: choose another --checkpoints")
    for words in copy.said:
        LOG.warning("%s: going back to the copy before round %d", words, copy.round)
    if copy.order > here:
        refresh(copy, directory)


def _checkpoints(
    assembled: Assembled,
    directory: RunDirectory,
    *,
    claim: Claim | None = None,
    copies: Copies | None = None,
) -> Checkpoints:
    return Checkpoints(
        directory.checkpoint,
        replayable=assembled.experiment.seed is not None,
        claim=claim,
        journal=directory.rounds,
        copies=copies,
    )


def _paid(assembled: Assembled, state: ServerState, owed: Cohorts) -> ServerState:
    """The state in which these cohorts have paid once more, each for a worst case.

    Whoever saw what they sent has seen it, though nothing is left of it to go on from.
    """
    for cohort in owed:
        for ledger, charge in zip(state.ledgers, assembled.charges, strict=True):
            charge.pay(ledger, tuple(cohort))
    unsettled = [*state.totals.unsettled, *owed]
    return replace(state, totals=replace(state.totals, unsettled=unsettled))


def _observers(assembled: Assembled, directory: RunDirectory, *, first: int) -> Iterator[Observer]:
    """Who is told of each round from `first` on; each begins when the one before it has.

    Raises:
        ConfigError: the port for metrics is taken.
    """
    experiment, run = assembled.experiment, run_name(directory.path)
    yield RoundLines(directory.rounds, first_round=first)
    forget_rounds(directory.log, first=first)
    yield TensorBoard(directory.tensorboard, first_round=first, config=to_yaml(experiment))
    log = JsonLog(directory.log, run=run, first_round=first)
    yield log
    hides = experiment.federation.hides_cohorts
    subject = Subject(
        run=run,
        rounds=experiment.rounds,
        delta=experiment.budget.delta,
        budget=experiment.budget.epsilon,
        hides_cohorts=hides,
        own_epsilon=frozenset(c.claim.label for c in assembled.charges if hides and not c.hidden),
    )
    # The lines of earlier rounds: what came after the checkpoint is no longer among them.
    yield Metrics(
        directory.metrics,
        subject=subject,
        earlier=lines_of(directory.rounds),
        happened=log.happened,
        port=experiment.cluster.metrics_port,
    )


def _of_this_run(assembled: Assembled, directory: RunDirectory, state: ServerState) -> ServerState:
    """A state from a checkpoint, as the experiment goes on from it.

    A run that is given more rounds has to set more of delta aside, for all of them.

    Raises:
        ConfigError: the plan in config.yaml is not the one that the run began with.
    """
    plan = str(assembled.experiment.plan.plan)
    if state.plan not in ("", plan):
        raise ConfigError(
            f"plan: {directory.config} says {plan}, but the run began with {state.plan}, and goes "
            "on by no other: put it back"
        )
    delta = assembled.ledger_delta
    state.ledgers = [replace(ledger, delta=delta) for ledger in state.ledgers]
    return state


def last_round(directory: RunDirectory, experiment: Experiment) -> int:
    """How many rounds are done, by the newest checkpoint that is whole, here or elsewhere.

    Raises:
        RunDirectoryError: there is none.
    """
    try:
        return Checkpoints(directory.checkpoint).load().round
    except RunDirectoryError:
        place = copied_to(experiment)
        if place is None:
            raise
        return newest(place).round


def begin(assembled: Assembled, directory: RunDirectory) -> None:
    """Writes the state before round 0, so that a run can be resumed from its first moment on.

    Raises:
        RunDirectoryError: the disk refuses, or the copies' place has those of another run.
    """
    with claimed(directory.checkpoint, of=directory.path) as claim:
        _checkpoints(assembled, directory, claim=claim).begin(assembled.first_state())
        try:
            copies = _copies(assembled, directory, new=True)
            if copies is not None:
                copies.begin()
        except BaseException:
            directory.discard()  # nothing has been computed in it
            raise


def finish(
    assembled: Assembled,
    directory: RunDirectory,
    *,
    overlooked: Sequence[str] = (),
    last: RoundResult | None = None,
) -> RunResult:
    """Writes model, privacy and result from the last checkpoint, and returns the result.

    `overlooked` is what was open to strangers about the Ray that it ran on, and `last` the last
    round as it was told of, so that what it measured need not be measured again.
    """
    experiment = assembled.experiment
    state = _of_this_run(assembled, directory, Checkpoints(directory.checkpoint).load())
    population = assembled.dataset.population
    terms = Terms.of(assembled)
    spends = all_spends(terms, published(terms, state.ledgers))
    audit = _audit(assembled, directory, rounds=state.round)
    baselines = assembled.compare()
    larger = extrapolated(terms, rounds=state.round)
    figures = preparation(terms)
    result = RunResult(
        name=experiment.name,
        question=experiment.question,
        rounds=state.round,
        rounds_planned=experiment.rounds,
        rounds_aborted=state.totals.aborted,
        stopped="rounds" if state.round >= experiment.rounds else "budget",
        seconds=round(state.totals.seconds, 3),
        field_seconds=(
            None
            if experiment.federation.faults.devices is None
            else round(state.totals.field_seconds, 3)
        ),
        metrics=_metrics(assembled, state, last),
        privacy=[spend.to_json() for spend in spends],
        protocol=experiment.federation.protocol.kind,
        protection=experiment.federation.protocol.protection,
        clients=population,
        dropped_total=state.totals.dropped,
        masks_recovered=state.totals.masks_recovered,
        bytes_up_per_client=round(state.totals.bytes_total / population),
        bytes_up=dict(sorted(state.totals.bytes_up.items())),
        model_sha256=parameters_sha256(state.params),
        seed=experiment.seed,
        randomness=UNSEEDED if experiment.seed is None else SIMULATION,
        baselines=baselines.summary() if baselines else {},
        alone=baselines.alone if baselines else [],
        wrap_probability=assembled.codec.wrap_probability,
        extrapolated=None if larger is None else plain(larger.model_dump()),
        audit=audit,
        overlooked=list(overlooked),
        unsafe=_unsafe(experiment, overlooked),
        preparation=None if figures is None else plain(figures.model_dump()),
        directory=str(directory.path),
    )
    write_model(directory, state.params, assembled.model.names())
    issue(terms, state, directory, audit=audit or None)
    write_atomically(directory.result, to_json_bytes(result.model_dump(exclude={"directory"})))
    return result


def _metrics(
    assembled: Assembled, state: ServerState, last: RoundResult | None
) -> dict[str, float]:
    """Of the state's model on the test set: as its round measured them, or measured here."""
    if last is None or last.round + 1 != state.round or "evaluate" not in last.seconds:
        return assembled.evaluate(state.params)
    return {name: last.metrics[name] for name in METRICS if name in last.metrics}


def _unsafe(experiment: Experiment, overlooked: Sequence[str]) -> list[str]:
    """The safeguards that were off, a line each; what stands before the colon names it."""
    said = [] if experiment.seed is None else [SIMULATION]
    protection = experiment.federation.protocol.protection
    if protection.startswith(UNPROTECTED):
        said.append(protection)
    if experiment.debug:
        said.append(DEBUG)
    if experiment.preparation.insecure_generalised:
        said.append(f"{GENERALISED_COLUMNS}: {GENERALISED}")
    return [*said, *(f"Ray was open: {line}" for line in overlooked)]


def _audit(assembled: Assembled, directory: RunDirectory, *, rounds: int) -> list[dict[str, Any]]:
    """The verdicts that the experiment asks for, also written where observers look for figures."""
    asked = assembled.experiment.audit
    if asked is None:
        return []
    from codex_ray.auditing import audited  # imports sklearn and scipy, which most runs do without

    verdicts = [verdict.to_json() for verdict in audited(assembled, asked.canaries)]
    show_audit(directory.tensorboard, verdicts, step=max(0, rounds - 1))
    return verdicts

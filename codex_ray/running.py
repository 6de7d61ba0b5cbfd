"""A run on disk: the same steps whether the hosts are in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from codex_ray.assembly import Assembled
from codex_ray.certifying.issue import extrapolated, issue
from codex_ray.certifying.terms import Terms, all_spends, published
from codex_ray.config import to_yaml
from codex_ray.errors import ConfigError
from codex_ray.federation.run import Run
from codex_ray.federation.state import RoundResult, ServerState
from codex_ray.federation.transport import Transport
from codex_ray.records.canonical import plain
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.json_logs import JsonLog
from codex_ray.records.metrics import Metrics, Subject
from codex_ray.records.observers import Observer, RoundLines, TensorBoard, show_audit
from codex_ray.records.result import (
    SIMULATION,
    UNSEEDED,
    RunResult,
    parameters_sha256,
    write_model,
)
from codex_ray.records.run_directory import RunDirectory, to_json_bytes, write_atomically
from codex_ray.records.run_status import run_name
from codex_ray.records.tally import lines_of


def rounds(
    assembled: Assembled, directory: RunDirectory, transport: Transport
) -> Iterator[RoundResult]:
    """Each round's result, persisted first, from the directory's last checkpoint on."""
    experiment = assembled.experiment
    replayable = experiment.seed is not None
    checkpoints = Checkpoints(directory.checkpoint, replayable=replayable)
    state = _state(assembled, directory)
    run = Run(
        round=assembled.round(transport),
        rounds=experiment.rounds,
        evaluate=assembled.evaluate,
        evaluate_every=experiment.evaluate_every,
        journal=checkpoints,
        replayable=replayable,
        debug=experiment.debug,
    )
    # The last round is told of once more: the run may have been killed before it was.
    first = max(0, state.round - 1)
    with ExitStack() as stack:
        stack.callback(transport.close)
        observers: list[Observer] = []
        for observer in _observers(assembled, directory, first=first):
            stack.callback(observer.close)
            observers.append(observer)
        for _, result in run.results(state):
            for observer in observers:
                observer.round(result)
            yield result


def _observers(assembled: Assembled, directory: RunDirectory, *, first: int) -> Iterator[Observer]:
    """Who is told of each round from `first` on; each begins when the one before it has.

    Raises:
        ConfigError: the port for metrics is taken.
    """
    experiment, run = assembled.experiment, run_name(directory.path)
    yield RoundLines(directory.rounds, first_round=first)
    yield TensorBoard(directory.tensorboard, first_round=first, config=to_yaml(experiment))
    yield JsonLog(directory.log, run=run, first_round=first)
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
        port=experiment.cluster.metrics_port,
    )


def _state(assembled: Assembled, directory: RunDirectory) -> ServerState:
    """The state of the last checkpoint.

    A run that is given more rounds has to set more of delta aside, for all of them.

    Raises:
        ConfigError: the plan in config.yaml is not the one that the run began with.
    """
    state = Checkpoints(directory.checkpoint).load()
    plan = str(assembled.experiment.plan.plan)
    if state.plan not in ("", plan):
        raise ConfigError(
            f"plan: {directory.config} says {plan}, but the run began with {state.plan}, and goes "
            "on by no other: put it back"
        )
    delta = assembled.ledger_delta
    state.ledgers = [replace(ledger, delta=delta) for ledger in state.ledgers]
    return state


def begin(assembled: Assembled, directory: RunDirectory) -> None:
    """Writes the state before round 0, so that a run can be resumed from its first moment on."""
    Checkpoints(directory.checkpoint).save(assembled.first_state())


def finish(
    assembled: Assembled, directory: RunDirectory, *, overlooked: Sequence[str] = ()
) -> RunResult:
    """Writes model, privacy and result from the last checkpoint, and returns the result.

    `overlooked` is what was open to strangers about the Ray that it ran on.
    """
    experiment = assembled.experiment
    state = _state(assembled, directory)
    population = assembled.dataset.population
    terms = Terms.of(assembled)
    spends = all_spends(terms, published(terms, state.ledgers))
    audit = _audit(assembled, directory, rounds=state.round)
    baselines = assembled.compare()
    larger = extrapolated(terms, rounds=state.round)
    words = UNSEEDED if experiment.seed is None else SIMULATION
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
        metrics=assembled.evaluate(state.params),
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
        randomness=words,
        baselines=baselines.summary() if baselines else {},
        alone=baselines.alone if baselines else [],
        wrap_probability=assembled.codec.wrap_probability,
        extrapolated=None if larger is None else plain(larger.model_dump()),
        audit=audit,
        overlooked=list(overlooked),
        directory=str(directory.path),
    )
    write_model(directory, state.params, assembled.model.names())
    issue(terms, state, directory, audit=audit or None)
    write_atomically(directory.result, to_json_bytes(result.model_dump(exclude={"directory"})))
    return result


def _audit(assembled: Assembled, directory: RunDirectory, *, rounds: int) -> list[dict[str, Any]]:
    """The verdicts that the experiment asks for, also written where observers look for figures."""
    asked = assembled.experiment.audit
    if asked is None:
        return []
    from codex_ray.auditing import audited  # imports sklearn and scipy, which most runs do without

    verdicts = [verdict.to_json() for verdict in audited(assembled, asked.canaries)]
    show_audit(directory.tensorboard, verdicts, step=max(0, rounds - 1))
    return verdicts

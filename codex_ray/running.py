"""A run on disk: the same steps whether the hosts are in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from codex_ray.config import to_yaml
from codex_ray.experiment import Assembled
from codex_ray.federation.run import Run
from codex_ray.federation.state import RoundResult, ServerState
from codex_ray.federation.transport import Transport
from codex_ray.privacy.claims import Claim
from codex_ray.privacy.ledger import EVERYONE, Ledger, PrivacySpend
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.observers import Observer, RoundLines, TensorBoard, show_audit
from codex_ray.records.result import (
    SIMULATION,
    UNSEEDED,
    RunResult,
    parameters_sha256,
    write_model,
    write_privacy,
)
from codex_ray.records.run_directory import RunDirectory, to_json_bytes, write_atomically


def rounds(
    assembled: Assembled, directory: RunDirectory, transport: Transport
) -> Iterator[RoundResult]:
    """Each round's result, persisted first, from the directory's last checkpoint on."""
    experiment = assembled.experiment
    checkpoints = Checkpoints(directory.checkpoint)
    state = checkpoints.load()
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
    with ExitStack() as stack:
        stack.callback(transport.close)
        observers: list[Observer] = [
            RoundLines(directory.rounds, first_round=first),
            TensorBoard(directory.tensorboard, first_round=first, config=to_yaml(experiment)),
        ]
        for observer in observers:
            stack.callback(observer.close)
        for _, result in run.results(state):
            for observer in observers:
                observer.round(result)
            yield result


def begin(assembled: Assembled, directory: RunDirectory) -> None:
    """Writes the state before round 0, so that a run can be resumed from its first moment on."""
    Checkpoints(directory.checkpoint).save(assembled.first_state())


def finish(assembled: Assembled, directory: RunDirectory) -> RunResult:
    """Writes model, privacy and result from the last checkpoint, and returns the result."""
    experiment = assembled.experiment
    state = Checkpoints(directory.checkpoint).load()
    population = assembled.dataset.population
    spends = all_spends(assembled, state)
    baselines = assembled.compare()
    words = UNSEEDED if experiment.seed is None else SIMULATION
    result = RunResult(
        name=experiment.name,
        question=experiment.question,
        rounds=state.round,
        rounds_planned=experiment.rounds,
        rounds_aborted=state.totals.aborted,
        stopped="rounds" if state.round >= experiment.rounds else "budget",
        seconds=round(state.totals.seconds, 3),
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
        audit=_audit(assembled, directory, rounds=state.round),
        directory=str(directory.path),
    )
    write_model(directory, state.params, assembled.model.names())
    write_privacy(directory, spends, ledgers=published(assembled, state), randomness=words)
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


def all_spends(assembled: Assembled, state: ServerState) -> list[PrivacySpend]:
    """What every holder of every ledger has spent, with the assumptions that it rests on."""
    found = []
    for ledger, charge in zip(published(assembled, state), assembled.charges, strict=True):
        shared = EVERYONE in ledger.paid or charge.hidden
        holders = (EVERYONE,) if shared else range(assembled.dataset.population)
        said = assumptions(assembled, charge.claim)
        delta = assembled.experiment.budget.delta
        spends = ledger.spends(holders, assumptions=said)
        found += [replace(spend, delta=delta) for spend in spends]
    return found


def published(assembled: Assembled, state: ServerState) -> list[Ledger]:
    """The ledgers as they may be shown: where cohorts are hidden, nobody's number of rounds is."""
    if not assembled.experiment.federation.hides_cohorts:
        return state.ledgers
    return [ledger.worst() for ledger in state.ledgers]


def assumptions(assembled: Assembled, claim: Claim) -> tuple[str, ...]:
    """What must be true for the ledger's epsilon to be true, in words."""
    federation = assembled.experiment.federation
    said = [UNSEEDED if assembled.experiment.seed is None else SIMULATION]
    said += [f"claim {claim.name} covers {claim.against}", *claim.assumes]
    if claim.neighbours == "zero_out":
        said.append("neighbouring: the client takes part with an update of zero")
    if assembled.shortfall and claim.unit == "client":
        said.append(
            f"delta includes {assembled.shortfall:.1e}, the chance that a cohort of any round is "
            "too small for its sum"
        )
    if federation.hides_cohorts and claim.sampling_counts:
        said.append(
            "the cohort of each round stays hidden from whoever reads the result: cohort sizes, "
            "dropouts and bytes in rounds.jsonl and tensorboard/, and all of checkpoint/, are the "
            "coordinator's own and outside the guarantee"
        )
    said.append("test metrics are exact: they cover nobody whose records are in the test set")
    if not isinstance(federation.mechanism, NoiseInside) or claim.unit == "record":
        said.append(
            "noise is floating-point Gaussian: attacks on its low-order bits are not covered "
            "(Mironov 2012)"
        )
    return tuple(said)

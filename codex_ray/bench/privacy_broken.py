"""Builds that are broken on purpose, through the real auditor and certificate: are they caught?

Each comes with its sound twin, which must pass what the broken one is caught by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from codex_ray.assembly import assemble
from codex_ray.assurance.broken_builds import (
    ForgottenDropouts,
    NoClip,
    QuarterNoise,
    SameSeedDpSgd,
    SameSeedNoise,
    ShuffledAsPoisson,
)
from codex_ray.auditing import audited
from codex_ray.bench.bars import Row, at_least, fewer
from codex_ray.bench.small_runs import DELTA, HOSPITALS, PHONES, with_mechanism, with_seed
from codex_ray.certifying.issue import Evidence, document_of, read_lines, sha256_of
from codex_ray.certifying.terms import Terms, published
from codex_ray.config import experiment_from, to_yaml
from codex_ray.experiment import Experiment
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.privacy.calibration import calibrate
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.result import write_model
from codex_ray.records.run_directory import RunDirectory
from codex_ray.running import begin, rounds

SEEDS: Final = 10
EPSILON: Final = 3.0
"""What the builds with too little noise, or without a clip, claim of one round."""
CANARIES: Final = 500
FEW: Final = 20
"""Canaries where a check catches the build, and no statistics are needed."""

Breaking = Callable[[Experiment, int], Experiment]
Caught = Callable[[Experiment], bool]


@dataclass(frozen=True)
class Build:
    """One way to break a sound experiment.

    Attributes:
        name: what is wrong with it.
        by: what catches it, in words.
        config: the sound twin.
        broken: the broken build, of the twin and a seed.
        caught: whether what should catch it does.
    """

    name: str
    by: str
    config: dict[str, Any]
    broken: Breaking
    caught: Caught


def builds() -> Iterator[Build]:
    """The five of the bar.

    Equal seeds twice, for the noise of records and of clients; a shuffle by the certificate, which
    knows the functions that draw, and by an audit, which looks at what they draw.
    """
    from dp_accounting import GaussianDpEvent  # slow to import

    noise = calibrate(GaussianDpEvent, 1, epsilon=EPSILON, delta=DELTA)
    central = with_mechanism(PHONES, kind="gaussian", clip_norm=0.5, noise_multiplier=noise)
    inside = with_mechanism(
        PHONES, kind="skellam", clip_norm=0.5, noise_multiplier=1.0, assumed_dropout=0.1
    )
    bound = "the lower bound of canary clients"
    streams = "the correlation of two streams"
    yield Build("a quarter of the noise", bound, central, _mechanism(QuarterNoise), _refuted)
    yield Build("no clip", bound, central, _mechanism(NoClip), _refuted)
    yield Build("equal seeds, DP-SGD", streams, HOSPITALS, _same_seed_dp_sgd, _alike)
    yield Build("equal seeds, noise inside", streams, inside, _same_seed_noise, _alike)
    shuffle, batches = "shuffle claimed as Poisson", "the sizes of the batches"
    yield Build(shuffle, "getting no certificate", HOSPITALS, _shuffled, _uncertified)
    yield Build(f"{shuffle}, as drawn", batches, HOSPITALS, _shuffled, _odd_batches)
    yield Build(
        "dropouts' noise not restored",
        "the variance of the released noise",
        inside,
        _mechanism(ForgottenDropouts),
        _thin,
    )


def broken(scale: float) -> Iterator[Row]:
    """A row for each build: how often it is caught, and how often its sound twin passes."""
    seeds = fewer(SEEDS, scale, least=1)
    for build in builds():
        caught = passed = 0
        for seed in range(seeds):
            sound = experiment_from(with_seed(build.config, seed))
            caught += build.caught(build.broken(sound, seed))
            passed += not build.caught(sound)
        yield Row(
            f"broken build: {build.name}",
            f"caught {caught} of {seeds} by {build.by}; sound twin passes {passed} of {seeds}",
            f"caught {seeds} of {seeds}, twin never",
            (
                at_least("caught", caught, seeds),
                at_least("sound twins that pass", passed, seeds),
            ),
        )


# How each is broken.


def _mechanism(kind: type[QuarterNoise | NoClip | ForgottenDropouts]) -> Breaking:
    def breaking(sound: Experiment, seed: int) -> Experiment:
        fields = sound.federation.mechanism.model_dump(exclude={"kind"})
        return _with_mechanism(sound, kind(**fields))

    return breaking


def _same_seed_noise(sound: Experiment, seed: int) -> Experiment:
    fields = sound.federation.mechanism.model_dump(exclude={"kind"})
    return _with_mechanism(sound, SameSeedNoise(**fields, forced=seed))


def _with_mechanism(sound: Experiment, mechanism: Any) -> Experiment:
    federation = sound.federation.model_copy(update={"mechanism": mechanism})
    return sound.model_copy(update={"federation": federation})


def _same_seed_dp_sgd(sound: Experiment, seed: int) -> Experiment:
    trainer = SameSeedDpSgd(**sound.trainer.model_dump(exclude={"kind"}), forced=seed)
    return sound.model_copy(update={"trainer": trainer})


def _shuffled(sound: Experiment, seed: int) -> Experiment:
    assert isinstance(sound.trainer, DpSgd)
    batches = ShuffledAsPoisson(**sound.trainer.batches.model_dump(exclude={"kind"}))
    trainer = sound.trainer.model_copy(update={"batches": batches})
    return sound.model_copy(update={"trainer": trainer})


# What catches it.


def _refuted(experiment: Experiment) -> bool:
    return _failed(experiment, "lower bound", "", canaries=CANARIES)


def _alike(experiment: Experiment) -> bool:
    return _failed(experiment, "check", "noise streams", canaries=FEW)


def _odd_batches(experiment: Experiment) -> bool:
    return _failed(experiment, "check", "sampling of batches", canaries=FEW)


def _thin(experiment: Experiment) -> bool:
    return _failed(experiment, "check", "released noise", canaries=FEW)


def _failed(experiment: Experiment, kind: str, name: str, *, canaries: int) -> bool:
    """Whether a verdict of that kind, and of that name if there is one, fails the audit.

    Raises:
        AssertionError: the audit has no such verdict, so it could not have.
    """
    verdicts = [
        one
        for one in audited(assemble(experiment), canaries)
        if one.kind == kind and name in ("", one.name)
    ]
    assert verdicts, f"the audit of {experiment.name} has no {kind} {name}"
    return any(not one.passed for one in verdicts)


def _uncertified(experiment: Experiment) -> bool:
    """Whether a run of the experiment gets no certificate because of how it samples."""
    run = assemble(experiment)
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder) / "run", config=to_yaml(experiment))
        begin(run, directory)
        for _ in rounds(run, directory, LocalTransport(run.host())):
            pass
        state = Checkpoints(directory.checkpoint).load()
        write_model(directory, state.params, run.model.names())
        terms = Terms.of(run)
        evidence = Evidence(
            lines=read_lines(directory),
            ledgers=published(terms, state.ledgers),
            unsettled=[],
            config=sha256_of(directory.config),
            model=sha256_of(directory.model),
        )
        document = document_of(terms, evidence)
    if document.refused is None:
        return False
    assert "what is implemented is" in document.refused, document.refused
    return True

"""A probe of a whole federation: canaries and nothing else, through its hosts, sums and releases.

The parts are those of a run. Only the trainer is wrapped, the cohort is longer by the canaries, and
the grid has room for them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codex_ray.assembly import assemble
from codex_ray.assurance.canary_clients import (
    CanaryClients,
    CanaryTraining,
    SeenRound,
    client_verdicts,
)
from codex_ray.assurance.checks import check_streams, check_variance
from codex_ray.experiment import Experiment
from codex_ray.federation.client import Host
from codex_ray.federation.transport import LocalTransport
from codex_ray.randomness import SeedTree

POPULATION = 20
CLIP_NORM, NOISE = 0.25, 1.39


def an_experiment() -> Experiment:
    return Experiment.model_validate(
        {
            "rounds": 2,
            "data": {"kind": "synthetic_images", "clients": POPULATION},
            "model": {"kind": "mlp", "hidden": [700], "outputs": 10},
            "trainer": {"kind": "sgd", "learning_rate": 0.1},
            "federation": {
                "protocol": {"kind": "ideal"},
                "mechanism": {
                    "kind": "gaussian",
                    "clip_norm": CLIP_NORM,
                    "noise_multiplier": NOISE,
                },
            },
        }
    )


def probe(experiment: Experiment, canaries: int, *, rounds: int):
    """The canaries, and what each round released, times the public expected size [rounds, d]."""
    assembled = assemble(experiment)
    mechanism, d = experiment.federation.mechanism, assembled.model.dimension
    planted = CanaryClients(POPULATION, canaries, d, CLIP_NORM, SeedTree(bytes(32)))
    codec = mechanism.codec(dimension=d, summands=POPULATION + canaries)
    host = Host(
        trainer=CanaryTraining(None, planted),
        mechanism=mechanism,
        protocol=experiment.federation.protocol,
        codec=codec,
        randomness=assembled.randomness,
    )
    every = replace(assembled.round(LocalTransport(host)), codec=codec)
    state, released = assembled.first_state(), []
    for _ in range(rounds):
        members = planted.members if canaries else ()
        after, trace = every.run(state, cohort=(*range(POPULATION), *members), attempt=0)
        assert trace.members == (*range(POPULATION), *members)
        released.append((after.params.double() - state.params.double()).numpy() * POPULATION)
        state = after
    return planted, np.array(released)


def test_canaries_through_a_whole_federation() -> None:
    planted, released = probe(an_experiment(), 1000, rounds=1)
    assert planted.dimension >= 50_000
    rounds = [SeenRound(released[0] / CLIP_NORM, (*range(20), *planted.members), NOISE)]
    bound, estimate = client_verdicts(planted, rounds, delta=1e-5)
    assert bound.claimed == pytest.approx(3, abs=0.01)
    assert bound.passed
    assert bound.found > 0.5
    assert estimate.low < estimate.claimed < estimate.high
    assert estimate.found == pytest.approx(3, rel=0.2)


def test_a_probe_without_canaries_is_the_noise_alone() -> None:
    _, released = probe(an_experiment(), 0, rounds=2)
    assert released.size >= 100_000
    assert check_variance(released.ravel(), NOISE * CLIP_NORM).passed
    assert not check_variance(released.ravel(), 1.05 * NOISE * CLIP_NORM).passed
    assert check_streams(released, whose="rounds").passed

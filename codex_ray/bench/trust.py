"""Whom hospitals must trust, and what it costs: the quickstart at equal epsilon, four ways.

Nobody with a record (local noise on records), the own hospital alone (DP-SGD inside each), nobody
with an update (distributed DP-SGD), or one place with all records (central DP-SGD). Every arm sees
the same hospitals and the same test set, seed by seed. Epsilon is that of one record throughout;
noise on records is stated for replacing one, the others for adding or removing one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from codex_ray.api import plan
from codex_ray.assembly import Given, assemble
from codex_ray.bench.bars import Figure, Row, at_least, fewer
from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.in_memory import InMemory
from codex_ray.experiment import Experiment
from codex_ray.federation.run import Run
from codex_ray.federation.state import RoundResult, ServerState
from codex_ray.federation.transport import LocalTransport
from codex_ray.randomness import Randomness
from codex_ray.records.arms import draw_arms
from codex_ray.threads import single_thread

ARMS: Final = ("records", "hospital", "shared", "central")
"""From the least trust to the most."""
WORDS: Final = {
    "records": "nobody: noise on records",
    "hospital": "the own hospital: DP-SGD inside each",
    "shared": "nobody with an update: distributed DP-SGD",
    "central": "one place with all records: central DP-SGD",
}
"""Who is trusted, and so who may add the noise."""
SEEDS: Final = 10
BAR: Final = 0.94
"""Mean accuracy that distributed DP-SGD has to reach at epsilon 1."""

QUICKSTART: Final[dict[str, Any]] = {
    "budget": {"delta": 1e-5},
    "data": {
        "kind": "breast_cancer",
        "clients": 10,
        "records": [20, 80],
        "label_skew": 0.5,
        "test_records": 120,
        "ranges": {
            "worst radius": [8, 25],
            "worst texture": [12, 36],
            "worst perimeter": [50, 160],
            "worst area": [200, 2000],
            "worst smoothness": [0.07, 0.2],
            "worst compactness": [0, 0.7],
            "worst concavity": [0, 0.8],
            "worst concave points": [0, 0.25],
            "worst symmetry": [0.15, 0.45],
            "worst fractal dimension": [0.05, 0.15],
        },
    },
    "model": {"kind": "linear"},
    # The ideal protocol gives the model of SecAgg to the bit.
    "federation": {"protocol": {"kind": "ideal"}, "mechanism": {"kind": "none", "bound": 16}},
}
"""What the experiments quickstart and shared_noise have in common."""

ON_RECORDS: Final = {"clip_norm": 1.0, "learning_rate": 0.003, "labels": 0.6}
"""For noise on records: under twenty other seeds (100 to 119) within a standard error of the best
of twelve settings at either epsilon; at epsilon 1 none was surely better than the commoner label.
`labels` is the share of epsilon that a label gets."""


@dataclass(frozen=True)
class Arm:
    """Test accuracies of one way at one epsilon, a seed each.

    Attributes:
        trust: one of `ARMS`.
        epsilon: the target.
        spent: the most that a record paid under any of the seeds.
        accuracies: by seed, from 0 on.
    """

    trust: str
    epsilon: float
    spent: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.accuracies))

    @property
    def standard_error(self) -> float:
        """Of the mean; not a number for a single seed."""
        return _standard_error(self.accuracies)


def compare_trust(
    seeds: int = SEEDS, *, epsilons: Sequence[float] = (1.0, 3.0), arms: Sequence[str] = ARMS
) -> dict[str, object]:
    """Accuracy of each arm at each epsilon with its standard error over the seeds, as plain data.

    `gain` is that of distributed DP-SGD over noise inside each hospital, of the same seeds.
    """
    single_thread()
    found = [measured(trust, epsilon, seeds=seeds) for epsilon in epsilons for trust in arms]
    by_name = {(arm.trust, arm.epsilon): arm for arm in found}
    shared = by_name.get(("shared", 1.0))
    return {
        "seeds": seeds,
        "delta": QUICKSTART["budget"]["delta"],
        "arms": [
            {
                "trust": arm.trust,
                "epsilon": arm.epsilon,
                "spent": arm.spent,
                "accuracy": arm.mean,
                "standard_error": arm.standard_error,
                "least": min(arm.accuracies),
                "accuracies": list(arm.accuracies),
            }
            for arm in found
        ],
        "gain": {f"{epsilon:g}": _gain(by_name, epsilon) for epsilon in epsilons},
        "bar": BAR,
        "holds": None if shared is None else shared.mean >= BAR,
    }


def trust(scale: float) -> Iterator[Row]:
    """A row for each arm at each epsilon; the bar is on distributed DP-SGD at epsilon 1."""
    seeds = fewer(SEEDS, scale, least=2)
    for epsilon in (1.0, 3.0):
        for name in ARMS:
            arm = measured(name, epsilon, seeds=seeds)
            barred = (name, epsilon) == ("shared", 1.0)
            accuracy = at_least("mean accuracy", arm.mean, BAR if barred else 0.0)
            yield Row(
                f"epsilon {epsilon:g}, trusting {WORDS[name]}",
                f"{arm.mean:.3f}, standard error {arm.standard_error:.3f}; spent {arm.spent:.3f}",
                f"mean accuracy of {seeds} seeds at least {BAR:g}" if barred else "for comparison",
                (
                    accuracy,
                    Figure("its standard error", arm.standard_error),
                    Figure("spent", arm.spent),
                ),
            )


def picture_of(found: Mapping[str, Any]) -> bytes:
    """A PNG of what `compare_trust` found."""
    epsilons = sorted({arm["epsilon"] for arm in found["arms"]})
    points = {
        WORDS[trust]: [
            (arm["accuracy"], arm["standard_error"])
            for epsilon in epsilons
            for arm in found["arms"]
            if (arm["trust"], arm["epsilon"]) == (trust, epsilon)
        ]
        for trust in dict.fromkeys(arm["trust"] for arm in found["arms"])
    }
    return draw_arms(
        [f"epsilon {epsilon:g}" for epsilon in epsilons],
        points,
        title=f"What trust is worth: ten hospitals, {found['seeds']} seeds",
        metric="accuracy on the pooled test set",
    )


def measured(trust: str, epsilon: float, *, seeds: int) -> Arm:
    """One arm at one epsilon, under the seeds from 0 on."""
    planned = experiment_of(trust, epsilon)
    results = [_run(planned.model_copy(update={"seed": at}), trust) for at in range(seeds)]
    return Arm(
        trust,
        epsilon,
        max(result.epsilon["record"] for result in results),
        tuple(result.metrics["accuracy"] for result in results),
    )


def experiment_of(trust: str, epsilon: float) -> Experiment:
    """The arm's experiment under seed 0, with the least noise that keeps epsilon."""
    settings: dict[str, Any]
    match trust:
        case "records":
            settings = _on_records(epsilon)
        case "hospital":
            batches = {"kind": "poisson", "sampling_rate": 0.5, "steps": 2}
            settings = {"rounds": 30, "trainer": _dp_sgd(8.0, 25, batches)}
        case "shared":
            trainer = _dp_sgd(32.0, 450) | {"kind": "distributed_dp_sgd", "sampling_rate": 1.0}
            del trainer["noise_multiplier"]
            settings = {"rounds": 20, "trainer": trainer, "federation": SHARED}
        case _:
            # Central: one client, which holds everybody's records and is trusted with them.
            batches = {"kind": "poisson", "sampling_rate": 1.0, "steps": 1}
            settings = {"rounds": 20, "trainer": _dp_sgd(32.0, 450, batches), "federation": ALONE}
    budget = {"budget": QUICKSTART["budget"] | {"epsilon": epsilon}}
    return plan(QUICKSTART | {"seed": 0} | settings | budget, {})


SHARED: Final[dict[str, Any]] = {
    "protocol": {"kind": "ideal"},
    "mechanism": {
        "kind": "discrete_gaussian",
        "noise_multiplier": "auto",
        "assumed_dropout": 0.1,
        "assumed_corrupt": 0.1,
    },
}
ONE_STEP: Final = {"kind": "shuffled", "batch_size": 1000}
"""A batch is larger than any hospital."""
ALONE: Final = {"protocol": {"kind": "clear"}, "mechanism": {"kind": "none", "bound": 16}}


def _dp_sgd(
    rate: float, batch_size: float, batches: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    found = {
        "kind": "dp_sgd",
        "clip_norm": 0.25,
        "noise_multiplier": "auto",
        "learning_rate": rate,
        "batch_size": batch_size,
    }
    return found if batches is None else found | {"batches": dict(batches)}


def _on_records(epsilon: float) -> dict[str, Any]:
    rate = ON_RECORDS["learning_rate"]
    return {
        "rounds": 20,
        "trainer": {"kind": "sgd", "learning_rate": rate, "batches": ONE_STEP},
        "local_noise": {
            "kind": "gaussian_records",
            "clip_norm": ON_RECORDS["clip_norm"],
            "noise_multiplier": "auto",
            "labels": {"epsilon": ON_RECORDS["labels"] * epsilon},
        },
    }


class _Nowhere:
    """A journal of runs that are not kept."""

    def save(self, state: ServerState) -> None:
        """Forgets it."""


def _run(experiment: Experiment, trust: str) -> RoundResult:
    """The last round of a run in this process."""
    given = Given(data=_pooled(experiment)) if trust == "central" else None
    assembled = assemble(experiment, given)
    run = Run(
        round=assembled.round(LocalTransport(assembled.host())),
        rounds=experiment.rounds,
        evaluate=assembled.evaluate,
        evaluate_every=experiment.rounds,
        journal=_Nowhere(),
        replayable=True,
    )
    return [result for _, result in run.results(assembled.first_state())][-1]


def _pooled(experiment: Experiment) -> FederatedDataset:
    """The same records and test set with everything at one client."""
    assert experiment.seed is not None  # Every arm has one.
    held = experiment.data.open(Randomness.of(experiment.seed).public)
    every = [held.client(client) for client in range(held.population)]
    features = np.concatenate([records.features for records in every])
    labels = np.concatenate([records.labels for records in every])
    return InMemory([Records(features, labels)], held.test())


def _gain(arms: Mapping[tuple[str, float], Arm], epsilon: float) -> dict[str, float] | None:
    """The mean and standard error of what sharing the noise gains, seed by seed."""
    shared, alone = arms.get(("shared", epsilon)), arms.get(("hospital", epsilon))
    if shared is None or alone is None:
        return None
    gains = np.subtract(shared.accuracies, alone.accuracies)
    return {"mean": float(gains.mean()), "standard_error": _standard_error(gains.tolist())}


def _standard_error(figures: Sequence[float]) -> float:
    if len(figures) < 2:
        return math.nan
    return float(np.std(figures, ddof=1) / math.sqrt(len(figures)))

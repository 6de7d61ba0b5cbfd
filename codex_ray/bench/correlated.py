"""Correlated noise against independent noise: known cohorts, equal epsilon, the same training.

The sums of all updates so far are what a model is made of, so their error is compared first, and
then what it does to a small logistic regression. Both arms see the same cohorts, and a client pays
the same for each of its rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.federation.spaced_sampling import SpacedCohorts
from codex_ray.privacy.banded import Banded
from codex_ray.privacy.blt import Buffered
from codex_ray.privacy.calibration import calibrate
from codex_ray.privacy.correlated import error
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import Randomness, Stream

Floats: TypeAlias = npt.NDArray[np.float64]
NoiseOf: TypeAlias = Callable[[int], Stream]
"""The stream of a round's noise."""

RATES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Server learning rates; each arm is shown at the one that is best for it on average."""


@dataclass(frozen=True)
class Task:
    """A federation of synthetic clients, on which noise matters but does not decide everything.

    Attributes:
        population, records: clients, and how many records each has.
        dimension: features of a record.
        rounds, separation: the schedule; cohorts have population / separation clients.
        epsilon, delta: what a client that is in every round of its turn may spend.
    """

    population: int = 3000
    records: int = 4
    dimension: int = 40
    rounds: int = 300
    separation: int = 50
    epsilon: float = 8.84
    delta: float = 1e-6

    @property
    def sampler(self) -> SpacedCohorts:
        """Who takes part when."""
        return SpacedCohorts(separation=self.separation)


@dataclass(frozen=True)
class Arm:
    """Test accuracies of one kind of noise, a seed each, at its best learning rate."""

    rate: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.accuracies))

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return float(np.std(self.accuracies, ddof=1) / math.sqrt(len(self.accuracies)))


def sum_errors(schedule: Schedule, *, bands: int | None = None) -> dict[str, float]:
    """The root mean square error of the sums under each kind of noise, all at the same price.

    At noise multiplier 1 and clip norm 1; `bands` is as many as the schedule allows unless given.
    """
    most = schedule.separation if bands is None else bands
    return {
        "independent": error(Banded(bands=1).fit(schedule), schedule),
        "banded": error(Banded(bands=most).fit(schedule), schedule),
        "buffered": error(Buffered().fit(schedule), schedule),
    }


def compare_training(task: Task | None = None, *, seeds: int = 5) -> dict[str, object]:
    """Test accuracy of the three arms, and how often correlated noise won, as plain numbers."""
    task = task or Task()
    noise = _noise_multiplier(task)
    arms = {
        kind: _best(task, noise if kind != "none" else 0.0, kind, seeds)
        for kind in ("none", "independent", "correlated")
    }
    plain, ours = arms["independent"], arms["correlated"]
    gains = np.subtract(ours.accuracies, plain.accuracies)
    schedule = task.sampler.schedule(task.rounds)
    return {
        "task": asdict(task),
        "noise_multiplier": noise,
        "participations": schedule.participations,
        "sum_errors": sum_errors(schedule),
        "accuracy": {kind: arm.mean for kind, arm in arms.items()},
        "standard_error": {kind: arm.standard_error for kind, arm in arms.items()},
        "learning_rate": {kind: arm.rate for kind, arm in arms.items()},
        "gain": float(gains.mean()),
        "gain_standard_error": float(gains.std(ddof=1) / math.sqrt(seeds)),
        "seeds_won": int((gains > 0).sum()),
        "seeds": seeds,
    }


def _noise_multiplier(task: Task) -> float:
    """What keeps epsilon for a client that takes part as often as anyone; the same for all arms."""
    from dp_accounting import GaussianDpEvent  # slow to import

    often = task.sampler.schedule(task.rounds).participations
    return calibrate(GaussianDpEvent, often, epsilon=task.epsilon, delta=task.delta)


def _best(task: Task, noise: float, kind: str, seeds: int) -> Arm:
    tried = [
        Arm(rate, tuple(_train(task, noise, kind, rate, seed) for seed in range(seeds)))
        for rate in RATES
    ]
    return max(tried, key=lambda arm: arm.mean)


def _noise(task: Task, kind: str, noise: float, randomness: Randomness) -> NoiseOf:
    """Where the releases of a run get their noise, of either kind."""
    if kind != "correlated":
        return lambda number: randomness.secret.stream("release", number)
    mechanism = CorrelatedGaussian(clip_norm=1.0, noise_multiplier=noise)
    schedule = task.sampler.schedule(task.rounds)
    return mechanism.noise(schedule, secret=randomness.secret, dimension=task.dimension + 1).stream


def _train(task: Task, noise: float, kind: str, rate: float, seed: int) -> float:
    """The test accuracy after all rounds: one clipped gradient a client, summed and noised."""
    randomness = Randomness.of(seed)
    features, labels, test_features, test_labels = _data(task, randomness)
    noise_of, weights = _noise(task, kind, noise, randomness), np.zeros(task.dimension + 1)
    cohort_size = task.sampler.expected(task.population)
    for number in range(task.rounds):
        cohort = list(task.sampler.sample(task.population, randomness, round=number))
        x, y = features[cohort], labels[cohort]  # [m, records, d + 1], [m, records]
        wrong = 1 / (1 + np.exp(-np.einsum("mrd,d->mr", x, weights))) - y
        updates = -np.einsum("mr,mrd->md", wrong, x) / task.records
        updates /= np.maximum(1.0, np.linalg.norm(updates, axis=1, keepdims=True))
        total = updates.sum(axis=0)
        if noise:
            total = total + noise * noise_of(number).normal(len(total))
        weights = weights + rate * total / cohort_size
    return float(np.mean((test_features @ weights > 0) == (test_labels > 0.5)))


def _data(task: Task, randomness: Randomness) -> tuple[Floats, Floats, Floats, Floats]:
    """Records [clients, records, d + 1] whose labels follow a logistic law, and 10 000 for a test.

    Features differ in scale, and each client has a mean of its own; the last feature is 1.
    """
    stream = randomness.public.stream("correlated task")
    d, clients, tests = task.dimension, task.population, 10_000
    scales = np.linspace(1.0, 0.2, d)
    truth = stream.normal(d) * 3 / math.sqrt(d)
    shift = 0.5 * stream.normal(clients * d).reshape(clients, 1, d)
    own = stream.normal(clients * task.records * d).reshape(clients, task.records, d)
    fresh = stream.normal(tests * d).reshape(tests, d)
    fresh *= math.sqrt(1.25)
    found = []
    for raw in (own + shift, fresh):
        x = raw * scales
        drawn = stream.uniform(x.size // d).reshape(x.shape[:-1])
        y = (drawn < 1 / (1 + np.exp(-2 * (x @ truth)))).astype(np.float64)
        ones = np.ones((*x.shape[:-1], 1))
        found += [np.concatenate([x / math.sqrt(d / 4), ones], axis=-1), y]
    return found[0], found[1], found[2], found[3]

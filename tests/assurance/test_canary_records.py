"""Canary records: planted by coins, scored by the released steps of real DP-SGD, and a bound that
refutes a trainer which adds a quarter of its noise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from codex_ray.assurance.canary_records import CanaryRecords, clipped_gradients, step_scores
from codex_ray.assurance.verdict import bound_verdict
from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import InMemory
from codex_ray.errors import ConfigError
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Linear, Mlp, Model
from codex_ray.learning.trainers import LocalTraining
from codex_ray.privacy.empirical_bounds import gaussian_epsilon
from codex_ray.randomness import SeedTree

DELTA = 1e-5
TREE = SeedTree(bytes(32))
FEATURES = 1500


def some_records(count: int, features: int, seed: int) -> Records:
    rng = np.random.default_rng(seed)
    return Records(
        rng.normal(size=(count, features)).astype(np.float32),
        rng.integers(0, 2, count).astype(np.int64),
    )


def a_dataset(features: int = FEATURES, clients: int = 3) -> InMemory:
    held = [some_records(20, features, seed) for seed in range(clients)]
    return InMemory(held, some_records(40, features, 99))


def planted(features: int = FEATURES, count: int = 300, holders=(1,)) -> CanaryRecords:
    return CanaryRecords(a_dataset(features), count, tuple(holders), TREE.child("canaries"))


def a_model(features: int = FEATURES) -> Model:
    return Linear(outputs=1).build(TREE, example=torch.zeros((1, features)))


def scores_of(data: CanaryRecords, noise_multiplier: float, *, rounds: int, seed: int):
    """The scores after some rounds of one full-batch step of DP-SGD at client 1."""
    trainer = DpSgd(
        learning_rate=0.1,
        clip_norm=1.0,
        noise_multiplier=noise_multiplier,
        batch_size=20,
        batches=PoissonBatches(sampling_rate=1.0, steps=1),
    )
    training = LocalTraining(trainer, a_model(), data, TREE.child("run", seed))
    params, steps = torch.zeros(FEATURES + 1), []
    for number in range(rounds):
        update = training.train(params, [1], number)[0]
        steps.append((params, -update * 20 / 0.1))
        params = params + update
    return step_scores(a_model(), steps, data.canaries, clip_norm=1.0)


def multiplier(epsilon: float, rounds: int) -> float:
    mu = brentq(lambda mu: gaussian_epsilon(mu, DELTA) - epsilon, 1e-3, 50)
    return np.sqrt(rounds) / mu


@pytest.mark.parametrize("epsilon", [2, 4])
def test_dp_sgd_passes_and_a_quarter_of_its_noise_does_not(epsilon) -> None:
    data, rounds = planted(), 2
    z = multiplier(epsilon, rounds)
    shown = []
    for seed in range(3):
        claim = {"claimed": epsilon, "delta": DELTA}
        honest = bound_verdict(
            "records", scores_of(data, z, rounds=rounds, seed=seed), data.inside, **claim
        )
        broken = bound_verdict(
            "records", scores_of(data, z / 4, rounds=rounds, seed=seed), data.inside, **claim
        )
        assert honest.passed
        assert not broken.passed
        shown.append(honest.found)
    assert np.mean(shown) > 0.2 * epsilon  # white-box scores are not blind


def test_a_score_is_the_clipped_gradient_times_the_step() -> None:
    model = Mlp(hidden=(4,), outputs=3).build(TREE, example=torch.zeros((1, 5)))
    records, params = some_records(6, 5, 1), model.get()
    rows = clipped_gradients(model, params, records, clip_norm=0.3)
    lengths = torch.linalg.vector_norm(rows, dim=1)
    assert float(lengths.max()) == pytest.approx(0.3)
    step = torch.arange(model.dimension).float()
    scores = step_scores(model, [(params, step), (params, step)], records, clip_norm=0.3)
    assert scores == pytest.approx((2 * (rows @ step.double()) / 0.09).numpy())
    shift = 1e-3 * rows[2] / lengths[2]

    def loss(at: torch.Tensor) -> float:
        model.set(at)
        with torch.no_grad():
            logits = model.module(torch.from_numpy(records.features[2:3]))
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor([records.labels[2]])))

    slope = (loss(params + shift.float()) - loss(params - shift.float())) / 2e-3
    assert slope >= 0.3 * (1 - 1e-2)  # along its own gradient, which is at least as long


def test_a_gradient_that_is_no_number_scores_nothing() -> None:
    records = some_records(2, 5, 1)
    records.features[0] = np.inf
    model = a_model(5)
    rows = clipped_gradients(model, model.get(), records, clip_norm=1.0)
    assert not rows[0].any()
    assert rows[1].any()


def test_coins_decide_who_is_in() -> None:
    data = planted(features=6, count=200, holders=(0, 2))
    assert 60 < data.inside.sum() < 140
    assert data.population == 3
    assert len(data.client(1)) == 20
    assert data.client(1) is data.dataset.client(1)
    held = np.concatenate([data.client(client).features[20:] for client in (0, 2)])
    assert len(held) == data.inside.sum()
    expected = data.canaries.features[np.concatenate([np.arange(0, 200, 2), np.arange(1, 200, 2)])]
    order = np.concatenate([data.inside[::2], data.inside[1::2]])
    assert np.array_equal(held, expected[order])
    assert np.array_equal(data.of(2), np.arange(1, 200, 2))
    assert np.array_equal(data.test().features, data.dataset.test().features)
    assert len(data.client(0).labels) == len(data.client(0).features)
    again = planted(features=6, count=200, holders=(0, 2))
    assert np.array_equal(again.inside, data.inside)
    assert np.array_equal(again.canaries.features, data.canaries.features)


def test_canaries_are_like_no_record_and_have_its_labels() -> None:
    canaries = planted(count=400).canaries
    assert canaries.features.shape == (400, FEATURES)
    assert canaries.features.dtype == np.float32
    assert float(canaries.features.std()) == pytest.approx(3.0, rel=0.05)
    assert set(canaries.labels.tolist()) == {0, 1}
    canaries.checked("canaries")


@pytest.mark.parametrize(("count", "holders"), [(0, (0,)), (5, ()), (5, (3,)), (5, (-1,))])
def test_nobody_to_hold_canaries_is_an_error(count, holders) -> None:
    with pytest.raises(ConfigError, match="canary records"):
        planted(features=4, count=count, holders=holders)

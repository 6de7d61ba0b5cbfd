"""Clients drawn into chunks at random: an update's bits are its client's, whoever is beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lane_cases import SIDE, Held, cnn, linear, logistic, mlp, odd_cnn, planned, reference
from torch import nn

from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.trainers import Sgd

CASES = 12
SEEDS = 8


def wide() -> nn.Module:
    """As many outputs of its layers as a vector has elements."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.LeakyReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 8), nn.Tanh(), nn.Linear(8, 10),
    )  # fmt: skip


def single() -> nn.Module:
    """One output, behind functions of every element."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(8 * (SIDE - 2) ** 2, 16), nn.Sigmoid(), nn.Linear(16, 1),
    )  # fmt: skip


MODELS = (logistic, linear, mlp, cnn, odd_cnn, wide, single)
POOLS = ((32,), (31,), (16, 8), (0, 1, 2, 3, 9, 10, 16, 20, 25, 31, 32))


def trainer_of(rng: np.random.Generator) -> Sgd | DpSgd:
    coins = PoissonBatches(
        sampling_rate=float(rng.choice([0.1, 0.5, 1.0])), steps=int(rng.integers(1, 4))
    )
    kind = rng.integers(3)
    if kind == 0:
        size = int(rng.choice([1, 2, 4, 8, 10, 16]))
        return Sgd(learning_rate=0.2, batches=ShuffledBatches(batch_size=size, epochs=2))
    if kind == 1:
        return Sgd(learning_rate=0.2, batches=coins)
    return DpSgd(
        learning_rate=0.2, clip_norm=0.5, noise_multiplier=0.5, batch_size=5.0, batches=coins
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_update_is_its_clients_in_whatever_chunk(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        make = MODELS[rng.integers(len(MODELS))]
        pool = POOLS[rng.integers(len(POOLS))]
        clients = int(rng.choice([3, 8, 16, 32, 40]))
        dataset = Held(sizes=rng.choice(pool, clients).tolist(), classes=2)
        training = reference(make, trainer_of(rng), dataset)
        plan = {
            "clients": int(rng.choice([2, 4, 8, 16, 32])),
            "precision": str(rng.choice(["float32", "bfloat16"])),
        }
        params = training.model.get()
        whole = planned(training, **plan).train(params, range(clients), 3)
        few = rng.permutation(clients)[: rng.integers(1, min(clients, 9) + 1)].tolist()
        found = planned(training, **plan).train(params, few, 3)
        assert torch.equal(whole[few], found), (make.__name__, training.trainer, plan, few)

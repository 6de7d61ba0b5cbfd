"""Models, clients and trainers on which every plan must agree with the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Model
from codex_ray.learning.plans import Plan
from codex_ray.learning.trainers import LocalTraining, Sgd, Trainer
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.randomness import SeedTree

TREE = SeedTree(bytes(range(32)))
SIDE = 12
SIZES = (25, 0, 3, 10, 17, 1, 31, 25, 20, 9, 25)
"""Records of each client: full batches, short ones, fewer than a batch, and none."""


@dataclass
class Held:
    """A population whose clients hold so many images of three classes."""

    sizes: Sequence[int] = SIZES
    classes: int = 3
    spoiled: tuple[int, ...] = ()

    @property
    def population(self) -> int:
        return len(self.sizes)

    def client(self, client: int) -> Records:
        rng = np.random.default_rng(client)
        images = rng.normal(size=(self.sizes[client], 1, SIDE, SIDE)).astype(np.float32)
        if client in self.spoiled:
            images[0] = 3e38
        return Records(images, rng.integers(0, self.classes, self.sizes[client]))

    def test(self) -> Records:
        return self.client(0)


class Residual(nn.Module):
    """No stack: what comes out of a layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(SIDE * SIDE, 8), nn.Linear(8, 3)
        self.middle, self.norm = nn.Linear(8, 8), nn.GroupNorm(2, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(images.flatten(1)))
        return self.last(self.norm(hidden + self.middle(hidden)))


def logistic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 1))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3))


def mlp() -> nn.Module:
    """Widths that are no multiple of a vector's, so that lanes start anywhere."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE * SIDE, 13), nn.Tanh(),
        nn.Linear(13, 7, bias=False), nn.Sigmoid(), nn.Linear(7, 3),
    )  # fmt: skip


def cnn() -> nn.Module:
    """As in the benchmarks: the pools leave rows and columns unread."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def odd_cnn() -> nn.Module:
    """Every option of a convolution and of a pool that there is a lane for."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 5, stride=2, padding=2), nn.Tanh(), nn.AvgPool2d(2, 1, padding=1),
        nn.Conv2d(5, 7, (3, 2), padding=1, dilation=(2, 1), bias=False), nn.LeakyReLU(),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.Conv2d(7, 3, 1), nn.Sigmoid(), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


PLAIN = Sgd(learning_rate=0.2, batches=ShuffledBatches(batch_size=10))
EPOCHS = Sgd(learning_rate=0.2, batches=ShuffledBatches(batch_size=4, epochs=2))
COINS = Sgd(learning_rate=0.2, batches=PoissonBatches(sampling_rate=0.2, steps=3))
PRIVATE = DpSgd(
    learning_rate=0.2,
    clip_norm=0.5,
    noise_multiplier=0.8,
    batch_size=5.0,
    batches=PoissonBatches(sampling_rate=0.3, steps=3),
)


def reference(
    make: Callable[[], nn.Module], trainer: Trainer, dataset: Held | None = None
) -> LocalTraining:
    """Training one client at a time."""
    torch.manual_seed(5)
    module = make()
    module(torch.zeros(1, 1, SIDE, SIDE))
    model = Model(module, example=torch.zeros(1, 1, SIDE, SIDE))
    if dataset is None:
        dataset = Held(classes=max(2, model.outputs))
    return LocalTraining(trainer, model, dataset, TREE)


def planned(training: LocalTraining, clients: int = 4, **changes: object) -> VectorisedTraining:
    """The same by a plan."""
    fields = {"kernel": "vectorised", "clients": clients} | changes
    return VectorisedTraining(training, Plan(**fields))

"""The same clients trained by what researchers write themselves, by Opacus, and by a plan.

A client has 50 images of 28 by 28 in ten classes, and takes five steps on batches of ten, or of ten
on average. Contestants take turns, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from codex_ray.data.dataset import Records
from codex_ray.errors import DataError
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.kernel_agreement import CLASSES, SIDE, logistic, mlp
from codex_ray.learning.models import given_model
from codex_ray.learning.plans import Plan
from codex_ray.learning.trainers import LocalTraining, Sgd
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.randomness import Randomness
from codex_ray.types import ClientId

RECORDS: Final = 50
BATCH: Final = 10
RATE: Final = 0.1

PLAIN: Final = Sgd(learning_rate=RATE)
PRIVATE: Final = DpSgd(
    learning_rate=RATE,
    clip_norm=1.0,
    noise_multiplier=1.0,
    batch_size=BATCH,
    batches=PoissonBatches(sampling_rate=BATCH / RECORDS, steps=RECORDS // BATCH),
)


def cnn() -> nn.Module:
    """59 958 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 68), nn.ReLU(), nn.Linear(68, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """A small residual network, no stack of layers: 55 822 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.last = nn.GroupNorm(4, 16), nn.Conv2d(16, 32, 3)
        self.hidden, self.out = nn.Linear(800, 60), nn.Linear(60, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10] of images [n, 1, 28, 28]."""
        below = functional.max_pool2d(torch.relu(self.first(images)), 2)
        above = below + torch.relu(self.norm(self.inner(below)))
        top = functional.max_pool2d(torch.relu(self.last(above)), 2)
        found: torch.Tensor = self.out(torch.relu(self.hidden(top.flatten(1))))
        return found


MODELS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn": cnn,
    "residual": Residual,
}


@dataclass(frozen=True)
class Noise:
    """Clients whose images are noise, held in memory: how they are made is not what is timed."""

    held: tuple[Records, ...]

    @classmethod
    def of(cls, clients: int) -> Noise:
        """So many clients."""
        rng = np.random.default_rng(0)
        shape = (RECORDS, 1, SIDE, SIDE)
        return cls(
            tuple(
                Records(
                    rng.standard_normal(shape, dtype=np.float32), rng.integers(0, CLASSES, RECORDS)
                )
                for _ in range(clients)
            )
        )

    @property
    def population(self) -> int:
        """How many clients there are."""
        return len(self.held)

    def client(self, client: ClientId) -> Records:
        """The records of one client."""
        return self.held[client]

    def test(self) -> Records:
        """None are held out.

        Raises:
            DataError: always.
        """
        raise DataError("clients of noise have no test set: train on them, and time it")


def gpu_here() -> bool:
    """Whether there is a GPU to take part."""
    return torch.cuda.is_available()


def amx_here() -> bool:
    """Whether the processor multiplies matrices of bfloat16 by AMX."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def training(name: str, trainer: Sgd | DpSgd, *, clients: int) -> LocalTraining:
    """The reference's training of that model on so many clients."""
    randomness = Randomness.of(0)
    example = torch.zeros(1, 1, SIDE, SIDE)
    model = given_model(MODELS[name], randomness.public, example=example)
    return LocalTraining(trainer, model, Noise.of(clients), randomness.secret)


def tensors(made: LocalTraining, client: ClientId) -> tuple[torch.Tensor, torch.Tensor]:
    """One client's features and labels."""
    records = made.dataset.client(client)
    return torch.from_numpy(records.features), torch.from_numpy(records.labels)


def bare(made: LocalTraining, clients: int) -> None:
    """The loop of every tutorial: a module and torch.optim.SGD."""
    module = made.model.module.train()
    params = made.model.get()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    for client in range(clients):
        made.model.set(params)
        features, labels = tensors(made, client)
        for rows in torch.split(torch.randperm(RECORDS), BATCH):
            optimizer.zero_grad()
            loss: Any = functional.cross_entropy(module(features[rows]), labels[rows])
            loss.backward()
            optimizer.step()


def lean(made: LocalTraining, clients: int) -> None:
    """The same without what can be left out: gradients are asked for and added in one call."""
    module, params = made.model.module.train(), made.model.get()
    own: list[torch.Tensor] = list(module.parameters())
    for client in range(clients):
        made.model.set(params)
        features, labels = tensors(made, client)
        for rows in torch.split(torch.randperm(RECORDS), BATCH):
            loss = functional.cross_entropy(module(features[rows]), labels[rows])
            gradients = torch.autograd.grad(loss, own)
            with torch.no_grad():
                torch._foreach_add_(own, gradients, alpha=-RATE)


def opacus(made: LocalTraining, clients: int, *, hooked: Any) -> None:
    """DP-SGD by Opacus' hooks, put on once, and its optimiser, on Poisson batches."""
    from opacus.optimizers import DPOptimizer  # slow to import

    module, params = hooked.train(), made.model.get()
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=RATE),
        noise_multiplier=PRIVATE.noise_multiplier,
        max_grad_norm=PRIVATE.clip_norm,
        expected_batch_size=BATCH,
        loss_reduction="sum",
    )
    for client in range(clients):
        made.model.set(params)
        features, labels = tensors(made, client)
        for _ in range(RECORDS // BATCH):
            rows = torch.nonzero(torch.rand(RECORDS) < BATCH / RECORDS)[:, 0]
            optimizer.zero_grad()
            logits = module(features[rows])
            loss: Any = functional.cross_entropy(logits, labels[rows], reduction="sum")
            loss.backward()
            optimizer.step()


class Spent(NamedTuple):
    """What one client took: milliseconds of one CPU, and of a clock on the wall."""

    cpu: float
    wall: float


def milliseconds(
    name: str, trainer: Sgd | DpSgd, plan: Plan, *, clients: int, others: int, turns: int
) -> dict[str, list[Spent]]:
    """What a client takes each contestant, once for each turn.

    `clients` is a cohort of ours; `others` train so many, which is enough to time them.
    """
    made = training(name, trainer, clients=clients)
    params, cohort = made.model.get(), range(clients)
    vectorised = VectorisedTraining(made, plan)
    contestants: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (partial(bare, training(name, PLAIN, clients=others), others), others),
        "lean": (partial(lean, training(name, PLAIN, clients=others), others), others),
        "reference": (lambda: made.train(params, range(others), 0), others),
        "plan": (lambda: vectorised.train(params, cohort, 0), clients),
    }
    if isinstance(trainer, DpSgd):
        from opacus import GradSampleModule  # slow to import

        own = training(name, PLAIN, clients=others)
        hooked: Any = GradSampleModule(own.model.module)
        contestants["opacus"] = (partial(opacus, own, others, hooked=hooked), others)
    found: dict[str, list[Spent]] = {contestant: [] for contestant in contestants}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus and its hooks have much to say about themselves
        for turn in range(turns + 1):
            for contestant, (work, count) in contestants.items():
                spent = timed(work, clients=count, device=plan.device)
                if turn:  # the first is for warming up
                    found[contestant].append(spent)
    return found


def timed(work: Callable[[], object], *, clients: int, device: str = "cpu") -> Spent:
    """What a client takes, where `work` trains so many of them on a device."""
    waited = torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing
    waited()
    began, cpu = time.perf_counter(), time.process_time()
    work()
    waited()
    each = 1000 / clients
    return Spent(each * (time.process_time() - cpu), each * (time.perf_counter() - began))


def _nothing() -> None:
    """A CPU is done when it says so."""

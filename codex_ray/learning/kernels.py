"""Which kernel trains the clients of a chunk: by hand, by torch.func, or none but the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from codex_ray.learning.batches import ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.epochs import Epochs
from codex_ray.learning.jobs import compiled_rows
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.mapped import Mapped
from codex_ray.learning.models import Model
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch
from codex_ray.learning.stacks import Stack
from codex_ray.learning.trainers import LocalTraining, Sgd, Trainer


class LaneSteps(Protocol):
    """The weights of a chunk of clients, and steps that change them in place.

    The first step makes them, from what all lanes start from; `first` says which one it is.
    """

    @property
    def memory(self) -> Sequence[torch.Tensor]:
        """The weights of all lanes, where steps change them, in whatever parts they are kept."""
        ...

    def load(self, params: torch.Tensor) -> None:
        """Every lane starts from `params` [d], which they share until the first step is done."""
        ...

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """Weights less `params` [d] of some lanes, into `out` [lanes, d]."""
        ...

    def descend(self, batch: LaneBatch, *, rate: float, first: bool) -> None:
        """A step down the sum of the rows' losses, times their weights."""
        ...

    def descend_clipped(
        self, batch: LaneBatch, *, rate: float, clip_norm: float, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step down the sum of the clipped gradients of the rows whose weight is 1, not 0.

        Returns how many rows of each lane were clipped, and how many were lost, because their
        gradient is not finite [lanes] each.
        """
        ...

    def shift(self, by: torch.Tensor, *, rate: float) -> None:
        """Adds `rate` times `by` [lanes, d] to the weights."""
        ...


class LaneKernel(Protocol):
    """Makes room for chunks of clients of one model."""

    @property
    def exact(self) -> bool:
        """Whether batches must have no padding, as the module may mix the records of a batch."""
        ...

    @property
    def joined(self) -> int:
        """How many steps in a row are one program at most; others are of half as many, or less."""
        ...

    @property
    def uneven(self) -> bool:
        """Whether, on a CPU, lanes may have rows of their own number, end to end."""
        ...

    def lanes(self, plan: Plan) -> int:
        """How many clients a chunk has at most."""
        ...

    def steps(self, chunk: Chunk) -> LaneSteps:
        """Room for a chunk of clients."""
        ...


def trainer_obstacle(trainer: Trainer) -> str | None:
    """Why the trainer has no kernel, whatever the model; None if it may have one."""
    if not isinstance(trainer, Sgd | DpSgd) or type(trainer) not in (Sgd, DpSgd):
        return f"trainer.kind {trainer.kind} has no kernel for many clients"
    if isinstance(trainer, DpSgd) and trainer.engine != "vectorised":
        return f"trainer.engine is {trainer.engine}"
    return None


def lane_kernel(
    model: Model, trainer: Trainer, plan: Plan, *, example: Sequence[int]
) -> LaneKernel | str:
    """The kernel that trains many clients of this model at once, or why there is none."""
    if plan.kernel == "reference":
        return "the plan says so"
    obstacle = trainer_obstacle(trainer)
    if obstacle is not None:
        return obstacle
    assert isinstance(trainer, Sgd | DpSgd)  # There is an obstacle to any other.
    if plan.kernel == "vectorised":
        stack = Stack.of(model.module, example)
        if stack is not None:
            return stack
    clipped = isinstance(trainer, DpSgd)
    if not clipped and not isinstance(trainer.batches, ShuffledBatches):
        return "batches of changing size cannot be padded for a module that may mix their records"
    compiled = plan.kernel == "compiled"
    found = Epochs(model, clipped) if compiled else Mapped(model, clipped)
    chunk = Chunk(found.lanes(plan), 1, torch.device(plan.device), plan.product)
    return found.refusal(example, chunk) or found


def compiler_obstacle(training: LocalTraining, plan: Plan) -> str | None:
    """Why the programs of a compiled plan cannot be compiled on this machine; None if they can.

    It compiles the shortest, for batches as long as those that are to come.
    """
    records, trainer = training.dataset.client(0), training.trainer
    example = records.features.shape[1:]
    kernel = lane_kernel(training.model, trainer, plan, example=example)
    if not isinstance(kernel, Epochs):
        return None  # The reference trains instead, and compiles nothing.
    assert isinstance(trainer, Sgd | DpSgd)  # There is a kernel for no other.
    rows = compiled_rows(trainer.batches, len(records))
    chunk = Chunk(kernel.lanes(plan), rows, torch.device(plan.device), plan.product)
    return kernel.compiler_obstacle(trainer, example, chunk)

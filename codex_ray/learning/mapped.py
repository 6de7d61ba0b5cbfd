"""Local steps of any module for a chunk of clients at once: torch.func maps its gradient over them.

A module that is a stack of common layers is trained faster by hand (`stacks`). What neither can do,
such as layers that draw at random in training, stays with the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from codex_ray.errors import ClusterError
from codex_ray.learning.clipped_sums import OFFSET
from codex_ray.learning.compiled import Compiled, reason_of
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.models import Model
from codex_ray.learning.per_record import _places
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch

Gradient = Callable[..., torch.Tensor]
REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError)
"""What torch.func raises at what it cannot map."""


@dataclass(frozen=True)
class Mapped:
    """The kernel of any module that torch.func can map.

    Attributes:
        model: whose module it is.
        clipped: whether the gradient of every record is wanted by itself.
        compiled: whether the steps go through torch.compile.
    """

    model: Model
    clipped: bool
    compiled: bool = False

    @property
    def exact(self) -> bool:
        """A module may mix the records of a batch, unless each is alone in its own."""
        return not self.clipped

    @property
    def uneven(self) -> bool:
        """Every lane has as many rows as the next."""
        return False

    def lanes(self, plan: Plan) -> int:
        """One on a CPU, where what torch.func does with a lane depends on where the lane is."""
        return 1 if torch.device(plan.device).type == "cpu" else plan.clients

    def steps(self, chunk: Chunk) -> MappedSteps:
        """Room for a chunk of clients."""
        return MappedSteps(self.model, chunk, clipped=self.clipped, compiled=self.compiled)

    def refusal(self, example: Sequence[int], chunk: Chunk) -> str | None:
        """Why the module cannot be trained so; None if it can. It takes one step of nothing."""
        module = self.model.module
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        try:
            with torch.random.fork_rng(devices=[]):
                self._try(example, chunk, compiled=False)
        except REFUSALS as error:
            return f"the model has no vectorised gradient ({_sentence(error)})"
        for name, buffer in module.named_buffers():
            if not torch.equal(buffer, before[name]):
                return f"the model changes its buffer {name!r} in training"
        return None

    def compiler_obstacle(self, example: Sequence[int], chunk: Chunk) -> str | None:
        """Why a step of the chunk cannot be compiled here; None if it can. It compiles one."""
        try:
            self._try(example, chunk, compiled=True)
        except ClusterError as error:
            return reason_of(error)
        return None

    def _try(self, example: Sequence[int], chunk: Chunk, *, compiled: bool) -> None:
        steps = MappedSteps(self.model, chunk, clipped=self.clipped, compiled=compiled)
        steps.load(self.model.get().to(chunk.device))
        shape = (chunk.lanes, chunk.rows)
        features = torch.zeros((*shape, *example), device=chunk.device)
        labels = torch.zeros(shape, dtype=torch.int64, device=chunk.device)
        batch = LaneBatch(features, labels, torch.zeros(shape, device=chunk.device))
        if self.clipped:
            steps.descend_clipped(batch, rate=1.0, clip_norm=1.0)
        else:
            steps.descend(batch, rate=1.0)


class MappedSteps:
    """The weights of a chunk of clients [lanes, d], and steps that change them in place."""

    def __init__(self, model: Model, chunk: Chunk, *, clipped: bool, compiled: bool) -> None:
        module = model.module
        if chunk.device.type != "cpu":
            module = deepcopy(module).to(chunk.device)  # with what is not trained: buffers
        module.train()
        self._chunk = chunk
        self._weights = chunk.room(model.dimension)
        self._gradient: Gradient = _row_gradients(module) if clipped else _lane_gradients(module)
        self._compiled = Compiled(self._gradient) if compiled else self._gradient

    def load(self, params: torch.Tensor) -> None:
        """Every lane starts from `params` [d]."""
        self._weights.copy_(params)

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """Weights less `params` [d] of some lanes, into `out` [lanes, d]."""
        torch.sub(self._weights[lanes], params, out=out)

    def descend(self, batch: LaneBatch, *, rate: float) -> None:
        """A step down the sum of the rows' losses, times their weights."""
        found = self._found(batch.features, batch.labels, batch.weights)
        self._weights.add_(found, alpha=-rate)

    def descend_clipped(
        self, batch: LaneBatch, *, rate: float, clip_norm: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step down the sum of the clipped gradients of the rows whose weight is 1, not 0."""
        there = batch.weights
        found = self._found(batch.features, batch.labels, there)  # [lanes, rows, d]
        norms = torch.linalg.vector_norm(found, dim=2)
        lost = torch.zeros_like(there, dtype=torch.bool)
        if not norms.is_cpu or not math.isfinite(float(norms.sum())):
            lost = ~torch.isfinite(norms)
            found = found.masked_fill(lost[:, :, None], 0)
            norms = norms.masked_fill(lost, 0)
        factors = (clip_norm / (norms + OFFSET)).clamp_(max=1.0)
        self._weights[:, None].baddbmm_(factors[:, None], found, alpha=-rate)
        return (norms > clip_norm).sum(1), (lost & (there > 0)).sum(1)

    def shift(self, by: torch.Tensor, *, rate: float) -> None:
        """Adds `rate` times `by` [lanes, d] to the weights."""
        self._weights.add_(by, alpha=rate)

    def _found(self, features: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """The gradients; short batches come in every length, and are not worth compiling."""
        full = features.shape[1] == self._chunk.rows
        gradient = self._compiled if full else self._gradient
        if self._chunk.product == torch.float32:
            with _exact_convolutions(self._chunk.device):
                return gradient(self._weights, features, *rest)
        with torch.autocast(self._chunk.device.type, dtype=self._chunk.product):
            return gradient(self._weights, features, *rest).float()


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """In the block cuDNN convolves in float32: by itself it rounds to ten bits (TF32)."""
    if device.type != "cuda":
        return nullcontext()
    found: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return found


def _lane_gradients(module: nn.Module) -> Gradient:
    """The gradient of each lane's weighted loss [lanes, d]."""
    return vmap(grad(_loss(module)))


def _row_gradients(module: nn.Module) -> Gradient:
    """The gradient of every row, alone in its batch [lanes, rows, d]."""
    loss = _loss(module)

    def alone(
        params: torch.Tensor, features: torch.Tensor, label: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        return loss(params, features[None], label[None], weight[None])

    return vmap(vmap(grad(alone), in_dims=(None, 0, 0, 0)))


def _loss(module: nn.Module) -> Gradient:
    """The weighted loss of a batch at a vector of parameters [d]."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    shapes = [p.shape for p in trainable]
    places = _places(module, trainable)

    def loss(
        params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        parts = torch.split(params, [prod(shape) for shape in shapes])
        own = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        named = {name: own[number] for name, number in places}
        logits = functional_call(module, named, (features,), tie_weights=False).float()
        return (losses(logits, labels) * weights).sum()

    return loss


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each record [n], of which `models.loss_sum` is the sum."""
    if logits.shape[-1] == 1:
        target = labels.to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(
            logits.squeeze(-1), target, reduction="none"
        )
    return functional.cross_entropy(logits, labels, reduction="none")


def _sentence(error: Exception) -> str:
    """The first sentence of what torch says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0]

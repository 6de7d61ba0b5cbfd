"""Local steps of any module for a chunk of clients at once: torch.func maps its gradient over them.

A module that is a stack of common layers is trained faster by hand (`stacks`). What neither can do,
such as layers that draw at random in training, stays with the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from codex_ray.learning.clipped_sums import clip_factors
from codex_ray.learning.compiled import Compiled, Function
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.models import Model
from codex_ray.learning.per_record import _places
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch

REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError)
"""What torch.func raises at what it cannot map."""


@dataclass(frozen=True)
class Mapped:
    """The kernel of any module that torch.func can map.

    Attributes:
        model: whose module it is.
        clipped: whether the gradient of every record is wanted by itself.
    """

    model: Model
    clipped: bool

    @property
    def exact(self) -> bool:
        """A module may mix the records of a batch, unless each is alone in its own."""
        return not self.clipped

    @property
    def uneven(self) -> bool:
        """Every lane has as many rows as the next."""
        return False

    @property
    def joined(self) -> int:
        """Every step is a program by itself."""
        return 1

    def lanes(self, plan: Plan) -> int:
        """One on a CPU, where what torch.func does with a lane depends on where the lane is."""
        return 1 if torch.device(plan.device).type == "cpu" else plan.clients

    def steps(self, chunk: Chunk) -> MappedSteps:
        """Room for a chunk of clients."""
        return MappedSteps(self.model, chunk, clipped=self.clipped)

    def refusal(self, example: Sequence[int], chunk: Chunk) -> str | None:
        """Why the module cannot be trained so; None if it can. It takes two steps of nothing.

        Two lanes show what a chunk of one, which needs no map, would not: layers that draw at
        random, and modules that look at their numbers.
        """
        module = self.model.module
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        try:
            with torch.random.fork_rng(devices=[]):
                self._try(example, replace(chunk, lanes=2))
        except REFUSALS as error:
            return f"the model has no vectorised gradient ({_sentence(error)})"
        for name, buffer in module.named_buffers():
            if not torch.equal(buffer, before[name]):
                return f"the model changes its buffer {name!r} in training"
        return None

    def _try(self, example: Sequence[int], chunk: Chunk) -> None:
        steps = MappedSteps(self.model, chunk, clipped=self.clipped)
        steps.load(self.model.get().to(chunk.device))
        batch = nothing((chunk.lanes, chunk.rows), example, chunk.device)
        for first in (True, False):
            if self.clipped:
                steps.descend_clipped(batch, rate=1.0, clip_norm=1.0, first=first)
            else:
                steps.descend(batch, rate=1.0, first=first)


def nothing(shape: tuple[int, ...], example: Sequence[int], device: torch.device) -> LaneBatch:
    """A batch of that shape without any record."""
    return LaneBatch(
        torch.zeros((*shape, *example), device=device),
        torch.zeros(shape, dtype=torch.int64, device=device),
        torch.zeros(shape, device=device),
    )


class MappedSteps:
    """The weights of a chunk of clients [lanes, d], and steps that change them in place."""

    def __init__(self, model: Model, chunk: Chunk, *, clipped: bool) -> None:
        module = model.module
        if chunk.device.type != "cpu":
            module = deepcopy(module).to(chunk.device)  # with what is not trained: buffers
        self._module, self._chunk = module, chunk
        self._start = torch.zeros(model.dimension, device=chunk.device)
        self._own = chunk.room(model.dimension)
        self._gradient = row_gradients(module) if clipped else batch_gradient(module)
        self._gradients = OverLanes(self._gradient, chunk)

    @property
    def memory(self) -> list[torch.Tensor]:
        """The weights."""
        return [self._own]

    def load(self, params: torch.Tensor) -> None:
        """Every lane starts from `params` [d], which are copied once for all of them."""
        self._module.train()  # on a CPU it is the model's own, which is also evaluated
        self._start.copy_(params)

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """Weights less `params` [d] of some lanes, into `out` [lanes, d]."""
        torch.sub(self._own[lanes], params, out=out)

    def descend(self, batch: LaneBatch, *, rate: float, first: bool) -> None:
        """A step down the sum of the rows' losses, times their weights."""
        found = self._found(batch, first)
        torch.add(self._before(first), found, alpha=-rate, out=self._own)

    def descend_clipped(
        self, batch: LaneBatch, *, rate: float, clip_norm: float, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step down the sum of the clipped gradients of the rows whose weight is 1, not 0."""
        there = batch.weights
        found = self._found(batch, first)  # [lanes, rows, d]
        norms = torch.linalg.vector_norm(found, dim=2)
        lost = torch.zeros_like(there, dtype=torch.bool)
        if not norms.is_cpu or not math.isfinite(float(norms.sum())):
            lost = ~torch.isfinite(norms)
            found = found.masked_fill(lost[:, :, None], 0)
            norms = norms.masked_fill(lost, 0)
        factors = clip_factors(norms, clip_norm)
        before = self._start.expand(self._own.shape) if first else self._own
        torch.baddbmm(before[:, None], factors[:, None], found, alpha=-rate, out=self._own[:, None])
        return (norms > clip_norm).sum(1), (lost & (there > 0)).sum(1)

    def shift(self, by: torch.Tensor, *, rate: float) -> None:
        """Adds `rate` times `by` [lanes, d] to the weights."""
        self._own.add_(by, alpha=rate)

    def _before(self, first: bool) -> torch.Tensor:
        """What a step starts from: [d] for all lanes, or [lanes, d]."""
        return self._start if first else self._own

    def _found(self, batch: LaneBatch, first: bool) -> torch.Tensor:
        """The gradients."""
        with self._products():
            (found,) = self._gradients(
                self._before(first), batch.features, batch.labels, batch.weights, shared=first
            )
        return found.float()

    def _products(self) -> AbstractContextManager[object]:
        """In the block matrices are multiplied in the chunk's type."""
        if self._chunk.product == torch.float32:
            return _exact_convolutions(self._chunk.device)
        return torch.autocast(self._chunk.device.type, dtype=self._chunk.product)


class OverLanes:
    """A function of one client's weights and data, for every lane of a chunk.

    A lane that is alone needs no map, and goes through faster without.
    """

    def __init__(self, function: Function, chunk: Chunk, *, compiled: bool = False) -> None:
        self._function, self._lone, self._is_compiled = function, chunk.lanes == 1, compiled
        self._made: dict[tuple[bool, int], Function] = {}

    def __call__(
        self, weights: torch.Tensor, *data: torch.Tensor, shared: bool
    ) -> tuple[torch.Tensor, ...]:
        """The function's results [lanes, ...].

        Args:
            weights: [d] if they are shared, or else [lanes, d].
            data: [lanes, ...] each.
            shared: whether lanes still have the same weights, and so one product for all of them.
        """
        if not self._lone:
            return self._of(shared, len(data))(weights, *(one.contiguous() for one in data))
        weights = weights if shared else weights[0]
        found = self._of(False, len(data))(weights, *(one[0].contiguous() for one in data))
        return tuple(one[None] for one in found)

    def _of(self, shared: bool, count: int) -> Function:
        """The function over lanes, compiled if that is wanted; each is compiled for one shape."""
        if (shared, count) not in self._made:
            over = self._function
            if not self._lone:
                over = vmap(over, in_dims=(None if shared else 0, *[0] * count))
            self._made[shared, count] = Compiled(over) if self._is_compiled else over
        return self._made[shared, count]


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """In the block cuDNN convolves in float32: by itself it rounds to ten bits (TF32)."""
    if device.type != "cuda":
        return nullcontext()
    found: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return found


def batch_gradient(module: nn.Module) -> Function:
    """The gradient [d] of the weighted loss of a client's batch, as a tuple of one."""
    slope = grad(_loss(module))
    return lambda params, *batch: (slope(params, *batch),)


def row_gradients(module: nn.Module) -> Function:
    """The gradient of every row [rows, d], alone in its batch, as a tuple of one."""
    loss = _loss(module)

    def alone(
        params: torch.Tensor, features: torch.Tensor, label: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        return loss(params, features[None], label[None], weight[None])

    slopes = vmap(grad(alone), in_dims=(None, 0, 0, 0))
    return lambda params, *batch: (slopes(params, *batch),)


def _loss(module: nn.Module) -> Callable[..., torch.Tensor]:
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

"""The gradient of each example of a chunk by itself, for any module, in the form a model affords.

Stacks of common layers have a cheap form (`layered`); every other module goes through vmap over
grad, each example alone in its batch, so that a layer that mixes examples has nothing to mix.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Protocol

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from codex_ray.data.dataset import Records
from codex_ray.errors import ModelError
from codex_ray.learning.layered import Layered
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.trainers import as_tensors


class Gradients(Protocol):
    """The gradients of n examples, in whatever form they are cheap to hold."""

    def squared_norms(self) -> torch.Tensor:
        """The squared Euclidean norm of each [n]."""
        ...

    def without(self, lost: torch.Tensor) -> Gradients:
        """The same with a gradient of zero for each example in `lost` [n]."""
        ...

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """The sum [d] of the gradients times `factors` [n]."""
        ...

    def rows(self) -> torch.Tensor:
        """The gradients themselves [n, d]."""
        ...


class Kernel(Protocol):
    """Takes the gradient of each example of a chunk by itself."""

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> Gradients:
        """The gradients at `params` [d] of n >= 1 examples: `features` [n, ...], `labels` [n]."""
        ...


@dataclass(frozen=True)
class Held:
    """Gradients as one tensor [n, ...] for each parameter."""

    parts: tuple[torch.Tensor, ...]

    def squared_norms(self) -> torch.Tensor:
        """The squares of every parameter, added up [n]."""
        return torch.stack([p.flatten(1).square().sum(1) for p in self.parts]).sum(0)

    def without(self, lost: torch.Tensor) -> Held:
        """Zeros where an example is lost: zero times infinity would be no number."""
        return Held(
            tuple(p.masked_fill(lost.view(-1, *[1] * (p.ndim - 1)), 0.0) for p in self.parts)
        )

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """One product for each parameter [d]."""
        return torch.cat([factors @ p.flatten(1) for p in self.parts])

    def rows(self) -> torch.Tensor:
        """The parameters side by side [n, d]."""
        return torch.cat([p.flatten(1) for p in self.parts], dim=1)


class PerRecord:
    """Gradients of any module, each example alone in its batch: vmap over grad."""

    def __init__(self, module: nn.Module) -> None:
        trainable = [p for p in module.parameters() if p.requires_grad]
        self._shapes = [p.shape for p in trainable]
        places = _places(module, trainable)

        def loss(
            params: list[torch.Tensor], features: torch.Tensor, label: torch.Tensor
        ) -> torch.Tensor:
            named = {name: params[number] for name, number in places}
            # A layer that is in two places is swapped in and out twice if torch ties the weights
            # itself, and is left with the wrong ones.
            logits = functional_call(module, named, (features[None],), tie_weights=False)
            return loss_sum(logits, label[None])

        # Dropout draws for each example by itself.
        self._gradients = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> Gradients:
        """The gradients of n examples, by parameter."""
        parts = torch.split(params, [prod(shape) for shape in self._shapes])
        weights = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return Held(tuple(self._gradients(weights, features, labels)))


def _places(module: nn.Module, trainable: list[nn.Parameter]) -> list[tuple[str, int]]:
    """Where each trainable parameter is: one name for each layer that holds it, and its number."""
    numbers = {id(p): number for number, p in enumerate(trainable)}
    return [
        (f"{name}.{own}".lstrip("."), numbers[id(p)])
        for name, layer in module.named_modules()  # each layer once, wherever it is
        for own, p in layer._parameters.items()
        if p is not None and id(p) in numbers
    ]


_KERNELS: weakref.WeakKeyDictionary[Model, Kernel] = weakref.WeakKeyDictionary()


def kernel_of(model: Model) -> Kernel:
    """The fastest way to take this model's per-example gradients, which depends on it alone."""
    if model not in _KERNELS:
        _KERNELS[model] = Layered.of(model.module) or PerRecord(model.module)
    return _KERNELS[model]


def check_model(model: Model, records: Records) -> None:
    """Refuses a model whose per-example gradients cannot be taken here.

    Raises:
        ModelError: it names the layer and the remedy.
    """
    layers = dict(model.module.named_modules())
    for name, layer in layers.items():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            raise _refusal(name, layer, "keeps running statistics of the batch, use GroupNorm")
    kernel = kernel_of(model)
    if isinstance(kernel, Layered):
        return
    model.module.train()
    last = [""]
    seen = [
        layer.register_forward_pre_hook(partial(_remember, last, name))
        for name, layer in layers.items()
    ]
    before = {name: buffer.clone() for name, buffer in model.module.named_buffers()}
    features, labels = as_tensors(records)
    try:
        with torch.random.fork_rng(devices=[]):
            kernel(model.get(), features[:2], labels[:2])
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        said = str(error).strip().splitlines()[0].split(". ")[0]
        raise _refusal(last[0], layers[last[0]], f"has no vectorised gradient ({said})") from error
    finally:
        for handle in seen:
            handle.remove()
    for name, buffer in model.module.named_buffers():
        if not torch.equal(buffer, before[name]):
            owner = name.rpartition(".")[0]
            raise _refusal(owner, layers[owner], f"changes its buffer {name!r} in training")


def _remember(last: list[str], name: str, *_: object) -> None:
    last[0] = name


def _refusal(name: str, layer: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"model: layer {name!r} ({type(layer).__name__}) cannot be trained by the vectorised "
        f"engine: it {why}; try trainer.engine: opacus"
    )

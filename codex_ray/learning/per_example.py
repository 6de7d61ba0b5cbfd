"""Opacus' per-example gradients and optimiser, with the three defaults that break a claim replaced.

Opacus computes the gradients of each example, clips them and takes the step. Kept from it are the
batches (its loader reports a Poisson epsilon for any batch), the noise (its generator is global, so
equal seeds in two processes give equal noise) and non-finite gradients (one infinite example makes
every parameter NaN, which shows that the example is there).
"""

from __future__ import annotations

import warnings
import weakref
from math import prod
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator

from codex_ray.data.dataset import Records
from codex_ray.errors import ModelError
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.trainers import as_tensors
from codex_ray.randomness import Stream


class KeyedDPOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' optimiser with noise from a named stream; non-finite examples count as zero."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, noise: Stream, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self._noise = noise

    def clip_and_accumulate(self) -> None:
        """Clips and sums per-example gradients, after zeroing examples with a non-finite one."""
        finite = torch.stack(
            [
                torch.isfinite(g).reshape(len(g), prod(g.shape[1:])).all(dim=1)
                for g in self.grad_samples
            ]
        ).all(dim=0)
        if not bool(finite.all()):
            for p in self.params:
                keep = finite.reshape(-1, *[1] * (p.grad_sample.ndim - 1))
                p.grad_sample = torch.where(keep, p.grad_sample, 0.0)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Adds N(0, (noise_multiplier max_grad_norm)^2) from the stream to each coordinate."""
        scale = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = torch.from_numpy(self._noise.normal(p.numel()) * scale).to(p.dtype)
            p.grad = p.summed_grad.reshape(p.shape) + noise.reshape(p.shape)


_WRAPPED: weakref.WeakKeyDictionary[Model, GradSampleModule] = weakref.WeakKeyDictionary()


def wrapped(model: Model) -> GradSampleModule:
    """The model with Opacus' per-example hooks, put on once: a second time is an error."""
    if model not in _WRAPPED:
        _WRAPPED[model] = GradSampleModule(model.module, loss_reduction="sum")
    return _WRAPPED[model]


def gradients(module: GradSampleModule, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Leaves each record's gradient in `grad_sample` of every parameter."""
    with warnings.catch_warnings():
        # The first layer's inputs need no gradient; torch warns of that on every hooked pass.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss_sum(module(features), labels).backward()  # type: ignore[no-untyped-call]  # torch


def check_gradients(model: Model, records: Records) -> None:
    """Refuses a model that Opacus cannot take per-example gradients of.

    Raises:
        ModelError: it names the layer and the remedy.
    """
    model.module.train()
    for name, layer in model.module.named_modules():
        if any(True for _ in layer.children()):
            continue
        problems = ModuleValidator.validate(layer, strict=False)
        if problems:
            said = str(problems[0]).splitlines()[0]
            raise ModelError(
                f"model: layer {name!r} ({type(layer).__name__}) cannot be trained with dp_sgd: "
                f"{said}"
            )
    features, labels = as_tensors(records)
    try:
        module = wrapped(model)
        gradients(module, features[:1], labels[:1])
        missing = [
            n
            for n, p in model.module.named_parameters()
            if p.requires_grad and getattr(p, "grad_sample", None) is None
        ]
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise ModelError(
            f"model: Opacus cannot take per-example gradients of it: {str(error).splitlines()[0]}"
        ) from error
    finally:
        for p in model.module.parameters():
            p.grad, p.grad_sample = None, None  # type: ignore[attr-defined]  # Opacus' attribute
    if missing:
        raise ModelError(
            f"model: parameter {missing[0]!r} gets no per-example gradient: put it in a standard "
            "layer (Linear, Conv, GroupNorm, Embedding, ...) that Opacus knows"
        )

"""Opacus' per-example gradients and clipping, with the three defaults that break a claim replaced.

Opacus computes the gradients of each example, clips and adds them. Not left to it are the batches
(its loader reports a Poisson epsilon for any batch), the noise (its generator is global, so equal
seeds in two processes give equal noise) and non-finite gradients (one infinite example makes every
parameter NaN, which shows that the example is there).
"""

from __future__ import annotations

import warnings
import weakref

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator

from codex_ray.data.dataset import Records
from codex_ray.errors import ModelError
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.trainers import as_tensors


class FiniteDPOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' optimiser as far as the clipped sum; non-finite examples count as zero."""

    clipping = Clipping()

    def clip_and_accumulate(self) -> None:
        """Clips and sums per-example gradients, after zeroing examples with a non-finite one."""
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in self.grad_samples]).norm(dim=0)
        lost = ~torch.isfinite(norms)
        if bool(lost.any()):
            for p in self.params:
                p.grad_sample = p.grad_sample.masked_fill(
                    lost.view(-1, *[1] * (p.grad_sample.ndim - 1)), 0.0
                )
        longer = int((norms[~lost] > self.max_grad_norm).sum())
        self.clipping = Clipping(len(norms), longer, int(lost.sum()))
        super().clip_and_accumulate()


class HookedSums:
    """The clipped sums of one model by Opacus' hooks: the reference of every other engine."""

    def __init__(self, model: Model, clip_norm: float) -> None:
        self._model = model
        self._module = wrapped(model)
        self._optimizer = FiniteDPOptimizer(
            torch.optim.SGD(self._module.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Clipping]:
        """The sum [d] of clipped gradients at `params` [d], and what clipping did."""
        self._model.set(params)
        gradients(self._module, features, labels)
        self._optimizer.clip_and_accumulate()
        total = torch.cat([p.summed_grad.flatten() for p in self._optimizer.params])
        self._optimizer.zero_grad(set_to_none=True)
        return total, self._optimizer.clipping


_WRAPPED: weakref.WeakKeyDictionary[Model, GradSampleModule] = weakref.WeakKeyDictionary()


def wrapped(model: Model, kind: type[GradSampleModule] = GradSampleModule) -> GradSampleModule:
    """The model with Opacus' per-example hooks of one kind, put on once: twice is an error."""
    held = _WRAPPED.get(model)
    if held is not None and type(held) is not kind:
        held.to_standard_module()
    if type(held) is not kind:
        _WRAPPED[model] = kind(model.module, loss_reduction="sum")
    return _WRAPPED[model]


def gradients(module: GradSampleModule, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Leaves each record's gradient in `grad_sample` of every parameter."""
    with warnings.catch_warnings():
        # The first layer's inputs need no gradient; torch warns of that on every hooked pass.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss_sum(module(features), labels).backward()  # type: ignore[no-untyped-call]  # torch


def check_gradients(
    model: Model, records: Records, kind: type[GradSampleModule] = GradSampleModule
) -> None:
    """Refuses a model that Opacus' hooks of that kind cannot take per-example gradients of.

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
    _check_apart(model, features[:1])
    model.module.train()
    held = "_norm_sample" if kind is not GradSampleModule else "grad_sample"
    try:
        module = wrapped(model, kind)
        gradients(module, features[:1], labels[:1])
        missing = [
            n
            for n, p in model.module.named_parameters()
            if p.requires_grad and getattr(p, held, None) is None
        ]
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise ModelError(
            f"model: Opacus cannot take per-example gradients of it: {str(error).splitlines()[0]}"
        ) from error
    finally:
        for p in model.module.parameters():
            p.grad = None
            setattr(p, held, None)
    if missing:
        raise ModelError(
            f"model: parameter {missing[0]!r} gets no per-example gradient: put it in a standard "
            "layer (Linear, Conv, GroupNorm, Embedding, ...) that Opacus knows, or use "
            "trainer.engine: vectorised"
        )


def _check_apart(model: Model, record: torch.Tensor) -> None:
    """Refuses a model that mixes the records of a batch, which hooks would not notice.

    Raises:
        ModelError: what comes out for `record` [1, ...] depends on who is beside it.
    """
    model.module.eval()
    with torch.no_grad():
        one, other = (model.module(torch.cat([record, beside]))[0] for beside in (record, -record))
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-6):
        raise ModelError(
            f"model: {type(model.module).__name__} mixes the records of a batch, so that no "
            "gradient is one record's alone: use trainer.engine: vectorised, which takes each "
            "record by itself"
        )

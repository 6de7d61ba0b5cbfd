"""Opacus' ghost clipping: norms without gradients, then one more pass back for the clipped sum.

The layers' inputs and derivatives give each example's norm (Li et al. 2022, "Large language models
can be strong differentially private learners"); the second pass weights each example's loss by what
its norm allows. It pays where a model is so large that per-example gradients do not fit in memory.
"""

from __future__ import annotations

import warnings

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping as GhostModule

from codex_ray.data.dataset import Records
from codex_ray.learning.clipped_sums import clip_factors
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.per_example import check_gradients, wrapped


class GhostSums:
    """The clipped sums of one model by Opacus' ghost clipping."""

    def __init__(self, model: Model, clip_norm: float) -> None:
        self._model = model
        self._module: GradSampleModule = wrapped(model, GhostModule)
        self._clip_norm = clip_norm

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Clipping]:
        """The sum [d] of clipped gradients at `params` [d], and what clipping did."""
        self._model.set(params)
        with warnings.catch_warnings():
            # The first layer's inputs need no gradient; torch warns of that on every hooked pass.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            found = self._sum(features, labels)
        for p in self._module.parameters():
            p.grad, p._norm_sample = None, None
        return found

    def _sum(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Clipping]:
        """Examples with a non-finite norm are left out, and the others go through again.

        Nothing of the first pass is kept then: layers such as Dropout draw anew, and a norm goes
        with the gradient that it was taken of.
        """
        if len(labels) == 0:
            return torch.zeros(self._model.dimension), Clipping()
        logits = self._module(features)
        (back,) = torch.autograd.grad(loss_sum(logits, labels), logits, retain_graph=True)
        logits.backward(back, retain_graph=True)
        norms = self._module.get_norm_sample()
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            logits = norms = None  # frees the first graph before the second is made
            found, clipping = self._sum(features[finite], labels[finite])
            return found, clipping + Clipping(int((~finite).sum()), 0, int((~finite).sum()))
        for p in self._module.parameters():
            p.grad = None
        factors = clip_factors(norms, self._clip_norm)
        self._module.disable_hooks()
        logits.backward(back * factors[:, None])
        self._module.enable_hooks()
        parts = [
            torch.zeros_like(p) if p.grad is None else p.grad
            for p in self._module.trainable_parameters
        ]
        total = torch.cat([part.flatten() for part in parts])
        return total, Clipping(len(labels), int((norms > self._clip_norm).sum()))


def check_ghost(model: Model, records: Records) -> None:
    """Refuses a model that Opacus has no norms for.

    Raises:
        ModelError: it names the layer and the remedy.
    """
    check_gradients(model, records, GhostModule)

"""The sum of clipped per-example gradients, our own way: no hooks, no Opacus, numbers checked.

An example whose gradient is not finite counts as zero, and is counted: one of them would make every
parameter NaN, which shows that it is there (trap of every plain implementation). Examples go
through in chunks of a fixed size and the chunks are added in their order, so a sum is the same
wherever it is computed. How the gradients of a chunk are held is the model's matter: `per_record`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch.nn import functional

from codex_ray.learning.clipping import Clipping
from codex_ray.learning.models import Model
from codex_ray.learning.per_record import Gradients, kernel_of

CHUNK: Final = 64
"""Examples at a time: a chunk's gradients stay in the cache, and larger ones gain nothing."""

OFFSET: Final = 1e-6
"""Added to a norm before it divides, as in Opacus: rounding then lengthens no clipped gradient."""


def clip_factors(norms: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """What gradients of these norms are multiplied by to be at most `clip_norm` long."""
    return (clip_norm / (norms + OFFSET)).clamp(max=1.0)


class Sums(Protocol):
    """Adds up the clipped gradients of batches of one model: what the engines of DP-SGD are."""

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Clipping]:
        """The sum [d] of clipped gradients at `params` [d], and what clipping did."""
        ...


@dataclass(frozen=True)
class VectorisedSums:
    """The clipped sums of one model by this package's own kernels."""

    model: Model
    clip_norm: float

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Clipping]:
        """The sum [d] of clipped gradients at `params` [d], and what clipping did."""
        return clipped_sum(
            self.model, params, features=features, labels=labels, clip_norm=self.clip_norm
        )


def clipped_sum(
    model: Model,
    params: torch.Tensor,
    *,
    features: torch.Tensor,
    labels: torch.Tensor,
    clip_norm: float,
    multiple: int = 1,
) -> tuple[torch.Tensor, Clipping]:
    """The sum [d] of the examples' gradients at `params` [d], each of norm at most `clip_norm`.

    A chunk is padded to a `multiple` of rows, which count for nothing. No examples give zero.
    """
    total = torch.zeros_like(params)
    done = Clipping()
    for found, factors, clipping in _chunks(
        model, params, features, labels, clip_norm=clip_norm, multiple=multiple
    ):
        total += found.weighted_sum(factors)
        done += clipping
    return total, done


def clipped_gradients(
    model: Model,
    params: torch.Tensor,
    *,
    features: torch.Tensor,
    labels: torch.Tensor,
    clip_norm: float,
) -> Iterator[torch.Tensor]:
    """The clipped gradients themselves, in chunks [n, d] in the examples' order.

    For whoever has to treat each before the sum, as rounding to a grid under a norm bound does.
    """
    for found, factors, _ in _chunks(model, params, features, labels, clip_norm=clip_norm):
        yield found.rows() * factors[:, None]


def _chunks(
    model: Model,
    params: torch.Tensor,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    clip_norm: float,
    multiple: int = 1,
) -> Iterator[tuple[Gradients, torch.Tensor, Clipping]]:
    """Each chunk's gradients, what each of them counts for [n], and what was done to them."""
    kernel = kernel_of(model)
    if not model.module.training:
        model.module.train()
    for at in range(0, len(labels), CHUNK):
        few, named = features[at : at + CHUNK], labels[at : at + CHUNK]
        count = len(named)
        padding = -count % multiple
        if padding:
            few = functional.pad(few, (0, 0) * (few.ndim - 1) + (0, padding))
            named = functional.pad(named, (0, padding))
        found = kernel(params, few, named)
        norms = found.squared_norms().sqrt()
        gone = 0
        if padding or not math.isfinite(float(norms.sum())):
            lost = ~torch.isfinite(norms)
            lost[count:] = True
            gone = int(lost.sum()) - padding
            found, norms = found.without(lost), norms.masked_fill(lost, 0.0)
        factors = clip_factors(norms, clip_norm)
        yield found, factors, Clipping(count, int((norms > clip_norm).sum()), gone)

"""A client's whole local epoch compiled, for any module that torch.func can map.

Compiling the gradient of a batch leaves the step, the clipping and the noise to be called one by
one. Here several steps in a row are unrolled into one function, gradient, clipping, noise and
update together, and that is compiled. How many is a power of two, so that epochs of any length are
made of a few programs. Batches that are short and may not be padded are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from codex_ray.errors import ClusterError
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.clipped_sums import clip_factors
from codex_ray.learning.compiled import Function, reason_of
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.mapped import Mapped, MappedSteps, OverLanes, nothing
from codex_ray.learning.models import Model
from codex_ray.learning.spans import LaneBatch
from codex_ray.learning.trainers import Sgd

LONGEST: Final = 8
"""Steps of one program at most: each adds seconds of compiling, and the longer gain no more."""


@dataclass(frozen=True)
class Epochs(Mapped):
    """The kernel of any module whose local epochs are compiled."""

    @property
    def joined(self) -> int:
        """How many steps in a row are one program at most."""
        return LONGEST

    def steps(self, chunk: Chunk) -> EpochSteps:
        """Room for a chunk of clients."""
        return EpochSteps(self.model, chunk, clipped=self.clipped)

    def compiler_obstacle(
        self, trainer: Sgd | DpSgd, example: Sequence[int], chunk: Chunk
    ) -> str | None:
        """Why the trainer's programs cannot be compiled here; None if the shortest of them can.

        It has the trainer's own figures, so what is compiled is found again when it is wanted.
        """
        steps = self.steps(chunk)
        steps.load(self.model.get().to(chunk.device))
        batch = nothing((chunk.lanes, 1, chunk.rows), example, chunk.device)
        try:
            if isinstance(trainer, DpSgd):
                noise = torch.zeros((chunk.lanes, 1, self.model.dimension), device=chunk.device)
                steps.descend_clipped_through(
                    batch, noise, rate=trainer.rate, clip_norm=trainer.clip_norm, first=True
                )
            else:
                steps.descend_through(batch, rate=trainer.learning_rate, first=True)
        except ClusterError as error:
            return reason_of(error)
        return None


class EpochSteps(MappedSteps):
    """The weights of a chunk of clients [lanes, d], and programs of one step or several."""

    def __init__(self, model: Model, chunk: Chunk, *, clipped: bool) -> None:
        super().__init__(model, chunk, clipped=clipped)
        self._programs: dict[tuple[int, float, float | None], OverLanes] = {}

    def descend_through(self, batch: LaneBatch, *, rate: float, first: bool) -> None:
        """Steps down the weighted losses of one batch after the other [lanes, steps, rows]."""
        self._through(batch, (), rate, None, first)

    def descend_clipped_through(
        self,
        batch: LaneBatch,
        noise: torch.Tensor,
        *,
        rate: float,
        clip_norm: float,
        first: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps down the clipped gradients of one batch after the other, and down their noise.

        Args:
            batch: [lanes, steps, rows, ...]; weights are 1 for a record, 0 for padding.
            noise: what is added to each step's clipped sum [lanes, steps, d].
            rate: of a sum.
            clip_norm: how long a record's gradient may be.
            first: whether lanes still share their weights.

        Returns:
            How many rows of each lane were clipped, and how many were lost, because their gradient
            is not finite [lanes] each.
        """
        clipped, lost = self._through(batch, (noise,), rate, clip_norm, first)
        return clipped, lost

    def _through(
        self,
        batch: LaneBatch,
        more: tuple[torch.Tensor, ...],
        rate: float,
        clip_norm: float | None,
        first: bool,
    ) -> tuple[torch.Tensor, ...]:
        key = (batch.labels.shape[1], rate, clip_norm)
        if key not in self._programs:
            made = (
                _epoch(self._gradient, rate)
                if clip_norm is None
                else _clipped_epoch(self._gradient, rate, clip_norm)
            )
            self._programs[key] = OverLanes(made, self._chunk, compiled=True)
        data = (batch.features, batch.labels, batch.weights, *more)
        with self._products():
            weights, *rest = self._programs[key](self._before(first), *data, shared=first)
        self._own.copy_(weights)
        return tuple(rest)


def _epoch(gradient: Function, rate: float) -> Function:
    """One client's weights [d] after a step of SGD for each batch."""

    def epoch(
        params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        for step in range(len(labels)):
            (found,) = gradient(params, features[step], labels[step], weights[step])
            params = params - rate * found.float()
        return (params,)

    return epoch


def _clipped_epoch(gradients: Function, rate: float, clip_norm: float) -> Function:
    """One client's weights [d] after a step of DP-SGD for each batch, and what was clipped or lost.

    A record whose gradient is not finite counts for nothing, as in `MappedSteps.descend_clipped`.
    """

    def epoch(
        params: torch.Tensor,
        features: torch.Tensor,
        labels: torch.Tensor,
        there: torch.Tensor,
        noise: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        clipped = gone = torch.zeros((), dtype=torch.int64, device=params.device)
        for step in range(len(labels)):
            (found,) = gradients(params, features[step], labels[step], there[step])
            found = found.float()
            norms = torch.linalg.vector_norm(found, dim=1)
            lost = ~torch.isfinite(norms)
            norms = norms.masked_fill(lost, 0)
            factors = clip_factors(norms, clip_norm)
            total = (factors[:, None] * found.masked_fill(lost[:, None], 0)).sum(0)
            params = params - rate * (total + noise[step])
            clipped = clipped + (norms > clip_norm).sum()
            gone = gone + (lost & (there[step] > 0)).sum()
        return params, clipped, gone

    return epoch


def pieces(steps: int, longest: int = LONGEST) -> list[int]:
    """So many steps as powers of two, none above the longest, the largest first."""
    found = [longest] * (steps // longest)
    left = steps % longest
    return found + [power for bit in range(longest)[::-1] if left & (power := 1 << bit)]


def still_to_compile(rule: ShuffledBatches | PoissonBatches, records: int) -> float:
    """How many times what one client of so many records has compiled is compiled in the end.

    At most, where others have more or fewer steps; where batches are of random size, about.
    """
    if isinstance(rule, PoissonBatches):
        return 2.0  # their number of rows is rounded up to one of two, nearly always
    steps = records // rule.batch_size
    if records % rule.batch_size == 0:
        steps *= rule.epochs
    return (2 * LONGEST - 1) / max(1, sum(set(pieces(steps))))

"""Record-level DP-SGD inside a client (Abadi et al. 2016, algorithm 1), by one of three engines.

They differ in how a batch's clipped gradients are added up, and in nothing else: batches, noise and
steps are the same draws of the same streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.clipped_sums import Sums, VectorisedSums
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.models import Model
from codex_ray.learning.per_record import check_model
from codex_ray.learning.trainers import as_tensors
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.randomness import SeedTree
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class DpSgd(Component):
    """Clipped per-example gradients, Gaussian noise on their sum, Poisson batches.

    A step is learning_rate / batch_size times the noised sum. `batch_size` is a public constant,
    never the number of records really drawn or held: under add-or-remove-one both are secret.
    """

    kind: Literal["dp_sgd"] = "dp_sgd"
    learning_rate: float = Field(gt=0, description="Step size of local DP-SGD.")
    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one record's gradient.")
    noise_multiplier: NoiseMultiplier = Field(
        description="Standard deviation of the noise on a batch's sum, in units of clip_norm."
    )
    batch_size: float = Field(gt=0, description="Public constant that divides each noised sum.")
    batches: PoissonBatches | ShuffledBatches = Field(
        discriminator="kind",
        description="Which records meet in a batch; only poisson has an event.",
    )

    engine: Literal["vectorised", "opacus", "ghost"] = Field(
        default="vectorised",
        description="How clipped gradients are added up: by this package, which is fastest; by "
        "Opacus' hooks, the reference; or by Opacus' ghost clipping, which needs least memory.",
    )

    @model_validator(mode="after")
    def _accountable(self) -> DpSgd:
        if isinstance(self.batches, ShuffledBatches):
            self.batches.event(self.noise_multiplier)
        return self

    @property
    def rate(self) -> float:
        """What a noised sum is multiplied by to be a step down."""
        return self.learning_rate / self.batch_size

    def event(self) -> DpEvent:
        """The event of the batches that are really drawn, at this noise."""
        return self.batches.event(self.noise_multiplier)

    def check(self, model: Model, records: Records) -> None:
        """Refuses a model without per-example gradients.

        Raises:
            ModelError: it names the layer and the remedy.
        """
        if self.engine == "vectorised":
            check_model(model, records)
        elif self.engine == "ghost":
            from codex_ray.learning.ghost import check_ghost  # Opacus takes long to import

            check_ghost(model, records)
        else:
            from codex_ray.learning.per_example import check_gradients

            check_gradients(model, records)

    def train(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> torch.Tensor:
        """The update [d] of DP-SGD; an empty batch is a step of noise alone, like any other."""
        return self.counted(model, params, records, streams=streams)[0]

    def counted(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> tuple[torch.Tensor, Clipping]:
        """The update [d], and what clipping did, which is for debugging and nobody's to publish."""
        model.module.train()
        sums, noise = self._sums(model), streams.stream("noise")
        features, labels = as_tensors(records)
        sizes = [shape.numel() for _, shape in model.names()]
        scale = self.noise_multiplier * self.clip_norm
        current, done = params.clone(), Clipping()
        for batch in self.batches.draw(len(records), streams.stream("batches")):
            if len(batch):
                rows = torch.from_numpy(batch)
                total, clipping = sums(current, features[rows], labels[rows])
                done += clipping
            else:
                total = torch.zeros_like(params)
            drawn = np.concatenate([noise.normal(size) for size in sizes])
            total = total + torch.from_numpy(drawn * scale).to(total.dtype)
            current.add_(total, alpha=-self.rate)
        return current - params, done

    def _sums(self, model: Model) -> Sums:
        """How this engine adds up clipped gradients."""
        if self.engine == "vectorised":
            return VectorisedSums(model, self.clip_norm)
        if self.engine == "ghost":
            from codex_ray.learning.ghost import GhostSums  # Opacus takes long to import

            return GhostSums(model, self.clip_norm)
        from codex_ray.learning.per_example import HookedSums

        return HookedSums(model, self.clip_norm)

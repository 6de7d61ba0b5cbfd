"""Record-level DP-SGD inside a client (Abadi et al. 2016, algorithm 1), through Opacus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.models import Model
from codex_ray.learning.trainers import as_tensors
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
    noise_multiplier: float = Field(
        gt=0, description="Standard deviation of the noise on a batch's sum, in units of clip_norm."
    )
    batch_size: float = Field(gt=0, description="Public constant that divides each noised sum.")
    batches: PoissonBatches | ShuffledBatches = Field(
        discriminator="kind",
        description="Which records meet in a batch; only poisson has an event.",
    )

    @model_validator(mode="after")
    def _accountable(self) -> DpSgd:
        if isinstance(self.batches, ShuffledBatches):
            self.batches.event(self.noise_multiplier)
        return self

    def event(self) -> DpEvent:
        """The event of the batches that are really drawn, at this noise."""
        return self.batches.event(self.noise_multiplier)

    def check(self, model: Model, records: Records) -> None:
        """Refuses a model without per-example gradients.

        Raises:
            ModelError: it names the layer and the remedy.
        """
        from codex_ray.learning.per_example import check_gradients  # Opacus takes long to import

        check_gradients(model, records)

    def train(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> torch.Tensor:
        """The update [d] of DP-SGD; an empty batch is a step of noise alone, like any other."""
        from codex_ray.learning.per_example import KeyedDPOptimizer, gradients, wrapped

        model.set(params)
        model.module.train()
        module = wrapped(model)
        optimizer = KeyedDPOptimizer(
            torch.optim.SGD(module.parameters(), lr=self.learning_rate / self.batch_size),
            noise=streams.stream("noise"),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.clip_norm,
            expected_batch_size=self.batch_size,
            loss_reduction="sum",
        )
        features, labels = as_tensors(records)
        for batch in self.batches.draw(len(records), streams.stream("batches")):
            rows = torch.from_numpy(batch)
            optimizer.zero_grad(set_to_none=True)
            gradients(module, features[rows], labels[rows])
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return model.get() - params

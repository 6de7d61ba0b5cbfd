"""What federation is worth: clients training alone, and all records pooled, without privacy.

Nobody in a real federation can compute either. They belong to the simulation, are outside the
guarantee, and are left out of unseeded runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.learning.batches import ShuffledBatches
from codex_ray.learning.evaluation import evaluate
from codex_ray.learning.models import Model
from codex_ray.learning.trainers import Sgd
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component

Metrics = dict[str, float]


@dataclass(frozen=True)
class Baselines:
    """Test metrics of the first clients, each training alone, and of everything pooled."""

    alone: list[Metrics]
    pooled: Metrics

    def summary(self) -> dict[str, Metrics]:
        """The mean over the clients, the least accurate of them, and the pooled model."""
        mean = {k: float(np.mean([m[k] for m in self.alone])) for k in self.alone[0]}
        worst = min(self.alone, key=lambda m: m["accuracy"])
        return {"alone": mean, "alone_worst": worst, "pooled": self.pooled}


class Comparison(Component):
    """How the two non-private baselines are trained: plain SGD on the same model."""

    learning_rate: float = Field(default=0.5, gt=0, description="Step size of the baselines.")
    epochs: int = Field(default=100, ge=1, description="Passes over the records.")
    batch_size: int = Field(default=10, ge=1, description="Records in a batch.")
    clients: int = Field(default=20, ge=1, description="At most so many clients are trained alone.")

    def measure(self, model: Model, dataset: FederatedDataset, *, public: SeedTree) -> Baselines:
        """The baselines, each trained from the model's weights."""
        start, test = model.get(), dataset.test()
        trainer = Sgd(
            learning_rate=self.learning_rate,
            batches=ShuffledBatches(batch_size=self.batch_size, epochs=self.epochs),
        )

        def trained(records: Records, name: ClientId | str) -> Metrics:
            streams = public.child("comparison", name)
            update = trainer.train(model, start, records, streams=streams)
            return evaluate(model, start + update, test)

        held = [dataset.client(client) for client in range(dataset.population)]
        pooled = Records(
            np.concatenate([r.features for r in held]), np.concatenate([r.labels for r in held])
        )
        return Baselines(
            alone=[trained(records, c) for c, records in enumerate(held[: self.clients])],
            pooled=trained(pooled, "pooled"),
        )

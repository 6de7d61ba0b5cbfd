"""The hospitals' half of distributed DP-SGD: one step a round, on everybody's records at once.

Each client draws its own Poisson batch, clips every record's gradient, and sends their sum without
noise of its training. The noise is the mechanism's: every client's part of it joins inside the
secure sum, so that the sum over all clients is one step of central DP-SGD, and nobody had to be
trusted with the records (claim L2 with one local step).

A record's gradient is rounded to the grid by itself, under the norm bound that the mechanism
charges for. Rounding a client's whole sum would be cheaper, but its norm is bounded by nothing, and
one record more can move each of its D coordinates to another neighbour: sqrt(D) steps on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import torch
from pydantic import Field

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.clipped_sums import clipped_gradients
from codex_ray.learning.models import Model
from codex_ray.learning.per_record import check_model
from codex_ray.learning.trainers import as_tensors
from codex_ray.randomness import SeedTree
from codex_ray.types import Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent

ROOM: Final = 6.0
"""Standard deviations of the number of sampled records for which the sum has room. A batch beyond
it (about 1e-9 a round) may wrap around, which costs accuracy and no privacy."""


class DistributedDpSgd(Component):
    """Clipped per-example gradients of one Poisson batch over all clients (Abadi et al. 2016).

    Sampling rate and clip norm are the same everywhere, and no client weighs more than its records
    do: under add-or-remove-one, how many it holds is as secret as what they say.
    """

    kind: Literal["distributed_dp_sgd"] = "distributed_dp_sgd"
    learning_rate: float = Field(gt=0, description="Step size of the one step of a round.")
    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one record's gradient.")
    sampling_rate: float = Field(
        gt=0, le=1, description="Chance of a record to be in a round's batch, at every client."
    )
    batch_size: float = Field(
        gt=0,
        description="Public constant that divides the noised sum of all clients: the sampling rate "
        "times a round number of records, which should not be below the true one.",
    )

    @property
    def divisor(self) -> float:
        """What the released sum is divided by to be an update."""
        return self.batch_size / self.learning_rate

    @property
    def summands(self) -> int:
        """For how many records' gradients the words of a sum need room: no secret number."""
        return math.ceil(self.batch_size + ROOM * math.sqrt(self.batch_size))

    def event(self) -> DpEvent | None:
        """None: what leaves the client has no noise of its own."""
        return None

    def sampled(self, inner: DpEvent) -> DpEvent:
        """What a round costs a record, when the noised sum of a batch that holds it costs `inner`.

        Each record joins by its own secret coin, so its sampling counts against the server and
        against other clients too.
        """
        import dp_accounting as dp  # slow to import, and hosts never account

        return dp.PoissonSampledDpEvent(self.sampling_rate, inner)

    def check(self, model: Model, records: Records) -> None:
        """Refuses a model without per-example gradients.

        Raises:
            ModelError: it names the layer and the remedy.
        """
        check_model(model, records)

    def steps(
        self,
        model: Model,
        params: torch.Tensor,
        records: Records,
        *,
        streams: SeedTree,
        clip_norm: float | None = None,
    ) -> Iterator[torch.Tensor]:
        """Each sampled record's way down, its clipped gradient's negative, in chunks [n, d].

        `clip_norm` is what a grid leaves of the trainer's own for rounding.
        """
        batches = PoissonBatches(sampling_rate=self.sampling_rate)
        (batch,) = batches.draw(len(records), streams.stream("batches"))
        rows = torch.from_numpy(batch)
        features, labels = as_tensors(records)
        for chunk in clipped_gradients(
            model,
            params,
            features=features[rows],
            labels=labels[rows],
            clip_norm=self.clip_norm if clip_norm is None else clip_norm,
        ):
            yield -chunk

    def train(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> torch.Tensor:
        """The sum [d] of the sampled records' steps, not rounded; zero where none is sampled."""
        total = torch.zeros_like(params)
        for chunk in self.steps(model, params, records, streams=streams):
            total += chunk.sum(0)
        return total

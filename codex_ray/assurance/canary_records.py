"""Canary records: random records that are in a client's data or not by a coin, and their scores.

The score of a canary is how far the released steps went along its own clipped gradient: what an
attacker computes who sees every noised step and the parameters before it (white box; Nasr et al.
2023). In or out by coins of one named stream, all of them in one run: what the one-run lower bounds
need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.errors import ConfigError
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.trainers import as_tensors
from codex_ray.privacy.empirical_bounds import Inside, Scores
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId

SPREAD = 3.0
"""Canaries are so many standard deviations wide: records that no other resembles, whose gradients
are longer than any clip norm in use."""


@dataclass(frozen=True)
class CanaryRecords:
    """A data set in which some clients hold canaries beside their own records.

    Attributes:
        dataset: the data set without them.
        count: how many canaries there are, in or out; about half are in.
        holders: the clients that hold them, in turn.
        streams: where their features, labels and coins come from.
    """

    dataset: FederatedDataset
    count: int
    holders: tuple[ClientId, ...]
    streams: SeedTree

    def __post_init__(self) -> None:
        unknown = [one for one in self.holders if not 0 <= one < self.dataset.population]
        if not self.holders or unknown or self.count < 1:
            raise ConfigError(
                f"audit: {self.count} canary records for the clients {list(self.holders)}: give at "
                f"least one of each, the clients below {self.dataset.population}"
            )

    @cached_property
    def inside(self) -> Inside:
        """Which canaries are in the data [count], by one coin each."""
        return self.streams.stream("coins").uniform(self.count) < 0.5

    @cached_property
    def canaries(self) -> Records:
        """All canaries, in and out: normal features about the test set's mean, any of its labels.

        The test set gives them their place and scale only: it is held by no client.
        """
        test = self.dataset.test()
        middle = test.features.mean(axis=0, dtype=np.float64)
        width = SPREAD * test.features.std(axis=0, dtype=np.float64)
        draws = self.streams.stream("features").normal(self.count * middle.size)
        features = middle + width * draws.reshape(self.count, *middle.shape)
        labels = np.unique(test.labels)
        at = (self.streams.stream("labels").uniform(self.count) * len(labels)).astype(np.int64)
        return Records(features.astype(np.float32), labels[at].astype(np.int64))

    def of(self, client: ClientId) -> npt.NDArray[np.int64]:
        """The numbers of the canaries that are this client's, in or out."""
        mine = [at for at, holder in enumerate(self.holders) if holder == client]
        numbers = np.arange(self.count, dtype=np.int64)
        return numbers[np.isin(numbers % len(self.holders), mine)]

    @property
    def population(self) -> int:
        """How many clients there are: canaries add none."""
        return self.dataset.population

    def client(self, client: ClientId) -> Records:
        """The records of one client, with the canaries that the coins gave it."""
        own, planted = self.dataset.client(client), self.of(client)
        added = planted[self.inside[planted]]
        if not len(added):
            return own
        return Records(
            np.concatenate([own.features, self.canaries.features[added]]),
            np.concatenate([own.labels, self.canaries.labels[added]]),
        )

    def test(self) -> Records:
        """The held-out pooled test set, without canaries."""
        return self.dataset.test()


def clipped_gradients(
    model: Model, params: torch.Tensor, records: Records, *, clip_norm: float
) -> torch.Tensor:
    """The gradient of each record [n, d], shortened to `clip_norm`; zero where it is not finite.

    `model` must be one that no trainer has put hooks on.
    """
    model.set(params)
    model.module.eval()
    weights = [p for p in model.module.parameters() if p.requires_grad]
    features, labels = as_tensors(records)
    rows = torch.zeros((len(records), model.dimension), dtype=torch.float64)
    for at in range(len(records)):
        loss = loss_sum(model.module(features[at : at + 1]), labels[at : at + 1])
        parts = torch.autograd.grad(loss, weights)
        row = torch.cat([part.reshape(-1) for part in parts]).double()
        length = float(torch.linalg.vector_norm(row))
        if 0 < length < float("inf"):
            rows[at] = row * min(1.0, clip_norm / length)
    return rows


def step_scores(
    model: Model,
    steps: Sequence[tuple[torch.Tensor, torch.Tensor]],
    canaries: Records,
    *,
    clip_norm: float,
) -> Scores:
    """How far the steps went down each canary's gradient [m], in units of clip_norm squared.

    `steps` are the parameters [d] before each release and the noised sum of gradients [d] that was
    released: minus the update, over the learning rate, times the batch size that divided it.
    """
    total = np.zeros(len(canaries))
    for params, released in steps:
        rows = clipped_gradients(model, params, canaries, clip_norm=clip_norm)
        total += (rows @ released.double()).numpy() / clip_norm**2
    return total

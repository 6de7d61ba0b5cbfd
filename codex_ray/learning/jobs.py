"""What clients train on, drawn and laid side by side: the batches of a chunk as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import Batch, PoissonBatches, ShuffledBatches
from codex_ray.learning.trainers import as_tensors
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId

ROWS: Final = 4
"""Poisson batches are padded to a multiple of so many rows."""


@dataclass(frozen=True)
class Job:
    """One client's local training, drawn but for its noise.

    Attributes:
        place: the row of its update.
        client: whose it is.
        records: what it trains on.
        batches: the record numbers of each step.
        rows: records of a batch, the padding included: it depends on this client alone.
        streams: from which its noise is drawn.
    """

    place: int
    client: ClientId
    records: Records
    batches: list[Batch]
    rows: int
    streams: SeedTree

    @property
    def lengths(self) -> tuple[int, ...]:
        """Records in each batch."""
        return tuple(map(len, self.batches))


def rows_for(rule: ShuffledBatches | PoissonBatches, batches: Sequence[Batch]) -> int:
    """How many rows the batches of one client are padded to.

    Shuffled batches are full but for the last of an epoch, so one shape serves every client.
    """
    if isinstance(rule, ShuffledBatches):
        return rule.batch_size
    longest = max(map(len, batches), default=0)
    return max(1, -(-longest // ROWS)) * ROWS


@dataclass(frozen=True)
class Padded:
    """The batches of a chunk, with zeros where there is no record.

    Attributes:
        features: [lanes, steps, rows, ...].
        labels: [lanes, steps, rows].
        there: 1 for a record, 0 for padding [lanes, steps, rows].
    """

    features: torch.Tensor
    labels: torch.Tensor
    there: torch.Tensor

    @classmethod
    def of(cls, jobs: Sequence[Job], room: Padded) -> Padded:
        """The batches of `jobs`, longest first, one to a lane of `room`, on the room's device."""
        steps = len(jobs[0].batches)
        features, labels = room.features[:, :steps], room.labels[:, :steps]
        there = np.zeros(labels.shape, dtype=np.float32)
        for lane, job in enumerate(jobs):
            _fill(features[lane], labels[lane], there[lane], job)
        for rest in (features[len(jobs) :], labels[len(jobs) :]):
            rest.zero_()  # what an earlier chunk left there could be infinite by now
        return cls(features, labels, torch.from_numpy(there))

    @classmethod
    def room(cls, lanes: int, steps: int, rows: int, shape: Sequence[int]) -> Padded:
        """Room for the batches of a chunk, to be used again and again."""
        whole = (lanes, steps, rows)
        labels = torch.zeros(whole, dtype=torch.int64)
        return cls(torch.zeros((*whole, *shape)), labels, torch.zeros(whole))

    def to(self, device: torch.device) -> Padded:
        """The same on that device."""
        return Padded(self.features.to(device), self.labels.to(device), self.there.to(device))


def _fill(
    features: torch.Tensor,
    labels: torch.Tensor,
    there: npt.NDArray[np.float32],
    job: Job,
) -> None:
    """Puts the job's batches into its lane, by one copy; padding copies a record, and is zeroed."""
    records = np.zeros(there.shape, dtype=np.int64)
    for step, batch in enumerate(job.batches):
        records[step, : len(batch)] = batch
        there[step, : len(batch)] = 1
    own_features, own_labels = as_tensors(job.records)
    features, labels = features.flatten(0, 1), labels.flatten(0, 1)
    if len(job.records):
        at = torch.from_numpy(records.reshape(-1))
        torch.index_select(own_features, 0, at, out=features)
        torch.index_select(own_labels, 0, at, out=labels)
    padding = torch.from_numpy(np.flatnonzero(there == 0))
    if len(padding):
        features.index_fill_(0, padding, 0.0)
        labels.index_fill_(0, padding, 0)

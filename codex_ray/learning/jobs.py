"""What clients train on, drawn and laid side by side, or end to end: the batches of a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import Batch, PoissonBatches, ShuffledBatches
from codex_ray.learning.spans import LaneBatch, Spans
from codex_ray.learning.trainers import as_tensors
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId

ROWS: Final = 4
"""Poisson batches are padded to a multiple of so many rows, where all lanes have as many."""
COMPILED_ROWS: Final = 8
"""And to twice so many, or twice that, and so on, where each number of rows is compiled by itself.
"""
FEW: Final = 2
"""And to a multiple of so many where each lane has its own: the products of a single row go another
way through torch, which rounds otherwise."""


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


def rows_for(
    rule: ShuffledBatches | PoissonBatches, batches: Sequence[Batch], *, compiled: bool = False
) -> int:
    """How many rows the batches of one client are padded to.

    Shuffled batches are full but for the last of an epoch, so one shape serves every client.
    """
    if isinstance(rule, ShuffledBatches):
        return rule.batch_size
    longest = max(map(len, batches), default=0)
    return _compiled_rows(longest) if compiled else max(1, -(-longest // ROWS)) * ROWS


def compiled_rows(rule: ShuffledBatches | PoissonBatches, records: int) -> int:
    """How many rows batches of a client with so many records are likely to be compiled for."""
    if isinstance(rule, ShuffledBatches):
        return rule.batch_size
    mean = rule.sampling_rate * records
    likely = min(records, math.ceil(mean + 2 * math.sqrt(mean * (1 - rule.sampling_rate))))
    return _compiled_rows(likely)


def _compiled_rows(longest: int) -> int:
    rows = COMPILED_ROWS
    while rows < longest:
        rows *= 2
    return rows


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

    def averaged(self) -> Padded:
        """The same with weights that sum to 1 in every batch that is not empty."""
        counts = self.there.sum(2, keepdim=True).clamp_(min=1)
        return Padded(self.features, self.labels, self.there / counts)

    def through(self, first: int, count: int) -> LaneBatch:
        """So many steps of every lane [lanes, steps, rows, ...]."""
        own = slice(first, first + count)
        return LaneBatch(self.features[:, own], self.labels[:, own], self.there[:, own])

    def step(self, step: int, rows: int | None = None) -> LaneBatch:
        """One step of every lane; its first `rows` rows."""
        few = slice(rows)
        return LaneBatch(
            self.features[:, step, few], self.labels[:, step, few], self.there[:, step, few]
        )


def _fill(
    features: torch.Tensor,
    labels: torch.Tensor,
    there: npt.NDArray[np.float32],
    job: Job,
) -> None:
    """Puts the job's batches into its lane, by one copy; padding copies a record, and is zeroed."""
    own_features, own_labels = as_tensors(job.records)
    features, labels = features.flatten(0, 1), labels.flatten(0, 1)
    full = 0 < sum(map(len, job.batches)) == there.size
    if full:
        there[:] = 1
        records = np.concatenate(job.batches)
    else:
        held = np.zeros(there.shape, dtype=np.int64)
        for step, batch in enumerate(job.batches):
            held[step, : len(batch)] = batch
            there[step, : len(batch)] = 1
        records = held.reshape(-1)
    if len(job.records):
        at = torch.from_numpy(records)
        torch.index_select(own_features, 0, at, out=features)
        torch.index_select(own_labels, 0, at, out=labels)
    if full:
        return
    padding = torch.from_numpy(np.flatnonzero(there == 0))
    if len(padding):
        features.index_fill_(0, padding, 0.0)
        labels.index_fill_(0, padding, 0)


@dataclass(frozen=True)
class Uneven:
    """The batches of a chunk on the CPU, step after step, the lanes of a step end to end.

    Attributes:
        features: [rows of all steps, ...].
        labels: [rows of all steps].
        there: 1 for a record, 0 for padding [rows of all steps].
        spans: of each step.
    """

    features: torch.Tensor
    labels: torch.Tensor
    there: torch.Tensor
    spans: Sequence[Spans]

    @classmethod
    def of(cls, jobs: Sequence[Job], lanes: int, room: torch.Tensor | None) -> Uneven:
        """The batches of `jobs`, one to a lane, in the memory of `room`'s features if they fit."""
        none = (0,) * (lanes - len(jobs))
        rows = [
            tuple(-(-length // FEW) * FEW for length in lengths) + none
            for lengths in zip(*(job.lengths for job in jobs), strict=True)
        ]
        total = sum(map(sum, rows))
        shape = jobs[0].records.features.shape[1:]
        if room is None or room.shape[1:] != shape or len(room) < total:
            room = torch.empty((total, *shape))
        found = cls(
            room[:total], torch.zeros(total, dtype=torch.int64), torch.ones(total),
            [Spans.of(few) for few in rows],
        )  # fmt: skip
        found._fill(jobs)
        return found

    def _fill(self, jobs: Sequence[Job]) -> None:
        """Puts every batch into its place, and zeros where there is no record."""
        features, labels, there = self.features.numpy(), self.labels.numpy(), self.there.numpy()
        held = [
            (
                np.asarray(job.records.features, dtype=np.float32),
                np.asarray(job.records.labels, dtype=np.int64),
                job.batches,
            )
            for job in jobs
        ]
        at = 0
        for step, spans in enumerate(self.spans):
            for (own, named, batches), rows in zip(held, spans.lengths, strict=False):
                batch, end = batches[step], at + len(batches[step])
                if rows:  # clip: every number of a batch is there, and needs no other check
                    own.take(batch, 0, out=features[at:end], mode="clip")
                    named.take(batch, 0, out=labels[at:end], mode="clip")
                at += rows
                if end < at:
                    features[end:at] = 0
                    there[end:at] = 0

    def averaged(self) -> Uneven:
        """The same with weights that sum to 1 in every batch that is not empty."""
        lengths = [len(spans.lane_of) for spans in self.spans]
        weights = []
        for spans, there in zip(self.spans, torch.split(self.there, lengths), strict=True):
            counts = torch.zeros(len(spans.lengths)).index_add_(0, spans.lane_of, there)
            weights.append(there / counts[spans.lane_of])
        return Uneven(self.features, self.labels, torch.cat(weights), self.spans)

    def step(self, step: int, rows: int | None = None) -> LaneBatch:
        """One step of every lane."""
        spans = self.spans[step]
        first = sum(len(before.lane_of) for before in self.spans[:step])
        own = slice(first, first + len(spans.lane_of))
        return LaneBatch(
            self.features[None, own], self.labels[None, own], self.there[None, own], spans
        )

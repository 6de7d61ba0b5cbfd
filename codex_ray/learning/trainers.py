"""Local training, one client at a time: the reference that every faster trainer must agree with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from pydantic import Field

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.errors import DataError
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.models import Model, loss_sum
from codex_ray.privacy.mechanism import Fact
from codex_ray.privacy.passengers import Told
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component, Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class Trainer(Protocol):
    """The plug-in point: one client's training, and what it costs a record."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    def check(self, model: Model, records: Records) -> None:
        """Refuses a model that this trainer cannot train, before anything runs."""
        ...

    def train(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> torch.Tensor:
        """The update [d]: parameters after local training less `params`."""
        ...

    def event(self) -> DpEvent | None:
        """What one update costs a record of its client; None: no record-level claim."""
        ...


@runtime_checkable
class StepTrainer(Protocol):
    """A trainer whose clients send the sum of their records' steps, each rounded by itself."""

    @property
    def divisor(self) -> float:
        """What the released sum of all clients is divided by to be an update."""
        ...

    @property
    def summands(self) -> int:
        """For how many records' steps the words of a sum need room."""
        ...

    def sampled(self, inner: DpEvent) -> DpEvent:
        """What a round costs a record when the noised sum that holds its step costs `inner`."""
        ...

    def steps(
        self,
        model: Model,
        params: torch.Tensor,
        records: Records,
        *,
        streams: SeedTree,
        clip_norm: float,
    ) -> Iterator[torch.Tensor]:
        """The step of each sampled record, at most `clip_norm` long, in chunks [n, d]."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A trainer that counts what clipping did, for debugging."""

    def counted(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> tuple[torch.Tensor, Clipping]:
        """The update [d], and what became of the gradients."""
        ...


Take: TypeAlias = Callable[[Iterator[torch.Tensor]], Residues]
"""Rounds chunks [n, d] of steps and adds them up."""
_Result = TypeVar("_Result")


class Sgd(Component):
    """Plain SGD on each client, without a privacy claim (McMahan et al. 2017, algorithm 1)."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(gt=0, description="Step size of local SGD.")
    batches: ShuffledBatches | PoissonBatches = Field(
        default=ShuffledBatches(),
        discriminator="kind",
        description="Which records meet in a batch.",
    )

    def check(self, model: Model, records: Records) -> None:
        """Every model that loads can be trained."""

    def train(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> torch.Tensor:
        """The update [d] of plain SGD on each batch's mean loss; empty batches do nothing."""
        model.set(params)
        model.module.train()
        optimizer = torch.optim.SGD(model.module.parameters(), lr=self.learning_rate)
        features, labels = as_tensors(records)
        for batch in self.batches.draw(len(records), streams.stream("batches")):
            if len(batch) == 0:
                continue
            rows = torch.from_numpy(batch)
            optimizer.zero_grad()
            loss = loss_sum(model.module(features[rows]), labels[rows]) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        return model.get() - params

    def event(self) -> DpEvent | None:
        """No record-level claim."""
        return None


def as_tensors(records: Records) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [n, ...] and labels [n] as tensors, sharing memory with the records if they can."""
    return (
        torch.from_numpy(np.require(records.features, dtype=np.float32, requirements=["W"])),
        torch.from_numpy(np.require(records.labels, dtype=np.int64, requirements=["W"])),
    )


def check_labels(records: Records, outputs: int, *, where: str) -> None:
    """Refuses labels that a model with so many outputs cannot learn.

    Raises:
        DataError: a label is too large; the message says which and what to do.
    """
    classes = max(2, outputs)
    if len(records) and int(records.labels.max()) >= classes:
        raise DataError(
            f"{where}: label {int(records.labels.max())} does not fit a model of {outputs} "
            f"output(s), which learns {classes} classes: set model.outputs, or count labels from 0"
        )


@dataclass(frozen=True)
class LocalTraining:
    """A trainer bound to a model, a data set and streams: what a host carries.

    The update of a client depends on (seed, round, client) alone: not on the host, not on its
    chunk-mates, not on how often the round was tried.
    """

    trainer: Trainer
    model: Model
    dataset: FederatedDataset
    streams: SeedTree
    _counts: dict[ClientId, Clipping] = field(default_factory=dict, repr=False)

    def train(
        self, params: torch.Tensor, clients: Sequence[ClientId], round: int
    ) -> torch.Tensor:  # [n, d]
        """The updates [n, d] of `clients`, in their order."""
        self._counts.clear()
        updates = [self._update(params, client, round) for client in clients]
        return torch.stack(updates) if updates else torch.zeros((0, self.model.dimension))

    def _update(self, params: torch.Tensor, client: ClientId, round: int) -> torch.Tensor:
        def train(records: Records, streams: SeedTree) -> torch.Tensor:
            if not isinstance(self.trainer, Counting):
                return self.trainer.train(self.model, params, records, streams=streams)
            found, self._counts[client] = self.trainer.counted(
                self.model, params, records, streams=streams
            )
            return found

        return self._keyed(client, round, train)

    def clipping(self, client: ClientId) -> tuple[int, int, int]:
        """(records met, clipped, not finite) in the client's last training; for debugging only."""
        counts = self._counts.get(client, Clipping())
        return counts.examples, counts.clipped, counts.not_finite

    def _keyed(
        self, client: ClientId, round: int, work: Callable[[Records, SeedTree], _Result]
    ) -> _Result:
        """What `work` makes of the client's records, with all its randomness keyed."""
        records = self.dataset.client(client)
        check_labels(records, self.model.outputs, where=f"client {client}")
        streams = self.streams.child("train", round, client)
        with torch.random.fork_rng(devices=[]):
            # Layers such as Dropout draw from torch's global generator: key that too.
            torch.manual_seed(int(streams.stream("layers").words(1)[0] >> 1))
            return work(records, streams)

    def summed(
        self, params: torch.Tensor, client: ClientId, round: int, *, clip_norm: float, take: Take
    ) -> Residues:
        """What `take` makes of the clipped steps of the client's records, chunk by chunk [n, d]."""
        assert isinstance(self.trainer, StepTrainer)  # The experiment was checked for it.
        trainer = self.trainer

        def steps(records: Records, streams: SeedTree) -> Residues:
            return take(
                trainer.steps(self.model, params, records, streams=streams, clip_norm=clip_norm)
            )

        return self._keyed(client, round, steps)

    def tell(
        self, params: torch.Tensor, clients: Sequence[ClientId], asked: Collection[Fact]
    ) -> list[Told]:
        """What each client has to tell of its records beside its update, in their order.

        The loss is that of `params` before local training, so it costs a pass over the records.
        """
        return [self._told(params, client, "train_loss" in asked) for client in clients]

    def _told(self, params: torch.Tensor, client: ClientId, with_loss: bool) -> Told:
        records = self.dataset.client(client)
        if not with_loss or len(records) == 0:
            return Told(len(records))
        self.model.set(params)
        self.model.module.eval()
        features, labels = as_tensors(records)
        with torch.no_grad():
            loss = float(loss_sum(self.model.module(features), labels))
        return Told(len(records), loss / len(records))

    @property
    def dimension(self) -> int:
        """d, the length of an update."""
        return self.model.dimension

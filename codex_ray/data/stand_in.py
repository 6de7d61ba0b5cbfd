"""Clients with made-up records, for whatever depends on how many there are and of what shape.

The process that begins a run builds the model and times kernels, and neither depends on a value.
Where records are read only by whoever trains on them, it does both on these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.in_memory import check_client
from codex_ray.types import ClientId

ROWS: Final = 4096
"""Made-up records that there are; a client that has more of them has some again."""


@dataclass(frozen=True)
class StandIn:
    """As many clients with as many records as others have, all taken from one table of noise.

    Attributes:
        sizes: how many records each client has.
        features: of a record.
        classes: of labels, each of which occurs among enough records.
    """

    sizes: Sequence[int]
    features: int
    classes: int

    @property
    def population(self) -> int:
        """How many clients there are."""
        return len(self.sizes)

    def client(self, client: ClientId) -> Records:
        """So many made-up records, uniform in [-1, 1].

        Raises:
            DataError: there is no such client.
        """
        check_client(client, self.population)
        rows = np.arange(self.sizes[client]) % len(self._table)
        return Records(self._table.features[rows], self._table.labels[rows])

    def test(self) -> Records:
        """The first of them, the very first of which has the largest label."""
        return self._table

    @cached_property
    def _table(self) -> Records:
        count = min(ROWS, max(1, *self.sizes))
        drawn = np.random.default_rng(0).random((count, self.features), dtype=np.float32)
        return Records(2 * drawn - 1, (-1 - np.arange(count)) % self.classes)


def stand_in(dataset: FederatedDataset) -> FederatedDataset:
    """What stands for a data set where values do not count: itself, unless it names another."""
    found: FederatedDataset = getattr(dataset, "stand_in", dataset)
    return found

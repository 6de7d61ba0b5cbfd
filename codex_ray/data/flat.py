"""A data set as five arrays, which other processes read where they lie instead of opening it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.in_memory import check_client
from codex_ray.types import ClientId

ARRAYS: Final = ("features", "labels", "starts", "test_features", "test_labels")
LOOKED_AT: Final = 32
"""Clients by whose records the size of a whole data set is told, before it is made."""


@dataclass(frozen=True)
class FlatDataset:
    """Every client's records end to end. Nothing of it is copied, and nothing has to be writable.

    Attributes:
        features: of all clients [n, ...].
        labels: of all clients [n].
        starts: where each client's records begin, and where the last one's end [clients + 1].
        test_features: of the pooled test set.
        test_labels: of the pooled test set.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    test_features: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, dataset: FederatedDataset, *, most: float) -> FlatDataset | None:
        """The same data set; None if it takes more than `most` bytes, or has no one shape.

        A population that is made on request is not made to find out that it is too large: a few
        clients tell how large it will be.
        """
        held = dataset.test()
        made = [dataset.client(client) for client in range(min(LOOKED_AT, dataset.population))]
        expected = _bytes(made) / len(made) * dataset.population
        if any(records.features.shape[1:] != held.features.shape[1:] for records in made):
            return None
        if expected + held.features.nbytes + held.labels.nbytes > most:
            return None
        made += [dataset.client(client) for client in range(len(made), dataset.population)]
        if any(records.features.shape[1:] != held.features.shape[1:] for records in made):
            return None
        flat = cls(
            np.concatenate([records.features for records in made]),
            np.concatenate([records.labels for records in made]),
            np.concatenate([[0], np.cumsum([len(records) for records in made])]),
            held.features,
            held.labels,
        )
        return flat if flat.nbytes <= most else None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FlatDataset:
        """The data set of what `arrays` gave, in this process or in another."""
        return cls(**{name: arrays[name] for name in ARRAYS})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays by name: all that has to travel."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return sum(int(getattr(self, name).nbytes) for name in ARRAYS)

    @property
    def population(self) -> int:
        """How many clients there are."""
        return len(self.starts) - 1

    def client(self, client: ClientId) -> Records:
        """The records of one client, which lie in those of all.

        Raises:
            DataError: there is no such client.
        """
        check_client(client, self.population)
        there = slice(int(self.starts[client]), int(self.starts[client + 1]))
        return Records(self.features[there], self.labels[there])

    def test(self) -> Records:
        """The held-out pooled test set."""
        return Records(self.test_features, self.test_labels)


def _bytes(made: list[Records]) -> int:
    return sum(records.features.nbytes + records.labels.nbytes for records in made)

"""A federated data set that is held in memory: for users' own data, small sources and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codex_ray.data.dataset import Records
from codex_ray.errors import DataError
from codex_ray.types import ClientId


def as_records(features: npt.ArrayLike, labels: npt.ArrayLike, *, where: str) -> Records:
    """Checked records in the types of the house: float32 features, int64 labels.

    Raises:
        DataError: labels are no integers, or the records fail `Records.checked`; it names `where`.
    """
    whole = np.asarray(labels)
    if whole.ndim != 1:
        raise DataError(f"{where}: labels have shape {whole.shape}: give one integer a record")
    if whole.dtype.kind not in "iub" and len(whole):
        raise DataError(f"{where}: labels are {whole.dtype}: give integers from 0")
    return Records(np.asarray(features, dtype=np.float32), whole.astype(np.int64)).checked(where)


def check_client(client: ClientId, population: int) -> None:
    """Returns when the client exists.

    Raises:
        DataError: it does not.
    """
    if not 0 <= client < population:
        raise DataError(
            f"client {client} does not exist: the population is numbered 0 to {population - 1}"
        )


@dataclass(frozen=True)
class InMemory:
    """Every client's records and the pooled test set, as they are given.

    Attributes:
        records: one entry for each client, in the order of their numbers.
        held_out: the pooled test set, which no client may hold any of.
    """

    records: Sequence[Records]
    held_out: Records

    def __post_init__(self) -> None:
        if not self.records:
            raise DataError("a federated data set needs at least one client: give its records")
        shape = self.held_out.features.shape[1:]
        for client, records in enumerate(self.records):
            records.checked(f"client {client}")
            if records.features.shape[1:] != shape:
                raise DataError(
                    f"client {client}: its features have shape {records.features.shape[1:]}, those "
                    f"of the test set {shape}: bring all records to the same features"
                )
        self.held_out.checked("the test set")

    @property
    def population(self) -> int:
        """How many clients there are."""
        return len(self.records)

    @property
    def sizes(self) -> list[int]:
        """How many records each client holds."""
        return [len(records) for records in self.records]

    def client(self, client: ClientId) -> Records:
        """The records of one client.

        Raises:
            DataError: there is no such client.
        """
        check_client(client, self.population)
        return self.records[client]

    def test(self) -> Records:
        """The held-out pooled test set."""
        return self.held_out

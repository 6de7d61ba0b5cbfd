"""The plug-in point of data: a population of clients, each with records, and a pooled test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codex_ray.errors import DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId


@dataclass(frozen=True)
class Records:
    """Examples of one holder: features [n, ...] float32 and integer labels [n]."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """How many bytes of memory they take."""
        return self.features.nbytes + self.labels.nbytes

    def checked(self, where: str) -> Records:
        """These records, or an error that names `where` they came from.

        Raises:
            DataError: lengths differ, a feature is NaN or infinite, or a label is negative.
        """
        if len(self.features) != len(self.labels):
            raise DataError(
                f"{where}: {len(self.features)} feature rows but {len(self.labels)} labels"
            )
        finite = np.isfinite(self.features)
        if not finite.all():
            place = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise DataError(
                f"{where}: feature {place[1:]} of record {place[0]} is {self.features[place]}: "
                "impute or drop it before training"
            )
        if len(self.labels) and int(self.labels.min()) < 0:
            raise DataError(f"{where}: label {int(self.labels.min())} is negative: count from 0")
        return self


class FederatedDataset(Protocol):
    """Who holds which records. Clients are numbered from 0 and may be made only when asked for.

    One that reads records when it is asked for them may have an attribute `prefetch` that is true:
    then another thread may ask, for those of the next clients while some are trained. And one
    `stand_in`, a data set of the same shapes: then whatever depends on no value is found out by
    that, and records are read by nobody but those who train or measure.
    """

    @property
    def population(self) -> int:
        """How many clients there are."""
        ...

    def client(self, client: ClientId) -> Records:
        """The records of one client: the same, to the bit, on every call and in every process."""
        ...

    def test(self) -> Records:
        """The held-out pooled test set; no client holds any of it."""
        ...


class DataSource(Protocol):
    """A configured component that opens a data set; splits are drawn from `public` streams only."""

    kind: str

    def open(self, public: SeedTree) -> FederatedDataset:
        """The data set, ready to hand out clients.

        Raises:
            DataError: a file is missing or a value cannot be used; the message names both.
        """
        ...

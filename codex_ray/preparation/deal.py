"""Who holds which records: a file or folder for each client, or one pool that is dealt out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codex_ray.data.partition import check_sizes, dirichlet_split, draw_sizes
from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.column import Column
from codex_ray.randomness import Randomness
from codex_ray.types import Component

Rows: TypeAlias = npt.NDArray[np.int64]
Records: TypeAlias = Rows | slice
"""The places of a client's records, or from where to where they stand: that takes no memory."""


@dataclass(frozen=True)
class Pool:
    """What a deal may look at.

    Attributes:
        units: (name, records) of each unit, in the order of the records.
        labels: the class of each record [n].
        column: of the column that clients are told apart by, if one is, a number for each record's
            value [n] and what the numbers stand for, which are all different.
    """

    units: Sequence[tuple[str, int]]
    labels: npt.NDArray[Any]
    column: tuple[npt.NDArray[np.int32], Sequence[str]] | None = None


class _Dealt(Component):
    """Clients that a random deal makes."""

    clients: int = Field(ge=1, description="How many clients there are.")
    seed: int = Field(default=0, ge=0, description="Of the deal; it is public.")

    def check(self, columns: Mapping[str, Column]) -> None:
        """Nothing of the schema is needed."""

    @property
    def _rng(self) -> np.random.Generator:
        return Randomness.of(self.seed).public.stream("preparation", "deal").numpy()

    @property
    def looks_at(self) -> str | None:
        """No column but the label."""
        return None


class OneEach(Component):
    """Each file or folder is one client's."""

    kind: Literal["one_each"] = "one_each"

    @property
    def looks_at(self) -> str | None:
        """No column."""
        return None

    def check(self, columns: Mapping[str, Column]) -> None:
        """Nothing of the schema is needed."""

    def deal(self, pool: Pool) -> list[tuple[str, slice]]:
        """Name and records of each client."""
        found, start = [], 0
        for name, count in pool.units:
            found.append((name, slice(start, start + count)))
            start += count
        return found


class Iid(_Dealt):
    """Every client gets equally many records, drawn at random from all."""

    kind: Literal["iid"] = "iid"

    def deal(self, pool: Pool) -> list[tuple[str, Rows]]:
        """Name and records of each client; sizes differ by one at most."""
        order = self._rng.permutation(len(pool.labels))
        return _numbered([np.sort(part) for part in np.array_split(order, self.clients)])


class Dirichlet(_Dealt):
    """Equally many records, with a mixture of labels of each client's own."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(gt=0, description="Small: one label each; large: all alike.")

    def deal(self, pool: Pool) -> list[tuple[str, Rows]]:
        """Name and records of each client; sizes differ by one at most."""
        whole, rest = divmod(len(pool.labels), self.clients)
        sizes = [whole + (client < rest) for client in range(self.clients)]
        return _numbered(dirichlet_split(pool.labels, sizes, alpha=self.alpha, rng=self._rng))


class BySize(_Dealt):
    """Clients of different sizes, drawn between bounds; what is left over is nobody's."""

    kind: Literal["size"] = "size"
    records: tuple[int, int] = Field(description="Fewest and most records of a client.")

    def check(self, columns: Mapping[str, Column]) -> None:
        """Returns when the bounds are a range.

        Raises:
            ConfigError: they are not.
        """
        check_sizes(self.records, field="clients.records")

    def deal(self, pool: Pool) -> list[tuple[str, Rows]]:
        """Name and records of each client.

        Raises:
            DataError: there are too few records.
        """
        rng = self._rng
        sizes = draw_sizes(self.clients, self.records, pool=len(pool.labels), rng=rng)
        order = rng.permutation(len(pool.labels))
        ends = np.cumsum(sizes)
        return _numbered([np.sort(part) for part in np.split(order, ends)[:-1]])


class ByColumn(Component):
    """A column says whose a record is: the hospital, the branch, the device."""

    kind: Literal["column"] = "column"
    column: str = Field(description="Its name.")

    @property
    def looks_at(self) -> str | None:
        """The column."""
        return self.column

    def check(self, columns: Mapping[str, Column]) -> None:
        """Returns when there is such a column.

        Raises:
            ConfigError: there is none, or it is not required.
        """
        if self.column not in columns:
            raise ConfigError(f"clients.column: the schema has no column {self.column!r}")
        if columns[self.column].type not in ("category", "text", "integer"):
            raise ConfigError("clients.column: give a category, a text or an integer")
        if not columns[self.column].required:
            raise ConfigError(f"columns.{self.column}.required: it says whose a record is")

    def deal(self, pool: Pool) -> list[tuple[str, Rows]]:
        """Name and records of each client, in the order of the names."""
        assert pool.column is not None
        codes, names = pool.column
        order = sorted(range(len(names)), key=lambda code: names[code])
        return [(names[code], np.flatnonzero(codes == code)) for code in order]


Deal: TypeAlias = OneEach | Iid | Dirichlet | BySize | ByColumn


def _numbered(parts: Sequence[Any]) -> list[tuple[str, Rows]]:
    """Clients without a name of their own.

    Raises:
        DataError: one of them would hold nothing.
    """
    if any(not len(part) for part in parts):
        raise DataError("clients.clients: there are fewer records than clients: lower it")
    return [(f"client {number}", part) for number, part in enumerate(parts)]

"""Clients' numbers in the units of their columns, and the features that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codex_ray.data.column_statistics import Figures, Ranges, figures, of_table
from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import InMemory, as_records
from codex_ray.data.partition import stratified_holdout
from codex_ray.data.preparing import Prepare, Statistics
from codex_ray.errors import DataError


@dataclass(frozen=True)
class RawTable:
    """One holder's records.

    Attributes:
        values: [n, d] in the units of their columns; NaN where a number is missing.
        labels: classes from 0 [n].
        where: whose they are, for messages.
    """

    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    where: str

    def some(self, rows: npt.NDArray[np.int64]) -> RawTable:
        """The records of those rows."""
        return RawTable(self.values[rows], self.labels[rows], self.where)


@dataclass(frozen=True)
class Columns:
    """What all tables have in common.

    Attributes:
        names: of the features [d].
        ranges: public ones [d].
        numbers: which may be missing, and have statistics [d].
        line: which are scaled [d]; the others are shares already.
    """

    names: tuple[str, ...]
    ranges: Ranges
    numbers: npt.NDArray[np.bool_]
    line: npt.NDArray[np.bool_]

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the columns that have statistics [m]."""
        return tuple(np.array(self.names, dtype=object)[self.numbers])

    @property
    def counted_ranges(self) -> Ranges:
        """Their ranges [m]."""
        return Ranges(self.ranges.low[self.numbers], self.ranges.high[self.numbers])


@dataclass(frozen=True)
class RawTables:
    """Every client's training records, and who holds the test set.

    Attributes:
        columns: of all tables.
        clients: one table each.
        held_out: the test set, in parts.
        from_client: whether part i is what client i gave up; else it is one holder's of its own.
    """

    columns: Columns
    clients: Sequence[RawTable]
    held_out: Sequence[RawTable]
    from_client: bool

    @classmethod
    def held(
        cls,
        columns: Columns,
        tables: Sequence[RawTable],
        *,
        fraction: float,
        draws: Callable[[int], np.random.Generator],
    ) -> RawTables:
        """The same with that fraction of each client's records as the test set.

        `draws` gives a client's generator; which records are held out depends on labels alone.
        """
        kept, given = [], []
        for client, table in enumerate(tables):
            count = round(fraction * len(table.labels))
            test, train = stratified_holdout(table.labels, count, rng=draws(client))
            kept.append(table.some(train))
            given.append(table.some(test))
        return cls(columns, kept, given, from_client=True)

    def numbers(self, client: int) -> npt.NDArray[np.float64]:
        """The columns of a client that have statistics [n, m]."""
        return self.clients[client].values[:, self.columns.numbers]

    def dataset(self, prepare: Prepare) -> InMemory:
        """The features that training sees.

        Where figures of all clients are still to be computed, numbers are scaled as with `fixed`.

        Raises:
            DataError: a number is missing, and nothing says what stands for it; the statistics are
                those of other columns or clients.
        """
        _check(prepare.statistics, self)
        parts = [
            self._records(table, prepare, self._figures(table, prepare, client))
            for client, table in enumerate(self.clients)
        ]
        tests = []
        for number, table in enumerate(self.held_out):
            owner = self.clients[number] if self.from_client else table
            row = number if self.from_client else None
            tests.append(self._records(table, prepare, self._figures(owner, prepare, row)))
        features = np.concatenate([part.features for part in tests])
        labels = np.concatenate([part.labels for part in tests])
        return InMemory(parts, Records(features, labels))

    def _figures(self, table: RawTable, prepare: Prepare, row: int | None) -> Figures | None:
        """By what a table is scaled; None for public ranges.

        `row` is its place among the clients; None for a holder of test records alone.
        """
        found = prepare.statistics
        if found is not None and (row is not None or len(found.centre) == 1):
            place = 0 if len(found.centre) == 1 else row
            assert place is not None
            figure = (found.centre[place], found.spread[place], found.fill[place])
            return Figures(*(np.array(one) for one in figure))
        if prepare.scaling == "fixed" or prepare.unsettled:
            return None
        ranges = self.columns.counted_ranges
        own = of_table(
            table.values[:, self.columns.numbers],
            ranges,
            moments=prepare.moments,
            quantiles=prepare.quantiles,
        )
        return figures(own, ranges, by=prepare.by, imputation=prepare.imputation)

    def _records(self, table: RawTable, prepare: Prepare, by: Figures | None) -> Records:
        columns, values = self.columns, table.values
        if np.isnan(values).any() and prepare.imputation is None:
            place = int(np.flatnonzero(np.isnan(values).any(axis=0))[0])
            raise DataError(
                f"{table.where}: column {columns.names[place]!r} lacks a value: set data.missing, "
                "or data.prepare.imputation"
            )
        ranges, made = columns.ranges, values.copy()
        if by is None:
            made[:, columns.line] = ranges.public(values)[:, columns.line]
            made = np.nan_to_num(made, nan=0.0)
        else:
            some, line = columns.counted_ranges, columns.line[columns.numbers]
            numbers = values[:, columns.numbers]
            fill = 0.0 if prepare.imputation == "middle" else by.fill
            filled = np.where(np.isnan(numbers), fill, numbers)
            scaled = by.scale(numbers, some, cut=prepare.cut)
            made[:, columns.numbers] = np.where(line, scaled, filled)
        return as_records(made, table.labels, where=table.where)


def _check(statistics: Statistics | None, tables: RawTables) -> None:
    if statistics is None:
        return
    if statistics.columns != tables.columns.counted:
        raise DataError(
            f"data.prepare.statistics are of {', '.join(statistics.columns)}, but the columns are "
            f"{', '.join(tables.columns.counted)}: leave them out, a run computes them"
        )
    if len(statistics.centre) not in (1, len(tables.clients)):
        raise DataError(
            f"data.prepare.statistics has rows for {len(statistics.centre)} clients, and there are "
            f"{len(tables.clients)}: leave them out, a run computes them"
        )

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

    @property
    def nbytes(self) -> int:
        """How many bytes of memory they take."""
        return self.values.nbytes + self.labels.nbytes

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

    A table may be read only when it is asked for.

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
        parts = [divided(table, fraction, draws(client)) for client, table in enumerate(tables)]
        kept, given = zip(*parts, strict=True) if parts else ((), ())
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
        self.check(prepare)
        parts = [self.records(client, prepare) for client in range(len(self.clients))]
        return InMemory(parts, self.test(prepare))

    def check(self, prepare: Prepare) -> None:
        """Returns when statistics, if there are any, are those of these columns and clients.

        Raises:
            DataError: they are not.
        """
        _check(prepare.statistics, self)

    def records(self, client: int, prepare: Prepare) -> Records:
        """What training sees of one client's records.

        Raises:
            DataError: a number is missing, and nothing says what stands for it.
        """
        table = self.clients[client]
        return self._records(table, prepare, self._figures(lambda: table, prepare, client))

    def test(self, prepare: Prepare) -> Records:
        """The pooled test set; one holder's records are looked at after the other's.

        Raises:
            DataError: a number is missing, and nothing says what stands for it.
        """
        parts = [self._held_out(number, prepare) for number in range(len(self.held_out))]
        features = np.concatenate([part.features for part in parts])
        return Records(features, np.concatenate([part.labels for part in parts]))

    def _held_out(self, number: int, prepare: Prepare) -> Records:
        """One part of the test set, scaled as the records of whoever gave it up are."""
        table = self.held_out[number]
        row = number if self.from_client else None

        def owned() -> RawTable:
            return self.clients[number] if self.from_client else table

        return self._records(table, prepare, self._figures(owned, prepare, row))

    def _figures(
        self, owned: Callable[[], RawTable], prepare: Prepare, row: int | None
    ) -> Figures | None:
        """By what a holder's records are scaled; None for public ranges.

        `owned` are those whose own figures they may be, and `row` the holder's place among the
        clients; None for a holder of test records alone.
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
            owned().values[:, self.columns.numbers],
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


def divided(
    table: RawTable, fraction: float, rng: np.random.Generator
) -> tuple[RawTable, RawTable]:
    """A client's training records, and the fraction of its records that is held out."""
    count = round(fraction * len(table.labels))
    test, train = stratified_holdout(table.labels, count, rng=rng)
    return table.some(train), table.some(test)


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

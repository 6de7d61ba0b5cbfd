"""A batch checked against the schema: typed columns, and every problem told with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.preparation.batches import Batch, Problem, Report, Unit
from codex_ray.preparation.cells import Cells, Reader
from codex_ray.preparation.schema import Schema


@dataclass(frozen=True)
class Checked:
    """Typed columns of some records of a unit.

    Attributes:
        where: their file.
        first: number of the first of these records in the unit, from 0.
        count: how many there are.
        columns: name -> values [count], of every column that is not dropped.
    """

    where: str
    first: int
    count: int
    columns: dict[str, Cells]


@dataclass(frozen=True)
class Checker:
    """Reads units by a schema.

    Attributes:
        schema: the allow-list.
        report: what is told of problems; if it does not raise, bad cells count as missing.
    """

    schema: Schema
    report: Report
    also: frozenset[str] = frozenset()
    """Dropped columns that are read all the same: one that says whose a record is."""

    @cached_property
    def _readers(self) -> dict[str, Reader]:
        return {
            name: Reader(
                column,
                frozenset({*self.schema.missing, *column.missing}),
                quiet=self.schema.may_name_persons,
            )
            for name, column in self.schema.columns.items()
            if column.role != "drop" or name in self.also
        }

    def read(self, unit: Unit) -> Iterator[Checked]:
        """The records of a unit, batch by batch.

        Raises:
            DataError: a file cannot be read, or whatever `report` makes of a problem.
        """
        done = 0
        last: tuple[str, tuple[str, ...]] | None = None
        for batch in self.schema.source.batches(unit, report=self.report):
            seen = (batch.where, tuple(batch.columns))  # a function may change them on its way
            if seen != last:
                self._check_names(batch)
                last = seen
            yield Checked(batch.where, done, len(batch), self._columns(batch))
            done += len(batch)
        if not done:
            where = ", ".join(unit.files) or unit.name
            self.report(Problem(where, 0, "", "it holds no record: take it out, or fill it"))

    def _check_names(self, batch: Batch) -> None:
        """Tells of columns that the schema does not have, and of required ones that are absent.

        Where most are unknown, they may be the first record of a file without names: none is told.
        """
        known = list(self.schema.columns)
        strange = sum(name not in self.schema.columns for name in batch.columns)
        if 2 * strange > len(batch.columns):
            why = f"{strange} of its {len(batch.columns)} columns are not in the schema"
            if self.schema.source.kind == "csv":
                why += ": if its first line does not look like names, set source.names"
            self.report(Problem(batch.where, 0, "", why))
            return
        for name in batch.columns:
            if name not in self.schema.columns:
                why = (
                    f"it is not in the schema: list it (role: drop leaves it out), or remove it; "
                    f"{did_you_mean(name, known)}"
                )
                self.report(Problem(batch.where, 0, name, why))
        for name, reader in self._readers.items():
            if reader.column.required and name not in batch.columns:
                self.report(Problem(batch.where, 0, name, "there is no such column"))

    def _columns(self, batch: Batch) -> dict[str, Cells]:
        found, problems = {}, []
        for name, reader in self._readers.items():
            if name not in batch.columns:
                found[name] = reader.none(len(batch))
                continue
            try:
                found[name], bad = reader.read(batch.columns[name])
            except pa.ArrowException:  # whose words may quote a cell
                kind = batch.columns[name].type
                why = f"a column of {kind} cannot be read as {reader.column.type}"
                self.report(Problem(batch.where, 0, name, why))
                found[name] = reader.none(len(batch))
                continue
            problems += [(place, name, why) for place, why in bad]
        for place, name, why in sorted(problems, key=lambda problem: problem[0]):
            self.report(Problem(batch.where, batch.row(place), name, why))
        return found

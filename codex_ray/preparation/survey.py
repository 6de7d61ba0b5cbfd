"""The first pass: everything is checked, and a few bytes of each record are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from codex_ray.preparation.batches import Unit, refuse
from codex_ray.preparation.cells import Cells, there
from codex_ray.preparation.checking import Checked, Checker
from codex_ray.preparation.column import Column
from codex_ray.preparation.compact import Coding, Compact, Growing
from codex_ray.preparation.duplicates import row_hashes
from codex_ray.preparation.labels import classes_of, label_of
from codex_ray.preparation.same_records import Running
from codex_ray.preparation.schema import Schema

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """What is known of all records, in the order of their units.

    Attributes:
        units: name and number of records of each unit.
        digests: of all records of each unit that has no files, "" of the others.
        codings: how each quasi-identifier and sensitive column is kept.
        codes: name -> codes [n] of each of these columns.
        labels: class of each record [n], in the smallest type.
        gaps: name -> whether each record [n] lacks a value, packed to bits, of columns that may.
        hashes: exact, and on two grids [n] each; emptied once they are counted, for they are large.
        owner: values [n] of the column that clients are told apart by, and what they stand for.
    """

    units: tuple[tuple[str, int], ...]
    digests: tuple[str, ...]
    codings: dict[str, Coding]
    codes: dict[str, Compact]
    labels: npt.NDArray[Any]
    gaps: dict[str, npt.NDArray[np.uint8]]
    hashes: list[npt.NDArray[np.uint64]]
    owner: tuple[npt.NDArray[np.int32], tuple[str, ...]] | None

    @property
    def count(self) -> int:
        """Records in all."""
        return len(self.labels)

    def lacks(self, name: str) -> npt.NDArray[np.bool_]:
        """Which records [n] have no value in a column."""
        return np.unpackbits(self.gaps[name], count=self.count).astype(bool)


def survey(schema: Schema, units: Sequence[Unit], *, progress: Progress) -> Survey:
    """Every record checked once.

    Raises:
        DataError: at the first thing that cannot be used, with file, row and column.
    """
    looks_at = schema.clients.looks_at
    checker = Checker(schema, refuse, frozenset({looks_at} if looks_at else ()))
    notes = _Notes(schema, looks_at)
    sizes, digests = [], []
    for unit in units:
        before, running = notes.count, Running(unit)
        for batch in checker.read(unit):
            notes.add(batch)
            running.add(batch)
            progress(f"checking {unit.name}: {notes.count:,} records")
        sizes.append((unit.name, notes.count - before))
        digests.append(running.digest)
    return notes.survey(tuple(sizes), tuple(digests))


@dataclass
class _Notes:
    """What the pass has kept so far."""

    schema: Schema
    looks_at: str | None
    count: int = 0
    kept: dict[str, Growing] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        grouped = self.schema.named("quasi_identifier", "sensitive")
        self.codings = {name: Coding.of(column) for name, column in grouped.items()}
        self.label = self.schema.label
        self.label_type = np.min_scalar_type(label_of(*self.label).classes - 1)
        self.compared = self.schema.named("quasi_identifier", "sensitive", "feature", "label")

    def add(self, batch: Checked) -> None:
        """Keeps what matters of a batch."""
        self.count += batch.count
        name, column = self.label
        self._keep("label", classes_of(column, batch.columns[name]).astype(self.label_type))
        for name, coding in self.codings.items():
            self._keep(f"code {name}", coding.encode(batch.columns[name]))
        compared = {name: (c, batch.columns[name]) for name, c in self.compared.items()}
        for kind, hashes in enumerate(row_hashes(compared, batch.count)):
            self._keep(f"hash {kind}", hashes)
        for name in self._with_gaps():
            self._keep(f"gap {name}", ~there(batch.columns[name]))
        if self.looks_at is not None:
            self._keep("owner", self._owners(batch.columns[self.looks_at]))

    def _with_gaps(self) -> dict[str, Column]:
        used = {name: c for name, c in self.schema.columns.items() if c.role != "drop"}
        return {name: column for name, column in used.items() if not column.required}

    def _owners(self, values: Cells) -> npt.NDArray[np.int32]:
        """A number for each different value of the column that clients are told apart by."""
        assert self.looks_at is not None
        column = self.schema.columns[self.looks_at]
        if isinstance(values, pa.Array):
            texts = values.to_pylist()
        elif values.dtype.kind == "i" and column.role != "drop":
            texts = [column.options[code] for code in values.tolist()]
        else:
            texts = [_written(float(value)) for value in values.tolist()]
        return np.array([self.owners.setdefault(t, len(self.owners)) for t in texts], np.int32)

    def _keep(self, what: str, piece: Compact) -> None:
        self.kept.setdefault(what, Growing()).add(piece)

    def survey(self, sizes: tuple[tuple[str, int], ...], digests: tuple[str, ...]) -> Survey:
        """Everything, as whole arrays."""
        whole = {what: self.kept.pop(what).whole() for what in list(self.kept)}
        return Survey(
            units=sizes,
            digests=digests,
            codings=self.codings,
            codes={name: whole[f"code {name}"] for name in self.codings},
            labels=whole["label"],
            gaps={name: np.packbits(whole[f"gap {name}"]) for name in self._with_gaps()},
            hashes=[whole.pop(f"hash {kind}").astype(np.uint64, copy=False) for kind in range(3)],
            owner=(whole["owner"].astype(np.int32), tuple(self.owners)) if self.looks_at else None,
        )


def _written(value: float) -> str:
    """A number as a name: no two numbers have one name, and whole ones have no point."""
    return str(int(value)) if value.is_integer() else repr(value)

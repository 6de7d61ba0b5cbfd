"""Columns that a schema keeps from training, read from the source as they are there.

A column is withheld if the schema drops it or generalises it. A dropped one can be tried if its
consent allows the schema's purpose and it is no text. An identifier never is: it tells persons
apart, and predicts nothing of the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from codex_ray.errors import DataError
from codex_ray.preparation.batches import Problem, Unit, refuse
from codex_ray.preparation.cells import Cells, there
from codex_ray.preparation.checking import Checked, Checker
from codex_ray.preparation.column import Column
from codex_ray.preparation.labels import classes_of
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.simple_model import Floats, scaled
from codex_ray.preparation.survey import Progress, Survey

MOST_VALUES: Final = 100
"""Different values of a dropped category that lists none: with more it is left out."""

Kind = Literal["dropped", "generalised"]


@dataclass(frozen=True)
class Withheld:
    """The withheld columns of a schema.

    Attributes:
        tried: name -> how it is withheld, of those that can be tried.
        left_out: name -> why not, of the others.
    """

    tried: dict[str, Kind]
    left_out: dict[str, str]

    @classmethod
    def of(cls, schema: Schema) -> Withheld:
        """Those of a schema, in its order; what only the records tell is not among the reasons."""
        tried: dict[str, Kind] = {}
        left_out: dict[str, str] = {}
        for name, column in schema.named("identifier", "quasi_identifier", "drop").items():
            why = _why_not(schema, column)
            if why is not None:
                left_out[name] = why
            else:
                tried[name] = "dropped" if column.role == "drop" else "generalised"
        return cls(tried, left_out)


def _why_not(schema: Schema, column: Column) -> str | None:
    """Why a withheld column is not tried; None if nothing speaks against it."""
    if column.role == "identifier":
        return "an identifier"
    tag = column.consent or schema.consent
    if schema.purpose not in schema.consents[tag]:
        return f"its consent {tag!r} does not allow {schema.purpose!r}"
    if column.type == "text":
        return "a text: it is tried as a number or a category, if the schema makes it one"
    return None


@dataclass
class RawReader:
    """Reads some records of the source once more, with the withheld columns that can be tried.

    Attributes:
        schema: as the records were surveyed by.
        tried: name -> how it is withheld.
        unreadable: name -> the first thing wrong with it, of dropped columns: no preparation
            reads them, so that nobody has seen to it that they keep to the schema.
    """

    schema: Schema
    tried: dict[str, Kind]
    unreadable: dict[str, str] = field(default_factory=dict)

    def read(
        self,
        units: Sequence[Unit],
        seen: Survey,
        chosen: npt.NDArray[np.int64],
        *,
        progress: Progress,
    ) -> dict[str, Cells]:
        """Name -> values [n] of the records at the places `chosen` [n], which are in order.

        Raises:
            DataError: the records are not those that were surveyed.
        """
        checker = self._checker()
        names = [*self.tried, *self.schema.named("feature", "sensitive")]
        pieces: dict[str, list[Cells]] = {name: [] for name in names}
        start = 0
        for unit, (_, count) in zip(units, seen.units, strict=True):
            done = 0
            for batch in checker.read(unit):
                done += batch.count
                if done > count or not _as_surveyed(self.schema, seen, batch, start):
                    raise _changed(unit)
                first = start + batch.first
                ends = np.searchsorted(chosen, (first, first + batch.count))
                rows = chosen[slice(*ends)] - first
                for name in names:
                    pieces[name].append(_taken(batch.columns[name], rows))
                progress(f"reading {unit.name}: {done:,} records")
            if done < count:
                raise _changed(unit)
            start += count
        return {name: _joined(parts) for name, parts in pieces.items()}

    def _checker(self) -> Checker:
        """It reads dropped columns like features; categories that list no values as they stand."""
        columns = dict(self.schema.columns)
        also = set()
        for name, kind in self.tried.items():
            if kind == "dropped":
                bare = columns[name].type == "category" and not columns[name].options
                also |= {name} if bare else set()
                changed = {"required": False} | ({} if bare else {"role": "feature"})
                columns[name] = columns[name].model_copy(update=changed)
        schema = self.schema.model_copy(update={"columns": columns})
        return Checker(schema, self._note, frozenset(also))

    def _note(self, problem: Problem) -> None:
        """Lets a dropped column be unreadable, and refuses anything else."""
        if self.tried.get(problem.column) != "dropped":
            refuse(problem)
        self.unreadable.setdefault(problem.column, str(problem))


def features_of_cells(column: Column, values: Cells) -> Floats | str:
    """What a column's values [n] come to as features [n, m], or why they come to none.

    A number with a range lies in [-1, 1] by it, with the middle for a missing one. One without,
    which only a dropped column may be, is standardised by the mean and deviation of these values,
    with the mean for a missing one. A flag is 0 or 1. A category is one feature for each value that
    the schema lists; if it lists none, for each that is there, up to `MOST_VALUES`.
    """
    if not there(values).any():
        return "no record has a value"
    if isinstance(values, pa.Array):
        options = sorted(value for value in pc.unique(values).to_pylist() if value is not None)
        if len(options) > MOST_VALUES:
            return f"it has {len(options)} different values: list them in the schema to try it"
        codes = pc.fill_null(pc.index_in(values, value_set=pa.array(options, pa.string())), -1)
        return _one_hot(codes.to_numpy(zero_copy_only=False), len(options))
    if values.dtype.kind == "i":
        if column.type == "flag":
            return np.maximum(values, 0).astype(np.float64)[:, None]
        return _one_hot(values.astype(np.int32), len(column.options))
    numbers = values.astype(np.float64)[:, None]
    if column.range is not None:
        return np.nan_to_num(scaled(numbers, *column.ends), nan=0.0)
    deviation = float(np.nanstd(numbers)) or 1.0
    return np.nan_to_num((numbers - np.nanmean(numbers)) / deviation, nan=0.0)


def _one_hot(codes: npt.NDArray[np.int32], options: int) -> Floats:
    """Each code's own feature [n, options]; zeros for a missing one, which is -1."""
    return np.eye(options + 1)[:, :-1][codes]


def _as_surveyed(schema: Schema, seen: Survey, batch: Checked, start: int) -> bool:
    """Whether what the survey kept of these records is theirs still."""
    rows = slice(start + batch.first, start + batch.first + batch.count)
    name, column = schema.label
    same = np.array_equal(classes_of(column, batch.columns[name]), seen.labels[rows])
    for name, coding in seen.codings.items():
        codes = coding.encode(batch.columns[name])
        same &= np.array_equal(codes, seen.codes[name][rows], equal_nan=True)
    return same


def _changed(unit: Unit) -> DataError:
    return DataError(
        f"{unit.name}: its records changed while they were being read: start again; a function "
        "must give the same ones, in the same order, each time that it is called"
    )


def _taken(values: Cells, rows: npt.NDArray[np.int64]) -> Cells:
    return values.take(pa.array(rows)) if isinstance(values, pa.Array) else values[rows]


def _joined(parts: list[Cells]) -> Cells:
    if isinstance(parts[0], pa.Array):
        return pa.concat_arrays(parts)
    return np.concatenate(parts)

"""What a source hands out: a few thousand records at a time, and where each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from codex_ray.errors import DataError

BATCH = 16_384
"""Records in a batch, where the source lets us choose."""

SHOWN = 40
"""Letters of a value that an error shows."""


@dataclass(frozen=True)
class Problem:
    """Something in a source that cannot be used.

    Attributes:
        where: the file, or what the records came from.
        row: the record, counted from 1 and without the line of names; 0: the file as a whole.
        column: its name; "" if it is about the whole record.
        why: what is wrong and what to do.
    """

    where: str
    row: int
    column: str
    why: str

    def __str__(self) -> str:
        place = [self.where]
        if self.row:
            place.append(f"row {self.row}")
        if self.column:
            place.append(f"column {self.column!r}")
        return f"{', '.join(place)}: {self.why}"


Report = Callable[[Problem], None]
"""What is told of each problem; it raises, or it notes the problem and returns."""


def refuse(problem: Problem) -> None:
    """Ends the preparation at the first problem.

    Raises:
        DataError: always.
    """
    raise DataError(str(problem))


@dataclass(frozen=True)
class Batch:
    """Raw columns of some records of one file, in its order.

    Attributes:
        where: the file.
        first: number of the first of these records in it, from 1, not counting those skipped.
        columns: name -> values; null where the source itself has none.
        skipped: numbers of records up to here that could not be taken apart, in order.
    """

    where: str
    first: int
    columns: dict[str, pa.Array]
    skipped: tuple[int, ...] = ()

    def row(self, place: int) -> int:
        """The number in the file of the record that stands at a place from 0."""
        number = self.first + place
        for skipped in self.skipped:
            number += skipped <= number
        return number

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


@dataclass(frozen=True)
class Unit:
    """Files that belong together: one client's, where clients are files.

    Attributes:
        name: how the client is called.
        files: paths; none for what a function makes.
    """

    name: str
    files: tuple[str, ...] = ()


def numbered(where: str, batches: Iterable[pa.RecordBatch], *, first: int = 1) -> Iterator[Batch]:
    """Arrow's record batches with the place of each.

    Raises:
        DataError: a column's name stands twice.
    """
    for batch in batches:
        names = batch.schema.names
        check_names(where, names)
        yield Batch(where, first, dict(zip(names, batch.columns, strict=True)))
        first += batch.num_rows


def check_names(where: str, names: list[str], *, or_else: str = "") -> None:
    """Returns when no column's name stands twice.

    Args:
        where: the file.
        names: of its columns.
        or_else: what else may have gone wrong.

    Raises:
        DataError: one does.
    """
    for place, name in enumerate(names):
        if (first := names.index(name)) < place:
            # By their places: in a file without a line of names these are a person's cells.
            both = f"columns {first + 1} and {place + 1}"
            raise DataError(f"{where}: {both} have the same name: rename or remove one{or_else}")


def shown(value: object) -> str:
    """A value as an error shows it: quoted, and not too long."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")

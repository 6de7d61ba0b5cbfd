"""CSV files, a block at a time: every cell as bytes, so that nothing is guessed about its type."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
from pyarrow import csv
from pydantic import Field

from codex_ray.errors import DataError
from codex_ray.preparation.batches import Batch, Problem, Report, Unit, check_names
from codex_ray.preparation.paths import Files, units_of
from codex_ray.types import Component

BLOCK = 1 << 20
"""Bytes that are read at a time."""


class CsvSource(Component):
    """CSV text in UTF-8, .gz accepted; one file or folder is one unit."""

    kind: Literal["csv"] = "csv"
    files: Files = Field(
        description="Files or folders, or one pattern such as hospitals/*.csv; a folder is one "
        "client's, with all its files."
    )
    names: tuple[str, ...] | None = Field(
        default=None, description="Names of the columns, if the files have no line of names."
    )
    delimiter: str = Field(
        default=",", min_length=1, max_length=1, description="What stands between two columns."
    )
    multiline: bool = Field(
        default=False, description="Whether a quoted cell may hold line breaks (slower)."
    )

    def units(self) -> list[Unit]:
        """The files, one unit each."""
        return units_of(self.files)

    def batches(self, unit: Unit, *, report: Report) -> Iterator[Batch]:
        """All records of a unit, block by block.

        Raises:
            DataError: a file cannot be read as CSV; a line of a wrong length goes to `report`.
        """
        for file in unit.files:
            try:
                yield from self._read(file, report)
            except (pa.ArrowException, OSError, EOFError) as error:
                said = str(error).partition("\n")[0]
                if "Empty CSV file" in said:
                    raise DataError(f"{file}: it is empty: take it out, or fill it") from None
                # The rest of Arrow's words may quote the record.
                raise DataError(
                    f"{file}: it cannot be read as CSV ({said.partition(':')[0]}): save it as "
                    "UTF-8 text with one record a line, or set source.multiline"
                ) from None

    def _read(self, file: str, report: Report) -> Iterator[Batch]:
        names = list(self.names) if self.names is not None else self._first_line(file)
        check_names(file, names, or_else=", or set source.names if that line is a record")
        broken = _BrokenLines(file, named=self.names is None)
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK,
                column_names=names,
                skip_rows=0 if self.names is not None else 1,
            ),
            parse_options=csv.ParseOptions(
                delimiter=self.delimiter,
                newlines_in_values=self.multiline,
                invalid_row_handler=broken.note,
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        broken.tell(report)
        good = 0
        for batch in reader:
            broken.tell(report)
            columns = dict(zip(names, batch.columns, strict=True))
            yield Batch(file, good + 1, columns, tuple(broken.numbers))
            good += batch.num_rows
        broken.tell(report)

    def _first_line(self, file: str) -> list[str]:
        """The names of the columns.

        Raises:
            DataError: the first line is no UTF-8, or there is none.
        """
        import csv as plain

        opened = gzip.open if file.endswith(".gz") else open
        with opened(file, "rb") as lines:
            line = lines.readline(BLOCK)
        if len(line) == BLOCK:
            raise DataError(
                f"{file}: its line of names is longer than 1 MiB: save it with one record a line"
            )
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{file}: its line of names is no UTF-8: save it as UTF-8") from None
        found = next(plain.reader([text], delimiter=self.delimiter), [])
        if not found:
            raise DataError(f"{file}: it is empty: take it out, or fill it")
        return [name.strip() for name in found]


@dataclass
class _BrokenLines:
    """Lines of a wrong length, noted while Arrow reads on: it takes no exception from a callback.

    Attributes:
        file: where they are.
        named: whether the first line names the columns.
        numbers: of the records that they would have been.
        waiting: problems that have not been told of.
    """

    file: str
    named: bool
    numbers: list[int] = field(default_factory=list)
    waiting: list[Problem] = field(default_factory=list)

    def note(self, row: csv.InvalidRow) -> str:
        """Leaves the line out."""
        number = (row.number or 0) - self.named
        self.numbers.append(number)
        why = (
            f"it has {row.actual_columns} columns instead of {row.expected_columns}: correct the "
            "line, or set source.delimiter"
        )
        self.waiting.append(Problem(self.file, number, "", why))
        return "skip"

    def tell(self, report: Report) -> None:
        """Tells of the lines that were noted since the last time."""
        told, self.waiting = self.waiting, []
        for problem in told:
            report(problem)

"""One CSV file for each client: scaled by public ranges, refused with file, line and column."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from codex_ray.data import column_statistics
from codex_ray.data.dataset import FederatedDataset
from codex_ray.data.preparing import FIXED, Prepare, check_missing
from codex_ray.data.raw_tables import Columns, RawTable, RawTables
from codex_ray.data.scaling import PublicScaling, Ranges
from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import Component

_MISSING = {"", "?", "nan"}
_LARGEST_LABEL = 2**31 - 1
_SHOWN = 12


def _beside(path: Path) -> str:
    """What there is where `path` was looked for: the nearest existing folder, and files in it."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    near = did_you_mean(path.name, names)
    return f"{folder}/ holds {', '.join(names[:_SHOWN]) or 'nothing'}{more}" + (
        f": {near}" if near.startswith("did") else ""
    )


def _paths(files: str | list[str], field: str) -> list[Path]:
    """The files, one for each client: those listed, or those that a pattern finds, sorted by name.

    Raises:
        DataError: a file is missing, or a pattern finds none; it says what is there instead.
        ConfigError: one file is listed twice, and so two clients would share their records.
    """
    if isinstance(files, str) and Path(files).is_dir():
        raise ConfigError(f"{field}: {files} is a folder: write a pattern such as {files}/*.csv")
    if isinstance(files, str) and any(sign in files for sign in "*?["):
        pattern = Path(files)
        found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        paths = sorted(path for path in found if path.is_file())
        if not paths:
            raise DataError(f"{field}: no file matches {files}; {_beside(pattern)}")
    else:
        paths = [Path(name) for name in ([files] if isinstance(files, str) else files)]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{field}: {path} is no file; {_beside(path)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{field}: a file is listed twice: give each client a file of its own")
    return paths


def _open_text(path: Path) -> TextIO:
    """The file as text, unpacked if its name ends in .gz; a byte-order mark is skipped."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


class CsvFiles(Component):
    """Tables in files, one for each client: numbers in every column that is used.

    The test set is a file of its own, or a part of every client's records that the client then
    never trains on. Relative paths start from the working directory; every process reads the files.
    """

    kind: Literal["csv"] = "csv"
    files: str | list[str] = Field(
        description="One CSV file for each client, .gz accepted: a list of paths, or one pattern "
        "such as hospitals/*.csv, whose files are numbered in alphabetical order."
    )
    label: Annotated[str, BeforeValidator(str)] = Field(
        description="Column that holds the label: its name, or its number from 0 without a header.",
        json_schema_extra={"type": ["string", "integer"]},
    )
    ranges: Ranges = Field(
        description="Public range of each feature column, as name: [low, high], by which it is "
        "scaled to [-1, 1] and clipped; without a header the names are column numbers from 0. "
        "Only these columns are used, in this order."
    )
    header: bool = Field(True, description="Whether the first line of each file names its columns.")
    delimiter: str = Field(
        ",", min_length=1, max_length=1, description="What stands between two columns."
    )
    missing: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What happens to a record with a missing value ('?', 'nan' or empty) in a "
        "column that is used: refuse stops with its place, drop leaves the record out.",
    )
    positive_above: float | None = Field(
        None,
        description="Turns a graded label into a yes or no: above this number it becomes 1, else "
        "0. Without it, labels are integers from 0.",
    )
    test_file: str | None = Field(
        None, description="A CSV file with the same columns that holds the pooled test set."
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each client's records that is held out for the pooled test set, "
        "with the client's own label proportions; used when there is no test file.",
    )
    prepare: Prepare | None = Field(
        None,
        description="By whose figures numbers are scaled, and gaps filled; by public ranges alone, "
        "if it is left out.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> CsvFiles:
        if (self.test_file is None) == (self.test_fraction is None):
            raise ConfigError(
                "data.test_file and data.test_fraction: set exactly one, to say where the test "
                "set comes from"
            )
        check_missing(self.prepare, self.missing)
        if self.label in self.ranges:
            raise ConfigError(
                f"data.ranges.{self.label}: this column is the label: take it out of the features"
            )
        columns = [self.label, *self.ranges]
        if not self.header and not all(name.isdecimal() for name in columns):
            raise ConfigError(
                "data.header: false, so data.label and the keys of data.ranges are column numbers "
                "from 0"
            )
        return self

    def open(self, public: SeedTree) -> FederatedDataset:
        """Every file read and checked.

        Raises:
            ConfigError: a file is listed twice, or a folder stands where a pattern should.
            DataError: a file is missing, or a value cannot be used; with file, line and column.
        """
        return self.tables(public).dataset(self.preparation)

    @property
    def preparation(self) -> Prepare:
        """How numbers are scaled and gaps filled."""
        return self.prepare or FIXED

    def tables(self, public: SeedTree) -> RawTables:
        """The numbers in every file, not yet scaled.

        Raises:
            ConfigError, DataError: as `open`.
        """
        paths = _paths(self.files, "data.files")
        clients = [_Table(self, path).read() for path in paths]
        if self.test_file is not None:
            (path,) = _paths([self.test_file], "data.test_file")
            if path.resolve() in {client.resolve() for client in paths}:
                raise ConfigError(
                    f"data.test_file: {path} is also a client's file: no client may hold the test "
                    "set"
                )
            held_out = [_Table(self, path).read()]
            return RawTables(self.columns, clients, held_out, from_client=False)
        tables = RawTables.held(
            self.columns,
            clients,
            fraction=self.test_fraction or 0.0,
            draws=lambda client: public.stream("data", self.kind, "test", client).numpy(),
        )
        if not sum(len(part.labels) for part in tables.held_out):
            raise DataError(
                f"data.test_fraction: {self.test_fraction} of such small files holds out no "
                "record: raise it, or give data.test_file"
            )
        return tables

    @property
    def columns(self) -> Columns:
        """What all tables have in common; no file is read to know it."""
        ends = np.array(list(self.ranges.values()), dtype=np.float64)
        every = np.ones(len(ends), dtype=bool)
        ranges = column_statistics.Ranges(ends[:, 0], ends[:, 1])
        return Columns(tuple(self.ranges), ranges, numbers=every, line=every)


@dataclass(frozen=True)
class _Table:
    """One file, read by the rules of its source."""

    source: CsvFiles
    path: Path

    def read(self) -> RawTable:
        """The records of the file.

        Raises:
            DataError: it cannot be read, has no records, lacks a column or holds an unusable value.
        """
        try:
            with _open_text(self.path) as text:
                return self._parsed(self._lines(text))
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.path}: it cannot be read as CSV text ({error}): save it as UTF-8 text, or "
                "as gzip under a name that ends in .gz"
            ) from error

    def _lines(self, text: TextIO) -> list[tuple[int, list[str]]]:
        """Line number, from 1, and cells of every line that is not empty."""
        reader = csv.reader(text, delimiter=self.source.delimiter)
        return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]

    def _parsed(self, lines: list[tuple[int, list[str]]]) -> RawTable:
        if not lines:
            raise DataError(f"{self.path}: it is empty: take it out of the files, or fill it")
        names = lines[0][1]
        if self.source.header:
            lines = lines[1:]
        else:
            names = [str(column) for column in range(len(names))]
        scaling = PublicScaling.of(self.source.ranges, names, where=str(self.path))
        if self.source.label not in names:
            raise ConfigError(
                f"data.label: {self.path} has no column {self.source.label!r}: "
                f"{did_you_mean(self.source.label, names)}"
            )
        label = names.index(self.source.label)
        used = {column: names[column] for column in (label, *scaling.columns)}
        labels, values = [], []
        for line, cells in lines:
            if len(cells) != len(names):
                raise DataError(
                    f"{self.path} line {line}: it has {len(cells)} columns, but the first line has "
                    f"{len(names)}: correct the line, or set data.delimiter"
                )
            row = {column: self._value(line, name, cells[column]) for column, name in used.items()}
            if self.source.missing == "drop" and any(map(math.isnan, row.values())):
                continue
            labels.append(self._label(line, row[label]))
            values.append([row[column] for column in scaling.columns])
        if not values:
            raise DataError(
                f"{self.path}: it has no complete record: take the file out, or leave columns in "
                "which values are missing out of data.ranges"
            )
        return RawTable(np.array(values), np.array(labels, dtype=np.int64), str(self.path))

    def _value(self, line: int, name: str, cell: str) -> float:
        """The cell as a finite number, or NaN where a missing value drops its record."""
        where = f"{self.path} line {line}, column {name!r}"
        if cell.lower() in _MISSING:
            filled = self.source.prepare is not None and self.source.prepare.imputation is not None
            if self.source.missing == "drop" or (filled and name != self.source.label):
                return math.nan
            raise DataError(
                f"{where}: the value {cell!r} is missing: set data.missing: drop, fill it in, or "
                "leave the column out of data.ranges"
            )
        try:
            value = float(cell)
        except ValueError:
            raise DataError(
                f"{where}: {cell!r} is no number: encode it as one, or leave the column out"
                + ("" if line > 1 else "; if this is a line of names, set data.header: true")
            ) from None
        if not math.isfinite(value):
            raise DataError(f"{where}: {cell!r} is not finite: correct or remove the record")
        return value

    def _label(self, line: int, value: float) -> int:
        """The label as an integer from 0."""
        if self.source.positive_above is not None:
            return int(value > self.source.positive_above)
        if not (value.is_integer() and 0 <= value <= _LARGEST_LABEL):
            raise DataError(
                f"{self.path} line {line}, column {self.source.label!r}: the label {value:g} is no "
                "integer from 0: number the classes from 0, or set data.positive_above to make it "
                "yes or no"
            )
        return int(value)

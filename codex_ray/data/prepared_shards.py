"""Prepared shards as numbers: every column encoded as its manifest says, nothing scaled yet."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codex_ray.data import prepared_manifest
from codex_ray.data.in_memory import check_client
from codex_ray.data.prepared_manifest import (
    ANY,
    JOINS,
    NONE,
    Encoding,
    Manifest,
    Shard,
    check_vouched,
    manifest_and_content,
    read_vouched,
)
from codex_ray.errors import DataError
from codex_ray.types import ClientId

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet as pq


@dataclass(frozen=True)
class RawRecords:
    """One client's records before anything is scaled or filled in.

    Attributes:
        features: [n, d] in the units of the schema; NaN where a number is missing, zeros where a
            category is.
        labels: classes from 0 [n].
    """

    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class PreparedShards:
    """A folder of prepared records."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """What the folder says of itself, checked against its schema and card."""
        return self._read[0]

    @cached_property
    def manifest_sha256(self) -> str:
        """SHA-256 of the file that it was read from, which names every shard's."""
        return hashlib.sha256(self._read[1]).hexdigest()

    @cached_property
    def _read(self) -> tuple[Manifest, bytes]:
        return manifest_and_content(self.folder)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features [d]."""
        return self.manifest.feature_names

    @cached_property
    def ranges(self) -> npt.NDArray[np.float64]:
        """The public range of each feature [d, 2]; of a value of a category, 0 to 1."""
        ends = [
            (encoding.low, encoding.high) if encoding.kind == "number" else (0.0, 1.0)
            for encoding in self.manifest.features
            for _ in encoding.features
        ]
        return np.array(ends)

    @cached_property
    def on_a_line(self) -> npt.NDArray[np.bool_]:
        """Which features are numbers, and so have a scale [d]."""
        kinds = [encoding.kind for encoding in self.manifest.features for _ in encoding.features]
        return np.array([kind == "number" for kind in kinds])

    @cached_property
    def numbers(self) -> npt.NDArray[np.bool_]:
        """Which features may be missing, as numbers and flags may [d]."""
        kinds = [encoding.kind for encoding in self.manifest.features for _ in encoding.features]
        return np.array([kind != "category" for kind in kinds])

    def client(self, client: ClientId) -> RawRecords:
        """One client's records.

        Raises:
            DataError: its shard is not the file of the manifest, or does not hold what it says, or
                its last day is past.
        """
        check_client(client, len(self.manifest.shards))
        self.check_day()
        shard = self.manifest.shards[client]
        content = read_vouched(self.folder / shard.file, shard.sha256)
        import pyarrow as pa  # a host with other data does without
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(pa.BufferReader(content))
            there = [name for name in self._columns if name in file.schema_arrow.names]
            table = file.read(columns=there, use_threads=False)
        except pa.ArrowException as error:
            raise _no_parquet(self.folder / shard.file, error) from None
        return self._encoded(shard, table)

    @cached_property
    def _columns(self) -> list[str]:
        """What features and labels are made of: texts and pseudonyms stay where they are."""
        found = [self.manifest.label.name]
        for one in self.manifest.features:
            ends = one.generalised and one.kind != "category"
            found += [f"{one.name}.low", f"{one.name}.high"] if ends else [one.name]
        return found

    def check_day(self) -> None:
        """Returns when the records may still be read.

        Raises:
            DataError: their last day is past.
        """
        last = self.manifest.delete_after
        if last is not None and prepared_manifest.today() > last:
            raise DataError(
                f"{self.folder}: its records were to be deleted after {last}: delete the folder"
            )

    def check_files(self) -> None:
        """Returns when every shard is the file of the manifest; no record is decoded.

        Raises:
            DataError: one is another, or cannot be read.
        """
        for shard in self.manifest.shards:
            check_vouched(self.folder / shard.file, shard.sha256)

    def lacking(self, client: ClientId) -> dict[str, int]:
        """How many values each number or flag of a client lacks, where its file counts them.

        A Parquet file does so in its last bytes, which alone are read.

        Raises:
            DataError: the file is no Parquet, or cannot be read.
        """
        import pyarrow as pa
        from pyarrow import parquet

        file = self.folder / self.manifest.shards[client].file
        try:
            counted = _nulls(parquet.read_metadata(file))
        except (OSError, pa.ArrowException) as error:
            raise _no_parquet(file, error) from None
        return {
            encoding.name: max(
                counted.get(name, 0)
                for name in (encoding.name, f"{encoding.name}.low", f"{encoding.name}.high")
            )
            for encoding in self.manifest.features
            if encoding.kind != "category"
        }

    def _encoded(self, shard: Shard, table: pa.Table) -> RawRecords:
        where = f"{self.folder / shard.file}"
        if table.num_rows != shard.records:
            raise DataError(f"{where}: {table.num_rows} records, but its manifest says otherwise")
        parts = [features_of(encoding, table, where) for encoding in self.manifest.features]
        label = self.manifest.label
        labels = np.asarray(_column(table, label.name, where), dtype=np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < label.classes:
            raise DataError(f"{where}: a label is outside 0 to {label.classes - 1}")
        return RawRecords(np.concatenate(parts, axis=1), labels)


def _no_parquet(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: is no Parquet ({error})")


def _nulls(metadata: pq.FileMetaData) -> Counter[str]:
    """Missing values by column, in so far as they are counted."""
    found: Counter[str] = Counter()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(metadata.num_columns)):
            if column.statistics is not None and column.statistics.has_null_count:
                found[column.path_in_schema] += column.statistics.null_count
    return found


def _column(table: pa.Table, name: str, where: str) -> npt.NDArray[Any]:
    if name not in table.column_names:
        raise DataError(f"{where}: has no column {name!r}, which its manifest names")
    found: npt.NDArray[Any] = table[name].to_numpy()
    return found


def features_of(encoding: Encoding, table: pa.Table, where: str) -> npt.NDArray[np.float64]:
    """The features [n, m] of one column in a table [n], in the units of the schema.

    Raises:
        DataError: the table, which came from `where`, does not hold what the encoding says.
    """
    name = encoding.name
    if encoding.kind == "category":
        return _spread(encoding, _column(table, name, where), where)
    if encoding.generalised:
        ends = [_column(table, f"{name}.{end}", where) for end in ("low", "high")]
        values = (ends[0].astype(np.float64) + ends[1].astype(np.float64)) / 2
    else:
        values = _column(table, name, where).astype(np.float64)
    with np.errstate(invalid="ignore"):
        outside = (values < encoding.low) | (values > encoding.high) | np.isinf(values)
    if outside.any():
        raise DataError(f"{where}: column {name!r} leaves its range: prepare the records again")
    return values[:, None]


def _spread(
    encoding: Encoding, texts: Sequence[str | None] | npt.NDArray[Any], where: str
) -> npt.NDArray[np.float64]:
    """Each text as shares of the values that it stands for; they add up to 1, or to 0 for none."""
    places = {value: place for place, value in enumerate(encoding.values)}
    rows: dict[str, npt.NDArray[np.float64]] = {}
    spread = np.zeros((len(texts), len(places)))
    for row, text in enumerate(texts):
        if text is None:
            continue
        if text not in rows:
            rows[text] = _share(encoding, str(text), places, where)
        spread[row] = rows[text]
    return spread


def _share(
    encoding: Encoding, text: str, places: dict[str, int], where: str
) -> npt.NDArray[np.float64]:
    """What one text comes to [m]."""
    made = np.zeros(len(places))
    if text == NONE:
        return made
    if text == ANY:
        return np.full(len(places), 1 / len(places))
    values = [value for value in encoding.groups.get(text, text.split(JOINS)) if value != NONE]
    for value in values:
        if value not in places:
            raise DataError(f"{where}: column {encoding.name!r}: {value!r} is not in the manifest")
        made[places[value]] = 1 / len(values)
    return made

"""The second pass: records go to their clients' files, masked, named anew and generalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from codex_ray.data.prepared_manifest import Encoding
from codex_ray.preparation.batches import Unit, refuse
from codex_ray.preparation.cells import Cells, there
from codex_ray.preparation.checking import Checked, Checker
from codex_ray.preparation.label_noise import SAMPLE, LabelNoise, label_noise
from codex_ray.preparation.labels import classes_of
from codex_ray.preparation.masking import masked
from codex_ray.preparation.plan import Plan
from codex_ray.preparation.pseudonyms import PseudonymKey
from codex_ray.preparation.same_records import Running
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.survey import Progress, Survey

AT_ONCE = 200
"""Files that are written in one pass over the source; more clients take more passes."""

_ROWS = 16_384
HELD: Final = 131_072
"""Records on their way to their files, at the most."""


def encodings(schema: Schema) -> tuple[Encoding, ...]:
    """How each column that becomes features is written."""
    found = []
    for name, column in schema.named("feature", "sensitive", "quasi_identifier").items():
        if column.type == "text":
            continue
        coarse = column.role == "quasi_identifier"
        if column.numeric:
            low, high = column.ends
            found.append(Encoding(name=name, kind="number", low=low, high=high, generalised=coarse))
        elif column.type == "flag" and not coarse:
            found.append(Encoding(name=name, kind="flag"))
        else:
            options, groups = column.options, column.groups
            found.append(
                Encoding(
                    name=name, kind="category", values=options, groups=groups, generalised=coarse
                )
            )
    return tuple(found)


@dataclass
class ShardWriter:
    """Writes the shards of some of the clients, a few thousand records at a time."""

    schema: Schema
    plan: Plan
    key: PseudonymKey | None
    folder: Path
    clients: range
    writers: dict[int, parquet.ParquetWriter] = field(default_factory=dict)
    waiting: dict[int, list[pa.Table]] = field(default_factory=dict)
    held: int = 0
    samples: dict[int, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]] = field(
        default_factory=dict
    )

    def write(self, units: Sequence[Unit], seen: Survey, *, progress: Progress) -> None:
        """Reads the units that these clients have records of, and writes what they keep.

        Raises:
            DataError: a function gives other records than when they were surveyed.
        """
        checker = Checker(self.schema, refuse)
        end = 0
        try:
            for unit, (_, count), digest in zip(units, seen.units, seen.digests, strict=True):
                start, end = end, end + count
                if not self._mine(self.plan.owner[start:end]).any():
                    continue
                running = Running(unit)
                for batch in checker.read(unit):
                    running.add(batch)
                    if batch.first + batch.count <= count:  # else it is told of below
                        self._add(batch, start + batch.first)
                    progress(f"writing {unit.name}: {batch.first + batch.count:,} records")
                running.check(digest)
            for client in list(self.waiting):
                self._flush(client)
        finally:
            for writer in self.writers.values():
                writer.close()

    def noise(self, client: int) -> LabelNoise | None:
        """What the neighbours say of a client's labels."""
        features, labels = zip(*self.samples[client], strict=True)
        return label_noise(np.concatenate(features), np.concatenate(labels))

    def _add(self, batch: Checked, start: int) -> None:
        owner = self.plan.owner[start : start + batch.count]
        mine = np.unique(owner[self._mine(owner)])
        if not len(mine):
            return
        table = self._table(batch.columns)
        points = _points(self.schema, batch.columns, batch.count)
        name, column = self.schema.label
        labels = classes_of(column, batch.columns[name])
        for client in mine.tolist():
            rows = np.flatnonzero(owner == client)
            group = self.plan.group[start + rows]
            part = self._generalised(table.take(rows), group, client)
            self.waiting.setdefault(client, []).append(part)
            self.held += len(rows)
            chosen = rows[_drawn(start + rows, self.plan.holdings[client].records)]
            self.samples.setdefault(client, []).append((points[chosen], labels[chosen]))
            if sum(len(waiting) for waiting in self.waiting[client]) >= _ROWS:
                self._flush(client)
        if self.held > HELD:
            for client in list(self.waiting):
                self._flush(client)

    def _mine(self, owner: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which of the records are of these clients."""
        return np.asarray((owner >= self.clients.start) & (owner < self.clients.stop))

    def _flush(self, client: int) -> None:
        table = pa.concat_tables(self.waiting.pop(client))
        self.held -= len(table)
        if client not in self.writers:
            file = self.folder / shard_name(client)
            self.writers[client] = parquet.ParquetWriter(file, table.schema, compression="zstd")
        self.writers[client].write_table(table)

    def _table(self, columns: Mapping[str, Cells]) -> pa.Table:
        """What shards keep of a batch, but for quasi-identifiers."""
        made: dict[str, pa.Array] = {}
        identifiers = {n: columns[n] for n in self.schema.named("identifier")}
        for name, column in self.schema.columns.items():
            if not column.used or column.role == "quasi_identifier":
                continue
            values = columns[name]
            if column.role == "identifier":
                assert self.key is not None
                made[name] = self.key.pseudonyms(name, values)
            elif column.role == "label":
                made[name] = pa.array(classes_of(column, values))
            elif isinstance(values, pa.Array):
                made[name] = masked(
                    values,
                    chosen=column.masks,
                    own=self.schema.patterns,
                    identifiers=list(identifiers.values()),
                )
            elif column.type == "category":
                made[name] = pa.array(column.options).take(pa.array(values, mask=values < 0))
            else:
                kind = {"flag": pa.int8(), "integer": pa.int64(), "date": pa.int32()}
                gaps = ~there(values)
                whole = np.where(gaps, 0, values)
                made[name] = pa.array(whole, mask=gaps).cast(kind.get(column.type, pa.float64()))
        return pa.table(made)

    def _generalised(self, table: pa.Table, group: npt.NDArray[np.int32], client: int) -> pa.Table:
        """The table with what the class of each record says of its quasi-identifiers."""
        for name, ends in self.plan.holdings[client].ends.items():
            if isinstance(ends, tuple):
                table = table.append_column(name, pa.array(ends, pa.string()).take(group))
            else:
                for place, end in enumerate(("low", "high")):
                    table = table.append_column(f"{name}.{end}", pa.array(ends[group, place]))
        return table


def shard_name(client: int) -> str:
    """The file of a client, in the folder of shards."""
    return f"client-{client:06d}.parquet"


def _drawn(places: npt.NDArray[np.int64], records: int) -> npt.NDArray[np.bool_]:
    """Which records are looked at for label noise: about `SAMPLE`, by their place alone."""
    if records <= SAMPLE:
        return np.ones(len(places), dtype=bool)
    words = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return (words >> np.uint64(40)) < np.uint64(SAMPLE / records * 2**24)


def _points(schema: Schema, columns: Mapping[str, Cells], count: int) -> npt.NDArray[np.float32]:
    """Records as points [n, d] before anything is generalised: numbers from 0 to 1 by their public
    range, categories so that two of them are 1 apart."""
    parts = [np.zeros((count, 1), np.float32)]
    for name, column in schema.named("feature", "sensitive", "quasi_identifier").items():
        values = columns[name]
        if isinstance(values, pa.Array):
            continue
        if values.dtype.kind == "i":
            table = np.eye(len(column.options) + 1, dtype=np.float32)[:, :-1] * np.float32(0.5**0.5)
            parts.append(table[values])
        else:
            low, high = column.ends
            scaled = np.nan_to_num((values - low) / (high - low), nan=0.5)
            parts.append(scaled.astype(np.float32)[:, None])
    return np.concatenate(parts, axis=1)

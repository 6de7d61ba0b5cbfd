"""Where records come from: CSV, Parquet, NPZ, a folder of Hugging Face datasets, or a function."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from pydantic import Field

from codex_ray.data.dotted import import_by_name
from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.batches import BATCH, Batch, Report, Unit, numbered
from codex_ray.preparation.csv_files import CsvSource
from codex_ray.preparation.paths import Files, units_of
from codex_ray.types import Component

_ODD = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What a file of another kind, or half of one, comes to in those who read it."""
BUFFER = 1 << 20
"""Bytes that are read of a column at a time; without, Arrow reads all of a row group's at once."""


class ParquetSource(Component):
    """Parquet files, a few thousand records at a time; one file or folder is one unit."""

    kind: Literal["parquet"] = "parquet"
    files: Files = Field(description="Files or folders, or one pattern.")

    def units(self) -> list[Unit]:
        """The files, one unit each."""
        return units_of(self.files)

    def batches(self, unit: Unit, *, report: Report) -> Iterator[Batch]:
        """All records of a unit.

        Raises:
            DataError: a file is no Parquet.
        """
        for file in unit.files:
            try:
                with parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as opened:
                    yield from numbered(file, opened.iter_batches(BATCH, use_threads=False))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{file}: it cannot be read as Parquet ({_short(error)})") from None


class NpzSource(Component):
    """NumPy archives with one array [n] for each column; a unit is held in memory."""

    kind: Literal["npz"] = "npz"
    files: Files = Field(description="Files or folders, or one pattern.")

    def units(self) -> list[Unit]:
        """The files, one unit each."""
        return units_of(self.files)

    def batches(self, unit: Unit, *, report: Report) -> Iterator[Batch]:
        """All records of a unit.

        Raises:
            DataError: a file is no such archive, holds objects, or arrays of different lengths.
        """
        for file in unit.files:
            try:
                with np.load(file, allow_pickle=False) as opened:
                    arrays = {name: opened[name] for name in opened.files}
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error, *_ODD) as error:
                raise DataError(
                    f"{file}: it cannot be read as an .npz of plain arrays ({_short(error)})"
                ) from None
            yield from _cut(file, arrays)


class PythonSource(Component):
    """A function of yours: it returns, or yields, mappings of a column's name to its values.

    It is called twice, and must give the same records both times. What it returns is one unit; with
    `units` it is called for each of them, by name.
    """

    kind: Literal["python"] = "python"
    factory: str = Field(description="The function, as package.module:function.")
    args: dict[str, Any] = Field(default_factory=dict, description="Its keyword arguments.")
    units_named: tuple[str, ...] = Field(
        default=(), description="Names of the clients; each is handed over as `unit`."
    )

    def units(self) -> list[Unit]:
        """One unit for each name, or one in all."""
        return [Unit(name) for name in self.units_named] or [Unit(self.factory.rpartition(":")[2])]

    def batches(self, unit: Unit, *, report: Report) -> Iterator[Batch]:
        """All records of a unit.

        Raises:
            ConfigError: there is no such function.
            DataError: what it gives is no mapping of names to arrays of one length.
        """
        args = self.args | ({"unit": unit.name} if self.units_named else {})
        function = import_by_name(self.factory, "source.factory")
        if not callable(function):
            raise ConfigError(f"source.factory: {self.factory} is no function")
        made = function(**args)
        where, first = f"{self.factory}({unit.name})" if self.units_named else self.factory, 1
        for piece in [made] if isinstance(made, Mapping) else made:
            if not isinstance(piece, Mapping):
                raise DataError(f"{where}: got a {type(piece).__name__}: give name -> values")
            for batch in _cut(where, piece, first=first):
                yield batch
                first += len(batch)


class HuggingFaceSource(Component):
    """Folders that `datasets.Dataset.save_to_disk` wrote; read by Arrow, without that library."""

    kind: Literal["hugging_face"] = "hugging_face"
    files: Files = Field(description="Folders, or one pattern; each is one unit.")
    split: str | None = Field(
        default=None, description="Which split of a folder that holds several."
    )

    def units(self) -> list[Unit]:
        """The folders, one unit each."""
        return units_of(self.files, folders_are_files=True)

    def batches(self, unit: Unit, *, report: Report) -> Iterator[Batch]:
        """All records of a unit.

        Raises:
            ConfigError: a folder holds several splits, and none is named.
            DataError: a folder is no saved data set.
        """
        for folder in unit.files:
            first = 1
            for file in self._arrow_files(Path(folder)):
                try:
                    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as opened:
                        for whole in opened:
                            pieces = (
                                whole.slice(start, BATCH)
                                for start in range(0, whole.num_rows, BATCH)
                            )
                            yield from numbered(folder, pieces, first=first)
                            first += whole.num_rows
                except (pa.ArrowException, OSError) as error:
                    raise DataError(f"{file}: it is no Arrow stream ({_short(error)})") from None

    def _arrow_files(self, folder: Path) -> list[Path]:
        try:
            return self._listed(folder)
        except (OSError, *_ODD) as error:
            said = type(error).__name__
            raise DataError(f"{folder}: it is no folder of Dataset.save_to_disk ({said})") from None

    def _listed(self, folder: Path) -> list[Path]:
        splits = folder / "dataset_dict.json"
        if splits.is_file():
            names = json.loads(splits.read_text(encoding="utf-8"))["splits"]
            if self.split not in names:
                raise ConfigError(f"source.split: {folder} holds {', '.join(names)}: name one")
            folder = folder / str(self.split)
        state = folder / "state.json"
        if not state.is_file():
            raise DataError(f"{folder}: it is no folder of Dataset.save_to_disk")
        said = json.loads(state.read_text(encoding="utf-8"))
        if said.get("_indices_data_files"):
            raise DataError(f"{folder}: it keeps chosen rows apart: flatten_indices() and save it")
        return [folder / Path(entry["filename"]).name for entry in said["_data_files"]]


Source: TypeAlias = CsvSource | ParquetSource | NpzSource | PythonSource | HuggingFaceSource


def _cut(where: str, columns: Mapping[str, Any], *, first: int = 1) -> Iterator[Batch]:
    """Whole columns as batches of arrow arrays."""
    arrays = {str(name): _as_arrow(where, str(name), values) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{where}: columns differ in length: {lengths}")
    for start in range(0, next(iter(lengths.values()), 0), BATCH):
        cut = {name: array.slice(start, BATCH) for name, array in arrays.items()}
        yield Batch(where, first + start, cut)


def _as_arrow(where: str, name: str, values: Iterable[Any]) -> pa.Array:
    """One column.

    Raises:
        DataError: it has more axes than one, or holds what Arrow has no type for.
    """
    if isinstance(values, np.ndarray) and (values.ndim != 1 or values.dtype.kind not in "biufUSM"):
        raise DataError(
            f"{where}, column {name!r}: it is {values.dtype} with shape {values.shape}: give one "
            "number or text for each record"
        )
    try:
        array = pa.array(values if isinstance(values, np.ndarray | pa.Array) else list(values))
    except (pa.ArrowException, TypeError, ValueError):
        # Arrow's own words would quote a value.
        raise DataError(f"{where}, column {name!r}: its values are not of one type") from None
    return array


def _short(error: Exception) -> str:
    return " ".join(str(error).partition("\n")[0].split())[:120]

"""`codex-ray bench prepare`: a large file prepared by a process that never holds it.

A CSV file of ten gigabytes is made in the temporary directory and prepared with k-anonymity in a
process of its own. What that process holds beyond a preparation of three records is what a larger
file costs; beside it stands what the limits in docs/preparation.md say that it may be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from codex_ray.bench.bars import Figure, Row, at_least, at_most
from codex_ray.bench.parts import Part
from codex_ray.bench.processes import machine_seconds, most_memory, taken_by_others
from codex_ray.bench.raw_records import K, schema_for, write_records, write_three
from codex_ray.errors import ClusterError, ConfigError
from codex_ray.preparation import csv_files
from codex_ray.preparation.compact import Coding
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.shards import HELD

SIZE: Final = 10_000_000_000
"""Bytes of the file."""
SHARE: Final = 0.1
"""Of the file's bytes, that the preparation may hold."""
ROOM: Final = 1.3
"""What the disk must hold, as a share of the file: it, the shards, and what is written by others
meanwhile."""
A_RECORD: Final = 32
"""Bytes that the limits say for each record, besides those of its columns."""
WORK: Final = 2**26
"""Bytes that they say for work that does not grow with the file: label noise, Arrow's own."""


@dataclass(frozen=True)
class Taken:
    """What a preparation came to.

    Attributes:
        records: that are kept.
        classes, k: of them, and records in the smallest.
        cpu, wall: seconds.
        others: the share of the machine that other processes took meanwhile.
        before: bytes that the process had held at the most after three records.
        peak: bytes that it had held at the most at the end.
    """

    records: int
    classes: int
    k: int
    cpu: float
    wall: float
    others: float
    before: int
    peak: int


def large_file(scale: float) -> Iterator[Row]:
    """A file of ten gigabytes, or of a part of that, prepared in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="codex-ray-bench-") as name:
        folder, size = Path(name), max(1, int(SIZE * scale))
        check_room(folder, size)
        file = folder / "records.csv"
        written = write_records(file, size=size)
        write_three(folder / "three.csv")
        taken = _in_a_process_of_its_own(folder)
        yield _row(taken, written, file.stat().st_size, _bytes_in(folder / "prepared"))


PARTS: Final[Mapping[str, Part]] = {"csv": large_file}


def check_room(folder: Path, size: int) -> None:
    """Returns when the disk has room for a file of so many bytes and what is made of it.

    Raises:
        ConfigError: it has not.
    """
    free, needed = shutil.disk_usage(folder).free, int(ROOM * size)
    if free < needed:
        raise ConfigError(
            f"{folder.parent}: bench prepare needs {needed / 1e9:.1f} GB of disk there, and "
            f"{free / 1e9:.1f} GB are free: set TMPDIR to a larger disk, or give a smaller --scale"
        )


def said_by_the_limits(schema: Schema, records: int, size: int) -> int:
    """Bytes that a preparation holds by "Limits" in docs/preparation.md: a file, one client.

    Args:
        schema: of the records.
        records: how many there are.
        size: bytes of the file.
    """
    coded = schema.named("quasi_identifier", "sensitive", "label").values()
    kept = [column for column in schema.columns.values() if column.role != "drop"]
    widths = sum(Coding.of(column).width.itemsize for column in coded)
    each = A_RECORD + widths + sum(not column.required for column in kept)
    waiting = min(records, HELD) * size // records
    return WORK + csv_files.BLOCK + waiting + records * each


def prepare_here(folder: str) -> None:
    """Prepares `three.csv` and then `records.csv` of a folder, and prints what the latter took."""
    path = Path(folder)
    # Libraries load parts of themselves when they are first used, and Arrow even pandas.
    few = schema_for(path / "three.csv") | {"anonymity": {"k": 2}}
    prepare(Schema(**few), path / "prepared-three")
    before = most_memory(os.getpid())
    machine, cpu, wall = machine_seconds(), time.process_time(), time.perf_counter()
    made = prepare(Schema(**schema_for(path / "records.csv")), path / "prepared")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    others = taken_by_others(machine=machine_seconds() - machine, ours=cpu, wall=wall)
    (holding,) = made.holdings
    assert holding.figures is not None
    taken = Taken(
        records=holding.records,
        classes=holding.figures.classes,
        k=holding.figures.k,
        cpu=cpu,
        wall=wall,
        others=others,
        before=before,
        peak=most_memory(os.getpid()),
    )
    print(json.dumps(asdict(taken)))


def _in_a_process_of_its_own(folder: Path) -> Taken:
    """What the preparation took, the process being one that has done nothing else.

    Raises:
        ClusterError: it failed.
    """
    code = f"from {__name__} import prepare_here; prepare_here({str(folder)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            told, said = running.communicate()
        except BaseException:
            running.kill()
            running.wait()  # else it may write on into a folder that is being removed
            raise
    if running.returncode:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise ClusterError(f"the preparation failed: {last}")
    return Taken(**json.loads(told))


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _row(taken: Taken, written: int, size: int, shards: int) -> Row:
    beyond = taken.peak - taken.before
    schema = Schema(**schema_for(Path("records.csv")))
    expected = said_by_the_limits(schema, written, size)
    rate = size / 1e6 / taken.cpu
    return Row(
        f"{size / 1e9:.2f} GB of CSV, {written:,} records, k = {K}",
        f"{beyond / 1e6:.0f} MB beyond three records, {beyond / size:.1%} of the file "
        f"({beyond / written:.0f} bytes a record); the limits say {expected / 1e6:.0f} MB; "
        f"{rate:.1f} MB a CPU second, {taken.cpu:.0f} CPU s, wall {taken.wall:.0f} s; shards "
        f"{shards / 1e6:.0f} MB; {taken.classes} classes; others took {taken.others:.0%}",
        f"memory at most {SHARE:.0%} of the file at {SIZE / 1e9:.0f} GB; every record kept",
        (
            at_most("bytes beyond three records / bytes of the file", beyond / size, SHARE),
            at_least("records kept / records", taken.records / written, 1.0),
            at_least("records of the smallest class", taken.k, K),
            Figure("bytes of the file", size),
            Figure("records", written),
            Figure("bytes held beyond three records", beyond),
            Figure("bytes that the limits say", expected),
            Figure("bytes held at the most", taken.peak),
            Figure("MB of the file a CPU second", rate),
            Figure("CPU seconds of the preparation", taken.cpu),
            Figure("seconds of the preparation", taken.wall),
            Figure("bytes prepared", shards),
            Figure("classes", taken.classes),
            Figure("share of the machine that others took", taken.others),
        ),
    )

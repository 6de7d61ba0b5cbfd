"""The benchmark of preparing measures a process of its own, and leaves nothing behind."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.bench import preparing
from codex_ray.bench.preparing import SIZE, Taken, _row, check_room, said_by_the_limits
from codex_ray.bench.raw_records import BLOCK, COLUMNS, schema_for, write_records, write_three
from codex_ray.cli import main
from codex_ray.errors import ClusterError, ConfigError
from codex_ray.preparation.schema import Schema

TAKEN = Taken(
    records=25_000_000,
    classes=231,
    k=100_000,
    cpu=400.0,
    wall=420.0,
    others=0.1,
    before=200_000_000,
    peak=1_190_000_000,
)


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The temporary directory of the benchmark, for a test's eyes alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_small_file_is_prepared_in_a_process_of_its_own(temporary, tmp_path, capsys) -> None:
    out = tmp_path / "figures.json"
    assert main(["bench", "prepare", "--scale", "0.0001", "--json", str(out)]) == 0
    assert f"{BLOCK:,} records, k = 50: " in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    found = {one["what"]: one for one in row["figures"]}
    assert found["records kept / records"]["value"] == 1.0
    assert found["records of the smallest class"]["holds"]
    assert found["bytes of the file"]["value"] > 400 * BLOCK
    assert 0 < found["bytes held beyond three records"]["value"] < 400e6
    assert found["bytes prepared"]["value"] > 0
    assert found["CPU seconds of the preparation"]["value"] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


def test_a_preparation_that_fails_is_told_of_and_leaves_nothing(temporary, monkeypatch) -> None:
    def broken(file: Path, *, size: int) -> int:
        file.write_text("patient,age\nAnna,41\n")
        return 1

    monkeypatch.setattr(preparing, "write_records", broken)
    with pytest.raises(ClusterError, match=r"the preparation failed: .* there is no such column"):
        list(preparing.large_file(0.0001))
    assert not list(temporary.iterdir())


def test_too_little_room_is_one_clear_line(temporary, capsys, monkeypatch) -> None:
    here = shutil.disk_usage(temporary)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: here._replace(free=5 * 10**9))
    assert main(["bench", "prepare"]) == 2
    said = capsys.readouterr().err
    assert "needs 13.0 GB of disk there, and 5.0 GB are free: set TMPDIR" in said
    assert said.count("\n") == 1 and not list(temporary.iterdir())
    check_room(temporary, 10**9)
    with pytest.raises(ConfigError, match="give a smaller --scale"):
        check_room(temporary, 4 * 10**9)


def test_the_bar_on_memory_can_be_missed_and_so_can_the_others() -> None:
    def holds(**changed: int) -> bool:
        return _row(replace(TAKEN, **changed), 25_000_000, SIZE, 10**9).holds

    assert holds() and not holds(peak=1_210_000_000)
    assert not holds(records=24_999_999) and not holds(k=49)


def test_the_limits_count_the_columns_that_the_schema_has() -> None:
    schema = Schema(**schema_for(Path("records.csv")))
    # 32, and a byte for age, city, grade and ill, and for the gaps of weight, grade and note.
    more = said_by_the_limits(schema, 2_000_000, 0) - said_by_the_limits(schema, 1_000_000, 0)
    assert more == 39_000_000


def test_the_same_records_are_written_each_time(tmp_path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert write_records(one, size=1) == BLOCK
    assert write_records(two, size=one.stat().st_size + 1) == 2 * BLOCK
    assert two.read_bytes().startswith(one.read_bytes())
    with two.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 2 * BLOCK
    assert len({row["patient"] for row in rows}) == len({row["note"] for row in rows}) == len(rows)
    assert any(not row["grade"] for row in rows)
    write_three(two)
    assert len(two.read_text().splitlines()) == 4

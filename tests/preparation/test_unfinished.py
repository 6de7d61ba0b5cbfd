"""What a killed preparation leaves is taken away by the next one; what a living one has is not."""

import os
from pathlib import Path

import pytest
from small import many, small_schema, write_csv

from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.unfinished import unfinished


def left(folder: Path, *, shard: str = "shards/client-000000.parquet") -> Path:
    """What is there after a kill."""
    (folder / shard).parent.mkdir(parents=True)
    (folder / shard).write_bytes(b"PAR1")
    return folder


def test_only_what_is_ours_and_nobodys_any_more_is_taken_away(tmp_path):
    out = tmp_path / "out"
    dead = left(tmp_path / ".out.abcd_123")
    others = [
        left(tmp_path / ".other.abcd_123"),
        left(tmp_path / ".out.abc"),
        left(tmp_path / ".out.abcd_124", shard="shards/a.parquet"),
        left(tmp_path / ".out.abcd_125", shard="mine/a.parquet"),
    ]
    (others[2] / "diary.txt").write_text("mine")
    with unfinished(out) as alive:
        (alive / "shards").mkdir()
        with unfinished(tmp_path / "out") as second:
            assert alive.is_dir() and second != alive
            (second / "card.json").write_text("{}")
        assert (out / "card.json").exists()
        out.rename(tmp_path / "moved")
    assert not dead.exists() and all(other.is_dir() for other in others)
    assert out.is_dir() and not alive.exists()


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), unfinished(tmp_path / "out") as folder:
        (folder / "shards").mkdir()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_every_file_is_on_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    synced: list[str] = []
    real = os.fsync

    def note(opened: int) -> None:
        synced.append(Path(f"/proc/self/fd/{opened}").readlink().name)
        assert out.exists() == (synced[-1] == tmp_path.name)
        real(opened)

    out = tmp_path / "out"
    monkeypatch.setattr(os, "fsync", note)
    prepare(Schema(**small_schema(str(write_csv(tmp_path / "a.csv", many(20))))), out)
    written = {file.name for file in out.rglob("*")}
    assert {"client-000000.parquet", "manifest.json", "shards"} <= written <= set(synced)
    assert synced[-1] == tmp_path.name

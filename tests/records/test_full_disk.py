"""A disk that is full, or takes nothing: one line, nothing half-written, and then it goes on."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import go_on, killing
from rounds_told import told as told_round
from test_killed_anywhere import check_whole

import codex_ray
from codex_ray.errors import RunDirectoryError
from codex_ray.records import mending
from codex_ray.records.mending import append_line, forget_rounds
from codex_ray.records.observers import RoundLines
from codex_ray.records.run_directory import write_atomically


@pytest.fixture
def tiny(silos: dict[str, Any], monkeypatch) -> dict[str, Any]:
    monkeypatch.setattr("codex_ray.records.report.draw", lambda *_: b"")
    federation = silos["federation"] | {"protocol": {"kind": "ideal"}}
    return silos | {"federation": federation, "rounds": 2, "name": "tiny"}


def test_full_from_any_write_on(tiny, tmp_path) -> None:
    whole = tmp_path / "whole"
    with killing(whole) as steps:
        codex_ray.run(tiny, out=whole)
    for at in range(2, steps.taken + 1, 5):
        path = tmp_path / f"{at:03d}"
        try:
            with killing(path, at=at, full=True):
                codex_ray.run(tiny, out=path)
        except RunDirectoryError as error:
            assert "No space left on device" in str(error) and "\n" not in str(error)
            assert str(path) in str(error)
        assert not list(path.rglob(".*")) if path.exists() else True
        go_on(tiny, path)
        check_whole(path, whole)
        shutil.rmtree(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few pages, where somebody who may is running the tests."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("room", [12, 20, 40, 60])
def test_a_disk_that_is_really_full(tiny, small_disk, room, tmp_path) -> None:
    """Not by what a test raises: by what the kernel does, in pieces of a line too."""
    whole = codex_ray.run(tiny | {"rounds": 4}, out=tmp_path / "whole")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((128 - room) * 1024))
    path = small_disk / "run"
    with pytest.raises(RunDirectoryError, match="No space left on device") as caught:
        codex_ray.run(tiny | {"rounds": 4}, out=path)
    assert "\n" not in str(caught.value)
    ballast.unlink()
    for line in (path / "rounds.jsonl").open() if (path / "rounds.jsonl").exists() else ():
        json.loads(line)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert go_on(tiny | {"rounds": 4}, path).model_sha256 == whole.model_sha256
    check_whole(path, tmp_path / "whole")


def test_a_disk_that_may_only_be_read(tiny, small_disk) -> None:
    file = small_disk / "file"
    file.write_bytes(b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunDirectoryError, match="Read-only file system: have it mounted"):
        write_atomically(file, b"new")
    with pytest.raises(RunDirectoryError, match="cannot be made: Read-only"):
        codex_ray.run(tiny, out=small_disk / "run")
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["open", "replace", "fsync"])
def test_the_old_file_is_kept(tmp_path, monkeypatch, step, code) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    if step == "fsync":
        monkeypatch.setattr("codex_ray.records.run_directory.os.fsync", refuse)
    else:
        monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(RunDirectoryError, match=f"file: cannot be written: {os.strerror(code)}"):
        write_atomically(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old" and [it.name for it in tmp_path.iterdir()] == ["file"]


def test_half_a_line_is_no_line(tmp_path) -> None:
    """A raw write on a disk with room for less writes less, and says how much: no error yet."""

    class Filling(io.FileIO):
        room = 10**9

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = super().write(bytes(data)[: self.room])
            self.room -= taken
            return taken

    file = Filling(tmp_path / "lines", "ab")
    append_line(file, b"one")
    file.room = 2
    with pytest.raises(RunDirectoryError, match="lines: cannot be written: No space left"):
        append_line(file, b"two")
    file.room = 100
    append_line(file, b"two")
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"


def test_the_journal_writes_whole_lines(tmp_path, monkeypatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr("codex_ray.records.observers.append_line", lambda _, it: seen.append(it))
    lines = RoundLines(tmp_path / "rounds.jsonl", first_round=0)
    lines.round(told_round(0))
    lines.close()
    assert len(seen) == 1 and json.loads(seen[0])["round"] == 0


def test_a_log_forgets_what_is_told_again_and_keeps_warnings(tmp_path) -> None:
    log = tmp_path / "log.jsonl"
    forget_rounds(log, first=0)  # there is none yet
    lines = [
        {"logger": mending.ROUNDS, "round": number, "message": f"round {number} ended"}
        for number in (0, 1, 2)
    ] + [{"logger": "codex_ray.federation.run", "round": 2, "message": "attempt 0 failed"}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"half')
    forget_rounds(log, first=1)
    assert [json.loads(it)["message"] for it in log.open()] == ["round 0 ended", "attempt 0 failed"]

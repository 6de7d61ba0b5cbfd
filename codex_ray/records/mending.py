"""Journals that a process was killed over: half a line goes, and nothing is told twice."""

from __future__ import annotations

import json
import os
from io import FileIO
from pathlib import Path

from codex_ray.errors import RunDirectoryError
from codex_ray.records.json_logs import ROUNDS
from codex_ray.records.run_directory import unwritable, write_atomically


def append_line(file: FileIO, line: bytes) -> None:
    """Adds a line to an unbuffered file that is open for more: all of it, or none.

    A disk that fills up takes the first half of a line and says nothing; the next line would then
    stand behind that half, and neither could be read.

    Raises:
        RunDirectoryError: the disk refuses.
    """
    at = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError as error:
        file.truncate(at)
        raise unwritable(Path(str(file.name)), error) from error


def forget_rounds(log: Path, *, first: int) -> None:
    """Takes what a log tells of rounds from `first` on out of it: they are about to be told again.

    Warnings stay: they were given. Half a line at the end goes.

    Raises:
        RunDirectoryError: the file cannot be read or written.
    """
    try:
        lines = log.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunDirectoryError(f"{log}: cannot be read: {error.strerror or error}") from error
    kept = [line for line in lines if line.endswith(b"\n") and not _tells(line, first)]
    if kept != lines:
        write_atomically(log, b"".join(kept))


def _tells(line: bytes, first: int) -> bool:
    """Whether it is the line of a round from `first` on."""
    try:
        said = json.loads(line)
        return bool(said["logger"] == ROUNDS and said["round"] >= first)
    except (ValueError, KeyError, TypeError):
        return False

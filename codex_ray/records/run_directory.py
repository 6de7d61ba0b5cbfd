"""The run directory: everything that a run leaves behind, under names that never change.

config.yaml         the resolved experiment
rounds.jsonl        one line a round
log.jsonl           what happened, a line each, with run and round
metrics.prom        the figures so far, for a Prometheus textfile collector
checkpoint/         the state after the last rounds
tensorboard/        scalars and the configuration
result.json         what came out
privacy.json        what it cost, with every assumption
model.safetensors   the parameters by name
report.html         the same for people, with report.png
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from codex_ray.errors import RunDirectoryError


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replaces `path` by `content` so that a reader, or a crash, sees the old file or the new one.

    Without `sync` that holds when a process dies; when the machine does, the file may be cut.

    Raises:
        RunDirectoryError: the disk refuses; the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunDirectoryError(f"{path}: cannot be written: {error.strerror or error}") from error


def to_json_bytes(data: Mapping[str, Any]) -> bytes:
    """`data` as indented JSON; infinities become the string "inf", which JSON has no number for."""
    return (json.dumps(_finite(data), indent=2, ensure_ascii=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return "nan" if value != value else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def check_free(path: Path, *, of: str, known_by: str) -> None:
    """Refuses a path at which there is something already.

    Args:
        path: where a folder is to be made.
        of: what it would be the folder of, in a word.
        known_by: the name of a file that every such folder has.

    Raises:
        RunDirectoryError: it is a file, or holds another one, or other files.
    """
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path}: is a file: choose another --out")
    if (path / known_by).is_file():
        raise RunDirectoryError(
            f"{path}: holds another {of}: choose another --out, or go on with --resume {path}"
        )
    if path.is_dir() and any(path.iterdir()):
        raise RunDirectoryError(f"{path}: is not empty: choose another --out")


PATIENCE = 0.25
"""Seconds for a process that only looks whether there is a lock to let go of it again."""


@contextmanager
def locked(folder: Path, *, of: Path) -> Iterator[None]:
    """Keeps every other process out of `folder` for the block, and so from running what is at `of`.

    Raises:
        RunDirectoryError: another process is at it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + PATIENCE
    try:
        while not _taken(descriptor):
            if time.monotonic() > until:
                raise RunDirectoryError(f"{of}: another process is running it")
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _taken(descriptor: int) -> bool:
    """Whether the lock on an open folder is now ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class RunDirectory:
    """A folder that belongs to one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.rounds = path / "rounds.jsonl"
        self.log = path / "log.jsonl"
        self.metrics = path / "metrics.prom"
        self.checkpoint = path / "checkpoint"
        self.tensorboard = path / "tensorboard"
        self.result = path / "result.json"
        self.privacy = path / "privacy.json"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"
        self.picture = path / "report.png"

    @classmethod
    def create(cls, path: Path, *, config: str) -> RunDirectory:
        """A new run directory at `path`, which must not exist or be empty.

        Raises:
            RunDirectoryError: it holds another run, or other files, or cannot be made.
        """
        cls.check_free(path)
        directory = cls(path)
        try:
            directory.checkpoint.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be made: {error.strerror or error}") from error
        write_atomically(directory.config, config.encode())
        return directory

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Refuses a path at which there is something already.

        Raises:
            RunDirectoryError: it holds another run, or other files.
        """
        check_free(path, of="run", known_by=cls(path).config.name)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run directory at `path`.

        Raises:
            RunDirectoryError: there is none.
        """
        if not (path / "config.yaml").is_file():
            raise RunDirectoryError(f"{path}: holds no run (there is no config.yaml in it)")
        return cls(path)

    @classmethod
    def next_under(cls, parent: Path, name: str) -> Path:
        """The first free `parent/name-001`, `-002`, ..."""
        number = 1
        while (path := parent / f"{name}-{number:03d}").exists():
            number += 1
        return path

    def locked(self) -> AbstractContextManager[None]:
        """Keeps every other process from writing to this run for the block.

        Raises:
            RunDirectoryError: another process is at it.
        """
        return locked(self.checkpoint, of=self.path)

    def reopen(self, *, config: str) -> None:
        """Makes a finished run one that goes on: its configuration is `config`, its result gone."""
        write_atomically(self.config, config.encode())
        self.result.unlink(missing_ok=True)

    def finished(self) -> bool:
        """Whether the run has its result."""
        return self.result.is_file()

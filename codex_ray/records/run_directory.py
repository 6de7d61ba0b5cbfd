"""The run directory: everything that a run leaves behind, under names that never change.

config.yaml         the resolved experiment
rounds.jsonl        one line a round
log.jsonl           what happened, a line each, with run and round
metrics.prom        the figures so far, for a Prometheus textfile collector
checkpoint/         the state after the last rounds, and who writes it
tensorboard/        scalars and the configuration
result.json         what came out
privacy.json        what it cost, with every assumption
model.safetensors   the parameters by name
report.html         the same for people, with report.png
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from codex_ray.errors import RunDirectoryError

THIS_PROCESS = os.urandom(4).hex()
"""Tells processes apart that have the same number, as those of two containers may."""
TEMPORARY = re.compile(r"\.(?P<of>.+)\.\d+(-[0-9a-f]{8})?")
"""What a file that is being written is called, here and in earlier versions."""
REMEDIES = {
    errno.ENOSPC: ": make room there, and then go on",
    errno.EDQUOT: ": make room there, and then go on",
    errno.EROFS: ": have it mounted for writing, or choose another place",
    errno.EACCES: ": its permissions keep this user from it",
    errno.EPERM: ": its permissions keep this user from it",
}
"""What to do about a disk that refuses, where the reason is one of the usual ones."""


def unwritable(path: Path, error: OSError) -> RunDirectoryError:
    """What to tell of a file or folder that the disk refuses to write."""
    why = f"{error.strerror or error}{REMEDIES.get(error.errno or 0, '')}"
    return RunDirectoryError(f"{path}: cannot be written: {why}")


def write_atomically(
    path: Path, content: bytes, *, sync: bool = True, before: Callable[[], None] | None = None
) -> None:
    """Replaces `path` by `content` so that a reader, or a crash, sees the old file or the new one.

    Without `sync` that holds when a process dies; when the machine does, the file may be cut.
    `before` is called last of all before the old file is replaced, and keeps it by raising.

    Raises:
        RunDirectoryError: the disk refuses; the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{THIS_PROCESS}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if before is not None:
            before()
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # a disk that is read-only by now refuses this too
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's names: a file's new content is not lost by its name.

    Some file systems over a network take no such request for a folder; they have it by then.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def create_whole(path: Path, content: bytes) -> bool:
    """Writes a new file, whole from its first moment on; False if somebody else's is there.

    Raises:
        RunDirectoryError: the disk refuses.
    """
    whole = path.with_name(f".{path.name}.{os.getpid()}-{THIS_PROCESS}")
    write_atomically(whole, content)
    try:
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            # No links on this file system: whoever finds half of the file finds that it is cut.
            with path.open("xb") as file:
                file.write(content)
        sync_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            whole.unlink(missing_ok=True)
    return True


def clear_temporaries(folder: Path) -> None:
    """Removes what processes that were killed had begun to write; nobody may be writing now."""
    for file in folder.iterdir():
        if TEMPORARY.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


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
        while not take_lock(descriptor):
            if time.monotonic() > until:
                raise RunDirectoryError(f"{of}: another process is running it")
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


LOCKLESS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""How file systems say that they lock nothing, or, over NFS, no folder."""


def take_lock(descriptor: int) -> bool:
    """Whether the lock on an open file or folder is now ours, or the file system has no locks.

    Where there are none, `ownership` still keeps two runs apart.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
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
        if not create_whole(directory.config, config.encode()):
            raise RunDirectoryError(f"{path}: another run was begun there at the same moment")
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

    def discard(self) -> None:
        """Removes the directory of a run in which nothing has been computed."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        with suppress(OSError):
            self.config.unlink()
            self.path.rmdir()  # not what others have put there

    def reopen(self, *, config: str) -> None:
        """Makes a finished run one that goes on: its configuration is `config`, its result gone.

        In this order: a run that is killed in between is one to go on with, and has its result
        again when it is resumed.

        Raises:
            RunDirectoryError: the disk refuses.
        """
        try:
            self.result.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.result, error) from error
        write_atomically(self.config, config.encode())

    def finished(self) -> bool:
        """Whether the run has its result."""
        return self.result.is_file()

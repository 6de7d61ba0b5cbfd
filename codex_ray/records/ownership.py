"""Who writes a run's checkpoints: one process at a time, which can tell when it no longer may.

A lock is held by whoever starts a run, but on a cluster another process writes its checkpoints, and
that one may outlive the first by a moment. So the writer holds a lock of its own, and the next
writer waits for it. Some file systems lock nothing between machines. So each writer also leaves its
own id, and looks for it before it replaces anything: once there is another, it stops.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from codex_ray.errors import RunDirectoryError
from codex_ray.records.run_directory import take_lock, unwritable

WRITER = "writer"
"""The file in a run's folder of checkpoints that says who writes them."""
PATIENCE = 10.0
"""Seconds for the writer of a run that was killed to be ended too."""
LENGTH = 32


def new_owner() -> str:
    """An id that no other process has."""
    return os.urandom(LENGTH // 2).hex()


def this_process() -> str:
    """This process, as people look for it."""
    return f"process {os.getpid()} on {platform.node()}"


@dataclass(frozen=True)
class Claim:
    """The right to write a run's checkpoints, for as long as nobody else has taken it.

    Attributes:
        file: in which the writer's id stands.
        owner: ours.
    """

    file: Path
    owner: str

    def check(self) -> None:
        """Returns if we are the writer still.

        Raises:
            RunDirectoryError: somebody else is; nothing more is to be written.
        """
        # Opened anew: only so does a file system over a network look whether it has changed.
        found = _read(self.file)
        if found[:LENGTH] != self.owner:
            by = found[LENGTH:].strip() or "another process"
            raise RunDirectoryError(
                f"{self.file.parent.parent}: {by} goes on with this run now: this process stops, "
                "and has written nothing since"
            )


@contextmanager
def claimed(folder: Path, *, of: Path, patience: float = PATIENCE) -> Iterator[Claim]:
    """The right to write the checkpoints in `folder`, for the block.

    Args:
        folder: that holds them.
        of: the run, for messages.
        patience: seconds to wait for whoever has it.

    Raises:
        RunDirectoryError: another process keeps it, or the disk refuses.
    """
    file = folder / WRITER
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(file, error) from error
    until = time.monotonic() + patience
    try:
        while not take_lock(descriptor):
            if time.monotonic() > until:
                by = _read(file)[LENGTH:].strip() or "another process"
                raise RunDirectoryError(f"{of}: {by} still writes to it: end it, or wait for it")
            time.sleep(0.01)
        claim = Claim(file, new_owner())
        words = f"{claim.owner} {this_process()}\n".encode()
        try:
            # In place, because the lock is on this very file; cut short, it is nobody's id.
            os.pwrite(descriptor, words, 0)
            os.ftruncate(descriptor, len(words))
        except OSError as error:
            raise unwritable(file, error) from error
        claim.check()
        yield claim
    finally:
        os.close(descriptor)  # and with it the lock


def _read(file: Path) -> str:
    """What stands in the file; nothing if it is gone.

    Raises:
        RunDirectoryError: the disk refuses.
    """
    try:
        return file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read: {error.strerror or error}") from error

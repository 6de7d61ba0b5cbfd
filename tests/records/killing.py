"""Kills a process, or makes a run think so, before the n-th thing that it does to files.

Or the disk is full from there on: nothing more can be made, and what there is can be removed.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import codex_ray
from codex_ray.errors import RunDirectoryError
from codex_ray.records.result import RunResult

CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """The end of a process, as far as files go: nothing is cleaned up after it."""


class _Steps:
    """What is done to the files under a folder, one step after the other."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.taken = 0
        self.last = 0
        self.for_good = False
        self.full = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or not self._changes(event, arguments):
            return
        self.taken += 1
        if self.taken < self.last:
            return
        if self.full:
            if event in ("open", "os.link", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
            return
        if self.for_good:
            os.kill(os.getpid(), signal.SIGKILL)
        raise Killed  # and again at whatever follows: the dead do not tidy up

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        writes = bool(arguments[2] & WRITING) if event == "open" else event in CHANGES
        named = [str(it) for it in arguments[:2] if isinstance(it, str | os.PathLike)]
        assert self.folder is not None
        return writes and any(it.startswith(self.folder) for it in named)


_STEPS = _Steps()
_HOOKED = False


@contextmanager
def killing(
    folder: Path, *, at: int = sys.maxsize, for_good: bool = False, full: bool = False
) -> Iterator[_Steps]:
    """Ends whatever changes files under `folder` before its step `at`; counts the steps.

    With `for_good` the process is killed, and with `full` the disk is full instead.
    """
    global _HOOKED  # noqa: PLW0603  # an audit hook cannot be taken away again
    if not _HOOKED:
        sys.addaudithook(_STEPS.hook)
        _HOOKED = True
    _STEPS.taken, _STEPS.last, _STEPS.for_good, _STEPS.full = 0, at, for_good, full
    _STEPS.folder = str(folder)
    try:
        yield _STEPS
    finally:
        _STEPS.folder = None


def go_on(
    config: dict[str, Any], path: Path, *, begun: Callable[[], bool] = lambda: False
) -> RunResult:
    """The run at `path`, begun again if nothing was done yet, as whoever started it would.

    `begun` says whether something was asked of a client: then nothing may be begun again.
    """
    try:
        return codex_ray.run(resume=path)
    except RunDirectoryError as error:
        if "has ended" in str(error):
            return RunResult.read(path)
        assert "holds no" in str(error), error
        assert not begun(), "what was released is forgotten"
        shutil.rmtree(path, ignore_errors=True)
        return codex_ray.run(config, out=path)

"""Files for their owner alone: made so from their first moment on, refused when they are not."""

from __future__ import annotations

import os
from pathlib import Path

from codex_ray.errors import InputError

OTHERS = 0o077
"""The permission bits of everyone but the owner."""


def create_file(file: Path, content: bytes, *, mode: int) -> None:
    """Writes a new file that never existed with any other mode.

    Raises:
        InputError: there is such a file, or it cannot be written.
    """
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(opened, "wb") as out:
            os.fchmod(opened, mode)  # whatever the umask took away
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except FileExistsError:
        raise InputError(
            f"{file}: is there already, and is not overwritten: choose another place, or move it "
            "away"
        ) from None
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from None


def private_folder(folder: Path) -> Path:
    """The folder, made if there is none, that only its owner can look into.

    Raises:
        InputError: others may, or it belongs to somebody else, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat(follow_symlinks=False)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from None
    if state.st_uid != os.getuid():
        raise InputError(f"{folder}: belongs to somebody else: choose another place")
    if state.st_mode & OTHERS:
        raise InputError(f"{folder}: is open to others: chmod 700 {folder}")
    return folder


def read_private(file: Path) -> bytes:
    """The content of a file that only its owner can read.

    Raises:
        InputError: others may read it, or it cannot be read.
    """
    try:
        content = file.read_bytes()
        open_to = file.stat().st_mode & OTHERS
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    if open_to:
        raise InputError(f"{file}: others may read it: chmod 600 {file}")
    return content

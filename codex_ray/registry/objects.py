"""Files named by their SHA-256: written once and whole, and read only as what their name says.

A file is on the disk, with its name, before anything refers to it; a crash leaves at most a file
that nobody refers to, for `sweep`. Who writes holds the folder's lock shared until the index has
the new names, and who sweeps holds it alone, so that no file is swept that is about to be named.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from codex_ray.records.run_directory import sync_folder
from codex_ray.registry.refusals import RegistryError, TamperError

LARGEST_DOCUMENT: Final = 16 << 20
"""Bytes: no manifest is larger, so no changed one makes a reader read on."""
_NAMED: Final = re.compile(r"([0-9a-f]{2})[0-9a-f]{62}")
_HALFWAY: Final = re.compile(r"\.([0-9a-f]{2})[0-9a-f]{62}\.[0-9]+\.[0-9a-f]{8}")


class Objects:
    """The files under `folder`/objects, two hexadecimal digits of their name a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects = folder / "objects"

    def path(self, sha256: str) -> Path:
        """Where the file of that name is, or would be."""
        return self._objects / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        """The SHA-256 under which `content` now lies on the disk, whatever lay there before.

        Raises:
            RegistryError: the disk refuses.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        try:
            if not self._holds(path, content):
                self._write(path, content)
            # The names too, of the file in its folder and of that in its own, and also where
            # another process has only just made them.
            for folder in (path.parent, self._objects, self._folder):
                sync_folder(folder)
        except OSError as error:
            raise RegistryError(f"{path}: cannot be written: {error.strerror or error}") from None
        return sha256

    def read(self, sha256: str, *, of: str, size: int | None = None) -> bytes:
        """The content of the file of that name: those bytes are what was hashed.

        Args:
            of: what it is, for the message.
            size: in bytes, where it is known; otherwise at most `LARGEST_DOCUMENT`.

        Raises:
            TamperError: there is none, or it is another.
        """
        path = self.path(sha256)
        limit = LARGEST_DOCUMENT if size is None else size
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise TamperError(
                f"{of}: {path} cannot be read: {error.strerror or error}: register the run again, "
                "or bring the file back"
            ) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise TamperError(f"{of}: {path} was changed: its SHA-256 is not its name")
        return content

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nothing is swept during the block."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def sweep(self, keep: Iterable[str]) -> list[Path]:
        """Removes every file that is not among the SHA-256 in `keep`, and returns what it removed.

        To be called with `alone` held, and `keep` made since.
        """
        names, removed = set(keep), []
        for path in self.all_files():
            if path.name not in names:
                path.unlink()
                removed.append(path)
        return removed

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes during the block."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def all_files(self) -> list[Path]:
        """Every file that `put` laid there, whole or not, whether or not anything names it.

        What others put there is theirs, and what a link leads to lies elsewhere.
        """
        folders = [it for it in self._objects.glob("[0-9a-f]*") if not it.is_symlink()]
        return sorted(path for folder in folders for path in folder.glob("*") if _ours(path))

    def _holds(self, path: Path, content: bytes) -> bool:
        try:
            with path.open("rb") as file:
                return file.read(len(content) + 1) == content
        except FileNotFoundError:
            return False

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            with os.fdopen(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        try:
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise RegistryError(
                f"{self._folder}: cannot be written: {error.strerror or error}"
            ) from None
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)  # and with it the lock


def _ours(path: Path) -> bool:
    found = _NAMED.fullmatch(path.name) or _HALFWAY.fullmatch(path.name)
    if found is None or found[1] != path.parent.name or path.is_symlink():
        return False
    return path.is_file()

"""The file of the keys: its owner's alone, replaced whole, and read again when it has changed."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from codex_ray.errors import InputError
from codex_ray.records.canonical import read_json
from codex_ray.records.private_files import read_private
from codex_ray.records.run_directory import sync_folder
from codex_ray.serving.api_keys import ApiKey, KeyRing, from_plain, new_key, rotated, to_plain

FORMAT: Final = "codex-ray-keys/1"


class KeyFile:
    """Keys under one path; many processes may change them at once, and readers see a whole file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ApiKey]:
        """The keys; none if there is no file.

        Raises:
            InputError: others may read the file, or it is not one of ours.
        """
        if not self.path.exists():
            return []
        content = read_private(self.path)
        try:
            value = read_json(content.decode("utf-8"))
            if not isinstance(value, dict) or value.get("format") != FORMAT:
                raise ValueError("it is of another format")
            return [from_plain(one) for one in value["keys"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path}: is no file of keys: {error}") from None

    def create(
        self,
        name: str,
        *,
        roles: tuple[str, ...],
        scopes: tuple[str, ...],
        now: float,
        seconds: float,
        budget: int | None = None,
        rate: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key in the file, and as it is shown this once.

        Raises:
            InputError: see `new_key`.
        """
        key, shown = new_key(
            name, roles=roles, scopes=scopes, now=now, seconds=seconds, budget=budget, rate=rate
        )
        with self._changing() as keys:
            keys.append(key)
        return key, shown

    def revoke(self, identity: str, *, now: float) -> ApiKey:
        """The key, which opens nothing from now on.

        Raises:
            InputError: there is no such key.
        """
        return self._change(
            identity, lambda old: (replace(old, revoked=min(now, old.revoked or now)),)
        )[0]

    def rotate(
        self, identity: str, *, now: float, seconds: float, overlap: float
    ) -> tuple[ApiKey, ApiKey, str]:
        """The old key, the one that takes its place, and that one as it is shown this once.

        Raises:
            InputError: there is no such key, or it is not active.
        """
        said: list[str] = []

        def both(old: ApiKey) -> tuple[ApiKey, ...]:
            ending, new, shown = rotated(old, now=now, seconds=seconds, overlap=overlap)
            said.append(shown)
            return ending, new

        ending, new = self._change(identity, both)
        return ending, new, said[0]

    def _change(
        self, identity: str, change: Callable[[ApiKey], tuple[ApiKey, ...]]
    ) -> tuple[ApiKey, ...]:
        with self._changing() as keys:
            for place, key in enumerate(keys):
                if key.id == identity:
                    changed = change(key)
                    keys[place : place + 1] = changed
                    return changed
        raise InputError(f"{self.path}: holds no key {identity}: see codex-ray access key list")

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys, which are written back when the block ends without an error."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self.read()
            yield keys
            self._write(keys)
        finally:
            os.close(lock)

    def _write(self, keys: list[ApiKey]) -> None:
        value = {"format": FORMAT, "keys": [to_plain(key) for key in keys]}
        # mkstemp makes files for their owner alone.
        opened, name = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")
        try:
            with os.fdopen(opened, "w", encoding="utf-8") as out:
                json.dump(value, out, indent=1)
                out.flush()
                os.fsync(out.fileno())
            os.replace(name, self.path)  # noqa: PTH105  # says that it replaces
        except BaseException:
            os.unlink(name)  # noqa: PTH108
            raise
        sync_folder(self.path.parent)


class WatchedKeys:
    """The ring of a key file, read again when the file is another one than before."""

    def __init__(self, path: Path) -> None:
        self._file = KeyFile(path)
        self._seen: tuple[int, int, int] | None = None
        self.ring = KeyRing(())
        self.refresh()

    def refresh(self) -> bool:
        """Whether the ring is a new one.

        Raises:
            InputError: the file is gone, open to others, or not one of ours; the ring is as before.
        """
        try:
            state = self._file.path.stat()
        except OSError:
            raise InputError(
                f"{self._file.path}: no such file: make a key with codex-ray access key create"
            ) from None
        # A file that is replaced has another inode, however coarse the clock is.
        seen = (state.st_ino, state.st_mtime_ns, state.st_size)
        if seen == self._seen:
            return False
        self.ring = KeyRing(self._file.read())
        self._seen = seen
        return True

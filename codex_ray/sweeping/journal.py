"""The sweep's folder: its description and base, a line for each trial that ended, and the lock.

description.json  the description, all defaults filled in
base.json         the base experiment, as it was
trials.jsonl      one line for each trial that ended, keyed by its values and seed
trials/NNN/       the trial's run directory, with its checkpoints
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from codex_ray.config import load_yaml, parse_number, validated
from codex_ray.errors import RunDirectoryError
from codex_ray.records.run_directory import check_free, locked, to_json_bytes, write_atomically
from codex_ray.sweeping.description import Sweep
from codex_ray.sweeping.outcome import Trial
from codex_ray.sweeping.settings import Setting


class SweepFolder:
    """A folder that belongs to one sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description = path / "description.json"
        self.base = path / "base.json"
        self.lines = path / "trials.jsonl"
        self.trials = path / "trials"

    @classmethod
    def create(cls, path: Path, *, description: Sweep, base: Mapping[str, Any]) -> SweepFolder:
        """A new folder at `path`, which must not exist or be empty.

        Raises:
            RunDirectoryError: it holds something, or cannot be written.
        """
        cls.check_free(path)
        folder = cls(path)
        try:
            folder.trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be made: {error.strerror or error}") from None
        kept = json.loads(description.model_dump_json(exclude_none=True))
        write_atomically(folder.base, to_json_bytes(base))
        write_atomically(folder.description, to_json_bytes(kept | {"base": folder.base.name}))
        return folder

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Returns when a sweep could be begun at `path`.

        Raises:
            RunDirectoryError: it holds something.
        """
        check_free(path, of="sweep", known_by=cls(path).description.name)

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """The folder of an earlier sweep.

        Raises:
            RunDirectoryError: there is none at `path`.
        """
        folder = cls(path)
        if not folder.description.is_file() or not folder.base.is_file():
            raise RunDirectoryError(f"{path}: holds no sweep (there is no description.json in it)")
        return folder

    def read(self) -> tuple[Sweep, dict[str, Any]]:
        """The description and the base experiment."""
        description = validated(Sweep, parse_number(load_yaml(self.description)))
        return description, load_yaml(self.base)

    def locked(self) -> AbstractContextManager[None]:
        """Keeps every other process from running this sweep for the block.

        Raises:
            RunDirectoryError: another process is at it.
        """
        return locked(self.path, of=self.path)

    def ended(self) -> dict[str, Trial]:
        """The trials that finished or were stopped, by key; a failed one is to be tried again."""
        found: dict[str, Trial] = {}
        for line in self.lines.read_bytes().splitlines() if self.lines.exists() else []:
            try:
                data = json.loads(line)
                trial = Trial.from_json(data["trial"])
            except (ValueError, KeyError, TypeError):
                continue  # cut off when the driver was killed: its run directory has the result
            if trial.status in ("finished", "stopped"):
                found[data["key"]] = trial
        return found

    def add(self, setting: Setting, trial: Trial) -> None:
        """Writes down that a trial has ended; after this returns, a crash does not lose it."""
        line = json.dumps({"key": setting.key, "trial": trial.to_json()}).encode() + b"\n"
        with self.lines.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # after a line that was cut off
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

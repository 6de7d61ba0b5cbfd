"""A source of models that says in a file which version is to be served; it travels to replicas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asking import served

from codex_ray.errors import CodexRayError
from codex_ray.serving.model import Served


@dataclass(frozen=True)
class FolderSource:
    """Where the file is; it holds a number, which is version and weight, or nothing."""

    file: Path

    def open(self) -> FolderSource:
        return self

    def put(self, version: str) -> None:
        self.file.write_text(version)

    def identity(self) -> str | None:
        version = self.file.read_text()
        return f"identity-{version}" if version else None

    def check(self, identity: str) -> None:
        pass

    def load(self) -> Served:
        version = self.file.read_text()
        if not version.isdecimal():
            raise CodexRayError(f"{version!r}: is not what was signed")
        return served(version, weight=float(version))

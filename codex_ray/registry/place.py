"""Where a registry is, and whom its readers believe, when nobody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from codex_ray.errors import InputError
from codex_ray.records.keys import TrustedKey, key_folder, read_signing_key, read_trusted_key
from codex_ray.registry.refusals import RegistryError

FOLDER_VARIABLE: Final = "CODEX_RAY_REGISTRY"


def registry_folder() -> Path:
    """Where models are kept: $CODEX_RAY_REGISTRY, or `models` beside `runs`."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "models")


def trusted_keys(files: Sequence[Path], *, registry: Path) -> list[TrustedKey]:
    """The public keys in `files`; without any, the one of whoever asks.

    Raises:
        InputError: a file holds none, or lies in the registry that it is to check.
        RegistryError: no file is given, and whoever asks has no key.
    """
    for file in files:
        if file.resolve().is_relative_to(registry.resolve()):
            raise InputError(
                f"--trust {file}: comes with the registry that it is to check, and whoever changed "
                "one could change the other: give a key that you had before"
            )
    if files:
        return [read_trusted_key(file) for file in files]
    own = read_signing_key(key_folder())
    if own is None:
        raise RegistryError(
            f"{registry}: nobody is trusted: give the public key of whoever you believe as "
            "--trust FILE (without one it is your own, and codex-ray keys init makes it)"
        )
    return [own.public]

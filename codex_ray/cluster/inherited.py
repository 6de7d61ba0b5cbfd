"""What processes find in their environment that are started in a block."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

INLINE_SWITCH: Final = "RAY_max_direct_call_object_size"
"""Bytes up to which Ray sends a value along with a call instead of through its object store."""
INLINE: Final = 100_000
"""How many that are if nobody says anything."""


def inline_bytes() -> int:
    """How many that are in the Ray that this process belongs to."""
    said = os.environ.get(INLINE_SWITCH, "")
    return int(said) if said.isdecimal() else INLINE


def module_paths() -> list[str]:
    """Where processes that are started elsewhere find the Python modules that this one does."""
    return [str(Path.cwd()), *[path for path in sys.path if path]]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in the block inherit `variables`; afterwards all is as before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

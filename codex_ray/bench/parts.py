"""A benchmark is named parts, each of which measures some rows: how they are run and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from codex_ray.bench.bars import Row
from codex_ray.bench.processes import cpu_seconds
from codex_ray.threads import single_thread

Part: TypeAlias = Callable[[float], Iterator[Row]]
"""Measures some rows, at full size or scaled down by a factor."""
Watch: TypeAlias = Callable[[Row], None]


def unwatched(row: Row) -> None:
    """Nobody looks."""


def measured(
    parts: Mapping[str, Part], names: Iterable[str], *, scale: float = 1.0, watch: Watch = unwatched
) -> list[Row]:
    """The rows of the named parts, each with the CPU seconds that it took.

    Args:
        parts: by name.
        names: of the parts to measure, in this order.
        scale: below 1 for fewer clients, seeds and repeats, to see that it works; bars may then be
            missed.
        watch: called with each row as it is done.
    """
    single_thread()
    rows = []
    for name in names:
        began = cpu_seconds()
        for row in parts[name](scale):
            now = cpu_seconds()
            rows.append(replace(row, seconds=max(0.0, now - began)))
            watch(rows[-1])
            began = now
    return rows


def write_json(rows: Iterable[Row], file: Path, *, scale: float = 1.0) -> None:
    """Writes every row with all its figures."""
    found = {"scale": scale, "rows": [row.to_json() for row in rows]}
    file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")

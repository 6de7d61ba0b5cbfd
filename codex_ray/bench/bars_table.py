"""The table that a benchmark with bars ends with."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from codex_ray.bench.bars import Row

WIDEST_TABLE = 124
"""Columns that the table takes at least: words wrap within them."""


def table_of(rows: Sequence[Row], *, scaled: bool, title: str) -> Table:
    """One line for each row; no verdict for what has no bar, or for scaled-down figures."""
    table = Table(title=title, box=SIMPLE)
    table.add_column("what", ratio=3)
    table.add_column("found", ratio=4)
    table.add_column("bar", ratio=4)
    table.add_column("CPU-s", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        verdict = "" if scaled or not row.limited else ("holds" if row.holds else "missed")
        table.add_row(row.name, row.found, row.bar, f"{row.seconds:.1f}", verdict)
    return table

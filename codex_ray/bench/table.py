"""The table that `codex-ray bench secagg` ends with."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from codex_ray.bench.secagg import Row

WIDEST_TABLE = 124
"""Columns that the table takes; a narrower terminal wraps it rather than lose figures."""


def table_of(rows: Sequence[Row], *, scaled: bool) -> Table:
    """One line for each row; scaled-down settings show no bars, for none holds for them."""
    table = Table(title="Secure aggregation, CPU seconds a round", box=SIMPLE)
    table.add_column("setting", no_wrap=True)
    for heading in ("n", "d", "k/t", "CPU-s", "floor", "masking", "ms/client", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("bar", "bar here", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        verdict = "" if scaled else ("holds" if row.holds else "missed")
        table.add_row(
            row.setting,
            f"{row.clients}",
            f"{row.dimension}",
            f"{row.degree}/{row.threshold}",
            f"{row.seconds:.2f}",
            f"{row.floor:.2f}",
            f"{row.masking:.0%}",
            "" if row.client_ms is None else f"{row.client_ms:.1f}",
            "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
            "" if scaled else f"{row.bar:g}",
            "" if scaled else f"{row.bar_here:.1f}",
            verdict if row.exact else "WRONG SUM",
        )
    return table

"""How many runs beside each other look on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from codex_ray.records.run_listing import Comparison, RunLine
from codex_ray.records.status_view import COLOURS, duration, figures_in_words


def runs_table(lines: Sequence[RunLine]) -> Table:
    """A row for each run."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=14)
    table.add_column("state", no_wrap=True)
    table.add_column("rounds", justify="right", no_wrap=True)
    table.add_column("metric", overflow="fold")
    table.add_column("epsilon", no_wrap=True)
    table.add_column("protocol", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for line in lines:
        state = Text(line.state, style=COLOURS.get(line.state, "red"))
        if line.problem is not None:
            table.add_row(line.run, state, "", line.problem, "", "", "", "")
            continue
        table.add_row(
            line.run,
            state,
            f"{line.rounds}/{line.rounds_planned}",
            figures_in_words(line.metrics or {}, shown=1),
            _epsilon(line),
            line.protocol,
            duration(line.seconds),
            (line.model_sha256 or "-")[:8],
        )
    return table


def _epsilon(line: RunLine) -> str:
    if line.largest is None:
        return "no claim" if line.state == "finished" else "-"
    spent, unit = line.largest
    return f"{spent:.3g} a {unit.replace('_', ' ')}"


def counts_in_words(lines: Sequence[RunLine]) -> str:
    """How many runs are in which state."""
    states = [line.state for line in lines]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return ", ".join(parts) or "no runs"


def comparison_table(comparison: Comparison) -> Table:
    """The settings that differ, and below them the results."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for run in comparison.runs:
        table.add_column(run, overflow="fold")
    for key, values in comparison.settings.items():
        table.add_row(key, *(_setting(value) for value in values))
    if not comparison.settings:
        table.add_row("settings", *("the same" for _ in comparison.runs))
    table.add_section()
    for name, values in comparison.results.items():
        table.add_row(Text(name, style="bold"), *(_figure(value) for value in values))
    return table


def _setting(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)[:16]

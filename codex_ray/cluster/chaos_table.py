"""How the findings of chaos look on a terminal."""

from __future__ import annotations

from statistics import median
from typing import Final

from rich.table import Table
from rich.text import Text

from codex_ray.cluster.chaos_findings import BARS, FLAT, Death, Findings
from codex_ray.cluster.kills import WHOM

WIDEST: Final = 110
"""Columns that the widest of the tables takes."""


def death_table(findings: Findings) -> Table:
    """A line for each kill: what, when, and how the run went on."""
    table = Table(box=None)
    for heading in ("kill", "run", "round"):
        table.add_column(heading, justify="right")
    table.add_column("trip")
    table.add_column("killed")
    table.add_column("went on after", justify="right")
    table.add_column("hosts back", justify="right")
    table.add_column("the run ended")
    ends = {run.number: run.differences for run in findings.runs}
    for death in findings.deaths:
        kill = death.kill
        table.add_row(
            str(kill.number),
            str(death.run),
            str(kill.round),
            f"{'after' if kill.after else 'before'} {kill.trip.replace('_', ' ')}",
            kill.in_words,
            _seconds(death.recovered),
            _seconds(death.back),
            _ended(death, ends.get(death.run, ())),
        )
    return table


def recovery_table(findings: Findings) -> Table:
    """Median and worst of each kind, beside its bar."""
    table = Table(box=None)
    table.add_column("killed")
    for heading in ("times", "went on after (median)", "worst", "bar"):
        table.add_column(heading, justify="right")
    for whom in WHOM:
        found, bar = findings.recoveries(whom), BARS.get(whom)
        if not found:
            continue
        worst = Text(f"{max(found):.1f} s")
        if bar is not None and max(found) > bar:
            worst.stylize("red")
        limit = "none" if bar is None else f"{bar:g} s"
        table.add_row(whom, str(len(found)), f"{median(found):.1f} s", worst, limit)
    return table


def growth_table(findings: Findings) -> Table:
    """How the memory of each kind of process grew in a soak."""
    table = Table(box=None)
    table.add_column("memory of")
    for heading in ("processes", "rounds", "MiB in 10 rounds", "worst process", "bar"):
        table.add_column(heading, justify="right")
    for one in findings.growth:
        slope = Text(f"{one.slope:+.3f}", style="" if one.slope < FLAT else "red")
        worst = f"{one.worst:+.3f}"
        table.add_row(one.role, str(one.lives), str(one.rounds), slope, worst, f"{FLAT:g}")
    return table


def verdict(findings: Findings) -> Text:
    """The outcome in a line or a few."""
    model = f"the same model ({findings.model_sha256[:12]}), epsilon and rounds"
    words = f"{findings.survived} of {len(findings.deaths)}: {model}"
    for run in findings.runs:
        words += "".join(f"\nrun {run.number}: {said}" for said in run.differences)
    left = ", ".join(findings.left) or "nothing"
    words += f"\nleft behind: {left}"
    return Text(words, style="green" if findings.ok else "red")


def _seconds(found: float | None) -> str:
    return "-" if found is None else f"{found:.1f} s"


def _ended(death: Death, differences: tuple[str, ...]) -> Text:
    if death.at is None:
        return Text("was never killed", style="red")
    if death.recovered is None:
        return Text("did not go on", style="red")
    return Text("otherwise", style="red") if differences else Text("the same")

"""How the findings of chaos look on a terminal."""

from __future__ import annotations

from statistics import median
from typing import Final

from rich.table import Table
from rich.text import Text

from codex_ray.cluster.chaos_findings import FLAT, Death, Findings
from codex_ray.cluster.kills import WHOM

WIDEST: Final = 120
"""Columns that the widest of the tables takes."""


def death_table(findings: Findings) -> Table:
    """A line for each kill: what, when, and how the run went on."""
    table = Table(box=None)
    for heading in ("kill", "run", "round"):
        table.add_column(heading, justify="right")
    table.add_column("trip")
    table.add_column("killed")
    for heading in ("went on after", "bar", "hosts back"):
        table.add_column(heading, justify="right")
    table.add_column("the run ended")
    ends = {run.number: run.differences for run in findings.runs}
    for death in findings.deaths:
        kill = death.kill
        table.add_row(
            str(kill.number),
            str(death.run),
            str(kill.round),
            f"{'after' if kill.after else 'before'} {kill.trip.replace('_', ' ')}",
            kill.in_words + (", one waits" if death.ready else ""),
            Text(_seconds(death.recovered), style="red" if death.late else ""),
            "none" if death.bar is None else f"{death.bar:g} s",
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
    kinds = [(whom, ready) for whom in WHOM for ready in (None, True, False)]
    for whom, ready in kinds:
        of_it = [it for it in findings.deaths if (it.kill.whom, it.ready) == (whom, ready)]
        found = [it.recovered for it in of_it if it.recovered is not None]
        if not found:
            continue
        worst = Text(f"{max(found):.1f} s", style="red" if any(it.late for it in of_it) else "")
        limit = "none" if of_it[0].bar is None else f"{of_it[0].bar:g} s"
        name = whom + {None: "", True: ", another waits", False: ", none waits yet"}[ready]
        table.add_row(name, str(len(found)), f"{median(found):.1f} s", worst, limit)
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
    bound = [death for death in findings.deaths if death.bar is not None]
    in_time = sum(death.recovered is not None and not death.late for death in bound)
    words += f"\n{in_time} of {len(bound)} that have a bar went on within it"
    for role in findings.untold:
        words += f"\nmemory of the {role}: none lived for long enough to say: give more rounds"
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

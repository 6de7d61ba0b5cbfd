"""How a run that is looked at from another terminal looks there."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from codex_ray.records.run_status import RunStatus

COLOURS = {"running": "green", "finished": "cyan", "stopped": "yellow"}
SHOWN = 6
"""More figures than this are left to --json."""


def status_view(status: RunStatus) -> RenderableType:
    """The run in a few lines: how far, how fast, what it has learnt, and what it has cost."""
    head = Text.assemble(
        (status.run, "bold"), ": ", (status.phase, COLOURS[status.state]), overflow="fold"
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    bar = Table.grid(padding=(0, 1))
    done = f"{status.rounds} of {status.rounds_planned}"
    bar.add_row(done, ProgressBar(status.rounds_planned, status.rounds, width=30))
    table.add_row("rounds", bar)
    for name, words in _lines(status):
        table.add_row(name, words)
    return Group(head, table)


def _lines(status: RunStatus) -> list[tuple[str, str]]:
    """The rest of the view, as (what, how much)."""
    where = f"{status.hosts} Ray hosts" if status.hosts else "one process"
    lines = [("updates", f"{status.protocol or 'unknown protocol'}, in {where}")]
    if status.rounds_per_second is not None and status.state == "running":
        rate = f"{status.rounds_per_second:.3g} rounds/s, {status.clients_per_second:.3g} clients/s"
        if status.seconds_left:
            rate += f", about {duration(status.seconds_left)} left"
        lines.append(("rate", rate))
    if status.since_round is not None and status.state != "finished":
        lines.append(("last round", f"{duration(status.since_round)} ago"))
    if status.underway is not None:
        lines.append(("round under way", status.underway.in_words()))
    if status.metrics:
        after = "" if status.metrics_round is None else f" (after round {status.metrics_round + 1})"
        lines.append(("metrics", figures_in_words(status.metrics) + after))
    lines.append(("epsilon", epsilon_in_words(status)))
    if status.cohort is not None:
        own = "; the coordinator's own, outside the guarantee" if status.hidden else ""
        lines.append(("survivors", f"{status.survivors} of {status.cohort} in the last round{own}"))
        lines.append(("dropouts", _dropped(status)))
    if status.retries or status.aborted:
        lines.append(("trouble", f"{status.retries} retries, {status.aborted} without a sum"))
    lines.append(("time in rounds", duration(status.seconds)))
    if status.field_seconds is not None:
        lines.append(("in the field", f"{duration(status.field_seconds)}, without the server's"))
    if status.model_sha256 is not None:
        lines.append(("model", f"sha256 {status.model_sha256[:16]}"))
    if status.go_on is not None:
        lines.append(("go on with", status.go_on))
    return lines


def figures_in_words(figures: Mapping[str, float], *, shown: int | None = None) -> str:
    """Figures by name, accuracy first; the first `shown` alone, or how many more there are."""
    names = sorted(figures, key=lambda name: (name != "accuracy", name != "auc", name))
    said = [f"{name} {float(figures[name]):.3f}" for name in names[:SHOWN]]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(said + more if shown is None else said[:shown])


def epsilon_in_words(status: RunStatus) -> str:
    """What has been spent so far, of what."""
    parts = [f"{spent:.3f} a {unit.replace('_', ' ')}" for unit, spent in status.epsilon.items()]
    if not parts:
        return "no claim" if status.state == "finished" else "not told yet, or no claim"
    said = ", ".join(parts)
    if status.delta is not None:
        said += f", at delta {status.delta:g}"
    if status.budget is not None:
        said += f", of a budget of {status.budget:g}"
    if status.extrapolated is not None:
        said += f" (a larger run's: {status.extrapolated:.3f})"
    return said


def _dropped(status: RunStatus) -> str:
    total = sum(status.dropped.values())
    if not total:
        return "none"
    stages = ", ".join(f"{stage} {count}" for stage, count in status.dropped.items())
    return f"{total} ({stages}); pair masks rebuilt: {status.masks_recovered}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 3 min 10 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

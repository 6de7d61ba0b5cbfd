"""What a person sees of a sweep: a table that lives while it runs, and the tables at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from codex_ray.records.frontier import Point, setting_in_words
from codex_ray.sweeping.outcome import SweepResult, Trial
from codex_ray.sweeping.rerun import command
from codex_ray.sweeping.settings import Setting

SHOWN = 12
"""Rows of the live table: the trials under way, and the last ones that ended."""
WINNERS = 8
"""Points of the frontier with which the closing table ends; sweep.json has a command for each."""


class LiveTrials:
    """Shows the trials under way: as a table on a terminal, else as a line for each that ends."""

    def __init__(self, console: Console, *, metric: str, planned: int | None) -> None:
        self._console, self._metric, self._planned = console, metric, planned
        self._under_way: dict[int, tuple[Setting, dict[str, Any]]] = {}
        self._last: list[tuple[Setting, Trial]] = []
        self._done = 0
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the table for the block, where there is a terminal."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    def began(self, setting: Setting) -> None:
        """A trial has been handed out."""
        self._under_way[setting.number] = (setting, {})
        self._refresh()

    def told(self, setting: Setting, report: Mapping[str, Any]) -> None:
        """A trial under way has evaluated."""
        self._under_way[setting.number] = (setting, dict(report))
        self._refresh()

    def ended(self, setting: Setting, trial: Trial) -> None:
        """A trial has its result, or failed."""
        self._under_way.pop(setting.number, None)
        self._last.append((setting, trial))
        self._done += 1
        total = "" if self._planned is None else f"/{self._planned}"
        self._console.print(
            f"trial {self._done}{total}: {_label(setting)}: {self._outcome(trial)}",
            soft_wrap=True,
            highlight=False,
        )
        self._refresh()

    def already(self, count: int) -> None:
        """So many trials had ended before this process began."""
        self._done = count

    def _outcome(self, trial: Trial) -> str:
        if trial.error:
            return f"{trial.status}: {trial.error}"
        early = f" (stopped after round {trial.rounds})" if trial.status == "stopped" else ""
        return f"epsilon {trial.epsilon:.3f}, {self._metric} {trial.metric:.3f}{early}"

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self.table())

    def table(self) -> Table:
        """The trials under way, and as many of the last ones that ended as there is room for."""
        total = "?" if self._planned is None else str(self._planned)
        table = Table(title=f"{self._done} of {total} trials ended", title_justify="left")
        for heading in ("trial", "setting", "round", "epsilon", self._metric):
            table.add_column(heading, justify="left" if heading == "setting" else "right")
        room = max(0, SHOWN - len(self._under_way))
        for setting, trial in self._last[-room:] if room else []:
            figures = [_number(trial.epsilon), _number(trial.metric)]
            name = str(trial.rounds) if not trial.error else trial.status
            table.add_row(str(setting.number), _label(setting), name, *figures, style="dim")
        for setting, report in self._under_way.values():
            figures = [_number(report.get(name, math.nan)) for name in ("epsilon", self._metric)]
            at = str(report.get("round", "-"))
            table.add_row(str(setting.number), _label(setting), at, *figures)
        return table


def _label(setting: Setting) -> str:
    values = setting.values if not setting.reference else {"reference": "", **setting.values}
    return setting_in_words(values | {"seed": setting.seed})


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def closing_table(result: SweepResult) -> Table:
    """Every setting by epsilon, with what is not worth its epsilon, and why trials failed."""
    description = result.description
    table = Table(title=description.question or description.name, title_justify="left")
    for key in description.keys:
        table.add_column(key.rpartition(".")[2], justify="right")
    for heading in ("epsilon", description.metric, "+/- s.e."):
        table.add_column(heading, justify="right")
    table.add_column("worth its epsilon?")
    for point in sorted(result.points, key=lambda p: (p.epsilon, -p.score)):
        table.add_row(*_values(result, point.values), *_figures(point), _verdict(result, point))
    for trial in result.trials:
        if trial.status == "stopped":
            said = f"stopped after round {trial.rounds} (seed {trial.seed})"
            figures = (_number(trial.epsilon), _number(trial.metric), "-")
            table.add_row(*_values(result, trial.values), *figures, said, style="dim")
        elif trial.error:
            said = f"{trial.status} (seed {trial.seed}): {trial.error}"
            table.add_row(*_values(result, trial.values), "-", "-", "-", said)
    if (reference := result.reference) is not None:
        blank = [""] * len(description.keys)
        table.add_row(*blank, *_figures(reference), f"reference: {reference.label}", style="italic")
    return table


def _values(result: SweepResult, values: Mapping[str, Any]) -> list[str]:
    return [str(values.get(key, "")) for key in result.description.keys]


def _figures(point: Point) -> tuple[str, str, str]:
    error = f"{point.error:.3f}" if point.error is not None else "-"
    return f"{point.epsilon:.3f}", f"{point.score:.3f}", error


def _verdict(result: SweepResult, point: Point) -> str:
    beaten = result.beaten_by(point)
    if beaten is None:
        larger = result.trial_of(point).extrapolated
        return "yes *" + ("" if larger is None else f" (extrapolated epsilon {larger:.3f})")
    return f"no: {beaten.score:.3f} for epsilon {beaten.epsilon:.3f}"


def best_table(result: SweepResult) -> Table:
    """The frontier from its best score down: what to choose at which epsilon."""
    metric = result.description.metric
    table = Table(title="the best of each epsilon", title_justify="left")
    for heading in ("epsilon", metric, "+/- s.e.", "noise found", "setting"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    for point in list(reversed(result.frontier))[:WINNERS]:
        noise = ", ".join(f"{value:g}" for value in result.trial_of(point).found.values())
        table.add_row(*_figures(point), noise or "-", point.label)
    return table


def winner_in_words(result: SweepResult) -> str:
    """The exact command that runs the best trial again in full, with real secure aggregation."""
    best = result.best
    if best is None:
        return "no trial finished, so there is nothing to choose"
    return (
        f"the best of all, {setting_in_words(best.values | {'seed': best.seed})}, in full with "
        f"secure aggregation:\n{command(result, best)}"
    )

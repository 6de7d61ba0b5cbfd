"""Pictures of `bench train`, `bench round` and `bench scale`, from the rows that they measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from codex_ray.bench.bars import Row
from codex_ray.errors import ConfigError
from codex_ray.records.curves import Panel, Spot, draw_curves, draw_stacks

RATE: Final = ", clients a CPU second"
STAGE: Final = ", CPU s a round"


def plot_train(rows: Sequence[Row], path: Path) -> None:
    """Writes a PNG of every contestant's clients a CPU second, for each model and trainer.

    Raises:
        ConfigError: no row has such figures.
    """
    found: dict[str, list[Spot]] = {}
    shown = [row for row in rows if any(one.what.endswith(RATE) for one in row.figures)]
    for place, row in enumerate(shown):
        values = {one.what: one.value for one in row.figures}
        for what, value in values.items():
            if what.endswith(RATE):
                error = values.get(f"{what}, standard error", 0.0)
                found.setdefault(what.removesuffix(RATE), []).append(Spot(place, value, error))
    names = [row.name for row in shown]
    panel = Panel("Client updates by CPU second", "", "clients a CPU second", found, names)
    _write(path, draw_curves([panel]) if shown else None)


def plot_round(rows: Sequence[Row], path: Path) -> None:
    """Writes a PNG of where the CPU seconds of each round go.

    Raises:
        ConfigError: no row tells of that.
    """
    bars = {}
    for row in rows:
        parts = {
            one.what.removesuffix(STAGE): one.value
            for one in row.figures
            if one.what.endswith(STAGE)
        }
        if parts:
            bars[row.name] = parts
    title = "Where the CPU seconds of a round go (the figure at the right: all of them)"
    _write(path, draw_stacks(bars, title=title, across="share") if bars else None)


def plot_scale(rows: Sequence[Row], path: Path) -> None:
    """Writes a PNG of time and memory by cohort and by population, with standard errors.

    Raises:
        ConfigError: no row tells of that.
    """
    panels = [
        Panel(title, across, up, curves)
        for title, across, up, unit, whats in (
            ("Seconds of a round by cohort", "clients in a round", "seconds", "clients",
             ("CPU s a round", "wall s a round")),
            ("Memory of everybody", "clients in a round", "bytes", "clients",
             ("peak memory, bytes",)),
            ("Seconds of a round by population", "clients in all", "seconds", "population",
             ("CPU s a round", "wall s a round")),
        )
        if (curves := dict(_curves(rows, unit, whats)))
    ]  # fmt: skip
    _write(path, draw_curves(panels) if panels else None)


def _curves(
    rows: Sequence[Row], unit: str, whats: Sequence[str]
) -> Iterator[tuple[str, list[Spot]]]:
    """(name, spots) of each row's figures that are called "N unit, what"."""
    for row in rows:
        values = {one.what: one.value for one in row.figures}
        hosts = values.get("hosts")
        for what in whats:
            spots = []
            for name, value in values.items():
                if at := re.fullmatch(rf"(\d+) {unit}, {re.escape(what)}", name):
                    error = values.get(f"{name}, standard error", math.nan)
                    spots.append(Spot(float(at[1]), value, error))
            if spots:
                ran = "" if hosts is None else f"{row.name.partition(',')[0]}, hosts: {hosts:g}, "
                yield ran + what, spots


def _write(path: Path, picture: bytes | None) -> None:
    """Writes the picture, if there is one.

    Raises:
        ConfigError: there is none, or the file cannot be written.
    """
    if picture is None:
        raise ConfigError("--plot: nothing that was measured can be drawn: leave out --only")
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written: {error.strerror}") from None

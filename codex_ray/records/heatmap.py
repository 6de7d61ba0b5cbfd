"""The heat map of two swept values, noise and clip norm say: what each pair of them scores."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codex_ray.records.frontier import Goal, Point, as_png

WIDE = 20
"""A range with bounds of a larger ratio is drawn in logarithms."""
LISTED = 12
"""An axis with more different values than this was drawn from a range: points, not cells."""


def draw_heatmap(
    points: Sequence[Point],
    *,
    across: str,
    down: str,
    title: str,
    metric: str,
    note: str,
    goal: Goal = "max",
) -> bytes:
    """A PNG of the score over two dotted keys: the best one where other keys vary too.

    Args:
        points: one for each setting.
        across: the key of the horizontal axis.
        down: the key of the vertical axis.
        title: above the picture.
        metric: what the scores are.
        note: below the picture.
        goal: whether more of the metric is better.
    """
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    columns, rows = (values_of(points, key) for key in (across, down))
    if len(columns) <= LISTED and len(rows) <= LISTED:
        shown = _draw_cells(axes, best_cells(points, across, down, goal=goal), columns, rows)
    else:
        x, y = ([float(p.values[key]) for p in points] for key in (across, down))
        shown = axes.scatter(x, y, c=[p.score for p in points], cmap="viridis", s=60)
        if min(x) > 0 and max(x) > WIDE * min(x):
            axes.set_xscale("log")
        if min(y) > 0 and max(y) > WIDE * min(y):
            axes.set_yscale("log")
    axes.set(xlabel=across, ylabel=down)
    others = sorted({key for p in points for key in p.values} - {across, down})
    label = f"{metric}, best of {', '.join(others)}" if others else metric
    figure.colorbar(shown, ax=axes, label=label)
    axes.set_title(fill(title, 70), fontsize=11)
    return as_png(figure, note=note)


def values_of(points: Sequence[Point], key: str) -> list[Any]:
    """The different values of a key, in increasing order where they have one."""
    found = {repr(p.values[key]): p.values[key] for p in points}
    try:
        return sorted(found.values())
    except TypeError:
        return list(found.values())


def best_cells(
    points: Sequence[Point], across: str, down: str, *, goal: Goal
) -> dict[tuple[str, str], Point]:
    """The best point for each pair of values, by how they are written."""
    sign = 1 if goal == "max" else -1
    cells: dict[tuple[str, str], Point] = {}
    for point in points:
        place = repr(point.values[across]), repr(point.values[down])
        if place not in cells or sign * point.score > sign * cells[place].score:
            cells[place] = point
    return cells


def _draw_cells(
    axes: Axes, cells: dict[tuple[str, str], Point], columns: list[Any], rows: list[Any]
) -> Any:
    grid = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if (point := cells.get((repr(column), repr(row)))) is not None:
                grid[i, j] = point.score
    shown = axes.imshow(grid, origin="lower", aspect="auto", cmap="viridis")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for i, j in np.argwhere(np.isfinite(grid)):
        point = cells[repr(columns[j]), repr(rows[i])]
        epsilon = f"\neps {point.epsilon:.2g}" if np.isfinite(point.epsilon) else ""
        color = "white" if grid[i, j] <= middle else "black"
        said = f"{point.score:.3f}{epsilon}"
        axes.text(j, i, said, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(columns)), [str(value) for value in columns])
    axes.set_yticks(range(len(rows)), [str(value) for value in rows])
    return shown

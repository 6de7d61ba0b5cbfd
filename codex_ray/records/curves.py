"""Measurements as pictures: curves with error bars on logarithmic axes, and stacks of shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Spot:
    """One measurement, and how far it may be off on either side."""

    x: float
    y: float
    error: float = 0.0


@dataclass(frozen=True)
class Panel:
    """Curves that share axes.

    Attributes:
        title, across, up: the words at the top and at the axes.
        curves: spots by name.
        labels: names of the places 0, 1, ... on the x axis, where it has no scale.
    """

    title: str
    across: str
    up: str
    curves: Mapping[str, Sequence[Spot]]
    labels: Sequence[str] = ()


def draw_curves(panels: Sequence[Panel]) -> bytes:
    """A PNG with the panels side by side; every axis that has a scale is logarithmic."""
    count = max(1, len(panels))
    figure = Figure(figsize=(5.4 * count, 4.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, count, squeeze=False)[0], panels, strict=False):
        _draw(axes, panel)
    return _png(figure)


def _draw(axes: Axes, panel: Panel) -> None:
    for name, spots in panel.curves.items():
        axes.errorbar(
            [spot.x for spot in spots],
            [spot.y for spot in spots],
            yerr=[0.0 if math.isnan(spot.error) else spot.error for spot in spots],
            fmt="o" if panel.labels else "o-",
            capsize=4,
            label=name,
        )
    axes.set_yscale("log")
    if panel.labels:
        axes.set_xticks(range(len(panel.labels)), [fill(one, 12) for one in panel.labels])
    else:
        axes.set_xscale("log")
    axes.set(xlabel=panel.across, ylabel=panel.up)
    axes.set_title(fill(panel.title, 60), fontsize=10)
    axes.grid(alpha=0.3, which="both")
    if panel.curves:
        axes.legend(frameon=False, fontsize=8)


def draw_stacks(bars: Mapping[str, Mapping[str, float]], *, title: str, across: str) -> bytes:
    """A PNG of one horizontal bar for each name, made of its parts' shares of the whole.

    The whole is written at the end of each bar, as shares alone say nothing of it.
    """
    figure = Figure(figsize=(9, 1.4 + 0.45 * max(1, len(bars))), layout="constrained")
    axes = figure.subplots()
    parts = list(dict.fromkeys(part for stack in bars.values() for part in stack))
    names = list(bars)
    wholes = [sum(bars[name].values()) or 1.0 for name in names]
    left = [0.0] * len(names)
    for part in parts:
        shares = [bars[name].get(part, 0.0) / w for name, w in zip(names, wholes, strict=True)]
        axes.barh(names, shares, left=left, label=part)
        left = [at + share for at, share in zip(left, shares, strict=True)]
    for place, name in enumerate(names):
        axes.text(1.01, place, f"{sum(bars[name].values()):.3g}", va="center", fontsize=8)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xlabel(across)
    axes.set_title(fill(title, 90), fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    return buffer.getvalue()

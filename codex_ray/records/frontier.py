"""The privacy-utility frontier: which settings no other one beats in both epsilon and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import fill
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

Goal = Literal["max", "min"]
Corner = Literal["lower right", "upper right"]
LABELLED = 12
"""A frontier of more points than this is drawn without their settings, which would overlap."""


def setting_in_words(values: Mapping[str, Any]) -> str:
    """The last part of each dotted key, and its value."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())


@dataclass(frozen=True)
class Point:
    """One setting: its epsilon, its mean score over seeds, and the standard error of that mean."""

    values: Mapping[str, Any]
    epsilon: float
    score: float
    error: float | None

    @classmethod
    def of(cls, *, values: Mapping[str, Any], epsilon: float, scores: Sequence[float]) -> Point:
        """The point of a setting that was run once for each of `scores`."""
        error = float(np.std(scores, ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else None
        return cls(values, epsilon, float(np.mean(scores)), error)

    @property
    def label(self) -> str:
        """The setting in a few words."""
        return setting_in_words(self.values)


def frontier_of(points: Sequence[Point], *, goal: Goal = "max") -> list[Point]:
    """The points that no other one dominates, by increasing epsilon and so by better score."""
    sign = 1 if goal == "max" else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.epsilon, -sign * p.score)):
        if not best or sign * point.score > sign * best[-1].score:
            best.append(point)
    return best


def beaten_by(point: Point, frontier: Sequence[Point], *, goal: Goal = "max") -> Point | None:
    """The best point of `frontier` that costs no more; None where that is the point itself."""
    sign = 1 if goal == "max" else -1
    if point in frontier:
        return None
    affordable = [other for other in frontier if other.epsilon <= point.epsilon]
    return max(affordable, key=lambda other: sign * other.score, default=None)


def draw_frontier(
    points: Sequence[Point],
    *,
    title: str,
    metric: str,
    note: str,
    goal: Goal = "max",
    reference: Point | None = None,
) -> bytes:
    """A PNG of the metric against epsilon (log scale) with error bars and the frontier.

    Args:
        points: one for each setting; those without a finite epsilon are left out.
        title: above the picture.
        metric: what the scores are.
        note: below the picture: how the choice among the points is treated.
        goal: whether more of the metric is better.
        reference: a setting to compare with, drawn as a line: what no noise would give.
    """
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.subplots()
    finite = [p for p in points if np.isfinite(p.epsilon)]
    best = frontier_of(finite, goal=goal)
    axes.plot(
        [p.epsilon for p in best], [p.score for p in best], color="#1b6ca8", lw=2, label="frontier"
    )
    beaten, worth = "another setting does better", "a setting worth its epsilon"
    _draw_points(axes, [p for p in finite if p not in best], color="#aaaaaa", label=beaten)
    _draw_points(axes, best, color="#1b6ca8", label=f"{worth} (mean, standard error over seeds)")
    if reference is not None:
        said = f"{reference.label}: {reference.score:.3f}"
        axes.axhline(reference.score, color="#b8442b", ls="--", lw=1, label=said)
        spread = reference.error or 0.0
        axes.axhspan(
            reference.score - spread, reference.score + spread, color="#b8442b", alpha=0.12, lw=0
        )
    for point in best if len(best) <= LABELLED else []:
        axes.annotate(
            point.label,
            (point.epsilon, point.score),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    corner: Corner = "lower right" if goal == "max" else "upper right"
    _dress(axes, title=title, metric=metric, legend=corner)
    return as_png(figure, note=note)


def _draw_points(axes: Axes, points: Sequence[Point], *, color: str, label: str) -> None:
    axes.errorbar(
        [p.epsilon for p in points],
        [p.score for p in points],
        yerr=[p.error or 0.0 for p in points],
        fmt="o",
        color=color,
        capsize=3,
        label=label,
    )


def _dress(axes: Axes, *, title: str, metric: str, legend: Corner) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.12)
    for axis_format in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_format(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.set(xlabel="epsilon", ylabel=f"{metric} on the pooled test set")
    axes.set_title(fill(title, 80), fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc=legend, frameon=False, fontsize=8)


def as_png(figure: Figure, *, note: str) -> bytes:
    """The figure as a PNG with `note` below it."""
    figure.text(0.01, -0.01, fill(note, 110), fontsize=7, va="top", color="#666")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    return buffer.getvalue()

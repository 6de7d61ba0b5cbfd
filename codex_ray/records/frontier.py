"""The privacy-utility frontier: which settings no other one beats in both epsilon and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter


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


def frontier_of(points: Sequence[Point]) -> list[Point]:
    """The points that no other one dominates, by increasing epsilon and so by increasing score."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.epsilon, -p.score)):
        if not best or point.score > best[-1].score:
            best.append(point)
    return best


def draw_frontier(points: Sequence[Point], *, title: str, metric: str, note: str) -> bytes:
    """A PNG of the metric against epsilon (log scale) with error bars and the frontier."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.subplots()
    finite = [p for p in points if np.isfinite(p.epsilon)]
    best = frontier_of(finite)
    axes.plot(
        [p.epsilon for p in best], [p.score for p in best], color="#1b6ca8", lw=2, label="frontier"
    )
    for shown, color, label in (
        ([p for p in finite if p not in best], "#aaaaaa", "another setting does better"),
        (best, "#1b6ca8", "a setting worth its epsilon (mean, standard error over seeds)"),
    ):
        axes.errorbar(
            [p.epsilon for p in shown],
            [p.score for p in shown],
            yerr=[p.error or 0.0 for p in shown],
            fmt="o",
            color=color,
            capsize=3,
            label=label,
        )
    for point in best:
        axes.annotate(
            point.label,
            (point.epsilon, point.score),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.12)
    for axis_format in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_format(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.set(xlabel="epsilon", ylabel=f"{metric} on the pooled test set")
    axes.set_title(fill(title, 80), fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    figure.text(0.01, -0.01, fill(note, 110), fontsize=7, va="top", color="#666")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    return buffer.getvalue()

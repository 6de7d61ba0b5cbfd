"""Means with their errors as dots, a panel for each figure: which of several is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codex_ray.records.frontier import as_png


@dataclass(frozen=True)
class Mean:
    """A mean, and its standard error on either side."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Dots:
    """One panel.

    Attributes:
        across: what the figures are.
        groups: means by the name of their line, by what they have in common.
        marks: figures of others, as vertical lines, by name.
    """

    across: str
    groups: Mapping[str, Mapping[str, Mean]]
    marks: Mapping[str, float]


def draw_means(panels: Sequence[Dots], *, title: str, note: str) -> bytes:
    """A PNG with the panels side by side; lines have the same order in all of them."""
    lines = list(dict.fromkeys(name for one in panels for it in one.groups.values() for name in it))
    figure = Figure(
        figsize=(1.5 + 4.2 * len(panels), 1.8 + 0.34 * len(lines)), layout="constrained"
    )
    for axes, panel in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True
    ):
        _draw(axes, panel, lines)
    figure.suptitle(fill(title, 110), fontsize=11)
    return as_png(figure, note=note)


def _draw(axes: Axes, panel: Dots, lines: Sequence[str]) -> None:
    aside = 0.5 / max(1, len(panel.groups))
    for number, (group, means) in enumerate(panel.groups.items()):
        shift = (number - (len(panel.groups) - 1) / 2) * aside
        axes.errorbar(
            [mean.value for mean in means.values()],
            [lines.index(name) + shift for name in means],
            xerr=[mean.error for mean in means.values()],
            fmt="o",
            ms=4,
            capsize=2,
            label=group,
        )
    for number, (name, value) in enumerate(panel.marks.items()):
        style = ("--", ":", "-.")[number % 3]
        axes.axvline(value, color="#888", ls=style, lw=1, label=f"{name}: {value:g}")
    axes.set_yticks(range(len(lines)), lines, fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel(panel.across)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))

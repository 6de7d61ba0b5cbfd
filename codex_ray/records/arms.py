"""Arms of a comparison beside each other: means with their standard errors, group by group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from textwrap import fill

from matplotlib.figure import Figure

WIDTH = 0.6
"""Share of the room between two groups that the arms of one take."""


def draw_arms(
    groups: Sequence[str],
    arms: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    metric: str,
) -> bytes:
    """A PNG of each arm's (mean, standard error) in every group, in the order of the groups.

    Raises:
        ValueError: an arm has more or fewer points than there are groups.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    step = WIDTH / max(1, len(arms) - 1)
    for number, (name, points) in enumerate(arms.items()):
        if len(points) != len(groups):
            raise ValueError(f"arm {name} has {len(points)} points for {len(groups)} groups")
        errors = [0.0 if math.isnan(error) else error for _, error in points]
        axes.errorbar(
            [at + number * step - WIDTH / 2 for at in range(len(groups))],
            [mean for mean, _ in points],
            yerr=errors,
            fmt="o",
            capsize=4,
            label=name,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylabel(f"{metric}, mean and standard error")
    axes.set_title(fill(title, 80), fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()

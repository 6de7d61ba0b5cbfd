"""What clients are asked for before a run, so that their figures can be summed.

A question says all that an answer depends on but for the records, and is text wherever it travels.
The answer to each is one vector of whole numbers, of which the server sees the sum alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from codex_ray.data.column_statistics import Counts, Floats, cells, histogram
from codex_ray.errors import DataError
from codex_ray.types import Component


class Count(Component):
    """How many values a client has in each column."""

    kind: Literal["count"] = "count"
    most: int = Field(ge=1, description="More than this a sum over all clients has no room for.")

    def of(self, points: Floats) -> Counts:
        """The answer [m] of whoever has these values [n, m]; NaN where one is missing.

        Raises:
            DataError: there are too many.
        """
        found: Counts = (~np.isnan(points)).sum(axis=0).astype(np.int64)
        if found.max(initial=0) > self.most:
            raise DataError(
                f"a client has more than {self.most} records, which no sum over all clients has "
                "room for: set data.prepare.scaling to fixed"
            )
        return found


class Total(Component):
    """What its values come to, or their squares about a mean that is known by now."""

    kind: Literal["total"] = "total"
    step: float = Field(gt=0, description="What a one of the answer stands for.")
    mean: tuple[float, ...] | None = None

    def of(self, points: Floats) -> Counts:
        """The answer [m] of whoever has these values [n, m]; NaN where one is missing."""
        values = points if self.mean is None else (points - np.array(self.mean)) ** 2
        total = np.where(np.isnan(values), 0.0, values).sum(axis=0)
        found: Counts = np.rint(total / self.step).astype(np.int64)
        return found


class Histogram(Component):
    """How many values lie in each cell of each column's range, or in each part of one cell."""

    kind: Literal["histogram"] = "histogram"
    bins: int = Field(ge=2)
    divided: tuple[tuple[int, ...], ...] = Field(
        default=(), description="Cells [q, m] that are divided into as many parts again."
    )

    def of(self, points: Floats) -> Counts:
        """The answer [m bins], or [q m bins], of whoever has these values [n, m]."""
        places = cells(points, self.bins * self.bins)
        if not self.divided:
            return histogram(np.where(places < 0, -1, places // self.bins), self.bins).ravel()
        parts = [
            np.where(places < 0, -1, places - np.array(cell) * self.bins) for cell in self.divided
        ]
        return np.concatenate([histogram(part, self.bins).ravel() for part in parts])


class Shown(Component):
    """The figures themselves, with the noise that the run's claim needs."""

    kind: Literal["shown"] = "shown"


Whole: TypeAlias = Count | Total | Histogram
"""Questions whose exact answers are summed."""
Question: TypeAlias = Annotated[Whole | Shown, Field(discriminator="kind")]

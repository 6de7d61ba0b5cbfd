"""Measured figures, each held against the limits that a bar sets it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number, and the range in which it has to lie; no limits for one that is only told."""

    what: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        """Whether it lies within its limits; what is no number does not."""
        return self.low <= self.value <= self.high

    @property
    def limited(self) -> bool:
        """Whether the bar says anything about it."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    def to_json(self) -> dict[str, Any]:
        """The figure as plain data: null for a limit that there is not, text for no number."""
        found = asdict(self) | {"holds": self.holds}
        for limit in ("low", "high"):
            if not math.isfinite(found[limit]):
                found[limit] = None
        if not math.isfinite(self.value):
            found["value"] = str(self.value)
        return found


@dataclass(frozen=True)
class Row:
    """One bar and what was found.

    Attributes:
        name: what was measured.
        found: the finding, in a few words.
        bar: what has to be, in words and numbers.
        figures: every number that the finding rests on.
        seconds: CPU seconds that it took.
    """

    name: str
    found: str
    bar: str
    figures: tuple[Figure, ...]
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every figure is within its limits, and at least one has any."""
        return self.limited and all(one.holds for one in self.figures)

    @property
    def limited(self) -> bool:
        """Whether its bar says anything about any figure."""
        return any(one.limited for one in self.figures)

    def to_json(self) -> dict[str, Any]:
        """The row as plain data, with its verdict: null where nothing is asked of it."""
        return {
            "name": self.name,
            "found": self.found,
            "bar": self.bar,
            "holds": self.holds if self.limited else None,
            "seconds": round(self.seconds, 3),
            "figures": [one.to_json() for one in self.figures],
        }


def near(what: str, value: float, bar: float, *, within: float) -> Figure:
    """A figure that may be `within` so much of the bar, on either side."""
    return Figure(what, value, bar - within, bar + within)


def near_share(what: str, value: float, bar: float, *, share: float) -> Figure:
    """A figure that may be off by this share of the bar, on either side."""
    return near(what, value, bar, within=share * abs(bar))


def at_most(what: str, value: float, bar: float) -> Figure:
    """A figure that may not be above the bar."""
    return Figure(what, value, high=bar)


def at_least(what: str, value: float, bar: float) -> Figure:
    """A figure that may not be below the bar."""
    return Figure(what, value, low=bar)


def fewer(count: int, scale: float, *, least: int) -> int:
    """`count` times the scale, but `least` in any case: repeats of a scaled-down measurement."""
    return count if scale >= 1 else max(least, round(count * scale))


def held(figures: Sequence[Figure]) -> str:
    """How many of the limited figures are within their limits, in words."""
    limited = [one for one in figures if one.limited]
    return f"{sum(one.holds for one in limited)} of {len(limited)}"

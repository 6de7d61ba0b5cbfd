"""The search space: lists of values, and ranges from which values are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

from pydantic import Field, model_validator

from codex_ray.randomness import Randomness
from codex_ray.types import Component

DIGITS: Final = 6
"""Significant digits of a drawn number, so that a table and a command line can hold all of it."""


class Range(Component):
    """Numbers between two bounds: exactly one of the fields says how they are spread."""

    uniform: tuple[float, float] | None = Field(default=None, description="Evenly.")
    log_uniform: tuple[float, float] | None = Field(
        default=None, description="Evenly in the logarithm; both bounds are positive."
    )
    integers: tuple[int, int] | None = Field(
        default=None, description="Whole numbers, evenly, both bounds included."
    )

    @model_validator(mode="after")
    def _one_range(self) -> Range:
        given = [pair for pair in (self.uniform, self.log_uniform, self.integers) if pair]
        if len(given) != 1:
            raise ValueError(
                "space: a range is one of uniform, log_uniform and integers: write, for example, "
                "{log_uniform: [0.01, 1]}"
            )
        low, high = given[0]
        if not low < high:
            raise ValueError(f"space: [{low:g}, {high:g}] is no range: write the lower bound first")
        if self.log_uniform and low <= 0:
            raise ValueError(f"space: log_uniform from {low:g}: both bounds must be positive")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        found = self.uniform or self.log_uniform or self.integers
        assert found is not None  # The validator saw one.
        return found

    @property
    def logarithmic(self) -> bool:
        """Whether it is the logarithm that is spread evenly."""
        return self.log_uniform is not None

    def at(self, share: float) -> float | int:
        """The value below which this share (0 to 1) of the range lies, to six digits."""
        low, high = self.bounds
        if self.integers:
            return int(min(high, low + math.floor(share * (high - low + 1))))
        if self.log_uniform:
            return in_digits(low * (high / low) ** share)
        return in_digits(low + share * (high - low))


def in_digits(value: float) -> float:
    """`value` with as many digits as a table shows."""
    return float(f"{value:.{DIGITS}g}")


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last key's changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def drawn(
    grid: Mapping[str, Sequence[Any]], space: Mapping[str, Range], *, seed: int, number: int
) -> dict[str, Any]:
    """The setting that a random search tries as its `number`-th (from 0), whatever came before.

    Each key is drawn on its own and with replacement, from a stream that bears the number.
    """
    stream = Randomness.of(seed).public.stream("sweep", "setting", number)
    shares = stream.uniform(len(grid) + len(space))
    values: dict[str, Any] = {}
    for share, (key, choices) in zip(shares, grid.items(), strict=False):
        values[key] = choices[int(share * len(choices))]
    for share, (key, bounds) in zip(shares[len(grid) :], space.items(), strict=True):
        values[key] = bounds.at(float(share))
    return values


def corners(grid: Mapping[str, Sequence[Any]], space: Mapping[str, Range]) -> list[dict[str, Any]]:
    """A few settings that name every value of a list and both ends of every range.

    They are what can be checked of a space whose settings are not known beforehand.
    """
    longest = max([2, *(len(choices) for choices in grid.values())])
    return [
        {key: choices[min(number, len(choices) - 1)] for key, choices in grid.items()}
        | {key: bounds.at(min(number, 1)) for key, bounds in space.items()}
        for number in range(longest)
    ]

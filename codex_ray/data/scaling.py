"""Features scaled to [-1, 1] by public ranges, never by statistics of the private records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError


def _text_keys(ranges: object) -> object:
    """The ranges under names that are text: YAML reads the number of a column as an integer."""
    return (
        {str(name): pair for name, pair in ranges.items()}
        if isinstance(ranges, Mapping)
        else ranges
    )


def _not_empty(ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The ranges, at least one, each with its low end below its high end."""
    if not ranges:
        raise ConfigError("data.ranges names no feature: give at least one, as name: [low, high]")
    for name, (low, high) in ranges.items():
        if not low < high:
            raise ConfigError(
                f"data.ranges.{name}: the range [{low:g}, {high:g}] is empty: write the lower end "
                "first, and a higher one second"
            )
    return ranges


Ranges = Annotated[
    dict[str, tuple[float, float]], BeforeValidator(_text_keys), AfterValidator(_not_empty)
]
"""Feature name -> public range, as a component carries it; its order is that of the features."""


@dataclass(frozen=True)
class PublicScaling:
    """Which columns become features, and the public range that each is scaled by and clipped to."""

    columns: tuple[int, ...]
    low: npt.NDArray[np.float64]  # [d]
    high: npt.NDArray[np.float64]  # [d]

    @classmethod
    def of(
        cls, ranges: Mapping[str, tuple[float, float]], names: Sequence[str], *, where: str
    ) -> PublicScaling:
        """The scaling of the features in `ranges`, in their order, among the columns of `where`.

        Raises:
            ConfigError: a range names no column; the message proposes the nearest one.
        """
        for name in ranges:
            if name not in names:
                raise ConfigError(
                    f"data.ranges.{name}: {where} has no such feature: {did_you_mean(name, names)}"
                )
        ends = np.array(list(ranges.values()), dtype=np.float64).reshape(-1, 2)
        return cls(tuple(names.index(name) for name in ranges), ends[:, 0], ends[:, 1])

    def scale(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Chosen columns [n, d] of raw `values`, low ends to -1, high ends to 1, clipped."""
        scaled = 2.0 * (values - self.low) / (self.high - self.low) - 1.0
        return np.clip(scaled, -1.0, 1.0).astype(np.float32)

"""How updates become words of the sum: what an experiment chooses, whatever the mechanism."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from codex_ray.types import WORD_BITS, Component


class Encoding(Component):
    """How updates become words of the sum; the defaults suit any cohort and cost 4 bytes a word."""

    bits: int = Field(
        default=WORD_BITS,
        ge=16,
        le=32,
        description="Sums are modulo 2^bits; 16 halves what is masked and sent.",
    )
    rounding: Literal["nearest", "stochastic"] = Field(
        default="nearest", description="Stochastic rounding has no bias, on however coarse a grid."
    )
    rotate: bool = Field(
        default=False,
        description="Spread each update evenly over its coordinates first, so that few levels do.",
    )
    headroom: float = Field(
        default=6.0,
        ge=3,
        le=12,
        description="Standard deviations of a rotated coordinate that the grid has room for.",
    )

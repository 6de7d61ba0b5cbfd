"""What became of per-example gradients: how many were shortened, and how many were no numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clipping:
    """What became of the examples: a figure for debugging, outside every guarantee.

    Attributes:
        examples: how many met in the batches.
        clipped: how many of them were longer than the clip norm.
        not_finite: how many counted as zero, because their gradient was not finite.
    """

    examples: int = 0
    clipped: int = 0
    not_finite: int = 0

    def __add__(self, other: Clipping) -> Clipping:
        return Clipping(
            self.examples + other.examples,
            self.clipped + other.clipped,
            self.not_finite + other.not_finite,
        )

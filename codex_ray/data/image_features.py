"""What a model sees of an image: its pixels, or how strongly its edges run in each direction.

Either is computed from the one image alone, by a rule that was fixed before anyone saw the data. So
it costs no privacy, and a client computes it for itself. Features that need not be learnt leave
fewer parameters for the noise to fall on (Tramer & Boneh 2021, "Differentially Private Learning
Needs Better Features").
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.types import Component

Floats = npt.NDArray[np.float32]

_CHUNK = 250
_GRID = 1024.0
_FLAT = 1e-6


class Pixels(Component):
    """Grey levels, as they are or averaged over square blocks."""

    kind: Literal["pixels"] = "pixels"
    block: int = Field(
        default=1, ge=1, description="Side of the squares that are averaged into one pixel."
    )

    def of(self, images: npt.NDArray[np.uint8]) -> Floats:
        """Features [n, 1, rows / block, columns / block] of images [n, rows, columns].

        Raises:
            ConfigError: an image is no whole number of blocks.
        """
        count, rows, columns = images.shape
        if rows % self.block or columns % self.block:
            raise ConfigError(
                f"data.features.block is {self.block}, which does not divide images of {rows} x "
                f"{columns}: choose a divisor of both"
            )
        tall, wide = rows // self.block, columns // self.block
        blocks = images.reshape(count, tall, self.block, wide, self.block)
        return standardised(blocks.mean(axis=(2, 4), dtype=np.float32)[:, None])


class Gradients(Component):
    """Histograms of oriented gradients over overlapping cells (Dalal & Triggs 2005).

    Each pixel's gradient is shared between the two nearest directions, and the square root of its
    mean over a cell is a feature: a stroke counts by its course more than by its blackness.
    """

    kind: Literal["gradients"] = "gradients"
    directions: int = Field(8, ge=2, description="Into how many the full circle is divided.")
    cell: int = Field(8, ge=1, description="Side of a cell in pixels.")
    stride: int = Field(5, ge=1, description="Pixels from one cell to the next.")

    def of(self, images: npt.NDArray[np.uint8]) -> Floats:
        """Features [n, directions, cells down, cells across] of images [n, rows, columns].

        Raises:
            ConfigError: the cells do not end where the image ends.
        """
        count, *sides = images.shape
        for side in sides:
            if side < self.cell or (side - self.cell) % self.stride:
                raise ConfigError(
                    f"data.features: cells of {self.cell} pixels every {self.stride} do not cover "
                    f"images of {sides[0]} x {sides[1]}: choose them so that (side - cell) is a "
                    "multiple of stride"
                )
        # A few at a time: the directions of all images at once would take gigabytes.
        parts = [self._of(images[start : start + _CHUNK]) for start in range(0, count, _CHUNK)]
        empty = np.empty((0, self.directions, *map(self._cells, sides)), np.float32)
        return np.concatenate([empty, *parts])

    def _cells(self, side: int) -> int:
        return (side - self.cell) // self.stride + 1

    def _of(self, images: npt.NDArray[np.uint8]) -> Floats:
        framed = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
        across = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
        down = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
        length = np.sqrt(across**2 + down**2)
        turn = np.arctan2(down, across) * np.float32(self.directions / (2 * np.pi))
        lower = np.floor(turn)
        upper_part = length * (turn - lower)
        lower_part = length - upper_part
        nearest = lower.astype(np.int16) % self.directions
        shares = np.zeros((self.directions, *length.shape), np.float32)
        for direction in range(self.directions):
            here = nearest == direction
            shares[direction] += lower_part * here
            shares[(direction + 1) % self.directions] += upper_part * here
        return standardised(np.sqrt(self._means(shares)).swapaxes(0, 1))

    def _means(self, values: Floats) -> Floats:
        """The mean of values [..., rows, columns] over each cell [..., cells down, across]."""
        for axis in (-1, -2):
            windows = np.lib.stride_tricks.sliding_window_view(values, self.cell, axis=axis)
            chosen: list[slice] = [slice(None)] * values.ndim
            chosen[axis] = slice(None, None, self.stride)
            values = windows[tuple(chosen)].mean(axis=-1)
        return values


ImageFeatures = Annotated[Pixels | Gradients, Field(discriminator="kind")]


def standardised(features: Floats) -> Floats:
    """Features [n, ...] of which each record has, by itself, mean 0 and variance 1; 0 where flat.

    They are rounded to a grid, which hides the last bits of a machine's mathematics.
    """
    axes = tuple(range(1, features.ndim))
    features = features.astype(np.float64)
    centred = features - features.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, axis=axes, keepdims=True))
    scaled = centred / np.maximum(deviation, _FLAT)
    rounded: Floats = (np.rint(scaled * _GRID) / _GRID).astype(np.float32)
    return rounded

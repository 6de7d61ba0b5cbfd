"""What the first pass keeps of every record: a byte or two for each column that decides groups.

Memory of a preparation, for each record: the bytes of `width` for every quasi-identifier, sensitive
column and label (1 for up to 254 values, 2 to 65 534, else 4; 8 for a number), 1 for every column
that may lack a value, and 32 at the most: three hashes and what looks for repeats among them, and,
when those are given back, who holds it and which class it falls into. Where one pool is dealt out
it is up to 16 more. Besides them one block of the source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from codex_ray.preparation.cells import Cells
from codex_ray.preparation.column import Column

Compact = npt.NDArray[Any]


@dataclass(frozen=True)
class Coding:
    """How a column is kept: as the place in its values or range, or as the number itself.

    Attributes:
        column: its rules.
        start: what code 0 stands for, where codes count along a range.
        size: how many codes there are; code `size` is no value. 0: numbers as they are.
    """

    column: Column
    start: float
    size: int

    @classmethod
    def of(cls, column: Column) -> Coding:
        """The coding of a category, a flag or something with a range."""
        if column.type in ("category", "flag"):
            return cls(column, 0.0, len(column.options))
        if column.type == "number":
            return cls(column, 0.0, 0)
        low, high = column.ends
        return cls(column, np.ceil(low), int(np.floor(high) - np.ceil(low)) + 1)

    @property
    def width(self) -> np.dtype[np.generic]:
        """The type of a code."""
        if not self.size:
            return np.dtype(np.float64)
        return np.min_scalar_type(self.size)

    def encode(self, values: Cells) -> Compact:
        """Checked values [n] as codes [n]."""
        assert not isinstance(values, pa.Array)
        if not self.size:
            return values
        if values.dtype.kind == "i":
            return np.where(values < 0, self.size, values).astype(self.width)
        shifted = np.where(np.isnan(values), self.size, values - self.start)
        return shifted.astype(self.width)

    def missing(self, codes: Compact) -> npt.NDArray[np.bool_]:
        """Where there is no value."""
        return codes == self.size if self.size else np.isnan(codes)

    def number(self, codes: Compact) -> npt.NDArray[np.float64]:
        """The numbers that the codes of a column on a line stand for."""
        return codes.astype(np.float64) + self.start


@dataclass
class Growing:
    """An array that grows batch by batch, in place: pieces and their whole would take it twice."""

    held: bytearray = field(default_factory=bytearray)
    kind: np.dtype[Any] | None = None

    def add(self, piece: Compact) -> None:
        """Appends a piece [n], of the type of the first."""
        assert self.kind is None or self.kind == piece.dtype
        self.kind = piece.dtype
        self.held += np.ascontiguousarray(piece).data

    def whole(self) -> Compact:
        """Everything that was added, which is then forgotten."""
        made = np.frombuffer(self.held, np.float64 if self.kind is None else self.kind)
        self.held = bytearray()
        return made

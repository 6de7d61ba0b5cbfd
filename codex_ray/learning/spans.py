"""Lanes that have as many rows as they need, end to end: whose rows are whose, and their products.

Batches of random size would be padded to the longest, and what is done to padding is done for
nothing. So on a CPU, where every lane's products are calls of their own anyway, values are
[1, rows, ...] with the rows of all lanes one after the other. Each lane's product is a call on its
own rows, which start where memory is aligned: it has the same bits whatever the other lanes hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

ALIGNED = 64
"""Bytes at a multiple of which every factor of a product starts: how sums are ordered there depends
on where their terms lie in memory, and must not depend on the lane."""


@dataclass(frozen=True)
class Spans:
    """Which rows are whose.

    Attributes:
        lengths: how many rows each lane has.
        lane_of: the lane of each row [rows].
    """

    lengths: tuple[int, ...]
    lane_of: torch.Tensor

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Spans:
        """The spans of lanes with so many rows."""
        owners = np.repeat(np.arange(len(lengths)), lengths)
        return cls(tuple(lengths), torch.from_numpy(owners))

    def cut(self, value: torch.Tensor, each: int = 1) -> Sequence[torch.Tensor]:
        """The rows of every lane, views of `value` [rows * each, ...]."""
        return torch.split(value, [length * each for length in self.lengths])

    def product(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        each: int = 1,
    ) -> torch.Tensor:
        """left @ right + bias of each lane [1, rows, n], in float32.

        Args:
            left: [1, rows * each, k].
            right: [lanes, k, n].
            bias: [lanes, 1, n].
            each: rows of `left` for a row of a batch.
        """
        left = aligned_rows(left[0])
        out = row_room(len(left), right.shape[2])
        lanes = zip(
            self.lengths, self.cut(out, each), self.cut(left, each), right.unbind(), strict=True
        )
        for length, into, rows, weights in lanes:
            if length and left.dtype == torch.float32:
                torch.mm(rows, weights, out=into)
            elif length:
                into.copy_(torch.mm(rows, weights))
        if bias is not None:
            own = bias.index_select(0, self.lane_of)
            out.view(len(own), each, -1).add_(own)
        return out[None]

    def add_product(
        self,
        to: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        *,
        rate: float,
        out: torch.Tensor,
        each: int = 1,
    ) -> None:
        """Puts `to` + rate * left^T @ right into `out` [lanes, m, n], of left [1, rows * each, m].

        `to` may be `out`.
        """
        left, right = aligned_rows(left[0]), aligned_rows(right[0])
        lanes = zip(
            self.lengths, to.unbind(), out.unbind(), self.cut(left, each), self.cut(right, each),
            strict=True,
        )  # fmt: skip
        for length, before, own, above, below in lanes:
            if length and left.dtype == torch.float32:
                torch.addmm(before, above.mT, below, alpha=rate, out=own)
            elif length:
                torch.add(before, torch.mm(above.mT, below), alpha=rate, out=own)
            elif to is not out:
                own.copy_(before)

    def add_weighted(
        self,
        to: torch.Tensor,
        rows: torch.Tensor,
        factors: torch.Tensor,
        *,
        rate: float,
        out: torch.Tensor,
    ) -> None:
        """Puts `to` + rate * the sum of factors times rows into `out` [lanes, n].

        Args:
            to: what is added to; it may be `out`.
            rows: [1, rows, n].
            factors: [1, rows].
            rate: of all of them.
            out: [lanes, n].
        """
        rows = aligned_rows(rows[0])
        # A factor is a row of its own, so that every lane's starts where memory is aligned.
        spread = row_room(len(rows), 1)
        spread.copy_(factors[0, :, None])
        lanes = zip(
            self.lengths, to.unbind(), out.unbind(), self.cut(rows), self.cut(spread), strict=True
        )
        for length, before, own, few, weights in lanes:
            if length:
                torch.addmv(before, few.mT, weights[:, 0], alpha=rate, out=own)
            elif to is not out:
                own.copy_(before)

    def add_sums(self, into: torch.Tensor, rows: torch.Tensor, *, rate: float) -> None:
        """Adds rate * the sum of each lane's rows [1, rows, n] to `into` [lanes, n], one by one."""
        into.index_add_(0, self.lane_of, rows[0], alpha=rate)

    def count(self, flags: torch.Tensor) -> torch.Tensor:
        """How many of each lane's flags [1, rows] are true [lanes]."""
        counts = torch.zeros(len(self.lengths), dtype=torch.int64)
        return counts.index_add_(0, self.lane_of, flags[0].to(torch.int64))


def row_room(rows: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor [rows, width] on the CPU, not yet filled, with every row aligned."""
    step = ALIGNED // dtype.itemsize
    return torch.empty((rows, -(-width // step) * step), dtype=dtype)[:, :width]


def aligned_rows(value: torch.Tensor) -> torch.Tensor:
    """The same rows [rows, width], every one of them aligned: a copy only if they are not."""
    own = value.stride(1) == 1 and value.stride(0) * value.itemsize % ALIGNED == 0
    if own and value.data_ptr() % ALIGNED == 0:
        return value
    rows, width = value.shape
    return row_room(rows, width, value.dtype).copy_(value)


@dataclass(frozen=True)
class LaneBatch:
    """The records of one step of every lane.

    Attributes:
        features: [lanes, rows, ...], or [1, rows, ...] with `spans`.
        labels: [lanes, rows], or [1, rows].
        weights: what each row's loss counts for; 0 is padding. As labels.
        spans: whose rows are whose, where lanes lie end to end.
    """

    features: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    spans: Spans | None = None

    def count(self, flags: torch.Tensor) -> torch.Tensor:
        """How many of each lane's flags, one for each row, are true [lanes]."""
        return flags.sum(1) if self.spans is None else self.spans.count(flags)

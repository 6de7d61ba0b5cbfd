"""Records that are there twice: exactly, or up to a hundredth of each number's range.

A record is told by a 64-bit hash of its values, so that a pass needs eight bytes for each; two
different records of a million share one with probability below 1e-7. Identifiers do not count: the
same patient under two numbers is what is looked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from codex_ray.preparation.cells import Cells
from codex_ray.preparation.column import Column

STEPS = 100
"""Parts that the range of a number is divided into."""

AT_ONCE: Final = 1 << 16
"""Hashes that are few enough to be sorted together."""

Hashes = npt.NDArray[np.uint64]
_ALL = slice(None)


@dataclass(frozen=True)
class Twice:
    """How many records of a client repeat an earlier one.

    Attributes:
        exact: those that agree in everything but identifiers.
        near: others, that agree in everything but the label and texts, up to a hundredth of each
            range.
    """

    exact: int
    near: int


def row_hashes(columns: Mapping[str, tuple[Column, Cells]], count: int) -> tuple[Hashes, ...]:
    """Three hashes of each record [n]: of its exact values, and on two grids that overlap by half.

    Two records closer than half a step on every number agree on one of the grids unless numbers lie
    on the borders of both.
    """
    exact = exact_hashes({name: values for name, (_, values) in columns.items()}, count)
    on, beside = (np.zeros(count, np.uint64) for _ in range(2))
    for place, (column, values) in enumerate(columns.values()):
        if isinstance(values, pa.Array) or column.role == "label":
            continue
        on = _mixed(on, _of_numbers(_steps(column, values, 0.0)), place)
        beside = _mixed(beside, _of_numbers(_steps(column, values, 0.5)), place)
    return exact, on, beside


def exact_hashes(columns: Mapping[str, Cells], count: int) -> Hashes:
    """A hash of the exact values of each record [n]."""
    exact = np.zeros(count, np.uint64)
    for place, values in enumerate(columns.values()):
        words = _of_texts(values) if isinstance(values, pa.Array) else _of_numbers(values)
        exact = _mixed(exact, words, place)
    return exact


def repeated(hashes: Sequence[Hashes], rows: npt.NDArray[np.int64] | slice = _ALL) -> Twice:
    """How many of a client's records, at `rows` of the three hashes, repeat an earlier one."""
    exact, *grids = hashes
    own = exact[rows]
    again = np.zeros(len(own), dtype=bool)
    near = np.zeros_like(again)
    _mark(again, own)
    del own
    for grid in grids:  # one at a time, because each takes a copy
        _mark(near, grid[rows])
    near &= ~again
    return Twice(int(again.sum()), int(near.sum()))


def _mark(again: npt.NDArray[np.bool_], hashes: Hashes) -> None:
    """Marks where a hash stood before; of many a 64th at a time, because sorting takes copies."""
    if len(hashes) < AT_ONCE:
        marked = np.ones(len(hashes), dtype=bool)
        marked[np.unique(hashes, return_index=True)[1]] = False
        again |= marked
        return
    part = np.empty(len(hashes), np.uint8)
    np.right_shift(hashes, np.uint64(58), out=part, casting="unsafe")
    for number in range(64):
        rows = np.flatnonzero(part == number)
        first = np.unique(hashes[rows], return_index=True)[1]
        again[np.delete(rows, first)] = True


def _steps(column: Column, values: npt.NDArray[Any], shift: float) -> Cells:
    if values.dtype.kind == "i":
        return values
    low, high = column.ends
    return np.floor((values - low) / (high - low) * STEPS + shift)


def _of_numbers(values: npt.NDArray[Any]) -> Hashes:
    """Numbers as words; every NaN the same, and -0 as 0."""
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64)
    words = (values + 0.0).view(np.uint64)
    return np.where(np.isnan(values), np.uint64(1), words)


def _of_texts(values: pa.Array) -> Hashes:
    coded = values.dictionary_encode()
    words = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        for text in coded.dictionary.to_pylist()
    ]
    table = np.array([*words, 0], dtype=np.uint64)  # the last for no value
    found: Hashes = table[coded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
    return found


def _mixed(state: Hashes, words: Hashes, place: int) -> Hashes:
    """The state with one more column mixed in, by the finaliser of SplitMix64 (Steele et al.)."""
    mixed = state ^ (words + np.uint64((place + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))

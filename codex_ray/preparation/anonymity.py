"""How anonymous classes of records are: k, l (distinct and by entropy) and t, and what is asked.

k-anonymity (Sweeney 2002): the size of the smallest class. l-diversity (Machanavajjhala et al.
2007): the fewest different sensitive values of a class, or the least exp(entropy). t-closeness (Li,
Li and Venkatasubramanian 2007): the largest earth mover's distance between the sensitive values of
a class and those of everybody; between numbers a step to the next one costs 1 / (m - 1), between
categories every step costs 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from codex_ray.preparation.axes import Rows

_CELLS = 1 << 22
"""Cells of the table of classes by values that is counted at a time."""


@dataclass(frozen=True)
class Sensitive:
    """A sensitive column of a client: codes [n] from 0 to below `values`, in order if `ordered`.

    Where there are `gaps`, the last code stands for no value. It is a value of its own in t, and
    none in l: whoever finds one name and some gaps in a class knows the name.
    """

    name: str
    codes: npt.NDArray[np.integer]
    values: int
    ordered: bool
    gaps: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        values: npt.NDArray[Any],
        *,
        ordered: bool,
        missing: npt.NDArray[np.bool_] | None = None,
    ) -> Sensitive:
        """The column with its different values numbered; what is missing is the largest of them."""
        gaps = missing is not None and bool(missing.any())
        if values.dtype.kind == "u":  # without sorting, which takes copies
            present = np.bincount(values) > 0
            numbers = (np.cumsum(present) - 1).astype(values.dtype)
            return cls(name, numbers[values], int(present.sum()), ordered, gaps)
        different, codes = np.unique(values, return_inverse=True)
        return cls(name, codes.astype(np.int32), len(different), ordered, gaps)

    @property
    def known(self) -> int:
        """How many of the codes stand for a value."""
        return self.values - self.gaps

    def counts(self, rows: Rows) -> npt.NDArray[np.int64]:
        """How often each value stands in the rows."""
        return np.bincount(self.codes[rows], minlength=self.values)


@dataclass(frozen=True)
class Figures:
    """What a table's classes come to.

    Attributes:
        k: records in the smallest class.
        classes: how many there are.
        l: fewest different known values, for each sensitive column.
        entropy_l: least exp(entropy) of them, for each; 0 where none is known.
        t: largest distance from the whole table, for each.
        l_with_missing, entropy_l_with_missing: the same where a gap counts as a value, as it
            does for tools that are given a word for it; of columns that have gaps.
    """

    k: int
    classes: int
    l: dict[str, int]  # noqa: E741  # its name in the literature
    entropy_l: dict[str, float]
    t: dict[str, float]
    l_with_missing: dict[str, int] = field(default_factory=dict)
    entropy_l_with_missing: dict[str, float] = field(default_factory=dict)


def figures(classes: npt.NDArray[np.int32], sensitive: Sequence[Sensitive]) -> Figures:
    """The figures of a table whose record i is in class `classes[i]`, numbered from 0, none empty.

    Raises:
        ValueError: the table is empty.
    """
    if not len(classes):
        raise ValueError("a table without records has no figures")
    sizes = np.bincount(classes)
    found = {column.name: _of_column(classes, sizes, column) for column in sensitive}
    gaps = [column.name for column in sensitive if column.gaps]
    return Figures(
        k=int(sizes.min()),
        classes=len(sizes),
        l={name: one.distinct for name, one in found.items()},
        entropy_l={name: one.entropy for name, one in found.items()},
        t={name: one.distance for name, one in found.items()},
        l_with_missing={name: found[name].distinct_all for name in gaps},
        entropy_l_with_missing={name: found[name].entropy_all for name in gaps},
    )


@dataclass(frozen=True)
class _Column:
    """Least distinct values, least exp(entropy) and largest distance over the classes.

    The figures of `all` count no value as one.
    """

    distinct: int
    entropy: float
    distinct_all: int
    entropy_all: float
    distance: float

    def with_more(self, other: _Column) -> _Column:
        """The same over more classes."""
        return _Column(
            min(self.distinct, other.distinct),
            min(self.entropy, other.entropy),
            min(self.distinct_all, other.distinct_all),
            min(self.entropy_all, other.entropy_all),
            max(self.distance, other.distance),
        )


def _of_column(
    classes: npt.NDArray[np.int32], sizes: npt.NDArray[np.int64], column: Sensitive
) -> _Column:
    whole = np.bincount(column.codes, minlength=column.values) / len(column.codes)
    at_once = max(1, _CELLS // column.values)
    order = np.argsort(classes, kind="stable") if at_once < len(sizes) else None
    starts = np.concatenate([[0], np.cumsum(sizes)])
    found = []
    for first in range(0, len(sizes), at_once):
        last = min(first + at_once, len(sizes))
        counts = np.zeros((last - first) * column.values, np.int64)
        for start in range(starts[first], starts[last], _CELLS):
            some = slice(start, min(start + _CELLS, starts[last]))
            rows = some if order is None else order[some]
            cells = (classes[rows] - first).astype(np.int64) * column.values + column.codes[rows]
            counts += np.bincount(cells, minlength=len(counts))
        table = counts.reshape(last - first, column.values)
        known, shares = table[:, : column.known], table / table.sum(axis=1, keepdims=True)
        found.append(
            _Column(
                distinct=int((known > 0).sum(axis=1).min()),
                entropy=float(_diversity(known).min()),
                distinct_all=int((table > 0).sum(axis=1).min()),
                entropy_all=float(_diversity(table).min()),
                distance=float(_distance(shares - whole, column.ordered).max()),
            )
        )
    return reduce(_Column.with_more, found)


def _diversity(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """exp(entropy) along the last axis; 0 where nothing is counted."""
    total = counts.sum(axis=-1, keepdims=True)
    shares = counts / np.maximum(total, 1)
    return np.asarray(np.where(total[..., 0] > 0, np.exp(_entropy(shares)), 0.0))


def _entropy(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """In nats, along the last axis."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=-1))


def _distance(gap: npt.NDArray[np.float64], ordered: bool) -> npt.NDArray[np.float64]:
    """The earth mover's distance of shares that differ by `gap`, along the last axis."""
    if not ordered:
        return np.asarray(np.abs(gap).sum(axis=-1) / 2)
    steps = max(gap.shape[-1] - 1, 1)
    return np.asarray(np.abs(np.cumsum(gap, axis=-1)).sum(axis=-1) / steps)


@dataclass(frozen=True)
class Requirement:
    """What every group must have, so that a cut that breaks it is not made.

    Attributes:
        k: records.
        l: different known values of each sensitive column.
        entropy_l: least exp(entropy) of them.
        t: largest distance from the whole client.
        sensitive: the client's sensitive columns.
    """

    k: int
    sensitive: tuple[Sensitive, ...] = ()
    l: int = 1  # noqa: E741  # its name in the literature
    entropy_l: float | None = None
    t: float | None = None

    def met(self, rows: Rows) -> bool:
        """Whether a group of these rows may stand."""
        if len(rows) < self.k:
            return False
        if self.l < 2 and self.entropy_l is None and self.t is None:
            return True
        return all(self._diverse(column, rows) for column in self.sensitive)

    def _diverse(self, column: Sensitive, rows: Rows) -> bool:
        counts = column.counts(rows)
        known = counts[: column.known]
        if np.count_nonzero(known) < self.l:
            return False
        # A hair of slack: equal shares have the entropy that they should.
        if self.entropy_l is not None and _diversity(known) < self.entropy_l - 1e-9:
            return False
        if self.t is None:
            return True
        shares = counts / len(rows)
        whole = np.bincount(column.codes, minlength=column.values) / len(column.codes)
        return bool(_distance(shares - whole, column.ordered) <= self.t + 1e-12)

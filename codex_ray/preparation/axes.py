"""The directions in which Mondrian may cut a group of records: lines, sets and trees.

LeFevre, DeWitt and Ramakrishnan, Mondrian Multidimensional K-Anonymity, ICDE 2006: numbers are cut
at the median; categories with a hierarchy into the children of the lowest node that covers them;
categories without one like numbers, in the order in which the schema lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.data.prepared_manifest import ANY, JOINS, NONE
from codex_ray.preparation.column import Hierarchy
from codex_ray.preparation.compact import Coding, Compact

Rows: TypeAlias = npt.NDArray[np.int32]
Parts: TypeAlias = list[Rows]


class Axis(Protocol):
    """One quasi-identifier of the records of a client."""

    def width(self, rows: Rows) -> float:
        """How far the rows spread, as a share of how far all do: from 0 to 1."""
        ...

    def cuts(self, rows: Rows, *, relaxed: bool) -> Iterator[Parts]:
        """Ways to cut the rows in this direction, the most even first."""
        ...

    def ends(self, rows: Rows) -> tuple[float, float] | str:
        """What the rows have in common: an interval, or the name of a set or a node."""
        ...


@dataclass(frozen=True)
class Line:
    """Numbers, integers and dates.

    Attributes:
        coding: what the codes mean.
        values: codes [n] of the client's records.
        span: largest minus smallest.
    """

    coding: Coding
    values: Compact
    span: float

    @classmethod
    def of(cls, coding: Coding, values: Compact) -> Line:
        """The line that `values` lie on; they must all be there."""
        return cls(coding, values, float(values.max()) - float(values.min()))

    def width(self, rows: Rows) -> float:
        """The range of the rows over that of all."""
        mine = self.values[rows]
        return (float(mine.max()) - float(mine.min())) / self.span if self.span else 0.0

    def cuts(self, rows: Rows, *, relaxed: bool) -> Iterator[Parts]:
        """At the median."""
        yield from _at_median(self.values, rows, relaxed=relaxed)

    def ends(self, rows: Rows) -> tuple[float, float]:
        """The smallest and the largest number."""
        mine = self.coding.number(self.values[rows])
        return float(mine.min()), float(mine.max())


@dataclass(frozen=True)
class Set:
    """Categories without a hierarchy, in the order of the schema; one without a value comes last.

    Attributes:
        codes: of the client's records [n]; what is not among the options has none.
        options: names of the codes.
        total: different codes of all.
    """

    codes: Compact
    options: tuple[str, ...]
    total: int

    @classmethod
    def of(cls, codes: Compact, options: tuple[str, ...]) -> Set:
        """The categories that `codes` stand for."""
        return cls(codes, options, len(np.unique(codes)))

    def width(self, rows: Rows) -> float:
        """How many categories there are, over all there are, not counting one."""
        if self.total < 2:
            return 0.0
        counts = np.bincount(self.codes[rows], minlength=1)
        return (np.count_nonzero(counts) - 1) / (self.total - 1)

    def cuts(self, rows: Rows, *, relaxed: bool) -> Iterator[Parts]:
        """At the median of the order."""
        yield from _at_median(self.codes, rows, relaxed=relaxed)

    def ends(self, rows: Rows) -> str:
        """The names of the categories."""
        return JOINS.join(self._name(code) for code in np.unique(self.codes[rows]).tolist())

    def _name(self, code: int) -> str:
        return self.options[code] if code < len(self.options) else NONE


@dataclass(frozen=True)
class Node:
    """A node of a hierarchy: its name, its codes from `low` to below `high`, and its children."""

    name: str
    low: int
    high: int
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Tree:
    """Categories with a hierarchy, numbered from its first leaf to its last."""

    codes: Compact
    root: Node

    @classmethod
    def of(cls, codes: Compact, hierarchy: Hierarchy) -> Tree:
        """The hierarchy as the schema nests it, with a leaf for records without a value."""
        children, end = _children(hierarchy, 0)
        leaf = Node(NONE, end, end + 1)
        return cls(codes, Node(ANY, 0, end + 1, (*children, leaf)))

    def width(self, rows: Rows) -> float:
        """Leaves under the node that covers the rows, over all leaves, not counting one."""
        node = self._cover(rows)
        return (node.high - node.low - 1) / max(self.root.high - 1, 1)

    def cuts(self, rows: Rows, *, relaxed: bool) -> Iterator[Parts]:
        """Into the children of the node that covers the rows."""
        mine = self.codes[rows]
        parts = [rows[(mine >= c.low) & (mine < c.high)] for c in self._cover(rows).children]
        parts = [part for part in parts if len(part)]
        if len(parts) > 1:
            yield parts

    def ends(self, rows: Rows) -> str:
        """The name of the node that covers the rows."""
        return self._cover(rows).name

    def _cover(self, rows: Rows) -> Node:
        mine = self.codes[rows]
        low, high = int(mine.min()), int(mine.max())
        node = self.root
        while True:
            below = [c for c in node.children if c.low <= low and high < c.high]
            if not below:
                return node
            node = below[0]


def axis_of(coding: Coding, codes: Compact) -> Axis:
    """The direction of one quasi-identifier."""
    column = coding.column
    if column.numeric:
        return Line.of(coding, codes)
    if column.hierarchy is not None:
        return Tree.of(codes, column.hierarchy)
    return Set.of(codes, column.options)


def _at_median(values: Compact, rows: Rows, *, relaxed: bool) -> Iterator[Parts]:
    """The rows up to the median and those above it; relaxed: exactly half and half."""
    mine = values[rows]
    middle = (len(rows) - 1) // 2
    if relaxed:
        order = np.argsort(mine, kind="stable")
        half = len(rows) // 2
        yield [np.sort(rows[order[:half]]), np.sort(rows[order[half:]])]
        return
    median = np.partition(mine, middle)[middle]
    masks = [mine <= median, mine < median]
    for mask in sorted(masks, key=lambda m: abs(2 * int(m.sum()) - len(rows))):
        if 0 < int(mask.sum()) < len(rows):
            yield [rows[mask], rows[~mask]]


def _children(tree: object, start: int) -> tuple[tuple[Node, ...], int]:
    """The nodes below a mapping or a list, and the code after the last."""
    found = []
    if isinstance(tree, dict):
        for name, below in tree.items():
            children, end = _children(below, start)
            # A group of one value is told by that value's own leaf.
            found.append(Node(str(name), start, end, children))
            start = end
    else:
        assert isinstance(tree, list | tuple)
        for value in tree:
            found.append(Node(str(value), start, start + 1))
            start += 1
    return tuple(found), start

"""Mondrian: records are cut into ever smaller groups, as long as every group stays large enough.

LeFevre, DeWitt and Ramakrishnan, ICDE 2006, figure 3: the group is cut in the direction in which it
is widest; if no cut there is allowed, in the next widest; a group that no cut divides is a class,
whose records all say the same afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codex_ray.preparation.anonymity import Requirement
from codex_ray.preparation.axes import Axis, Line, Parts, Rows


@dataclass(frozen=True)
class Generalised:
    """The classes of a client's records.

    Attributes:
        classes: number of the class of each record [n], from 0.
        ends: for each quasi-identifier either low and high [classes, 2], or a name for each class.
    """

    classes: npt.NDArray[np.int32]
    ends: tuple[npt.NDArray[np.float64] | tuple[str, ...], ...]


def mondrian(
    axes: Sequence[Axis], count: int, *, requirement: Requirement, relaxed: bool
) -> Generalised | None:
    """The classes that `count` records are generalised to; None if not even all of them will do.

    Args:
        axes: the quasi-identifiers, in the schema's order.
        count: how many records the client has.
        requirement: what every class must have.
        relaxed: whether records with equal values may go to both sides of a cut.
    """
    waiting, leaves = [np.arange(count, dtype=np.int32)], []
    if not requirement.met(waiting[0]):
        return None
    while waiting:
        rows = waiting.pop()
        parts = _cut(axes, rows, requirement, relaxed=relaxed)
        if parts is None:
            leaves.append(rows)
        else:
            waiting.extend(reversed(parts))
    return _named(axes, count, leaves)


def _cut(
    axes: Sequence[Axis], rows: Rows, requirement: Requirement, *, relaxed: bool
) -> Parts | None:
    """The rows in allowed parts, or None."""
    if len(rows) < 2 * requirement.k:
        return None
    widths = [axis.width(rows) for axis in axes]
    for place in sorted(range(len(axes)), key=lambda place: -widths[place]):
        if widths[place] == 0.0:
            return None
        for parts in axes[place].cuts(rows, relaxed=relaxed):
            if all(requirement.met(part) for part in parts):
                return parts
    return None


def _named(axes: Sequence[Axis], count: int, leaves: Sequence[Rows]) -> Generalised:
    """The leaves with what their records say; those that say the same are one class."""
    said = [tuple(axis.ends(rows) for axis in axes) for rows in leaves]
    numbers: dict[tuple[tuple[float, float] | str, ...], int] = {}
    classes = np.empty(count, np.int32)
    for rows, words in zip(leaves, said, strict=True):
        classes[rows] = numbers.setdefault(words, len(numbers))
    ends = tuple(
        np.array([words[place] for words in numbers])
        if isinstance(axis, Line)
        else tuple(str(words[place]) for words in numbers)
        for place, axis in enumerate(axes)
    )
    return Generalised(classes, ends)

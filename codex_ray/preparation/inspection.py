"""Every file read and checked, nothing written: the first problems of each, all in one go."""

from __future__ import annotations

from dataclasses import dataclass, field

from codex_ray.errors import DataError
from codex_ray.preparation.batches import Problem, Unit
from codex_ray.preparation.checking import Checker
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.survey import Progress


@dataclass
class Inspected:
    """What was found in one file.

    Attributes:
        where: the file.
        records: how many were read.
        problems: the first of them, in words.
        more: whether reading ended at the last of those.
    """

    where: str
    records: int = 0
    problems: list[str] = field(default_factory=list)
    more: bool = False


class _Enough(Exception):  # noqa: N818  # not an error: enough problems were found
    """So many problems that the rest of the file is not read."""


def inspect(schema: Schema, *, most: int, progress: Progress) -> list[Inspected]:
    """What was found in each file of the source, `most` problems of each.

    Raises:
        InputError: the source is not there as described.
    """
    found = []
    looks_at = schema.clients.looks_at
    for unit in schema.source.units():
        for part in [Unit(unit.name, (file,)) for file in unit.files] or [unit]:
            seen = Inspected(", ".join(part.files) or part.name)
            found.append(seen)
            report = _Listing(seen, most)
            checker = Checker(schema, report, frozenset({looks_at} if looks_at else ()))
            try:
                for batch in checker.read(part):
                    seen.records += batch.count
                    progress(f"checking {seen.where}: {seen.records:,} records")
            except _Enough:
                seen.more = True
            except DataError as error:
                seen.problems.append(str(error))
    return found


@dataclass(frozen=True)
class _Listing:
    """Notes problems until there are enough."""

    seen: Inspected
    most: int

    def __call__(self, problem: Problem) -> None:
        """Notes one.

        Raises:
            _Enough: it was the last.
        """
        self.seen.problems.append(str(problem))
        if len(self.seen.problems) >= self.most:
            raise _Enough

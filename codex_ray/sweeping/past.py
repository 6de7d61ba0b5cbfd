"""What a trial had reported before its sweep was interrupted: the evaluations in its run directory.

The last one of a trial that is still to go on is left out. Its run tells of its last round once
more, and only then is anything decided about it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from codex_ray.records.run_directory import RunDirectory
from codex_ray.sweeping.book import Book
from codex_ray.sweeping.outcome import Trial

ROUND: Final = "round"
"""In a report: how many rounds the trial has run."""


@dataclass(frozen=True)
class Past:
    """A trial's earlier reports.

    Attributes:
        reports: on the way, each a mapping of metrics and the rounds that had been run.
        last: at its end, if it ran to that.
    """

    reports: tuple[Mapping[str, Any], ...]
    last: Mapping[str, Any] | None = None


def past_of(book: Book) -> dict[int, Past]:
    """What each trial that the book knows had reported, by its number; nothing of a new one."""
    found = {}
    for number in book.known:
        folder = book.folder.trials / f"{number:03d}"
        past = _past(RunDirectory(folder).rounds, book.trials.get(number))
        if past.reports or past.last is not None:
            found[number] = past
    return found


def _past(lines: Path, ended: Trial | None) -> Past:
    reports, last_round = [], 0
    for line in lines.read_bytes().splitlines() if lines.exists() else []:
        try:
            told = json.loads(line)
            last_round = int(told["round"]) + 1
            if "evaluate" in told["seconds"]:
                reports.append({**told["metrics"], ROUND: last_round})
        except (ValueError, KeyError, TypeError):
            break  # cut off when the process was killed
    if ended is None:
        return Past(tuple(one for one in reports if one[ROUND] < last_round))
    if ended.status != "finished":
        return Past(tuple(one for one in reports if one[ROUND] <= ended.rounds))
    # The end is told of once, with the result.
    on_the_way = tuple(one for one in reports if one[ROUND] < ended.rounds)
    return Past(on_the_way, {**ended.metrics, ROUND: ended.rounds})

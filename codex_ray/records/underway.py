"""now.json: how far the round under way is, for whoever looks at a run from another terminal.

It is there while a round on Ray takes longer than a moment, is replaced about once a second, and
tells nothing that rounds.jsonl would not: who was asked and who has answered, as numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from codex_ray.records.run_directory import write_atomically

NAME: Final = "now.json"
FRESH: Final = 10.0
"""Seconds after which what the file says is of a driver that is gone, or has other worries."""


@dataclass(frozen=True)
class Underway:
    """A round that has not ended.

    Attributes:
        round: its number.
        seconds: since the round before it ended.
        stage: the trip that it is at; empty before its first.
        asked, heard: clients of that trip.
        hosts: how many there are in all.
        away: the numbers of those that do not answer, or have no place yet.
    """

    round: int
    seconds: float
    stage: str
    asked: int
    heard: int
    hosts: int
    away: tuple[int, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Underway:
        """What a coordinator, or a file, tells.

        Raises:
            TypeError, KeyError, ValueError: it tells something else.
        """
        return cls(
            round=int(told["round"]),
            seconds=float(told["seconds"]),
            stage=str(told["stage"]),
            asked=int(told["asked"]),
            heard=int(told["heard"]),
            hosts=int(told["hosts"]),
            away=tuple(int(number) for number in told["away"]),
        )

    @classmethod
    def read(cls, directory: Path, *, now: float) -> Underway | None:
        """The round under way in a run directory, if there is one that was told of just now."""
        file = directory / NAME
        try:
            if now - file.stat().st_mtime > FRESH:
                return None
            return cls.of(json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, directory: Path) -> None:
        """Tells of it in a run directory.

        Raises:
            RunDirectoryError: the disk refuses.
        """
        write_atomically(directory / NAME, json.dumps(asdict(self)).encode(), sync=False)

    def in_words(self) -> str:
        """The same in a line."""
        trip = f", {self.stage.replace('_', ' ')}: {self.heard} of {self.asked} clients heard"
        there = self.hosts - len(self.away)
        hosts = f", {there} of {self.hosts} hosts there" if self.away else ""
        return f"{self.round + 1}{trip if self.stage else ''}{hosts}"


def over(directory: Path) -> None:
    """Nothing is under way in a run directory any more."""
    with suppress(OSError):  # of a disk that takes nothing any more; it is stale in a moment
        (directory / NAME).unlink(missing_ok=True)

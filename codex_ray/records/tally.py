"""What the lines of rounds.jsonl add up to, read as they are written, by whoever may read the file.

Nothing here needs torch or the process that runs the rounds, so that looking at a run is quick and
cannot disturb it.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.errors import RunDirectoryError

RECENT = 20
"""Rounds that the rate of a run is taken from."""
EXTRAPOLATED = "client_extrapolated"
"""How lines call the epsilon of a larger run, which is none that this one has spent."""


@dataclass
class Tally:
    """The rounds so far, added up.

    Attributes:
        rounds: how many have ended, with a sum or without.
        aborted: those without one.
        retries: attempts beyond the first, over all rounds.
        clients: asked, over all rounds.
        dropped: times that a client fell silent, by the stage that it did not answer.
        masks_recovered, bytes_up: over all rounds.
        seconds: over all rounds, by stage.
        field_seconds: that the trips would have taken on the clients' devices, over all rounds;
            None where no devices are simulated.
        last: the line of the last round; empty before there is one.
        metrics: the last figures of every name; `metrics_round` is the last round with any.
        epsilon: the last of every unit.
        privacy: what the last releases told of clipping and noise, by name.
        hidden: whether the lines keep to themselves who paid.
    """

    rounds: int = 0
    aborted: int = 0
    retries: int = 0
    clients: int = 0
    masks_recovered: int = 0
    bytes_up: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    field_seconds: float | None = None
    last: Mapping[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_round: int | None = None
    epsilon: dict[str, float] = field(default_factory=dict)
    privacy: dict[str, float] = field(default_factory=dict)
    hidden: bool = False
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds a round, as `RoundResult.to_json` has it.

        Raises:
            KeyError, TypeError, ValueError: the line is no round's.
        """
        seconds = {str(stage): float(spent) for stage, spent in line["seconds"].items()}
        number = int(line["round"])
        self.rounds = number + 1
        self.aborted += line["aborted"] is not None
        self.retries += int(line["attempts"]) - 1
        self.clients += int(line["cohort"])
        self.masks_recovered += int(line["masks_recovered"])
        self.bytes_up += int(line["bytes_up"]["total"])
        self.dropped.update(line["dropped"])
        for stage, spent in seconds.items():
            self.seconds[stage] += spent  # type: ignore[assignment]  # a Counter of floats
        if on_devices := line.get("field_seconds"):
            self.field_seconds = (self.field_seconds or 0.0) + sum(on_devices.values())
        if line["metrics"]:
            self.metrics |= line["metrics"]
            self.metrics_round = number
        self.epsilon |= line["epsilon"]
        self.privacy |= line.get("privacy", {})
        self.hidden |= any(paid["members"] is None for paid in line.get("charged", ()))
        self.last = line
        self._recent.append((sum(seconds.values()), int(line["cohort"])))

    @property
    def seconds_total(self) -> float:
        """In rounds, over all stages."""
        return float(sum(self.seconds.values()))

    @property
    def rate(self) -> tuple[float, float] | None:
        """Rounds and clients a second of the last rounds; None before there is one.

        The first round also waits for everything that is made once, so it counts only alone.
        """
        recent = list(self._recent)
        if len(recent) == self.rounds and self.rounds > 1:
            recent = recent[1:]
        spent = sum(seconds for seconds, _ in recent)
        if spent <= 0:
            return None
        return len(recent) / spent, sum(cohort for _, cohort in recent) / spent


class Following:
    """Reads rounds.jsonl from where it last stopped, and from its start when it was replaced."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0
        self._inode = -1
        self.tally = Tally()

    def read(self) -> bool:
        """Adds the rounds that have ended since the last call; whether there were any.

        A line that is still being written is left for the next call. A run that is resumed replaces
        the file: everything is then read again.

        Raises:
            RunDirectoryError: the file cannot be read, or a line of it is no round's.
        """
        try:
            with self._file.open("rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._inode or now.st_size < self._at:
                    self._inode, self._at, self.tally = now.st_ino, 0, Tally()
                file.seek(self._at)
                content = file.read()
        except FileNotFoundError:
            return False  # no round has ended, or a run is being made
        except OSError as error:
            raise RunDirectoryError(
                f"{self._file}: cannot be read: {error.strerror or error}"
            ) from error
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                self.tally.add(json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunDirectoryError(
                    f"{self._file}: the line after round {self.tally.rounds} is no round's "
                    f"({type(error).__name__}: {error}): resume the run, which mends it"
                ) from error
        self._at += len(whole)
        return bool(whole)


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a rounds.jsonl that nobody writes to; none where there is no file."""
    if file.exists():
        for line in file.read_bytes().splitlines():
            yield json.loads(line)

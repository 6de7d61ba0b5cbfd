"""What happens in a run as lines of JSON: log.jsonl, or a stream that something else collects.

Every line has time, level, run, logger and message, and the round and the attempt at it where they
are known; one about the run's own machines has their event, and these are counted. What a line says
may name clients: like rounds.jsonl it is the coordinator's own.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from codex_ray.errors import RunDirectoryError

if TYPE_CHECKING:
    from codex_ray.federation.state import RoundResult

PACKAGE: Final = "codex_ray"
ROUNDS: Final = "codex_ray.rounds"
"""The logger under whose name a round is told of."""
FIELDS: Final = (
    "round", "attempt", "event", "seconds", "cohort", "survivors", "dropped", "aborted"
)  # fmt: skip
"""What may stand in a line beside its words; nothing else that a caller attaches does."""
HOST_LOST: Final = "host_lost"
HOST_REPLACED: Final = "host_replaced"
COORDINATOR_LOST: Final = "coordinator_lost"


class JsonLines(logging.Formatter):
    """One line of ASCII for a record: nothing in it can forge a second line, or move a cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; of an exception its kind, its words and where it was raised."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "run": getattr(record, "run", None),
        }
        line |= {name: vars(record)[name] for name in FIELDS if name in vars(record)}
        line |= {"logger": record.name, "message": record.getMessage()}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = {"kind": type(error).__name__, "message": str(error)}
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            if frame is not None:
                code = frame.tb_frame.f_code
                line["error"]["at"] = f"{Path(code.co_filename).name}:{frame.tb_lineno}"
        return json.dumps(line, default=str)


class Place(logging.Filter):
    """Puts the run, and the round that is under way, on each record that does not say them."""

    def __init__(self, *, run: str, first_round: int | None) -> None:
        super().__init__()
        self.run = run
        self.round = first_round

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through."""
        said = vars(record)
        said.setdefault("run", self.run)
        if self.round is not None:
            said.setdefault("round", self.round)
        return True


class JsonLog:
    """An observer that writes a line for each round, and for all that codex_ray logs meanwhile.

    A process has one run at a time, so that what it logs is of that run.
    """

    def __init__(self, to: Path | TextIO, *, run: str, first_round: int | None = None) -> None:
        """The log of a run that begins, or goes on.

        Args:
            to: a file, to whose end it writes, or a stream, which is left open.
            run: names the run in every line.
            first_round: the round that comes first; None before it is known.

        Raises:
            RunDirectoryError: the file cannot be opened.
        """
        self._place = Place(run=run, first_round=first_round)
        self.happened: Counter[str] = Counter()
        """How often each event was logged, in earlier lives of the run too."""
        if isinstance(to, Path):
            self.happened.update(_events_in(to))
        self._handler = _Following(to, self.happened)
        self._handler.setFormatter(JsonLines())
        self._handler.addFilter(self._place)
        self._logger = logging.getLogger(PACKAGE)
        # A logger with a handler of any kind no longer warns on stderr: people still want that.
        last = logging.lastResort
        silenced = not self._logger.hasHandlers() and to is not sys.stderr
        self._added = [self._handler, last] if silenced and last is not None else [self._handler]
        for handler in self._added:
            self._logger.addHandler(handler)

    def round(self, result: RoundResult) -> None:
        """Writes the line of the round; what is logged from now on belongs to the next."""
        words = f"round {result.round} ended"
        if result.aborted:
            words += f" without a sum: {result.aborted}"
        said = {
            "round": result.round,
            "attempt": result.attempts - 1,
            "seconds": round(sum(result.seconds.values()), 4),
            "cohort": result.cohort,
            "survivors": result.survivors,
            "dropped": dict(result.dropped),
        }
        if result.aborted:
            said["aborted"] = result.aborted
        self.say(words, level=logging.WARNING if result.aborted else logging.INFO, fields=said)
        self._place.round = result.round + 1

    def say(
        self, words: str, *, level: int = logging.INFO, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Writes a line of its own, whatever level loggers are set to, and only here."""
        record = logging.makeLogRecord(
            {"name": ROUNDS, "levelno": level, "levelname": logging.getLevelName(level)}
            | {"msg": words}
            | dict(fields or {})
        )
        self._handler.handle(record)

    def close(self) -> None:
        """Stops writing, and leaves the loggers as they were."""
        for handler in self._added:
            self._logger.removeHandler(handler)
        self._handler.close()


class _Following(logging.Handler):
    """Writes each line at once, in one piece, to a file or a stream."""

    def __init__(self, to: Path | TextIO, happened: Counter[str]) -> None:
        super().__init__()
        self._happened = happened
        self._own = isinstance(to, Path)
        self._stream = _at_end_of(to) if isinstance(to, Path) else to

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record; a run does not end because its log cannot be written."""
        if event := vars(record).get("event"):
            self._happened[str(event)] += 1
        with suppress(OSError, ValueError):
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes the file; a stream is whose it was."""
        super().close()
        if self._own:
            with suppress(OSError):  # what could not be written is let go of here once more
                self._stream.close()


def _events_in(file: Path) -> Counter[str]:
    """How often each event is in a log; nothing, where it cannot be read or is not there yet."""
    found: Counter[str] = Counter()
    with suppress(OSError), file.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if '"event": ' not in line:
                continue
            with suppress(ValueError, AttributeError):  # a line that was cut
                if event := json.loads(line).get("event"):
                    found[str(event)] += 1
    return found


def _at_end_of(file: Path) -> TextIO:
    """The file, open for more lines; one that was cut off when a process died is ended first."""
    try:
        stream = file.open("a+", encoding="ascii")
        if stream.tell() and not file.read_bytes().endswith(b"\n"):
            stream.write("\n")
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be written: {error.strerror or error}") from error
    return stream

"""Who is told of a round once it is persisted: the journal of rounds and TensorBoard."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codex_ray.federation.state import RoundResult
from codex_ray.records.mending import append_line
from codex_ray.records.run_directory import unwritable, write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Observer(Protocol):
    """The plug-in point. An observer sees plain data and cannot change the run."""

    def round(self, result: RoundResult) -> None:
        """Called once for each round, in order."""
        ...

    def close(self) -> None:
        """Called once, however the run ends."""
        ...


class RoundLines:
    """One JSON line for each round; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, file: Path, *, first_round: int) -> None:
        kept = []
        if file.exists():
            for line in file.read_bytes().splitlines(keepends=True):
                if _round_of(line) < first_round:
                    kept.append(line)
        write_atomically(file, b"".join(kept))
        self._file = file.open("ab", buffering=0)

    def round(self, result: RoundResult) -> None:
        """Appends the line."""
        append_line(self._file, json.dumps(result.to_json()).encode())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _round_of(line: bytes) -> float:
    """The number of the round that a line tells of; infinite for a line that was cut or harmed."""
    try:
        return int(json.loads(line)["round"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


PRIVACY_PANEL = {
    "epsilon so far": ["Multiline", ["privacy/epsilon_.*"]],
    "fraction of updates that were clipped": ["Multiline", ["privacy/clipped_fraction"]],
    "clip norm: the quantile of the norms that it follows": ["Multiline", ["privacy/clip_norm"]],
    "signal-to-noise ratio of a release": ["Multiline", ["privacy/signal_to_noise"]],
}
"""The charts of the tab "custom scalars"; what a mechanism does not tell stays empty."""


class TensorBoard:
    """Scalars for each round. What lies outside the guarantee is under debug/, and says so."""

    def __init__(self, folder: Path, *, first_round: int, config: str) -> None:
        self._folder, self._first_round, self._config = folder, first_round, config

    @cached_property
    def _writer(self) -> SummaryWriter:
        """Opened for the first round that is told of: nobody waits for its import before that."""
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self._folder), purge_step=self._first_round)
        writer.add_custom_scalars({"privacy": PRIVACY_PANEL})
        if self._first_round == 0:
            writer.add_text("config", f"```yaml\n{self._config}\n```", 0)
        return writer

    def round(self, result: RoundResult) -> None:
        """Metrics, epsilon, survivors and dropouts, bytes, and seconds for each stage."""
        from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]  # it has no stubs
            Summary,
        )

        scalars = {f"metrics/{k}": v for k, v in result.metrics.items()}
        scalars |= {f"privacy/epsilon_{unit}": v for unit, v in result.epsilon.items()}
        scalars |= {f"privacy/{k}": v for k, v in result.privacy.items()}
        scalars |= {f"seconds/{stage}": v for stage, v in result.seconds.items()}
        scalars |= {f"field_seconds/{stage}": v for stage, v in result.field_seconds.items()}
        scalars |= {f"debug/{k} (outside the guarantee)": v for k, v in result.debug.items()}
        scalars |= {
            "clients/cohort": result.cohort,
            "clients/survivors": result.survivors,
            "clients/dropped": sum(result.dropped.values()),
            "clients/masks_recovered": result.masks_recovered,
            "bytes/up_total": result.bytes_up["total"],
        }
        # One event for all of them: each has a price of its own, which small rounds would feel.
        values = [Summary.Value(tag=name, simple_value=it) for name, it in scalars.items()]
        events: Any = self._writer.file_writer  # SummaryWriter says that it may be None
        events.add_summary(Summary(value=values), result.round)

    def close(self) -> None:
        """Flushes and closes the event file."""
        if "_writer" in vars(self):
            try:
                self._writer.close()
            except OSError as error:
                raise unwritable(self._folder, error) from error


def show_audit(folder: Path, verdicts: list[dict[str, Any]], *, step: int) -> None:
    """Each verdict's finding beside its claim, as scalars, and all of them in words."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for verdict in verdicts:
            for what in ("claimed", "found"):
                if isinstance(verdict[what], float):  # what could not be looked at is text
                    writer.add_scalar(f"audit/{verdict['name']}/{what}", verdict[what], step)
        lines = [f"- {'passed' if v['passed'] else 'FAILED'}: {v['words']}" for v in verdicts]
        writer.add_text("audit", "\n".join(lines), step)
